"""Actions that correct a pretrained policy, and features of its trunk, in batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import face_align_env  # noqa: F401 - registers the tasks
from face_align_env.networks.lrn import LRN
from face_align_env.released import find_release, load_networks
from face_align_env.wrappers import PolicyCorrections, ShapeModes, VectorPolicyCorrections, VectorPretrainedFeatures

TASK = "FaceAlign/Policy19-v0"
FACES: dict[str, Any] = {"dataset_options": {"size": 12}}
N = 4


@pytest.fixture(scope="module")
def lrn() -> LRN:
    return load_networks(find_release("synthetic-19"))[1]


def plain(mode: AutoresetMode = AutoresetMode.NEXT_STEP) -> Any:
    """The environment that the pretrained policy plays by itself."""
    keywords = {"initializer": "mean", "learned_history": True, "observe_time": True, "terminate_at_limit": True}
    return gym.make_vec("FaceAlign-v0", N, landmarks=19, autoreset_mode=mode, **keywords, **FACES)


@torch.no_grad()
def acts(lrn: LRN, observations: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2K) the policy's increments, (N, 512) its features."""
    increments, features = lrn(*(torch.from_numpy(observations[key]) for key in ("patches", "history")))
    return increments.numpy(), features.numpy()


def moved(infos: dict[str, Any]) -> np.ndarray:
    shifts: np.ndarray = infos["landmarks"] - infos["previous_landmarks"]
    return shifts.reshape(N, -1)


def test_without_a_correction_it_is_the_pretrained_policy(lrn: LRN) -> None:
    theirs, ours = plain(), gym.make_vec(TASK, N, **FACES)
    observations, _ = theirs.reset(seed=0)
    seen, _ = ours.reset(seed=0)
    assert ours.single_action_space.shape == (11,)
    for _ in range(25):
        increments, features = acts(lrn, observations)
        np.testing.assert_allclose(seen[:, :-1], features, atol=1e-3)
        np.testing.assert_array_equal(seen[:, -1:], observations["time_left"])
        observations, *expected = theirs.step(np.concatenate([increments, features], axis=1))
        seen, *found = ours.step(np.zeros((N, 11), np.float32))
        for mine, yours in zip(found[:2], expected[:2], strict=True):
            np.testing.assert_array_equal(mine, yours)
        np.testing.assert_allclose(found[3]["landmarks"], expected[3]["landmarks"], atol=1e-2)


@pytest.mark.parametrize("gain", [-1.0, 0.5])
def test_the_first_component_sets_how_far_the_policy_goes_and_the_others_are_added(lrn: LRN, gain: float) -> None:
    env = gym.make_vec(TASK, N, **FACES)
    env.reset(seed=0)
    actions = np.zeros((N, 11), np.float32)
    actions[:, 0], actions[:, 2] = gain, 1
    expected = 2**gain * env.env.pretrained_increments() + env.directions[1]
    *_, infos = env.step(actions)
    np.testing.assert_allclose(moved(infos), np.clip(expected, -32, 32), atol=1e-3)


def test_each_coordinate_can_be_corrected_by_itself(lrn: LRN) -> None:
    inner = plain()
    env = VectorPolicyCorrections(VectorPretrainedFeatures(inner, lrn), modes=None)
    observations, _ = inner.reset(seed=0)
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-0.2, 0.2, (N, 39)).astype(np.float32)
    actions[:, 0] = 0
    *_, infos = env.step(actions)
    np.testing.assert_allclose(
        moved(infos), np.clip(acts(lrn, observations)[0] + 32 * actions[:, 1:], -32, 32), atol=1e-3
    )


def test_a_batch_corrects_as_single_environments_do() -> None:
    ours, theirs = gym.make_vec(TASK, N, **FACES), SyncVectorEnv([lambda: gym.make(TASK, **FACES)] * N)
    rng = np.random.default_rng(0)
    for mine, yours in zip(ours.reset(seed=3)[:1], theirs.reset(seed=3)[:1], strict=True):
        np.testing.assert_allclose(mine, yours, atol=1e-3)
    for _ in range(12):
        actions = rng.uniform(-1, 1, (N, 11)).astype(np.float32)
        outcome, expected = ours.step(actions), theirs.step(actions)
        for mine, yours in zip(outcome[:4], expected[:4], strict=True):
            np.testing.assert_allclose(mine, yours, atol=1e-3)


def test_the_last_observation_of_an_episode_is_features_too(lrn: LRN) -> None:
    theirs = plain(AutoresetMode.SAME_STEP)
    ours = VectorPolicyCorrections(VectorPretrainedFeatures(plain(AutoresetMode.SAME_STEP), lrn))
    observations, _ = theirs.reset(seed=0)
    ours.reset(seed=0)
    ended = 0
    while ended < N:
        observations, *_, expected = theirs.step(np.concatenate(acts(lrn, observations), axis=1))
        *_, found = ours.step(np.zeros((N, 11), np.float32))
        for last, seen in finals(expected, found):
            _, features = acts(lrn, {key: value[None] for key, value in last.items()})
            np.testing.assert_allclose(seen[:-1], features[0], atol=1e-3)
            ended += 1


def finals(expected: dict[str, Any], found: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    for last, seen in zip(expected.get("final_obs", ()), found.get("final_obs", ()), strict=True):
        assert (last is None) == (seen is None)
        if last is not None:
            yield last, seen


def test_shapes_may_be_given_where_the_training_split_is_unknown() -> None:
    shapes = np.random.default_rng(0).normal(size=(50, 19, 2)).astype(np.float32)
    env = ShapeModes(gym.make("FaceAlign-v0", landmarks=19, initializer="mean", **FACES), 3, 1.0, shapes)
    assert env.directions.shape == (3, 38)
    assert np.linalg.norm(env.directions, axis=1).max() < 3, "the training faces' own are some tens of pixels long"


def test_it_says_what_it_goes_around() -> None:
    with pytest.raises(ValueError, match="goes around PretrainedFeatures"):
        PolicyCorrections(gym.make("FaceAlign-v0", landmarks=19, initializer="mean", **FACES))
    with pytest.raises(ValueError, match="goes around PretrainedFeatures"):
        VectorPolicyCorrections(gym.make_vec("FaceAlign-v0", 2, landmarks=19, initializer="mean", **FACES))
