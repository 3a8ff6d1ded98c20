"""Training DCRN on the environment, with checkpoints that it resumes from to the bit."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecMonitor

from face_align_env.agents.common.callbacks import EpisodeMetrics
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.agents.dcrn.algorithm import DCRN, PRESETS
from face_align_env.agents.dcrn.config import DIGEST, SETTINGS, AgentConfig
from face_align_env.augmentation import Augmentation
from face_align_env.extras import needs
from face_align_env.files import locked_folder, replacing
from face_align_env.networks.lrn import LRN
from face_align_env.networks.weights import file_digest
from face_align_env.prepared import faces_digest
from face_align_env.pretrain.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from face_align_env.pretrain.devices import find_device, keep_freed_memory
from face_align_env.pretrain.settings import settle
from face_align_env.progress import Progress
from face_align_env.released import weights_file

CHECKPOINT = "checkpoint.safetensors"
_OLD_CHECKPOINT = "replay_buffer.pkl"  # a pickle, of versions before
_MONITORED = ("nme", "iterations")  # of each episode's last info; Monitor keeps them beside return and length
_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num")


class _Checkpoints(BaseCallback):
    """Saves everything that the training goes on from now and then; shows progress."""

    def __init__(self, folder: Path, every: int, total: int) -> None:
        super().__init__()
        self.folder, self.every, self.total = folder, every, total
        self._saved_at = 0
        self._bar: Progress | None = None

    def _on_training_start(self) -> None:
        begun, together = self.num_timesteps, self.training_env.num_envs
        self._saved_at = begun
        end = begun + math.ceil((self.total - begun) / together) * together  # all faces take the last step
        self._bar = Progress(total=end, initial=begun, desc="DCRN", unit="step")

    def _on_rollout_start(self) -> None:
        # Between two steps: the last transition is stored and learned from, and the next is not begun.
        if self.model.num_timesteps - self._saved_at >= self.every:
            self.save()

    def _on_step(self) -> bool:
        assert self._bar is not None
        self._bar.update(self.num_timesteps - self._bar.n)
        buffer = self.model.ep_info_buffer
        if buffer:
            episodes = len(buffer)
            shown = {key: sum(e[key] for e in buffer) / episodes for key in ("r", "l", "nme")}
            self._bar.set_postfix(ret=f"{shown['r']:.2f}", len=f"{shown['l']:.2f}", nme=f"{100 * shown['nme']:.2f}%")
        return True

    def _on_training_end(self) -> None:
        assert self._bar is not None
        self.save()
        self._bar.close()

    def save(self) -> None:
        assert isinstance(self.model, DCRN)
        save_checkpoint(self.folder / CHECKPOINT, training_state(self.model))
        self._saved_at = self.model.num_timesteps


def training_state(model: DCRN) -> dict[str, Any]:
    """Everything that decides how a training goes on: networks, optimizers, transitions, episodes, random numbers."""
    monitor, policy = _monitor(model), model.policy
    assert model.replay_buffer is not None
    assert model.ep_info_buffer is not None
    return {
        "counters": {name: getattr(model, name) for name in _COUNTERS},
        "policy": policy.state_dict(),
        "optimizers": [each.optimizer.state_dict() for each in (policy.actor, policy.critic)],
        "replay_buffer": _buffer_state(model.replay_buffer),
        "last_observation": model._last_obs,
        "environment": _faces(monitor).envs.get_state(),
        "monitor": {"returns": monitor.episode_returns, "lengths": monitor.episode_lengths},
        "episodes": [dict(episode) for episode in model.ep_info_buffer],
        "successes": [bool(success) for success in model.ep_success_buffer or []],
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if model.device.type == "cuda" else [],
    }


def resume(model: DCRN, state: Mapping[str, Any]) -> None:
    """Bring a new model, made with the same arguments, to where another one was.

    :param model: with its environment
    :param state: what :func:`training_state` gave
    :raises KeyError, RuntimeError, ValueError: it is the state of another training
    """
    monitor, policy = _monitor(model), model.policy
    assert model.replay_buffer is not None
    for name in _COUNTERS:
        setattr(model, name, state["counters"][name])
    policy.load_state_dict(state["policy"])
    for network, optimizer in zip((policy.actor, policy.critic), state["optimizers"], strict=True):
        network.optimizer.load_state_dict(optimizer)
    _restore_buffer(model.replay_buffer, state["replay_buffer"])
    model._last_obs = state["last_observation"]
    model._last_episode_starts = np.zeros(monitor.num_envs, dtype=bool)
    _faces(monitor).envs.set_state(state["environment"])
    monitor.episode_returns = state["monitor"]["returns"]
    monitor.episode_lengths = state["monitor"]["lengths"]
    model.ep_info_buffer = deque(state["episodes"], maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(state["successes"], maxlen=model._stats_window_size)
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and model.device.type == "cuda":
        torch.cuda.set_rng_state_all(state["cuda"])


def _monitor(model: DCRN) -> VecMonitor:
    assert isinstance(model.env, VecMonitor)
    return model.env


def _faces(monitor: VecMonitor) -> FaceAlignVecEnv:
    return cast(FaceAlignVecEnv, monitor.venv)


def _buffer_state(buffer: ReplayBuffer) -> dict[str, Any]:
    """The transitions: rows of arrays that are filled, and the numbers that say where."""
    rows = buffer.size()

    def filled(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: filled(each) for key, each in value.items()}
        return value[:rows] if isinstance(value, np.ndarray) and len(value) == buffer.buffer_size else value

    state = {name: filled(value) for name, value in vars(buffer).items()}
    return {name: value for name, value in state.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(each, np.ndarray) for each in value.values())
    return value is None or isinstance(value, bool | int | np.ndarray)


def _restore_buffer(buffer: ReplayBuffer, state: Mapping[str, Any]) -> None:
    for name, value in state.items():
        setattr(buffer, name, _restored(getattr(buffer, name), value, buffer.buffer_size))


def _restored(before: Any, value: Any, rows: int) -> Any:
    """What a buffer has, with the filled rows of another one in it."""
    if isinstance(value, Mapping):
        return {key: _restored(before[key], each, rows) for key, each in value.items()}
    if not isinstance(value, np.ndarray):
        return value
    if before is None:  # allocated with the first transition
        before = np.zeros((rows, *value.shape[1:]), value.dtype)
    before[: len(value)] = value
    return before


def train_dcrn(
    lrn: str | os.PathLike[str],
    config: AgentConfig,
    folder: str | os.PathLike[str],
    device: str = "auto",
    augmentation: Augmentation | None = None,
    seed: int = 0,
    **env_options: Any,
) -> DCRN:
    """Train, or go on training; the actor's weights are ``folder/weights.safetensors``, the model ``model.zip``.

    Killed at any moment it resumes from ``checkpoint.safetensors`` when it is called again with the same arguments,
    with the same result as if it had not been killed.

    :param lrn: weights of the pretrained LRN, a file or the name of a release
    :param config: how to train
    :param folder: where checkpoints, TensorBoard curves and weights go
    :param device: of the networks
    :param augmentation: the random views, where ``config`` wants some; None: as wide as
        :class:`~face_align_env.augmentation.Augmentation` makes them by default
    :param seed: of everything random
    :param env_options: keywords of ``gym.make("FaceAlign-v0")``
    :return: the trained agent
    :raises ValueError: the folder holds a training with other settings, networks or faces
    :raises CheckpointError: its checkpoint is damaged, or of an older version
    """
    folder, views, device = Path(folder), augmentation or Augmentation(), find_device(device)
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    lrn = weights_file(lrn)
    pretrained = LRN.load(lrn)
    with locked_folder(folder), _environment(config, pretrained, views, device, env_options) as env:
        settle(folder / SETTINGS, _identity(config, seed, views, lrn, env, env_options))
        model = DCRN(
            env=env,
            lrn=pretrained,
            preset=config.preset,
            gradient_steps=config.gradient_steps,
            batch_size=config.batch_size,
            seed=seed,
            device=device,
            **(config.overrides or {}),
        )
        resumed = _resume(model, folder)
        with needs("train", "Curves of the training"):
            import tensorboard  # noqa: F401
        model.set_logger(configure(str(folder / "tensorboard"), ["tensorboard"]))
        remaining = config.timesteps - model.num_timesteps
        if remaining > 0:
            callback = _Checkpoints(folder, config.checkpoint_timesteps, config.timesteps)
            model.learn(remaining, [callback, EpisodeMetrics()], log_interval=50, reset_num_timesteps=not resumed)
        with replacing(folder / "model.zip") as temporary, temporary.open("wb") as file:
            model.save(file)
        notes = {"agent": "DCRN", "preset": config.preset, "timesteps": model.num_timesteps, "seed": seed}
        model.lrn.save(folder / "weights.safetensors", notes)
    return model


@contextmanager
def _environment(
    config: AgentConfig, pretrained: LRN, views: Augmentation, device: str, options: Mapping[str, Any]
) -> Iterator[VecMonitor]:
    frozen = (config.overrides or {}).get("freeze_encoder", PRESETS[config.preset].freeze_encoder)
    # A frozen encoder turns patches into features where they are cut. A replay buffer of faces takes NumPy's arrays.
    kind = {"backend": "torch", "device": device} if frozen else {"copy": False}
    faces = FaceAlignVecEnv(
        config.num_envs,
        **kind,
        learned_history=True,
        action_limit=pretrained.config.action_limit,
        patch_size=pretrained.config.patch_size,
        augment=views if config.augment else False,
        **options,
    )
    env = VecMonitor(faces, info_keywords=_MONITORED)
    try:
        yield env
    finally:
        env.close()


def _identity(
    config: AgentConfig,
    seed: int,
    views: Augmentation,
    lrn: str | os.PathLike[str],
    env: VecMonitor,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that shapes the result, files and faces by their contents: a run may be renamed, and its data moved.

    More timesteps are welcome when a training goes on, and checkpoints may come at other times.
    """
    fixed = {key: value for key, value in asdict(config).items() if key not in ("timesteps", "checkpoint_timesteps")}
    environment = {key: value for key, value in options.items() if key != "root"}
    start = environment.get("initializer")
    if isinstance(start, str | os.PathLike) and Path(start).is_file():
        environment["initializer"] = f"{DIGEST}{file_digest(start)}"
    return {
        **fixed,
        "seed": seed,
        "augmentation": None if views == Augmentation() else asdict(views),
        "lrn_sha256": file_digest(lrn),
        "environment": environment,
        "faces": faces_digest(_faces(env).envs.faces.prepared),
    }


def _resume(model: DCRN, folder: Path) -> bool:
    """Bring the model to where the folder's checkpoint is; False: there is none.

    :raises CheckpointError: it is damaged, or of an older version
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        if (folder / _OLD_CHECKPOINT).is_file():
            raise CheckpointError(
                f"'{folder}' holds a training of an older version, and this one cannot resume it. Remove the folder to "
                "begin anew."
            )
        return False
    try:
        resume(model, load_checkpoint(path))
    except CheckpointError:
        raise
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(f"The checkpoint '{path}' does not fit its training: {error}. Remove it.") from error
    return True
