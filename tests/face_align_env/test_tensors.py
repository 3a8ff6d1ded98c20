"""FaceAlignVectorEnv with backend="torch" plays what it plays with NumPy's arrays, in tensors."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from writers.environments import Toy

from face_align_env import FaceAlignVectorEnv, mdp
from face_align_env.arrays import DeviceTensors
from face_align_env.wrappers import VectorShapeModes

N = 3


def vector(dataset: Any, **options: Any) -> FaceAlignVectorEnv:
    env = gym.make_vec("FaceAlign-v0", num_envs=N, dataset=dataset, **{"initializer": "mean", **options})
    assert isinstance(env, FaceAlignVectorEnv)
    return env


def assert_same(ours: Any, theirs: Any) -> None:
    """Tensors here and arrays there, of the same types and values; rewards and errors to within rounding."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert_same(ours[key], value)
    elif isinstance(theirs, np.ndarray) and theirs.dtype == object:
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(theirs, np.ndarray):
        assert isinstance(ours, torch.Tensor)
        expected = torch.from_numpy(theirs)
        if expected.dtype.is_floating_point:
            torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
        else:
            assert ours.dtype == expected.dtype
            assert torch.equal(ours, expected)
    else:
        assert ours is theirs is None


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("shared", [True, False], ids=["on the host", "elsewhere"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"augment": True, "termination": "blind", "observe_time": True, "observe_residual": True},
        {"learned_history": True, "reward": "dense", "max_episode_steps": 4},
        {"reward": "shaped", "terminate_at_limit": True, "max_iterations": 3},
        {"frames": 3, "observe_time": True, "termination": "blind", "max_iterations": 4},
        {"observe_patches": False, "termination": "limit", "max_iterations": 4, "alpha_1": 0.3},
        {"termination": "action", "max_iterations": 3, "alpha_1": 0.3},
        {"termination": "action", "learned_history": True, "reward": "dense", "iteration_cost": 0.5},
        {"termination": "action", "frames": 3, "observe_time": True, "max_iterations": 4},
    ],
    ids=str,
)
def test_tensors_play_what_arrays_play(
    toy_dataset: Toy, monkeypatch: pytest.MonkeyPatch, mode: AutoresetMode, shared: bool, options: dict[str, Any]
) -> None:
    made = DeviceTensors.__init__

    def elsewhere(self: DeviceTensors, device: str) -> None:
        made(self, device)
        self.on_host = shared  # as on a GPU, whose memory nothing on the host can be written into

    monkeypatch.setattr(DeviceTensors, "__init__", elsewhere)
    dataset = toy_dataset()
    theirs = vector(dataset, autoreset_mode=mode, **options)
    ours = vector(dataset, autoreset_mode=mode, backend="torch", **options)
    assert ours.observation_space == theirs.observation_space
    rng = np.random.default_rng(0)
    for one, other in zip(ours.reset(seed=5), theirs.reset(seed=5), strict=True):
        assert_same(one, other)
    ends = 0
    for _ in range(60):
        size = rng.choice([0.5, 8.0], size=(N, 1))
        actions = (rng.normal(size=ours.action_space.shape) * size).astype(np.float32)
        observations, rewards, *flags, infos = ours.step(torch.from_numpy(actions))
        expected = theirs.step(actions)
        assert_same(observations, expected[0])
        assert rewards.dtype == torch.float32
        np.testing.assert_allclose(rewards, expected[1], rtol=1e-4, atol=1e-5)
        for one, other in zip(flags, expected[2:4], strict=True):
            assert_same(one, other)
        assert_same(infos, expected[4])
        ends += int(flags[0].sum() + flags[1].sum())
    assert ends > N


def test_steps_with_tensors_cost_no_gradients(toy_dataset: Toy) -> None:
    env = vector(toy_dataset(), backend="torch", learned_history=True)
    env.reset(seed=0)
    actions = torch.zeros(env.action_space.shape, requires_grad=True)
    observations, rewards, *_ = env.step(actions)
    assert not any(value.requires_grad for value in (rewards, *observations.values()))


def test_bad_actions_are_an_error(toy_dataset: Toy) -> None:
    env = vector(toy_dataset(), backend="torch")
    with pytest.raises(ResetNeeded):
        env.step(torch.zeros(env.action_space.shape))
    env.reset(seed=0)
    actions = torch.zeros(env.action_space.shape)
    actions[0, 0] = torch.nan
    with pytest.raises(ValueError, match="holds 1 NaN"):
        env.step(actions)
    with pytest.raises(ValueError, match=r"Expected an action of shape \(3, "):
        env.step(torch.zeros(N, 3))
    with pytest.raises(ValueError, match="backend must be one of"):
        vector(toy_dataset(), backend="jax")


@pytest.mark.parametrize(("before", "after"), [("numpy", "torch"), ("torch", "numpy"), ("torch", "torch")])
def test_a_state_goes_on_in_the_other_backend(toy_dataset: Toy, before: Any, after: Any) -> None:
    dataset = toy_dataset()
    played = vector(dataset, backend=before)
    played.reset(seed=1)
    actions = np.full(played.action_space.shape, 0.5, np.float32)
    played.step(actions)
    state = played.get_state()
    assert all(isinstance(value, np.ndarray) for value in state["episodes"].values())
    again = vector(dataset, backend=after)
    again.set_state(state)
    for _ in range(12):
        one, other = played.step(actions), again.step(actions)
        np.testing.assert_array_equal(np.asarray(one[0]["patches"]), np.asarray(other[0]["patches"]))
        np.testing.assert_allclose(np.asarray(one[1]), np.asarray(other[1]), rtol=1e-6)


def test_pictures_of_tensors(toy_dataset: Toy) -> None:
    pictures = []
    for backend in ("numpy", "torch"):
        env = vector(toy_dataset(), backend=backend, render_mode="rgb_array")
        env.reset(seed=3)
        env.step(np.zeros(env.action_space.shape, np.float32))
        pictures.append(env.render())
    np.testing.assert_array_equal(*pictures)


def test_wrappers_of_arrays_say_that_they_are(toy_dataset: Toy) -> None:
    dataset = toy_dataset()
    with pytest.raises(ValueError, match="not with backend='torch'"):
        VectorShapeModes(vector(dataset, backend="torch"), 4)
    VectorShapeModes(vector(dataset), 4)


def test_rewards_of_tensors_stay_on_their_device() -> None:
    """The meta device has no values that a detour over NumPy could take."""
    errors = torch.empty(4, device="meta")
    flags = torch.empty(4, dtype=torch.bool, device="meta")
    for rewards in (mdp.reward(errors, errors, flags, flags, 0.03, -0.02), mdp.shaping(errors, errors, flags, 0.9, 1)):
        assert rewards.device.type == "meta"
