"""LearnedHistory: the policy writes d_t (section 3.2: d_{t+1} = LRN(s_t)), the environment carries it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

from face_align_env.env import FaceAlignEnv


class LearnedHistory(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """The paper's case: the action becomes ``[a_t, d_{t+1}]`` in R^{2K + 512}.

    The second part comes back as ``history`` of the next observation; Eq. 2, 3 and 4 see only a_t. So the policy
    needs no memory of its own: ``model.predict(obs)`` and ``env.step(action)`` just work, in several processes and
    with a replay buffer too. The same as the keyword ``learned_history=True``, which is there for ``gym.make_vec``.

    :param env: a ``FaceAlign-v0``; wrappers that change the action go around this one, not inside it
    :raises TypeError: when there is another environment inside
    :raises ValueError: when a wrapper inside has changed the action space
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        inner = env.unwrapped
        if not isinstance(inner, FaceAlignEnv):
            raise TypeError(f"LearnedHistory wraps FaceAlign-v0, not {inner}.")
        if env.action_space != inner.action_space:
            raise ValueError(f"{env} has changed the action space; apply LearnedHistory to the environment before it.")
        inner.learn_history()
