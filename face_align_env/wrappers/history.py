"""The paper's case: the policy writes d_t."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from face_align_env.episodes import valid_actions
from face_align_env.mdp import HISTORY_SIZE
from face_align_env.wrappers.inner import task_of


class LearnedHistory(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """The paper's case (section 3.2: d_{t+1} = LRN(s_t)): the action becomes ``[a_t, d_{t+1}]`` in R^{2K + 512}.

    With ``termination="action"`` it becomes ``[a_t, stop, d_{t+1}]`` in R^{2K + 513}.

    The last part comes back as ``history`` of the next observation; Eq. 2, 3 and 4 see only a_t. So the policy
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
        task = task_of(env)
        if task.learned_history:
            raise ValueError("The environment has learned_history=True already; LearnedHistory is the same.")
        if env.action_space != task.action_space:
            raise ValueError(f"{env} has changed the action space; apply LearnedHistory to the environment before it.")
        learned = replace(task, learned_history=True)
        self.action_space = self._space = learned.action_space
        self._layout = learned.action_layout

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """One iteration.

        :param action: (2K + 512,) a_t in pixels, d_{t+1}; with ``termination="action"`` (2K + 513,), see the class
        :raises ValueError: when the shape differs, or there is a NaN
        """
        a, d_next = np.split(valid_actions(action, self._space, self._layout), [-HISTORY_SIZE])
        observation, reward, terminated, truncated, info = self.env.step(a)
        return {**observation, "history": d_next}, reward, terminated, truncated, info
