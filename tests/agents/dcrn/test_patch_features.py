"""With a frozen encoder a state is encoded once, and the replay buffer keeps the features of its patches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.common.logger import configure

from face_align_env.agents.common.replay_buffer import FaceReplayBuffer, bytes_per_transition
from face_align_env.agents.dcrn.algorithm import DCRN
from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.lrn import LRN

NewDCRN = Callable[..., DCRN]


def test_samples_are_the_features_of_what_the_environment_gave(
    toy_vec_env: Any, new_dcrn: NewDCRN, lrn: LRN, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_dcrn(toy_vec_env(3, True, max_iterations=4, alpha_1=1.0), learning_starts=1000, noise=3.0)
    given: list[tuple[Any, ...]] = []
    store = model._store_transition

    def record(buffer: Any, actions: Any, new_obs: Any, rewards: Any, dones: Any, infos: Any) -> None:
        given.append(copy.deepcopy((actions, new_obs, rewards, dones, infos)))
        store(buffer, actions, new_obs, rewards, dones, infos)

    monkeypatch.setattr(model, "_store_transition", record)
    model.learn(60)
    buffer = model.replay_buffer
    assert isinstance(buffer, DictReplayBuffer)

    def check(row: int, j: int, kept: dict[str, np.ndarray], seen: dict[str, np.ndarray]) -> None:
        with torch.no_grad():
            features = lrn.trunk.encode(torch.from_numpy(seen["patches"][None]))[0]
        np.testing.assert_allclose(kept["patch_features"][row, j], features, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(kept["history"][row, j], seen["history"], atol=1e-3)
        with torch.no_grad():
            a_t, _ = lrn(torch.from_numpy(seen["patches"][None]), torch.from_numpy(seen["history"][None]))
        np.testing.assert_allclose(32 * kept["pretrained"][row, j], a_t[0], rtol=2e-3, atol=2e-3)

    ends = 0
    for row, (actions, new_obs, rewards, dones, infos) in enumerate(given):
        np.testing.assert_array_equal(buffer.actions[row], actions[:, :136])
        np.testing.assert_array_equal(buffer.rewards[row], rewards)
        np.testing.assert_array_equal(buffer.dones[row], dones)
        for j in range(3):
            first = {key: value[j] for key, value in new_obs.items()}  # of the next episode, where this one has ended
            check(row, j, buffer.next_observations, infos[j]["terminal_observation"] if dones[j] else first)
            if row + 1 < len(given):
                check(row + 1, j, buffer.observations, first)
            ends += int(dones[j])
    assert 0 < ends < 60


def test_a_state_is_encoded_once(toy_vec_env: Any, new_dcrn: NewDCRN, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_dcrn(toy_vec_env(2, True, alpha_1=1e-9), critic_warmup=0)
    encoder, seen = model.policy.reference.lrn.trunk.encoder, []
    forward = encoder.forward

    def counted(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return forward(images)

    monkeypatch.setattr(encoder, "forward", counted)
    model.learn(20)
    assert model._n_updates > 0
    # the first states, ten times the next ones, and the last states of both episodes
    assert sum(seen) == 68 * (2 + 10 * 2 + 2)


def test_an_update_looks_at_no_pixel(toy_vec_env: Any, new_dcrn: NewDCRN, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_dcrn(toy_vec_env(2, True), critic_warmup=0)
    model.learn(12)
    updates = model._n_updates
    monkeypatch.setattr(model.policy.reference.lrn.trunk.encoder, "forward", None)
    model.set_logger(configure(None, []))
    model.train(2, 8)
    assert model._n_updates == updates + 2


def test_an_update_asks_the_pretrained_actor_no_more(
    toy_vec_env: Any, new_dcrn: NewDCRN, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And learns what it learnt when it did."""
    moved = []
    for kept in (True, False):
        model = new_dcrn(toy_vec_env(2, True), critic_warmup=0)
        model.learn(12)
        model.set_logger(configure(None, []))
        assert isinstance(model.replay_buffer, DictReplayBuffer)
        if kept:
            monkeypatch.setattr(model.policy.reference, "forward", None)
        else:  # as a version before filled it
            del model.replay_buffer.observations["pretrained"], model.replay_buffer.next_observations["pretrained"]
        before = copy.deepcopy(model.policy.actor.state_dict())
        np.random.seed(0)
        model.train(4, 8)
        after = model.policy.actor.state_dict()
        moved.append(torch.cat([(after[name] - before[name]).flatten() for name in before]))
    assert moved[0].norm() > 0
    torch.testing.assert_close(*moved, rtol=0.05, atol=1e-6)


