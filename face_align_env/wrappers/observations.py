"""Observations made of the environment's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from face_align_env.keywords import Task
from face_align_env.wrappers.inner import Batch, Floats, task_of
from face_align_env.wrappers.modes import increments_of


class VectorObservation(VectorWrapper, ABC):
    """Observations of N faces made of the environment's; Gymnasium's own wrapper refuses the mode SAME_STEP."""

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As of any vector environment."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return self.observations(observations), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As of any vector environment."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        if "final_obs" in infos:
            slots = np.flatnonzero(infos["_final_obs"])
            last = [infos["final_obs"][slot] for slot in slots]
            seen = self.observations({key: np.stack([each[key] for each in last]) for key in last[0]})
            final = np.full(self.num_envs, None, dtype=object)
            for slot, each in zip(slots, seen, strict=True):
                final[slot] = each
            infos = {**infos, "final_obs": final}
        return self.observations(observations), rewards, terminated, truncated, infos

    @abstractmethod
    def observations(self, observations: Batch) -> Floats:
        """(M, ...) of the observations of M faces."""


def with_time(observed: Floats, observations: Batch) -> Floats:
    """With the time left, where it is observed, as the last number; a copy."""
    return np.concatenate([observed, *([observations["time_left"]] if "time_left" in observations else [])], axis=1)


class ModeResiduals(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """The observation is the way from x_t to the ground truth in shape modes, and with ``observe_time`` the time left.

    No agent that is to align photos may see this. It takes the vision out of the problem: what an algorithm does not
    learn here, it does not fail to learn for want of features.

    :param env: :class:`ShapeModes` around ``FaceAlign-v0`` with ``observe_residual=True``; a component of 1 is a full
        step of its actions
    :raises TypeError, ValueError: it is not
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        self._coordinates = _coordinates(env, env.get_wrapper_attr)
        self.observation_space = _residual_space(task_of(env), self._coordinates)

    def observation(self, observation: Any) -> Floats:
        """(M,) coordinates of x^ - x_t, perhaps with the time left as one more number."""
        batch = {key: value[None] for key, value in observation.items()}
        residuals: Floats = _residuals(batch, self._coordinates)[0]
        return residuals


class VectorModeResiduals(VectorObservation):
    """:class:`ModeResiduals` of N faces."""

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self._coordinates = _coordinates(env, lambda name: getattr(env, name))
        self.single_observation_space = _residual_space(task_of(env), self._coordinates)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def observations(self, observations: Batch) -> Floats:
        """(M, ...) see :meth:`ModeResiduals.observation`."""
        return _residuals(observations, self._coordinates)


def _coordinates(env: Any, attribute: Any) -> Floats:
    """(2K, M) from increments in pixels to the nearest coordinates in modes."""
    if not task_of(env).observe_residual:
        raise ValueError("ModeResiduals needs an environment with observe_residual=True.")
    try:
        directions = attribute("directions")
    except AttributeError:
        raise ValueError("ModeResiduals goes around ShapeModes, whose coordinates it observes.") from None
    return np.linalg.pinv(directions.astype(np.float64)).astype(np.float32)


def _residual_space(task: Task, coordinates: Floats) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (coordinates.shape[1] + task.observe_time,), np.float32)


def _residuals(observations: Batch, coordinates: Floats) -> Floats:
    return with_time(increments_of(observations["residual"], coordinates), observations)
