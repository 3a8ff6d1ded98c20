"""A replay buffer for policies whose patch encoder is frozen: it keeps what the encoder said, and no shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from face_align_env.agents.common.replay_buffer import StateReplayBuffer
from gymnasium import spaces
from stable_baselines3.common.type_aliases import DictReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from face_align_env.mdp import HISTORY_SIZE

Encoder = Callable[[Tensor], Tensor]
"""(N, K, P, P, 3) uint8 patches -> (N, C) codes."""


class CodeReplayBuffer(StateReplayBuffer):
    """Replay buffer of FaceAlign-v0 that stores the codes of the patches, each state once.

    A frozen encoder says the same of a state whenever it is asked. It is asked once, when the transition comes in, and
    an update then costs the layers after the encoder (docs/performance.md has the times). With ``compact`` a transition
    takes 6 kB (codes and d_t in float16).

    s_{t+1} is the state that the same environment stored next. After an episode's end there is none, and none is
    needed: an episode's last transition is not bootstrapped (Algorithm 1 has y = r there, at the limit of iterations,
    too). Samples hold ``codes`` (N, C) and ``history`` (N, 512) in float32, and a_t alone as action.

    :param buffer_size: transitions, over all environments together
    :param observation_space: of FaceAlign-v0
    :param action_space: of FaceAlign-v0 or LearnedHistory
    :param device: where samples go
    :param n_envs: number of environments
    :param optimize_memory_usage: must be False, there is nothing left to save
    :param handle_timeout_termination: must be False, see above
    :param encoder: of the patches; :class:`~face_align_env.agents.dcrn.algorithm.DCRN` sets it by itself
    :raises ValueError: the space is not FaceAlign-v0's, or one of the two flags is True
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = False,
        encoder: Encoder | None = None,
    ) -> None:
        if handle_timeout_termination:
            raise ValueError(
                "CodeReplayBuffer keeps no state after an episode's end: leave handle_timeout_termination at False."
            )
        super().__init__(
            buffer_size, observation_space, action_space, device, n_envs, optimize_memory_usage,
            handle_timeout_termination,
        )  # fmt: skip
        self.encoder = encoder
        # Patches and their codes, from who has acted on them: asked twice, the encoder costs as much as all else.
        self.known: tuple[np.ndarray, Tensor] | None = None
        rows = (self.buffer_size, self.n_envs)
        self.codes: np.ndarray | None = None  # allocated with the first transition: the encoder tells their number
        self.history = np.zeros((*rows, HISTORY_SIZE), np.float16)
        self.actions = np.zeros((*rows, self._stored_actions), np.float32)
        self.rewards = np.zeros(rows, np.float32)
        self.dones = np.zeros(rows, np.bool_)
        self.followed = np.zeros(rows, np.bool_)  # the next row holds s_{t+1}
        self._newest: int | None = None  # the row whose s_{t+1} comes with the next transition

    def add(  # type: ignore[override]
        self,
        obs: dict[str, np.ndarray],
        next_obs: dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one transition of each environment.

        :raises ValueError: nobody has said who encodes
        """
        if self.encoder is None:
            raise ValueError("CodeReplayBuffer has no encoder. Pass replay_buffer_kwargs=dict(encoder=...).")
        known, self.known = self.known, None
        with torch.inference_mode():
            if known is not None and known[0] is obs["patches"]:
                made = known[1]
            else:
                made = self.encoder(torch.from_numpy(obs["patches"]).to(self.device))
            codes = made.to(torch.float16).cpu().numpy()
        if self.codes is None:
            self.codes = np.zeros((self.buffer_size, self.n_envs, codes.shape[1]), np.float16)
        row = self.pos
        if self._newest is not None:
            self.followed[self._newest] = ~self.dones[self._newest]
        self.codes[row] = codes
        self.history[row] = obs["history"]
        self.actions[row] = action.reshape(self.n_envs, -1)[:, : self.actions.shape[-1]]
        self.rewards[row] = reward
        self.dones[row] = done
        self.followed[row] = False
        self._newest = row
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full, self.pos = True, 0

    def complete(self) -> np.ndarray:
        """Numbers (row times environments plus environment) of the transitions that can be sampled."""
        n = self.size()
        return np.flatnonzero(self.followed[:n] | self.dones[:n])

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> DictReplayBufferSamples:  # type: ignore[override]
        """Transitions drawn with equal probability from those whose s_{t+1} is known or not needed."""
        complete = self.complete()
        if not len(complete):
            raise ValueError("CodeReplayBuffer holds no complete transition yet: raise learning_starts.")
        return self._get_samples(np.random.choice(complete, batch_size), env)

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> DictReplayBufferSamples:
        assert self.codes is not None
        rows, envs = np.divmod(batch_inds, self.n_envs)
        at, after = (rows, envs), ((rows + 1) % self.buffer_size, envs)

        def floats(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values.astype(np.float32)).to(self.device)

        rewards = self._normalize_reward(self.rewards[at][:, None], env)
        return DictReplayBufferSamples(
            observations={"codes": floats(self.codes[at]), "history": floats(self.history[at])},
            actions=floats(self.actions[at]),
            next_observations={"codes": floats(self.codes[after]), "history": floats(self.history[after])},
            dones=floats(self.dones[at][:, None]),
            rewards=floats(rewards),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the encoder; what comes after loading is no continuation of the newest transition."""
        return {**self.__dict__, "encoder": None, "known": None, "_newest": None}
