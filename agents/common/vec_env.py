"""FaceAlignVectorEnv with the face of a Stable-Baselines3 VecEnv: many faces, one batch, no list of environments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorWrapper
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

import face_align_env  # noqa: F401 - registers the tasks
from face_align_env.episodes import check_reset_options


class FaceAlignVecEnv(VecEnv):
    """N faces at once for any algorithm of Stable-Baselines3.

    Wrap it in ``VecMonitor`` to log returns and lengths of episodes.

    :param num_envs: N
    :param task: a registered id, see :mod:`face_align_env.tasks`
    :param wrappers: vector wrappers to put around it, the innermost first
    :param options: keywords of ``gym.make_vec(task)``; ``learned_history=True`` for DCRN. With ``backend="torch"``
        observations are tensors, which Stable-Baselines3's policies take as well as arrays; all else is NumPy's
    """

    def __init__(
        self,
        num_envs: int,
        task: str = "FaceAlign-v0",
        wrappers: Sequence[Callable[[Any], VectorWrapper]] = (),
        **options: Any,
    ) -> None:
        # FaceAlignVectorEnv, or wrappers around it that hand on its attributes
        self.envs: Any = gym.make_vec(
            task,
            num_envs,
            vectorization_mode="vector_entry_point",
            autoreset_mode=AutoresetMode.SAME_STEP,
            **options,
        )
        for wrap in wrappers:
            self.envs = wrap(self.envs)
        self.render_mode = self.envs.render_mode
        self._actions: np.ndarray | None = None
        super().__init__(num_envs, self.envs.single_observation_space, self.envs.single_action_space)
        self.metadata = self.envs.metadata  # VecVideoRecorder reads the pictures per second off it

    def reset(self) -> VecEnvObs:
        seeds = None if all(seed is None for seed in self._seeds) else self._seeds
        wanted = [check_reset_options(options, ["index"]).get("index") for options in self._options]
        observations, infos = self.envs.reset(seed=seeds, options={"index": wanted})
        self.reset_infos = _per_env(_on_host(infos), self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return cast(VecEnvObs, observations)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        assert self._actions is not None, "step_async comes first"
        observations, *outcome = self.envs.step(self._actions)
        rewards, terminated, truncated, infos = (_on_host(each) for each in outcome)
        dones = terminated | truncated
        # Where an episode has ended, Stable-Baselines3 wants its last info, and the new episode's first one aside.
        rows = _per_env(infos, self.num_envs)
        final = _per_env(infos.get("final_info", {}), self.num_envs)
        for i in np.flatnonzero(dones).tolist():
            self.reset_infos[i] = rows[i]
            rows[i] = {**final[i], "terminal_observation": infos["final_obs"][i]}
        for i, row in enumerate(rows):
            row["TimeLimit.truncated"] = bool(truncated[i] and not terminated[i])
        return observations, rewards.astype(np.float32), dones, rows

    def close(self) -> None:
        self.envs.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        return self.envs.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [getattr(self._owner(attr_name), attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise ValueError(f"The faces of a batch share '{attr_name}': it cannot be set for some of them.")
        setattr(self._owner(attr_name), attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        result = getattr(self._owner(method_name), method_name)(*args, **kwargs)
        return [result] * len(list(self._get_indices(indices)))

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))

    def _owner(self, name: str) -> Any:
        """What has that attribute: the outermost wrapper, one inside, or the environments themselves."""
        env = self.envs
        while isinstance(env, VectorWrapper) and not hasattr(env, name):
            env = env.env
        return env

    def _get_indices(self, indices: VecEnvIndices) -> Iterable[int]:
        return range(self.num_envs) if indices is None else [indices] if isinstance(indices, int) else indices


def _on_host(values: Any) -> Any:
    """Tensors as NumPy's arrays, also those in a dictionary."""
    if isinstance(values, dict):
        return {key: _on_host(value) for key, value in values.items()}
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else values


_NOT_PER_ENV = ("final_obs", "final_info")


def _per_env(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Gymnasium's dictionary of arrays as one dictionary for each environment, with copies of the arrays' rows."""
    keys = [key for key in infos if not key.startswith("_") and key not in _NOT_PER_ENV]
    return [
        {
            key: np.copy(infos[key][i]) if infos[key].ndim > 1 else infos[key][i].item()
            for key in keys
            if infos[f"_{key}"][i]
        }
        for i in range(num_envs)
    ]
