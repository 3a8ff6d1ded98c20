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

from face_align_env.checks import check_integer
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


class CoarsePatches(gym.ObservationWrapper[Any, Any, Any], RecordConstructorArgs):
    """The observation is what is bright and dark in each patch: means over ``side`` x ``side`` blocks, normalised.

    Each patch by itself is brought to a mean of 0 and a standard deviation of about 1, so that neither light nor the
    colour of a skin is left. A small network learns from these few numbers what one with convolutions does not learn
    from as many transitions; nothing is pretrained. The history is left out; with ``observe_time``, the time left is
    one more number.

    :param env: ``FaceAlign-v0``, or wrappers around it that leave its observations alone
    :param side: blocks along a side of a patch; the side of the patches, pixels, is a multiple of it
    :raises TypeError: when there is another environment inside
    :raises ValueError: ``side`` does not divide the patches, or no patches are observed
    """

    def __init__(self, env: gym.Env[Any, Any], side: int = 5) -> None:
        RecordConstructorArgs.__init__(self, side=side)
        gym.ObservationWrapper.__init__(self, env)
        self.observation_space = _coarse_space(task_of(env), side)
        self._side = side

    def observation(self, observation: Any) -> Floats:
        """(K side^2,) block means, perhaps with the time left as one more number."""
        seen: Floats = coarse_patches({key: value[None] for key, value in observation.items()}, self._side)[0]
        return seen


class VectorCoarsePatches(VectorObservation):
    """:class:`CoarsePatches` of N faces; its parameters are the same."""

    def __init__(self, env: VectorEnv[Any, Any, Any], side: int = 5) -> None:
        super().__init__(env)
        self.single_observation_space = _coarse_space(task_of(env), side)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self._side = side

    def observations(self, observations: Batch) -> Floats:
        """(M, ...) see :meth:`CoarsePatches.observation`."""
        return coarse_patches(observations, self._side)


_FAINT = 8.0  # grey levels; a patch that differs by less than this is flat, and its noise is not blown up


def coarse_patches(observations: Batch, side: int) -> Floats:
    """(N, K side^2) normalised means of blocks of patches (N, K, P, P, 3) uint8; with the time left where observed."""
    patches = observations["patches"]
    n, k, pixels = patches.shape[:3]
    width = pixels // side
    grey = patches.sum(axis=-1, dtype=np.uint16)
    # Sums of integers: a face's numbers do not depend on the batch that it is in.
    sums = grey.reshape(n, k, side, width, side, width).sum(axis=(3, 5), dtype=np.uint32)
    blocks = sums.reshape(n, k, -1).astype(np.float32) / np.float32(3 * width**2)
    blocks -= blocks.mean(axis=2, keepdims=True)
    blocks /= blocks.std(axis=2, keepdims=True) + np.float32(_FAINT)
    return with_time(blocks.reshape(n, -1), observations)


def _coarse_space(task: Task, side: int) -> spaces.Box:
    check_integer("side", side, least=1)
    if not task.observe_patches:
        raise ValueError("CoarsePatches needs an environment that shows patches: observe_patches=True.")
    if task.patch_size % side:
        raise ValueError(f"side={side} does not divide patches of {task.patch_size} pixels.")
    size = task.num_landmarks * side**2 + task.observe_time
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


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
