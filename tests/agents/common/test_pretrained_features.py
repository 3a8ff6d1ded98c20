"""FaceAlign-v0 as a pretrained LRN sees it, and actions along shape modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from face_align_env.agents.common.policies import lrn_policy
from face_align_env.agents.common.pretrained_features import PretrainedFeatures
from face_align_env.agents.common.shape_modes import ShapeModes, shape_modes
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.initialization import MeanShape
from face_align_env.networks.lrn import LRN
from face_align_env.prepared import PreparedFaces

FACES = 5


@pytest.fixture
def new_env(toy_dataset: Any, mean_shape: np.ndarray) -> Callable[..., FaceAlignVecEnv]:
    def make(**options: Any) -> FaceAlignVecEnv:
        options = {"learned_history": True, "initializer": MeanShape(mean_shape), "alpha_2": 0.5, **options}
        env = FaceAlignVecEnv(FACES, dataset=toy_dataset(), max_iterations=4, **options)
        env.set_options([{"index": i} for i in range(FACES)])
        return env

    return make


@pytest.fixture
def directions(toy_dataset: Any) -> np.ndarray:
    return shape_modes(PreparedFaces(toy_dataset()).landmarks, 3)


@pytest.fixture
def moving(new_lrn: Callable[..., LRN]) -> LRN:
    return new_lrn(gain=20.0)


def test_without_an_action_of_its_own_it_is_the_pretrained_policy(
    new_env: Callable[..., FaceAlignVecEnv], directions: np.ndarray, moving: LRN
) -> None:
    plain, seen = new_env(), PretrainedFeatures(new_env(), moving, directions, residual=True)
    act, observations, features = lrn_policy(moving), plain.reset(), seen.reset()
    assert seen.action_space.shape == (len(directions) + 1,)
    for _ in range(3):
        actions = act(observations)
        np.testing.assert_allclose(features, actions[:, -512:], atol=1e-6)
        observations, *expected = plain.step(actions)
        features, *found = seen.step(np.zeros((FACES, len(directions) + 1), np.float32))
        for ours, theirs in zip(found[:2], expected[:2], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for ours, theirs in zip(found[2], expected[2], strict=True):
            np.testing.assert_allclose(ours["landmarks"], theirs["landmarks"], atol=1e-4)


def test_the_first_component_sets_how_far_the_pretrained_policy_goes(
    new_env: Callable[..., FaceAlignVecEnv], directions: np.ndarray, moving: LRN
) -> None:
    env = PretrainedFeatures(new_env(), moving, directions, residual=True)
    increments = moving.increment(torch.from_numpy(env.reset())).detach().numpy()
    actions = np.zeros((FACES, len(directions) + 1), np.float32)
    actions[:, 0], actions[:, 2] = -1, 1
    _, _, _, infos = env.step(actions)
    moved = np.stack([info["landmarks"] - info["previous_landmarks"] for info in infos]).reshape(FACES, -1)
    np.testing.assert_allclose(moved, np.clip(increments / 2 + directions[1], -32, 32), atol=1e-3)


def test_features_alone_leave_the_shape_to_the_actions(
    new_env: Callable[..., FaceAlignVecEnv], directions: np.ndarray, moving: LRN
) -> None:
    env = PretrainedFeatures(new_env(), moving, directions)
    env.reset()
    actions = np.eye(len(directions), dtype=np.float32)[np.arange(FACES) % len(directions)]
    _, _, _, infos = env.step(actions)
    moved = np.stack([info["landmarks"] - info["previous_landmarks"] for info in infos]).reshape(FACES, -1)
    np.testing.assert_allclose(moved, np.clip(actions @ directions, -32, 32), atol=1e-4)


def test_the_last_observation_of_an_episode_is_features_too(
    new_env: Callable[..., FaceAlignVecEnv], directions: np.ndarray, moving: LRN
) -> None:
    plain, env = new_env(), PretrainedFeatures(new_env(), moving, directions)
    plain.reset()
    features, ended = env.reset(), 0
    while not ended:
        actions = np.full((FACES, len(directions)), 0.2, np.float32)
        _, _, dones, expected = plain.step(np.concatenate([actions @ directions, features], axis=1))
        features, _, _, found = env.step(actions)
        for i in np.flatnonzero(dones):
            last = expected[i]["terminal_observation"]
            state = (torch.from_numpy(last[key])[None] for key in ("patches", "history"))
            with torch.no_grad():
                seen = moving.trunk(*state)[0].numpy()
            np.testing.assert_allclose(found[i]["terminal_observation"], seen, atol=1e-5)
            ended += 1


def test_it_says_what_does_not_fit(
    new_env: Callable[..., FaceAlignVecEnv], directions: np.ndarray, moving: LRN
) -> None:
    with pytest.raises(ValueError, match="learned_history=True"):
        PretrainedFeatures(new_env(learned_history=False), moving, directions)
    with pytest.raises(ValueError, match=r"\(M, 136\)"):
        PretrainedFeatures(new_env(), moving, directions[:, :-2])


def test_shape_modes_are_the_principal_axes() -> None:
    rng = np.random.default_rng(0)
    axis = rng.normal(size=(4, 2)).astype(np.float32)
    axis /= np.linalg.norm(axis)
    shapes = 100 + 5 * rng.normal(size=(4000, 1, 1)) * axis + 0.1 * rng.normal(size=(4000, 4, 2))
    first, second = shape_modes(shapes, 2)
    assert abs(first @ axis.ravel()) == pytest.approx(5, rel=0.1)
    assert np.linalg.norm(second) == pytest.approx(0.1, rel=0.2)
    with pytest.raises(ValueError, match="1 to as many modes"):
        shape_modes(shapes, 9)


def test_actions_along_shape_modes_move_the_shape(
    new_env: Callable[..., FaceAlignVecEnv], directions: np.ndarray
) -> None:
    env = ShapeModes(new_env(learned_history=False), directions)
    env.reset()
    _, _, _, infos = env.step(np.tile(np.float32([[0.5, 0, -1]]), (FACES, 1)))
    moved = (infos[0]["landmarks"] - infos[0]["previous_landmarks"]).ravel()
    np.testing.assert_allclose(moved, np.clip(0.5 * directions[0] - directions[2], -32, 32), atol=1e-4)
