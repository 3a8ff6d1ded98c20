"""FaceAlign-v0 seen through a pretrained LRN: 512 numbers instead of K patches, for any algorithm."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from face_align_env.agents.common.extractor import find_lrn
from face_align_env.networks.lrn import LRN

MAX_GAIN = 2.0


class PretrainedFeatures(VecEnvWrapper):
    """Observations are d_{t+1} in R^512, which the frozen trunk of a pretrained LRN computes from (p_t, d_t).

    The trunk runs once for each state, and its d_{t+1} becomes the history of the next state: the features are those
    that LRN was pretrained with, whatever the algorithm does. The algorithm sees a box of 512 numbers and needs neither
    a convolutional network nor a replay buffer for images.

    Actions are coordinates in [-1, 1]: component m moves the shape by ``directions[m]``. With ``residual`` they are
    added to what the pretrained policy would do, and one more component, the first, sets how far that goes: by a
    factor from 1/2 to 2, which is what Eq. 3 looks at. An action of zeros is then the pretrained policy.

    :param venv: ``FaceAlignVecEnv(..., learned_history=True)``, or wrappers around it
    :param lrn: the pretrained network, see :func:`~face_align_env.agents.common.extractor.find_lrn`
    :param directions: (M, 2K), the increments of a full step in each component, pixels
    :param residual: whether actions are added to the pretrained policy's
    :raises ValueError: the environment does not let the policy write the history, or the network is not made for it
    """

    def __init__(
        self,
        venv: VecEnv,
        lrn: LRN | str | os.PathLike[str],
        directions: npt.NDArray[np.float32],
        residual: bool = False,
    ) -> None:
        lrn = find_lrn(lrn)
        size = 2 * lrn.num_landmarks
        if venv.action_space.shape != (size + lrn.config.hidden,):
            raise ValueError(
                f"An LRN of {lrn.num_landmarks} landmarks acts in R^{size + lrn.config.hidden}, the environment in "
                f"{venv.action_space.shape}: make it with learned_history=True and the same landmarks."
            )
        if directions.ndim != 2 or directions.shape[1] != size:
            raise ValueError(f"directions must have shape (M, {size}), got {directions.shape}.")
        super().__init__(
            venv,
            observation_space=spaces.Box(-1.0, 1.0, (lrn.config.hidden,), np.float32),
            action_space=spaces.Box(-1.0, 1.0, (len(directions) + residual,), np.float32),
        )
        self.lrn = lrn.eval()
        self.directions = directions
        self.residual = residual
        self._features = np.zeros((self.num_envs, lrn.config.hidden), np.float32)

    def reset(self) -> npt.NDArray[np.float32]:
        self._features = self._see(self.venv.reset())
        return self._features.copy()

    def step_async(self, actions: np.ndarray) -> None:
        increments = actions[:, int(self.residual) :] @ self.directions
        if self.residual:
            with torch.inference_mode():
                next_hidden = torch.from_numpy(self._features).to(next(self.lrn.parameters()).device)
                pretrained = self.lrn.increment(next_hidden).cpu().numpy()
            increments += MAX_GAIN ** actions[:, :1] * pretrained
        self.venv.step_async(np.concatenate([increments, self._features], axis=1))

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        self._features = self._see(observations)
        ended = np.flatnonzero(dones)
        if len(ended):
            last = [infos[i]["terminal_observation"] for i in ended]
            seen = self._see({key: np.stack([state[key] for state in last]) for key in last[0]})
            for i, features in zip(ended.tolist(), seen, strict=True):
                infos[i]["terminal_observation"] = features
        return self._features.copy(), rewards, dones, infos

    @torch.inference_mode()
    def _see(self, observations: Any) -> npt.NDArray[np.float32]:
        device = next(self.lrn.parameters()).device
        state = (torch.from_numpy(observations[key]).to(device) for key in ("patches", "history"))
        features: npt.NDArray[np.float32] = self.lrn.trunk(*state).float().cpu().numpy()
        return features
