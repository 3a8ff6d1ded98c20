"""Other views of FaceAlign-v0, for one face and, beneath each, for a batch of N.

:class:`LearnedHistory`: the policy writes d_t. :class:`ShapeModes`: actions along the directions in which faces differ.
:class:`PretrainedFeatures`: observations are what a pretrained LRN makes of the patches. :class:`ModeResiduals`: the
observation is the way to the ground truth, for algorithms that are tested without vision.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, SupportsFloat, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorActionWrapper, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from face_align_env.checks import check_integer, check_number
from face_align_env.env import FaceAlignEnv
from face_align_env.episodes import valid_actions
from face_align_env.keywords import Task
from face_align_env.mdp import HISTORY_SIZE
from face_align_env.vector_env import FaceAlignVectorEnv

if TYPE_CHECKING:
    from face_align_env.networks.lrn import LRN

Floats = npt.NDArray[np.float32]
Batch = dict[str, npt.NDArray[Any]]
"""Observations of N faces."""


class LearnedHistory(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """The paper's case (section 3.2: d_{t+1} = LRN(s_t)): the action becomes ``[a_t, d_{t+1}]`` in R^{2K + 512}.

    The second part comes back as ``history`` of the next observation; Eq. 2, 3 and 4 see only a_t. So the policy
    needs no memory of its own: ``model.predict(obs)`` and ``env.step(action)`` just work, in several processes and
    with a replay buffer too. The same as the keyword ``learned_history=True``, which is there for ``gym.make_vec``.

    The environment inside stays as it is. An episode goes on if it has begun already; the next observation's
    ``history`` is then what the action says.

    :param env: a ``FaceAlign-v0``; wrappers that change the action go around this one, not inside it
    :raises TypeError: when there is another environment inside
    :raises ValueError: when the history is learned already, or a wrapper inside has changed the action space
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        task = _task_of(env)
        if task.learned_history:
            raise ValueError("The environment has learned_history=True already; LearnedHistory is the same.")
        if env.action_space != task.action_space:
            raise ValueError(f"{env} has changed the action space; apply LearnedHistory to the environment before it.")
        self.action_space = self._space = replace(task, learned_history=True).action_space

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One iteration.

        :param action: (2K + 512,) a_t in pixels, d_{t+1}
        :raises ValueError: when the shape differs, or there is a NaN
        """
        a, d_next = np.split(valid_actions(action, self._space), [-HISTORY_SIZE])
        observation, reward, terminated, truncated, info = self.env.step(a)
        return {**observation, "history": d_next}, reward, terminated, truncated, info


# -- actions along shape modes -----------------------------------------------------------------------------------------


def shape_modes(shapes: npt.NDArray[np.floating], count: int) -> Floats:
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
    axes = axes * np.where(axes.sum(0) < 0, -1, 1)  # either sign is an axis; the same on every machine
    return np.asarray((axes * np.sqrt(variances.clip(0))).T[::-1][:count], dtype=np.float32)


class ShapeModes(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """The same actions in other coordinates: component m, in [-1, 1], moves the shape along its m-th direction.

    Noise on each landmark by itself tears a shape apart, and Eq. 4 answers with -1 whatever the policy meant. Noise on
    the modes turns, shifts and widens it as faces differ. An increment outside of the environment's box is clipped.

    :param env: ``FaceAlign-v0`` without a learned history, or wrappers around it whose actions are (2K,) pixels
    :param modes: M, how many of the :func:`shape_modes` of the training split
    :param step: length of a full step in a component, standard deviations of the training shapes
    :raises TypeError: when there is another environment inside
    :raises ValueError: ``modes`` or ``step`` makes no sense, or the environment takes other actions
    """

    def __init__(self, env: gym.Env[Any, Any], modes: int = 10, step: float = 0.5) -> None:
        RecordConstructorArgs.__init__(self, modes=modes, step=step)
        gym.ActionWrapper.__init__(self, env)
        self.directions = _directions(env, env.action_space, modes, step)
        self.action_space = self._space = spaces.Box(-1.0, 1.0, (modes,), np.float32)

    def action(self, action: Any) -> Floats:
        """(2K,) increments in pixels of (M,) coordinates."""
        increments: Floats = _increments(valid_actions(action, self._space)[None], self.directions)[0]
        return increments


class VectorShapeModes(VectorActionWrapper):
    """:class:`ShapeModes` of N faces; its parameters are the same."""

    def __init__(self, env: VectorEnv[Any, Any, Any], modes: int = 10, step: float = 0.5) -> None:
        super().__init__(env)
        self.directions = _directions(env, env.single_action_space, modes, step)
        self.single_action_space = spaces.Box(-1.0, 1.0, (modes,), np.float32)
        self.action_space = self._space = cast(spaces.Box, batch_space(self.single_action_space, env.num_envs))

    def actions(self, actions: Any) -> Any:
        """(N, 2K) increments in pixels of (N, M) coordinates."""
        return _increments(valid_actions(actions, self._space), self.directions)


def _directions(env: Any, actions: Any, modes: int, step: float) -> Floats:
    """(M, 2K) the increments of a full step in each component, pixels."""
    task = _task_of(env)
    check_integer("modes", modes, least=1)
    check_number("step", step, above=0)
    if actions.shape != (2 * task.num_landmarks,):
        raise ValueError(
            f"Shape modes are increments of {2 * task.num_landmarks} coordinates; {env} takes actions of shape "
            f"{actions.shape}."
        )
    return step * shape_modes(task.training_landmarks(), modes)


def _increments(coordinates: Floats, directions: Floats) -> Floats:
    # Not by BLAS, whose sums are rounded differently in batches of different size.
    increments: Floats = np.einsum("nm,mk->nk", coordinates, directions)
    return increments


# -- observations made of a batch of observations ----------------------------------------------------------------------


class _VectorObservation(VectorWrapper, ABC):
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


class PretrainedFeatures(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Observations are d_{t+1} in R^512, what the trunk of a pretrained LRN makes of (p_t, d_t); it stays as it is.

    The trunk is asked once for each state, and its d_{t+1} is what the environment shows as history next: the features
    are those that LRN was pretrained with, whatever the algorithm does. Nothing here depends on the algorithm, which
    sees a box of 512 numbers and needs neither a network for images nor a replay buffer for them. With
    ``observe_time`` the share of iterations left is one more.

    :param env: ``FaceAlign-v0`` with ``learned_history=True``; actions are then a_t alone, (2K,) pixels
    :param lrn: the network, the name of released weights, or a file of LRN's weights
    :param device: where it runs
    :raises TypeError: when there is another environment inside
    :raises ValueError: there is no such release, or the network is not made for the environment
    :raises FileNotFoundError, WeightsError: see :func:`face_align_env.networks.weights.load_weights`
    """

    def __init__(self, env: gym.Env[Any, Any], lrn: LRN | str = "300w-19", device: str = "cpu") -> None:
        RecordConstructorArgs.__init__(self, lrn=lrn, device=device)
        gym.Wrapper.__init__(self, env)
        self.lrn = _load_lrn(lrn, _task_of(env), env.action_space, device)
        self.observation_space, self.action_space = _feature_spaces(_task_of(env), self.lrn)
        self._features = np.zeros((1, self.lrn.config.hidden), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As of any environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._see(observation), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One iteration.

        :param action: (2K,) a_t in pixels
        """
        observation, reward, terminated, truncated, info = self.env.step(np.concatenate([action, self._features[0]]))
        return self._see(observation), reward, terminated, truncated, info

    def _see(self, observation: Any) -> Floats:
        batch = {key: value[None] for key, value in observation.items()}
        self._features = _features(self.lrn, batch)
        seen: Floats = _with_time(self._features, batch)[0]
        return seen


class VectorPretrainedFeatures(_VectorObservation):
    """:class:`PretrainedFeatures` of N faces; its parameters are the same. A batch may round differently."""

    def __init__(self, env: VectorEnv[Any, Any, Any], lrn: LRN | str = "300w-19", device: str = "cpu") -> None:
        super().__init__(env)
        self.lrn = _load_lrn(lrn, _task_of(env), env.single_action_space, device)
        self.single_observation_space, self.single_action_space = _feature_spaces(_task_of(env), self.lrn)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self.action_space = batch_space(self.single_action_space, env.num_envs)
        self._features = np.zeros((env.num_envs, self.lrn.config.hidden), np.float32)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One iteration in each slot.

        :param actions: (N, 2K) pixels
        """
        return super().step(np.concatenate([actions, self._features], axis=1))

    def observations(self, observations: Batch) -> Floats:
        """(M, 512) d_{t+1}, perhaps with the time left as one more number."""
        features = _features(self.lrn, observations)
        if len(features) == self.num_envs:
            self._features = features
        return _with_time(features, observations)


def _load_lrn(lrn: LRN | str, task: Task, actions: Any, device: str) -> LRN:
    from face_align_env.networks.lrn import LRN
    from face_align_env.released import find_release, load_networks, released_names

    if isinstance(lrn, str):
        lrn = load_networks(find_release(lrn))[1] if lrn in released_names() else LRN.load(lrn)
    size = 2 * lrn.num_landmarks + lrn.config.hidden
    if actions.shape != (size,) or task.patch_size != lrn.config.patch_size:
        raise ValueError(
            f"An LRN of {lrn.num_landmarks} landmarks and patches of {lrn.config.patch_size} pixels acts in R^{size}, "
            f"the environment with patches of {task.patch_size} pixels in {actions.shape}: make it with "
            "learned_history=True, the same landmarks and the same patch_size."
        )
    return lrn.to(device).eval()


def _feature_spaces(task: Task, lrn: LRN) -> tuple[spaces.Box, spaces.Box]:
    low = np.full(lrn.config.hidden + task.observe_time, -1.0, np.float32)
    if task.observe_time:
        low[-1] = 0.0
    return spaces.Box(low, np.ones_like(low)), replace(task, learned_history=False).action_space


def _features(lrn: LRN, observations: Batch) -> Floats:
    """(N, 512) d_{t+1}."""
    import torch

    device = next(lrn.parameters()).device
    with torch.inference_mode():
        state = (torch.from_numpy(observations[key]).to(device) for key in ("patches", "history"))
        return cast(Floats, lrn.trunk(*state).float().cpu().numpy())


def _with_time(observed: Floats, observations: Batch) -> Floats:
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
        self.observation_space = _residual_space(_task_of(env), self._coordinates)

    def observation(self, observation: Any) -> Floats:
        """(M,) coordinates of x^ - x_t, perhaps with the time left as one more number."""
        batch = {key: value[None] for key, value in observation.items()}
        residuals: Floats = _residuals(batch, self._coordinates)[0]
        return residuals


class VectorModeResiduals(_VectorObservation):
    """:class:`ModeResiduals` of N faces."""

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self._coordinates = _coordinates(env, lambda name: getattr(env, name))
        self.single_observation_space = _residual_space(_task_of(env), self._coordinates)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def observations(self, observations: Batch) -> Floats:
        """(M, ...) see :meth:`ModeResiduals.observation`."""
        return _residuals(observations, self._coordinates)


def _coordinates(env: Any, attribute: Any) -> Floats:
    """(2K, M) from increments in pixels to the nearest coordinates in modes."""
    if not _task_of(env).observe_residual:
        raise ValueError("ModeResiduals needs an environment with observe_residual=True.")
    try:
        directions = attribute("directions")
    except AttributeError:
        raise ValueError("ModeResiduals goes around ShapeModes, whose coordinates it observes.") from None
    return np.linalg.pinv(directions.astype(np.float64)).astype(np.float32)


def _residual_space(task: Task, coordinates: Floats) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (coordinates.shape[1] + task.observe_time,), np.float32)


def _residuals(observations: Batch, coordinates: Floats) -> Floats:
    return _with_time(_increments(observations["residual"], coordinates), observations)


def _task_of(env: Any) -> Task:
    inner = env.unwrapped
    if not isinstance(inner, FaceAlignEnv | FaceAlignVectorEnv):
        raise TypeError(f"This wraps FaceAlign-v0, not {inner}.")
    return inner.task
