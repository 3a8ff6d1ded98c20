"""LRN as features extractor of algorithms that know nothing of faces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

from face_align_env.agents.common.extractor import LRNExtractor, find_lrn, load_lrn
from face_align_env.networks.lrn import LRN
from face_align_env.released import find_release

Env = Callable[..., gym.Env[Any, Any]]
SMALL: dict[type[BaseAlgorithm], dict[str, Any]] = {
    SAC: {"learning_starts": 4, "batch_size": 4, "buffer_size": 16},
    TD3: {"learning_starts": 4, "batch_size": 4, "buffer_size": 16},
    PPO: {"n_steps": 8, "batch_size": 4, "n_epochs": 1},
}


def build(algorithm: type[BaseAlgorithm], env: Any, **extractor: Any) -> BaseAlgorithm:
    policy_kwargs = {
        "features_extractor_class": LRNExtractor,
        "features_extractor_kwargs": extractor,
        "net_arch": [8],
    }
    return algorithm("MultiInputPolicy", env, policy_kwargs=policy_kwargs, device="cpu", seed=0, **SMALL[algorithm])


def extractors(model: BaseAlgorithm) -> list[LRNExtractor]:
    return [module for module in model.policy.modules() if isinstance(module, LRNExtractor)]


@pytest.mark.parametrize("algorithm", [SAC, TD3, PPO])
def test_any_algorithm_learns_saves_and_loads_with_it(
    algorithm: type[BaseAlgorithm], toy_env: Env, lrn: LRN, tmp_path: Path
) -> None:
    env = toy_env()
    model = build(algorithm, env, lrn=lrn)
    for extractor in extractors(model):
        for name, tensor in lrn.trunk.state_dict().items():
            assert torch.equal(extractor.trunk.state_dict()[name], tensor), "it starts from the pretrained trunk"
    assert extractors(model)
    model.learn(12)
    trunk = extractors(model)[0].trunk
    assert not torch.equal(trunk.recurrent.weight, lrn.trunk.recurrent.weight), "and goes on learning"
    observation, _ = env.reset(seed=0)
    action, _ = model.predict(observation, deterministic=True)
    assert action.shape == env.action_space.shape

    model.save(tmp_path / "model.zip")
    again = algorithm.load(tmp_path / "model.zip", device="cpu")
    np.testing.assert_array_equal(again.predict(observation, deterministic=True)[0], action)


def test_a_frozen_encoder_stays_and_the_rest_learns(toy_env: Env, lrn: LRN) -> None:
    model = build(SAC, toy_env(), lrn=lrn, freeze=True)
    model.learn(10)
    for extractor in extractors(model):
        # the weights of a target network are sums of two equal halves, which rounds
        torch.testing.assert_close(
            extractor.trunk.encoder.state_dict(), lrn.trunk.encoder.state_dict(), rtol=1e-5, atol=1e-6
        )
        assert not any(p.requires_grad for p in extractor.trunk.encoder.parameters())
    trunk = extractors(model)[0].trunk
    assert torch.equal(trunk.encoder[0].weight, lrn.trunk.encoder[0].weight)  # type: ignore[arg-type]
    assert not torch.equal(trunk.recurrent.weight, lrn.trunk.recurrent.weight)


def test_features_are_what_the_network_remembers(toy_env: Env, lrn: LRN) -> None:
    env = toy_env()
    extractor = LRNExtractor(env.observation_space, lrn)  # type: ignore[arg-type]
    observation, _ = env.reset(seed=0)
    batch = {key: torch.from_numpy(value)[None] for key, value in observation.items()}
    features = extractor(batch)
    assert features.shape == (1, extractor.features_dim)
    torch.testing.assert_close(features, lrn(batch["patches"], batch["history"])[1])
    # Stable-Baselines3 hands the patches over as floating-point numbers
    torch.testing.assert_close(extractor({key: value.float() for key, value in batch.items()}), features)


def test_weights_come_from_a_file_or_a_network_which_stays_as_it_is(toy_env: Env, lrn: LRN, tmp_path: Path) -> None:
    space = toy_env().observation_space
    lrn.save(tmp_path / "lrn.safetensors")
    for source in (lrn, tmp_path / "lrn.safetensors"):
        network = load_lrn(source, space)
        assert network is not lrn
        assert torch.equal(network.action.weight, lrn.action.weight)
    assert load_lrn(None, space).num_landmarks == 68


def test_an_lrn_for_other_patches_is_an_error(toy_env: Env, new_lrn: Callable[..., LRN]) -> None:
    space = toy_env().observation_space
    for other in (new_lrn(num_landmarks=29), new_lrn(patch_size=24)):
        with pytest.raises(ValueError, match=r"This LRN reads .* the environment shows 68 of 30"):
            build(SAC, toy_env(), lrn=other)
    with pytest.raises(ValueError, match="Expected FaceAlign-v0's observations"):
        load_lrn(None, spaces.Dict(image=space["patches"]))  # type: ignore[index]


def test_weights_are_found_by_the_name_of_their_release(toy_env: Env) -> None:
    release = LRN.load(find_release("300w-68").path)
    (extractor, *_) = extractors(build(PPO, toy_env(), lrn="300w-68"))
    assert torch.equal(extractor.trunk.recurrent.weight, release.trunk.recurrent.weight)
    with pytest.raises(ValueError, match=r"no released weights '300w'; there are .*300w-68"):
        find_lrn("300w")


def test_a_saved_model_needs_no_file_of_weights(toy_env: Env, lrn: LRN, tmp_path: Path) -> None:
    path = tmp_path / "lrn.safetensors"
    lrn.save(path)
    for file in (path, str(path)):
        with pytest.raises(ValueError, match=r"could not be loaded without that file.*lrn=LRN.load"):
            build(SAC, toy_env(), lrn=file)
    build(SAC, toy_env(), lrn=LRN.load(path)).save(tmp_path / "model.zip")
    path.unlink()
    (extractor, *_) = extractors(SAC.load(tmp_path / "model.zip", device="cpu"))
    assert torch.equal(extractor.trunk.recurrent.weight, lrn.trunk.recurrent.weight)


def test_what_else_is_observed_follows_the_features(toy_env: Env, lrn: LRN) -> None:
    space = toy_env().observation_space
    assert isinstance(space, spaces.Dict)
    timed = spaces.Dict({**space.spaces, "time": spaces.Box(0, 1, (1,))})
    extractor = LRNExtractor(timed, lrn)
    assert extractor.features_dim == lrn.config.hidden + 1
    batch = {key: torch.from_numpy(timed[key].sample())[None] for key in timed.spaces}
    features = extractor(batch)
    torch.testing.assert_close(features[:, :-1], lrn.trunk(batch["patches"], batch["history"]))
    torch.testing.assert_close(features[:, -1:], batch["time"])
