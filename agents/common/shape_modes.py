"""Actions along the directions in which faces differ, for algorithms that explore with noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from face_align_env.wrappers import shape_modes

__all__ = ["ShapeModes", "shape_modes"]


class ShapeModes(VecEnvWrapper):
    """The same actions in other coordinates: component m, in [-1, 1], moves the shape along its m-th direction.

    Independent noise on each landmark distorts the shape, and Eq. 4 answers with -1 whatever the policy meant. Noise on
    the modes rotates, shifts and scales it in the ways in which faces differ.

    :param venv: FaceAlign-v0
    :param directions: (M, 2K), the increments of a full step in each component, pixels
    """

    def __init__(self, venv: VecEnv, directions: npt.NDArray[np.float32]) -> None:
        super().__init__(venv, action_space=spaces.Box(-1.0, 1.0, (len(directions),), np.float32))
        self.directions = directions

    def reset(self) -> Any:
        return self.venv.reset()

    def step_async(self, actions: np.ndarray) -> None:
        self.venv.step_async(actions @ self.directions)

    def step_wait(self) -> VecEnvStepReturn:
        return self.venv.step_wait()
