"""A replay buffer that keeps shapes instead of patches: 6 kB a transition, not 367 kB."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import DictReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from face_align_env.crops import CROP_SIZE
from face_align_env.mdp import HISTORY_SIZE
from face_align_env.patches import extract_patches, inner, pad_in_place
from face_align_env.prepared import FaceSource


def bytes_per_transition(buffer: ReplayBuffer) -> int:
    """Memory that a replay buffer takes for one transition."""
    values = vars(buffer).values()
    arrays = [a for value in values for a in (value.values() if isinstance(value, dict) else (value,))]
    return sum(a.nbytes for a in arrays if isinstance(a, np.ndarray)) // (buffer.buffer_size * buffer.n_envs)


class FaceReplayBuffer(ReplayBuffer):
    """Replay buffer of FaceAlign-v0 for any off-policy algorithm of Stable-Baselines3.

    It stores what identifies the crop (index of the face, seed of its view), x_t, d_t, a_t, r, x_{t+1} and d_{t+1}, and
    cuts the patches again when they are sampled: the very pixels that the environment gave. Of sequences it stores the
    next state's seed as well, which may be that of the next frame.

    :param buffer_size: transitions, over all environments together
    :param observation_space: of FaceAlign-v0
    :param action_space: of FaceAlign-v0 or LearnedHistory, or a wrapper's (it may have any number of components)
    :param device: where samples go
    :param n_envs: number of environments
    :param optimize_memory_usage: must be False, there is nothing left to save
    :param handle_timeout_termination: bootstrap past the 10-iteration limit; Algorithm 1 does not
    :param faces: where the environment's faces come from, ``env.unwrapped.faces``;
        :class:`~face_align_env.agents.dcrn.algorithm.DCRN` sets it by itself, :class:`FacesFromEnv` for any other
        algorithm
    :raises ValueError: the space is not FaceAlign-v0's, or ``optimize_memory_usage`` is True
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        faces: FaceSource | None = None,
    ) -> None:
        if not (isinstance(observation_space, spaces.Dict) and "patches" in observation_space.spaces):
            raise ValueError(f"FaceReplayBuffer is made for FaceAlign-v0's observations, not for {observation_space}.")
        if optimize_memory_usage:
            raise ValueError("FaceReplayBuffer stores no images: leave optimize_memory_usage at False.")
        # Not ReplayBuffer's constructor: it would allocate the observations that are not kept here.
        super(ReplayBuffer, self).__init__(buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self.faces = faces
        patches = observation_space["patches"].shape
        assert patches is not None
        self.num_landmarks, self.patch_size = patches[0], patches[1]
        # The last part of LearnedHistory's action is the next observation's history: it is not stored twice. Before it
        # are the increments, and the number that stops where the agent does.
        own = self.action_dim - HISTORY_SIZE
        self._learned_history = own in (2 * self.num_landmarks, 2 * self.num_landmarks + 1)
        stored_actions = own if self._learned_history else self.action_dim
        rows = (self.buffer_size, self.n_envs)
        shape, history = (*rows, self.num_landmarks, 2), (*rows, HISTORY_SIZE)
        self.indices = np.zeros(rows, np.int64)
        self.seeds = np.zeros(rows, np.int64)
        self.next_seeds: np.ndarray | None = None  # of sequences
        self.landmarks = np.zeros(shape, np.float32)
        self.next_landmarks = np.zeros(shape, np.float32)
        self.history = np.zeros(history, np.float32)
        self.next_history = np.zeros(history, np.float32)
        # What else is observed, such as the time left, is a few numbers.
        others = [key for key in observation_space.spaces if key not in ("patches", "history")]
        self.others, self.next_others = (
            {key: np.zeros((*rows, *(observation_space[key].shape or ())), np.float32) for key in others}
            for _ in range(2)
        )
        self.actions = np.zeros((*rows, stored_actions), np.float32)
        self.rewards = np.zeros(rows, np.float32)
        self.dones = np.zeros(rows, np.float32)
        self.timeouts = np.zeros(rows, np.float32)
        self._padded: np.ndarray | None = None

    def add(  # type: ignore[override]
        self,
        obs: dict[str, np.ndarray],
        next_obs: dict[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]] | dict[str, Any],
    ) -> None:
        """Store one transition of each environment.

        :param infos: one dictionary for each environment, as Stable-Baselines3 has them, or Gymnasium's dictionary of
            arrays (autoreset mode SAME_STEP or DISABLED: NEXT_STEP has steps that are no transitions), which does not
            say which episodes were cut off: pass ``terminated`` as ``done`` to bootstrap them
        :raises ValueError: the infos are not those of FaceAlign-v0
        """
        if isinstance(infos, dict):
            infos = _one_by_one(infos, self.n_envs)
        if "previous_landmarks" not in infos[0]:
            raise ValueError("FaceReplayBuffer needs the infos of FaceAlign-v0; a wrapper has replaced them.")
        row = self.pos
        self.indices[row] = [info["image_index"] for info in infos]
        self.seeds[row] = [info.get("previous_view_seed", info["view_seed"]) for info in infos]
        if "previous_view_seed" in infos[0]:
            if self.next_seeds is None:
                self.next_seeds = np.zeros_like(self.seeds)
            self.next_seeds[row] = [info["view_seed"] for info in infos]
        self.landmarks[row] = [info["previous_landmarks"] for info in infos]
        self.next_landmarks[row] = [info["landmarks"] for info in infos]
        self.history[row] = obs["history"]
        self.next_history[row] = next_obs["history"]
        for key in self.others:
            self.others[key][row], self.next_others[key][row] = obs[key], next_obs[key]
        self.actions[row] = action.reshape(self.n_envs, -1)[:, : self.actions.shape[-1]]
        self.rewards[row] = reward
        self.dones[row] = done
        if self.handle_timeout_termination:
            self.timeouts[row] = [info.get("TimeLimit.truncated", False) for info in infos]
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full, self.pos = True, 0

    def _get_samples(  # type: ignore[override]
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> DictReplayBufferSamples:
        if self.faces is None:
            raise ValueError(
                "FaceReplayBuffer does not know the faces. "
                "Pass replay_buffer_kwargs=dict(faces=env.unwrapped.faces), or the callback FacesFromEnv()."
            )
        at = batch_inds, np.random.randint(0, self.n_envs, size=len(batch_inds))
        n, p = len(batch_inds), self.patch_size
        shape = (n, CROP_SIZE + 2 * p, CROP_SIZE + 2 * p, 3)
        if self._padded is None or self._padded.shape != shape:
            self._padded = np.empty(shape, np.uint8)  # kept: new memory costs as much as what is written into it
        indices, seeds = self.indices[at], self.seeds[at]
        next_seeds = seeds if self.next_seeds is None else self.next_seeds[at]
        patches, next_patches = self._patches(self.faces, indices, seeds, self.landmarks[at], self.next_landmarks[at])
        moved = np.flatnonzero(seeds != next_seeds)
        if len(moved):
            (seen,) = self._patches(self.faces, indices[moved], next_seeds[moved], self.next_landmarks[at][moved])
            next_patches[moved] = seen

        def observe(patches: np.ndarray, history: np.ndarray, others: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
            observed = {"patches": patches, "history": history[at]}
            observed |= {key: values[at] for key, values in others.items()}
            return {key: torch.from_numpy(values).to(self.device) for key, values in observed.items()}

        actions = self.actions[at]
        if self._learned_history:
            actions = np.concatenate([actions, self.next_history[at]], axis=1)
        rewards = self._normalize_reward(self.rewards[at][:, None], env)
        return DictReplayBufferSamples(
            observations=observe(patches, self.history, self.others),
            actions=torch.from_numpy(actions).to(self.device),
            next_observations=observe(next_patches, self.next_history, self.next_others),
            dones=torch.from_numpy((self.dones[at] * (1 - self.timeouts[at]))[:, None]).to(self.device),
            rewards=torch.from_numpy(rewards).to(self.device),
        )

    def _patches(
        self, faces: FaceSource, indices: np.ndarray, seeds: np.ndarray, *shapes: np.ndarray
    ) -> list[np.ndarray]:
        """Patches around each of the shapes of the same M crops."""
        assert self._padded is not None
        padded, p = self._padded[: len(indices)], self.patch_size
        faces.crops(indices, seeds, out=inner(padded, p))
        pad_in_place(padded, p)
        return [extract_patches(padded, landmarks, p) for landmarks in shapes]

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the faces: they are read from the dataset again."""
        return {**self.__dict__, "faces": None, "_padded": None}


def _one_by_one(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Gymnasium's infos of a batch as one dictionary for each environment, at the end of an episode its last ones."""
    final = infos.get("final_info", {})
    ended = infos.get("_final_info", np.zeros(num_envs, np.bool_))
    kept = ("image_index", "view_seed", "previous_view_seed", "previous_landmarks", "landmarks")
    return [{key: (final if ended[j] else infos)[key][j] for key in kept if key in infos} for j in range(num_envs)]


class FacesFromEnv(BaseCallback):
    """Gives a :class:`FaceReplayBuffer` the faces of the environment that the algorithm learns on.

    Use it where ``faces`` cannot be passed (RL Zoo's YAML files), and after loading a buffer, which is saved without
    its faces. It does nothing for an algorithm that has no such buffer.

    ``SAC("MultiInputPolicy", env, replay_buffer_class=FaceReplayBuffer).learn(10_000, FacesFromEnv())``

    :param verbose: ignored
    """

    def _on_training_start(self) -> None:
        buffer = getattr(self.model, "replay_buffer", None)
        if isinstance(buffer, FaceReplayBuffer):
            buffer.faces = self.training_env.get_attr("faces", indices=0)[0]

    def _on_step(self) -> bool:
        return True
