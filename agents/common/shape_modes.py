"""Actions along the directions in which faces differ, for algorithms that explore with noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn


def shape_modes(shapes: npt.NDArray[np.floating], count: int) -> npt.NDArray[np.float32]:
    """The first principal axes of shapes, each one standard deviation long.

    :param shapes: (N, K, 2) training shapes, pixels of the crop
    :param count: M, at most 2K
    :return: (M, 2K) in pixels, the longest first
    :raises ValueError: ``count`` is not from 1 to 2K
    """
    deviations = (shapes - shapes.mean(0)).reshape(len(shapes), -1).astype(np.float64)
    if not 1 <= count <= deviations.shape[1]:
        raise ValueError(f"Shapes of {deviations.shape[1]} coordinates have 1 to as many modes, not {count}.")
    variances, axes = np.linalg.eigh(np.cov(deviations.T))
    scaled: npt.NDArray[np.float32] = (axes * np.sqrt(variances.clip(0))).T[::-1][:count].astype(np.float32)
    return scaled


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
