"""Where an episode may begin: shapes of the crop, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
from trust.refusals import Refused

import face_align_env  # noqa: F401 - registers FaceAlign-v0
from face_align_env.episodes import FARTHEST

Shapes = Callable[[int], np.ndarray]


def _with(value: float) -> Shapes:
    def make(count: int) -> np.ndarray:
        shapes = np.full((count, 68, 2), 128, dtype=np.float32)
        shapes[0, 9, 1] = value
        return shapes

    return make


# what an initializer gives -> message
BAD_SHAPES: dict[str, tuple[Shapes, str]] = {
    "1e30": (_with(1e30), r"with coordinates up to 1e\+30"),
    "-1e30": (_with(-1e30), r"with coordinates up to 1e\+30"),
    "farther than an episode reaches": (_with(FARTHEST + 1), "with coordinates up to"),
    "not a number": (_with(np.nan), "with values that are not finite"),
    "infinity": (_with(np.inf), "with values that are not finite"),
    "other landmarks": (lambda count: np.zeros((count, 29, 2)), r"it gave \(1, 29, 2\)"),
    "flat": (lambda count: np.zeros((count, 136)), r"it gave \(1, 136\)"),
    "nothing": (lambda count: np.zeros((0, 68, 2)), r"it gave \(0, 68, 2\)"),
}


@pytest.mark.parametrize("name", BAD_SHAPES)
def test_a_start_that_is_none_is_refused(name: str, refused: Refused) -> None:
    shapes, message = BAD_SHAPES[name]
    env = gym.make("FaceAlign-v0", dataset_options={"size": 2}, initializer=lambda crops: shapes(len(crops)))
    with pytest.raises(ValueError, match=message) as error:
        env.reset(seed=0)
    refused(error.value)


def test_a_start_beside_the_crop_is_played() -> None:
    env = gym.make("FaceAlign-v0", dataset_options={"size": 2}, initializer=lambda crops: _with(FARTHEST)(len(crops)))
    env.reset(seed=0)
    _, reward, *_ = env.step(np.zeros(136, dtype=np.float32))
    assert reward == 0, "nothing was improved"