def test_a_buffer_that_keeps_no_pretrained_increments_goes_on(
    toy_vec_env: Any, new_dcrn: NewDCRN, tmp_path: Path
) -> None:
    """Older versions kept none."""
    model = new_dcrn(toy_vec_env(2, True), critic_warmup=0)
    model.learn(12)
    assert isinstance(model.replay_buffer, DictReplayBuffer)
    del model.replay_buffer.observations["pretrained"], model.replay_buffer.next_observations["pretrained"]
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    updates = model._n_updates
    model.learn(12, reset_num_timesteps=False)
    assert model._n_updates > updates


def test_features_and_patches_lead_to_the_same_values(toy_vec_env: Any, new_dcrn: NewDCRN) -> None:
    env = toy_vec_env(4, True)
    policy = new_dcrn(env).policy
    obs = {key: torch.from_numpy(np.copy(value)) for key, value in env.reset().items()}
    encoded = {"patch_features": policy.encode(obs["patches"]), "history": obs["history"]}
    for network in (policy.actor, policy.actor_target, policy.reference):
        torch.testing.assert_close(network(encoded), network(obs))
    actions = policy.actor(obs)
    torch.testing.assert_close(policy.critic(encoded, actions)[0], policy.critic(obs, actions)[0])


def test_a_transition_of_compact_takes_less_than_12_kilobytes(toy_vec_env: Any, new_dcrn: NewDCRN) -> None:
    model = new_dcrn(toy_vec_env(2, True), lrn=LRN(lrn_network.preset("compact", 68)), buffer_size=20)
    assert isinstance(model.replay_buffer, DictReplayBuffer)
    # twice 68 x 32 features, d_t and the pretrained a_t in float16; a_t, r, done and timeout in float32
    size = bytes_per_transition(model.replay_buffer)
    assert size == 2 * 2 * (68 * 32 + 512 + 136) + 4 * (136 + 3)
    assert size < 12_000


@pytest.mark.parametrize("frozen", [True, False])
def test_the_buffer_follows_from_the_encoder(toy_vec_env: Any, new_dcrn: NewDCRN, frozen: bool, tmp_path: Path) -> None:
    model = new_dcrn(toy_vec_env(2, True), freeze_encoder=frozen)
    model.save(tmp_path / "model.zip")
    for each in (model, DCRN.load(tmp_path / "model.zip", env=toy_vec_env(3, True), device="cpu")):
        assert type(each.replay_buffer) is (DictReplayBuffer if frozen else FaceReplayBuffer)


def test_the_limit_of_iterations_is_bootstrapped_if_asked_for(toy_vec_env: Any, new_dcrn: NewDCRN) -> None:
    env = toy_vec_env(2, True, max_iterations=2, alpha_1=1e-9)  # every episode is truncated
    for bootstrapped in (True, False):
        more = {"replay_buffer_kwargs": {"handle_timeout_termination": bootstrapped}}
        model = new_dcrn(env, learning_starts=1000, **more)
        model.learn(20)
        assert model.replay_buffer is not None
        assert (model.replay_buffer.sample(50).dones.sum() == 0) == bootstrapped


def test_a_buffer_of_another_version_is_named(toy_vec_env: Any, new_dcrn: NewDCRN, tmp_path: Path) -> None:
    path = tmp_path / "replay_buffer.pkl"
    path.write_bytes(b"cface_align_env.agents.dcrn.code_buffer\nCodeReplayBuffer\n.")  # a pickle that names a class
    with pytest.raises(ValueError, match=r"replay_buffer.pkl' is a replay buffer of another version.*Delete it"):
        new_dcrn(toy_vec_env(2, True)).load_replay_buffer(path)
