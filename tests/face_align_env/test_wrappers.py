"""LearnedHistory: the policy writes d_t, the environment carries it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import RescaleAction

from face_align_env import LearnedHistory
from face_align_env.datasets import FaceDataset

Toy = Callable[..., FaceDataset]


def make(dataset: FaceDataset, **options: Any) -> gym.Env[Any, Any]:
    return gym.make("FaceAlign-v0", dataset=dataset, **{"initializer": "mean", **options})


def test_second_part_of_the_action_is_the_next_history(toy_dataset: Toy) -> None:
    env = LearnedHistory(make(toy_dataset()))
    observation, _ = env.reset(seed=0)
    assert not observation["history"].any(), "d_0 = 0"
    rng = np.random.default_rng(0)
    for _ in range(3):
        d = rng.uniform(-1, 1, 512).astype(np.float32)
        observation, *_ = env.step(np.concatenate([rng.normal(0, 8, 136).astype(np.float32), d]))
        np.testing.assert_array_equal(observation["history"], d)
        assert observation in env.observation_space


def test_spaces(toy_dataset: Toy) -> None:
    env = LearnedHistory(make(toy_dataset(), action_limit=16.0))
    space = env.action_space
    assert isinstance(space, gym.spaces.Box)
    np.testing.assert_array_equal(space.high, np.r_[np.full(136, 16), np.ones(512)])
    np.testing.assert_array_equal(space.low, -space.high)
    env.reset(seed=0)
    observation, *_ = env.step(np.full(648, 99.0))
    assert (observation["history"] == 1).all(), "the history is clipped to its bounds as well"


def test_dynamics_see_the_increment_only(toy_dataset: Toy) -> None:
    plain, learned = make(toy_dataset()), LearnedHistory(make(toy_dataset()))
    plain.reset(seed=0)
    learned.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(10):
        a = rng.normal(0, 4, 136).astype(np.float32)
        observation, *outcome = plain.step(a)
        other, *other_outcome = learned.step(np.concatenate([a, np.ones(512, dtype=np.float32)]))
        np.testing.assert_array_equal(observation["patches"], other["patches"])
        np.testing.assert_equal(outcome, other_outcome)
        if outcome[1] or outcome[2]:
            break


def test_a_long_history_does_not_keep_an_episode_from_ending(toy_dataset: Toy) -> None:
    env = LearnedHistory(make(toy_dataset(), termination="blind", alpha_1=1e9))
    env.reset(seed=0)
    _, reward, terminated, *_ = env.step(np.r_[np.full(136, 1.0), np.ones(512)])
    assert (reward, terminated) == (10.0, True)


def test_is_the_keyword_learned_history(toy_dataset: Toy) -> None:
    wrapped, keyword = LearnedHistory(make(toy_dataset())), make(toy_dataset(), learned_history=True)
    assert wrapped.action_space == keyword.action_space
    action = wrapped.action_space.sample()
    for env in (wrapped, keyword):
        env.reset(seed=0)
    np.testing.assert_equal(wrapped.step(action), keyword.step(action))


def test_the_environment_inside_stays_as_it_is(toy_dataset: Toy) -> None:
    inner, other = make(toy_dataset()), make(toy_dataset())
    inner.reset(seed=0)
    other.reset(seed=0)
    env = LearnedHistory(inner)
    env.step(np.r_[np.full(136, 8.0), np.ones(512)].astype(np.float32))
    other.step(np.full(136, 8.0, dtype=np.float32))
    assert inner.action_space.shape == (136,)
    np.testing.assert_equal(inner.step(np.zeros(136)), other.step(np.zeros(136)))


def test_wrong_actions_are_refused(toy_dataset: Toy) -> None:
    env = LearnedHistory(make(toy_dataset()))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(648,\).*got \(136,\)"):
        env.step(np.zeros(136))
    with pytest.raises(ValueError, match="learned_history=True already"):
        LearnedHistory(make(toy_dataset(), learned_history=True))


def test_the_spec_makes_it_again(toy_dataset: Toy) -> None:
    env = LearnedHistory(make(toy_dataset()))
    assert env.spec is not None
    again = gym.make(env.spec)
    assert isinstance(again, LearnedHistory)
    assert again.action_space == env.action_space


def test_actions_may_be_rescaled_around_it_but_not_inside(toy_dataset: Toy) -> None:
    env = RescaleAction(LearnedHistory(make(toy_dataset())), np.float32(-1), np.float32(1))
    env.reset(seed=0)
    *_, info = env.step(np.r_[np.full(136, 0.5), np.zeros(512)].astype(np.float32))
    np.testing.assert_allclose(info["landmarks"] - info["previous_landmarks"], 16, rtol=1e-4)
    with pytest.raises(ValueError, match="action space"):
        LearnedHistory(RescaleAction(make(toy_dataset()), np.float32(-1), np.float32(1)))


def test_wraps_nothing_else() -> None:
    with pytest.raises(TypeError, match="CartPole"):
        LearnedHistory(gym.make("CartPole-v1"))
