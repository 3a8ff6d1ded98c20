"""What FaceAlign-v0 refuses: wrong actions, resets and keywords, each by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from writers.environments import Toy, large_action, make, small_action

from face_align_env import FaceAlignEnv, FaceAlignVectorEnv
from face_align_env.augmentation import Augmentation
from face_align_env.keywords import Keywords, check_keywords
from face_align_env.prepared import FaceSource, PreparedFaces


def test_wrong_actions_are_refused(env: FaceAlignEnv) -> None:
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(136,\).*got \(135,\)"):
        env.step(np.zeros(135))
    with pytest.raises(ValueError, match="1 NaN"):
        env.step(np.r_[np.nan, np.zeros(135)])
    assert env.step(small_action())[4]["iterations"] == 1, "a refused action changes nothing"


def test_an_episode_must_begin_and_not_be_over(toy_dataset: Toy) -> None:
    env = make(toy_dataset(), max_iterations=1)
    with pytest.raises(ResetNeeded):
        env.step(large_action())
    env.reset()
    env.step(large_action())
    with pytest.raises(ResetNeeded):
        env.step(large_action())


@pytest.mark.parametrize("options", [{"index": -1}, {"index": 6}, {"index": 1.5}, {"index": "2"}, {"indx": 2}], ids=str)
def test_a_reset_that_is_refused_leaves_the_episode_whole(toy_dataset: Toy, options: dict[str, Any]) -> None:
    (key, value), env, other = *options.items(), make(toy_dataset()), make(toy_dataset())
    for each in (env, other):
        each.reset(seed=0)
    with pytest.raises(ValueError, match=f"0 to 5, got {value!r}" if key == "index" else "options index; got 'indx'"):
        env.reset(seed=7, options=options)
    np.testing.assert_equal(env.step(large_action()), other.step(large_action()))
    np.testing.assert_equal(env.reset(), other.reset())


def test_a_reset_that_fails_leaves_no_episode(toy_dataset: Toy) -> None:
    shapes = [np.full((1, 68, 2), 128.0), np.full((1, 68, 2), np.nan), np.full((1, 68, 2), 128.0)]
    env = make(toy_dataset(), initializer=lambda crops: shapes.pop(0), render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="not finite"):
        env.reset()
    for too_early in (lambda: env.step(large_action()), env.render):
        with pytest.raises(ResetNeeded):
            too_early()
    env.reset()
    env.step(large_action())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"termination": "never"}, "oracle, blind, limit, action"),
        ({"reward": "sparse"}, "paper, dense, shaped"),
        ({"reward": "shaped", "shaping_gamma": -0.1}, "shaping_gamma"),
        ({"reward": "shaped", "shaping_scale": -1.0}, "shaping_scale"),
        ({"action_limit": 0.0}, "action_limit"),
        ({"normalizer": "nose"}, "inter_ocular"),
        ({"initializer": "nowhere.safetensors"}, "nowhere"),
        ({"landmarks": 29}, "dataset's name"),
        ({"action_limit": np.inf}, "action_limit"),
        ({"action_limit": "32"}, "action_limit"),
        ({"alpha_1": np.nan}, "alpha_1"),
        ({"max_iterations": 2.5}, "max_iterations"),
        ({"patch_size": -1}, "patch_size"),
        ({"margin": np.nan}, "margin"),
        ({"learned_history": "yes"}, "learned_history"),
        ({"observe_time": 1}, "observe_time"),
        ({"terminate_at_limit": None}, "terminate_at_limit"),
        ({"augment": "yes"}, "augment"),
        ({"initializer": 3}, "initializer"),
        ({"split": None}, "split"),
        ({"device": 0}, "device"),
        ({"dataset_options": 3}, "dataset_options"),
        ({"render_mode": "ansi"}, "render_mode must be None or one of human, rgb_array, got 'ansi'"),
    ],
    ids=str,
)
def test_wrong_keywords_are_refused(toy_dataset: Toy, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(toy_dataset(), **options)


def test_unknown_keywords_are_refused(toy_dataset: Toy) -> None:
    with pytest.raises(TypeError, match=r"FaceAlignEnv.*alpha_3"):
        make(toy_dataset(), alpha_3=1)
    with pytest.raises(ValueError, match="FaceAlignEnv has no keyword 'alpha1'; did you mean 'alpha_1'"):
        check_keywords({"alpha1": 1})
    with pytest.raises(ValueError, match="alpha_1 must be above 0, got -1"):
        check_keywords({"alpha_1": -1})
    assert check_keywords({"alpha_1": 0.1}).alpha_1 == 0.1


def test_the_keywords_are_the_same_everywhere() -> None:
    def keywords(function: Callable[..., Any], *others: str) -> dict[str, tuple[Any, Any]]:
        parameters = inspect.signature(function).parameters.values()
        return {p.name: (p.default, p.annotation) for p in parameters if p.name not in ("self", *others)}

    expected = keywords(Keywords.__init__)
    assert keywords(FaceAlignEnv.__init__, "render_mode") == expected
    own = ("num_envs", "render_mode", "autoreset_mode", "copy", "backend", "max_episode_steps")
    assert keywords(FaceAlignVectorEnv.__init__, *own) == expected
    for name in expected:
        assert f"| `{name}` " in (FaceAlignEnv.__doc__ or ""), "its docstring's table is the documentation"


def test_a_source_brings_its_own_augmentation(toy_dataset: Toy) -> None:
    source = FaceSource(PreparedFaces(toy_dataset()), Augmentation())
    assert make(source).faces is source
    with pytest.raises(ValueError, match="leave them out"):
        make(source, augment=True)
