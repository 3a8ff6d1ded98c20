"""Actions along the directions in which faces differ."""

from __future__ import annotations

from typing import Any, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorActionWrapper, VectorEnv
from gymnasium.vector.utils import batch_space

from face_align_env.checks import check_integer, check_number
from face_align_env.episodes import valid_actions
from face_align_env.wrappers.inner import Floats, task_of

_LAYOUT = "coordinates in [-1, 1] along shape modes, with termination='action' then a number that stops above 0"


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
    With ``termination="action"`` the number that stops is one more component, the last.

    :param env: ``FaceAlign-v0`` without a learned history, or wrappers around it whose actions are (2K,) pixels, with
        ``termination="action"`` (2K + 1,)
    :param modes: M, how many of the :func:`shape_modes`
    :param step: length of a full step in a component, standard deviations of the training shapes
    :param shapes: (N, K, 2) the training shapes, pixels of the crop; None: the task's own
    :raises TypeError: when there is another environment inside
    :raises ValueError: ``modes`` or ``step`` makes no sense, or the environment takes other actions
    """

    def __init__(
        self, env: gym.Env[Any, Any], modes: int = 10, step: float = 0.5, shapes: Floats | None = None
    ) -> None:
        RecordConstructorArgs.__init__(self, modes=modes, step=step, shapes=shapes)
        gym.ActionWrapper.__init__(self, env)
        self.directions = full_steps(env, env.action_space, modes, step, shapes)
        self.action_space = self._space = spaces.Box(-1.0, 1.0, (modes + task_of(env).agent_stops,), np.float32)

    def action(self, action: Any) -> Floats:
        """(2K,) increments in pixels of (M,) coordinates; a number that stops stays behind them."""
        coordinates = valid_actions(action, self._space, _LAYOUT)[None]
        increments: Floats = _along_modes(coordinates, self.directions)[0]
        return increments


class VectorShapeModes(VectorActionWrapper):
    """:class:`ShapeModes` of N faces; its parameters are the same."""

    def __init__(
        self, env: VectorEnv[Any, Any, Any], modes: int = 10, step: float = 0.5, shapes: Floats | None = None
    ) -> None:
        super().__init__(env)
        self.directions = full_steps(env, env.single_action_space, modes, step, shapes)
        self.single_action_space = spaces.Box(-1.0, 1.0, (modes + task_of(env).agent_stops,), np.float32)
        self.action_space = self._space = cast(spaces.Box, batch_space(self.single_action_space, env.num_envs))

    def actions(self, actions: Any) -> Any:
        """(N, 2K) increments in pixels of (N, M) coordinates; a number that stops stays behind them."""
        return _along_modes(valid_actions(actions, self._space, _LAYOUT), self.directions)


def full_steps(env: Any, actions: Any, modes: int, step: float, shapes: Floats | None) -> Floats:
    """(M, 2K) the increments of a full step in each component, pixels; the parameters are those of ShapeModes."""
    task = task_of(env)
    check_integer("modes", modes, least=1)
    check_number("step", step, above=0)
    if actions.shape != (2 * task.num_landmarks + task.agent_stops,):
        stop = ", and the number that stops" if task.agent_stops else ""
        raise ValueError(
            f"Shape modes are increments of {2 * task.num_landmarks} coordinates{stop}; {env} takes actions of shape "
            f"{actions.shape}."
        )
    return step * shape_modes(task.training_landmarks() if shapes is None else shapes, modes)


def _along_modes(actions: Floats, directions: Floats) -> Floats:
    """(N, 2K) increments of (N, M) coordinates; a number that stops stays behind them."""
    coordinates, said = np.split(actions, [len(directions)], axis=1)
    return np.concatenate([increments_of(coordinates, directions), said], axis=1)


def increments_of(coordinates: Floats, directions: Floats) -> Floats:
    """(N, 2K) of (N, M) coordinates in (M, 2K) directions."""
    # Not by BLAS, whose sums are rounded differently in batches of different size.
    increments: Floats = np.einsum("nm,mk->nk", coordinates, directions)
    return increments
