"""What a pretrained LRN sees, and what is added to what it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, SupportsFloat, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorActionWrapper, VectorEnv
from gymnasium.vector.utils import batch_space

from face_align_env.episodes import valid_actions
from face_align_env.keywords import Task
from face_align_env.wrappers.inner import Batch, Floats, task_of
from face_align_env.wrappers.modes import full_steps, increments_of
from face_align_env.wrappers.observations import VectorObservation, with_time

if TYPE_CHECKING:
    from face_align_env.networks.lrn import LRN

MAX_GAIN = 2.0
_CORRECTIONS_LAYOUT = (
    "how far the policy's increment goes, then corrections, all in [-1, 1]; with termination='action' then a number "
    "that stops above 0"
)
_STOPS_LAYOUT = "a number in [-1, 1] that stops above 0"


class PretrainedFeatures(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Observations are d_{t+1} in R^512, what the trunk of a pretrained LRN makes of (p_t, d_t); it stays as it is.

    The trunk is asked once for each state, and its d_{t+1} is what the environment shows as history next: the features
    are those that LRN was pretrained with, whatever the algorithm does. Nothing here depends on the algorithm, which
    sees a box of 512 numbers and needs neither a network for images nor a replay buffer for them. With
    ``observe_time`` the share of iterations left is one more.

    :param env: ``FaceAlign-v0`` with ``learned_history=True``; actions are then a_t alone, (2K,) pixels, and with
        ``termination="action"`` the number that stops
    :param lrn: the network, the name of released weights, or a file of LRN's weights
    :param device: where it runs
    :raises TypeError: when there is another environment inside
    :raises ValueError: there is no such release, or the network is not made for the environment
    :raises FileNotFoundError, WeightsError: see :func:`face_align_env.networks.weights.load_weights`
    """

    def __init__(self, env: gym.Env[Any, Any], lrn: LRN | str = "synthetic-19", device: str = "cpu") -> None:
        RecordConstructorArgs.__init__(self, lrn=lrn, device=device)
        gym.Wrapper.__init__(self, env)
        self.lrn = _load_lrn(lrn, task_of(env), env.action_space, device)
        self.observation_space, self.action_space = _feature_spaces(task_of(env), self.lrn)
        self._features = np.zeros((1, self.lrn.config.hidden), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As of any environment."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._see(observation), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One iteration.

        :param action: (2K,) a_t in pixels; (2K + 1,) with the number that stops
        """
        observation, reward, terminated, truncated, info = self.env.step(np.concatenate([action, self._features[0]]))
        return self._see(observation), reward, terminated, truncated, info

    def pretrained_increments(self) -> Floats:
        """(1, 2K) what the pretrained policy would do now, pixels."""
        return _pretrained_increments(self.lrn, self._features)

    def _see(self, observation: Any) -> Floats:
        batch = {key: value[None] for key, value in observation.items()}
        self._features = _features(self.lrn, batch)
        seen: Floats = with_time(self._features, batch)[0]
        return seen


class VectorPretrainedFeatures(VectorObservation):
    """:class:`PretrainedFeatures` of N faces; its parameters are the same. A batch may round differently."""

    def __init__(self, env: VectorEnv[Any, Any, Any], lrn: LRN | str = "synthetic-19", device: str = "cpu") -> None:
        super().__init__(env)
        self.lrn = _load_lrn(lrn, task_of(env), env.single_action_space, device)
        self.single_observation_space, self.single_action_space = _feature_spaces(task_of(env), self.lrn)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self.action_space = batch_space(self.single_action_space, env.num_envs)
        self._features = np.zeros((env.num_envs, self.lrn.config.hidden), np.float32)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One iteration in each slot.

        :param actions: (N, 2K) pixels; (N, 2K + 1) with the number that stops
        """
        return super().step(np.concatenate([actions, self._features], axis=1))

    def pretrained_increments(self) -> Floats:
        """(N, 2K) what the pretrained policy would do now, pixels."""
        return _pretrained_increments(self.lrn, self._features)

    def observations(self, observations: Batch) -> Floats:
        """(M, 512) d_{t+1}, perhaps with the time left as one more number."""
        features = _features(self.lrn, observations)
        if len(features) == self.num_envs:
            self._features = features
        return with_time(features, observations)


def _load_lrn(lrn: LRN | str, task: Task, actions: Any, device: str) -> LRN:
    from face_align_env.networks.lrn import LRN
    from face_align_env.released import find_release, load_networks, released_names

    if isinstance(lrn, str):
        lrn = load_networks(find_release(lrn))[1] if lrn in released_names() else LRN.load(lrn)
    size = 2 * lrn.num_landmarks + task.agent_stops + lrn.config.hidden
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


def _pretrained_increments(lrn: LRN, features: Floats) -> Floats:
    import torch

    with torch.inference_mode():
        device = next(lrn.parameters()).device
        return cast(Floats, lrn.increment(torch.from_numpy(features).to(device)).float().cpu().numpy())


class PolicyCorrections(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """Actions are corrections of what the pretrained policy does; zeros are that policy.

    Component 0, in [-1, 1], sets how far the policy's own increment goes: by a factor from 1/2 to 2, which is what
    Eq. 3 looks at. The others are added to it, along shape modes as in :class:`ShapeModes`, or each coordinate by
    itself. An increment outside of the environment's box is clipped. With ``termination="action"`` the number that
    stops is one more component, the last.

    :param env: :class:`PretrainedFeatures`
    :param modes: M, how many of the :func:`shape_modes`; None: all 2K coordinates, a full step being ``action_limit``
    :param step: length of a full step along a mode, standard deviations of the training shapes
    :param shapes: (N, K, 2) the training shapes, pixels of the crop; None: the task's own
    :raises TypeError: when there is another environment inside
    :raises ValueError: there is no pretrained policy inside, or ``modes`` or ``step`` makes no sense
    """

    def __init__(
        self, env: gym.Env[Any, Any], modes: int | None = 10, step: float = 0.25, shapes: Floats | None = None
    ) -> None:
        RecordConstructorArgs.__init__(self, modes=modes, step=step, shapes=shapes)
        gym.ActionWrapper.__init__(self, env)
        self.directions = _corrections(env, env.action_space, modes, step, shapes)
        self._pretrained = _policy_inside(self, env, env.get_wrapper_attr)
        size = 1 + len(self.directions) + task_of(env).agent_stops
        self.action_space = self._space = spaces.Box(-1.0, 1.0, (size,), np.float32)

    def action(self, action: Any) -> Floats:
        """(2K,) increments in pixels of a (1 + M,) correction; a number that stops stays behind them."""
        corrections = valid_actions(action, self._space, _CORRECTIONS_LAYOUT)[None]
        increments: Floats = _corrected(corrections, self._pretrained(), self.directions)[0]
        return increments


class VectorPolicyCorrections(VectorActionWrapper):
    """:class:`PolicyCorrections` of N faces; its parameters are the same."""

    def __init__(
        self, env: VectorEnv[Any, Any, Any], modes: int | None = 10, step: float = 0.25, shapes: Floats | None = None
    ) -> None:
        super().__init__(env)
        self.directions = _corrections(env, env.single_action_space, modes, step, shapes)
        self._pretrained = _policy_inside(self, env, lambda name: getattr(env, name))
        size = 1 + len(self.directions) + task_of(env).agent_stops
        self.single_action_space = spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.action_space = self._space = cast(spaces.Box, batch_space(self.single_action_space, env.num_envs))

    def actions(self, actions: Any) -> Any:
        """(N, 2K) increments in pixels of (N, 1 + M) corrections; a number that stops stays behind them."""
        corrections = valid_actions(actions, self._space, _CORRECTIONS_LAYOUT)
        return _corrected(corrections, self._pretrained(), self.directions)


def _corrections(env: Any, actions: Any, modes: int | None, step: float, shapes: Floats | None) -> Floats:
    """(M, 2K) pixels of a full step in each component but the first."""
    if modes is not None:
        return full_steps(env, actions, modes, step, shapes)
    task = task_of(env)
    return task.action_limit * np.eye(2 * task.num_landmarks, dtype=np.float32)


def _policy_inside(wrapper: Any, env: Any, attribute: Callable[[str], Any]) -> Callable[[], Floats]:
    try:
        return cast(Callable[[], Floats], attribute("pretrained_increments"))
    except AttributeError:
        raise ValueError(
            f"{type(wrapper).__name__} goes around PretrainedFeatures, whose policy it plays; not {env}."
        ) from None


def _corrected(actions: Floats, pretrained: Floats, directions: Floats) -> Floats:
    gains, corrections, said = np.split(actions, [1, 1 + len(directions)], axis=1)
    return np.concatenate([MAX_GAIN**gains * pretrained + increments_of(corrections, directions), said], axis=1)


class PolicyStops(gym.ActionWrapper[Any, Any, Any], RecordConstructorArgs):
    """The action says when a face is finished, and nothing else: the increments are those of the pretrained policy.

    Its one number is in [-1, 1]. Above 0, the shape that the policy's next increment leads to is final. So an episode
    has an iteration at least, and an agent learns for which faces a further one is worth its cost.

    :param env: :class:`PretrainedFeatures` of an environment with ``termination="action"``
    :raises TypeError: when there is another environment inside
    :raises ValueError: the agent does not stop there, there is no pretrained policy inside, or a wrapper around it has
        changed the actions
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.ActionWrapper.__init__(self, env)
        _check_stops(self, env, env.action_space)
        self._pretrained = _policy_inside(self, env, env.get_wrapper_attr)
        self.action_space = self._space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def action(self, action: Any) -> Floats:
        """(2K + 1,) the policy's increments in pixels, and the number that stops, of a (1,) action."""
        said = valid_actions(action, self._space, _STOPS_LAYOUT)
        return np.concatenate([self._pretrained()[0], said])


class VectorPolicyStops(VectorActionWrapper):
    """:class:`PolicyStops` of N faces."""

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        _check_stops(self, env, env.single_action_space)
        self._pretrained = _policy_inside(self, env, lambda name: getattr(env, name))
        self.single_action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = self._space = cast(spaces.Box, batch_space(self.single_action_space, env.num_envs))

    def actions(self, actions: Any) -> Any:
        """(N, 2K + 1) the policy's increments in pixels, and the number that stops, of (N, 1) actions."""
        said = valid_actions(actions, self._space, _STOPS_LAYOUT)
        return np.concatenate([self._pretrained(), said], axis=1)


def _check_stops(wrapper: Any, env: Any, actions: Any) -> None:
    task, name = task_of(env), type(wrapper).__name__
    if not task.agent_stops:
        raise ValueError(
            f"{name} needs an environment in which the agent says when a face is finished, and in this one "
            f"termination='{task.termination}' does: make it with termination='action'."
        )
    if actions.shape != (2 * task.num_landmarks + 1,):
        raise ValueError(
            f"{name} goes around PretrainedFeatures, whose actions are {2 * task.num_landmarks} increments and the "
            f"number that stops; {env} takes actions of shape {actions.shape}."
        )
