"""Training DCRN on the environment, with checkpoints that it goes on from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from face_align_env.agents.common.callbacks import EpisodeMetrics
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.agents.dcrn.algorithm import DCRN
from face_align_env.pretrain.settings import settle
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecMonitor
from tqdm import tqdm

from face_align_env.augmentation import Augmentation
from face_align_env.extras import needs
from face_align_env.files import atomic_path
from face_align_env.keywords import check_keywords
from face_align_env.networks.lrn import LRN
from face_align_env.networks.weights import file_digest

_MONITORED = ("nme", "iterations")  # of each episode's last info; Monitor keeps them beside return and length


@dataclass(frozen=True)
class AgentConfig:
    """How DCRN is trained.

    :param timesteps: transitions to collect, over all faces of the batch together
    :param num_envs: faces at once
    :param gradient_steps: updates after each step of the batch
    :param batch_size: transitions an update; 128 in section 4.2
    :param preset: ``"stable"`` or ``"paper"``
    :param seed: of everything random
    :param augment: random views of the training faces
    :param checkpoint_timesteps: transitions between checkpoints
    :param overrides: further keywords of :class:`~face_align_env.agents.dcrn.algorithm.DCRN`
    """

    timesteps: int = 50_000
    num_envs: int = 64
    gradient_steps: int = 4
    batch_size: int = 128
    preset: str = "stable"
    seed: int = 0
    augment: bool = True
    checkpoint_timesteps: int = 10_000
    overrides: dict[str, Any] | None = None


def check_environment(options: Mapping[str, Any]) -> None:
    """Look at keywords of ``gym.make`` before hours of pretraining are spent on them.

    :raises ValueError: FaceAlignEnv has no such keyword, or a value makes no sense
    """
    check_keywords(options)


class _Checkpoints(BaseCallback):
    """Saves model and replay buffer now and then, each under a temporary name first; shows progress."""

    def __init__(self, folder: Path, every: int, total: int) -> None:
        super().__init__()
        self.folder, self.every, self.total = folder, every, total
        self._saved_at = 0
        self._bar: tqdm[Any] | None = None

    def _on_training_start(self) -> None:
        self._saved_at = self.num_timesteps
        self._bar = tqdm(total=self.total, initial=self.num_timesteps, desc="DCRN", unit="step")

    def _on_step(self) -> bool:
        assert self._bar is not None
        self._bar.update(self.num_timesteps - self._bar.n)
        buffer = self.model.ep_info_buffer
        if buffer:
            episodes = len(buffer)
            shown = {key: sum(e[key] for e in buffer) / episodes for key in ("r", "l", "nme")}
            self._bar.set_postfix(ret=f"{shown['r']:.2f}", len=f"{shown['l']:.2f}", nme=f"{100 * shown['nme']:.2f}%")
        if self.num_timesteps - self._saved_at >= self.every:
            self.save()
        return True

    def _on_training_end(self) -> None:
        assert self._bar is not None
        self.save()
        self._bar.close()

    def save(self) -> None:
        assert isinstance(self.model, DCRN)
        # The buffer first: a model is never newer than the transitions it goes on from.
        temporary, final = atomic_path(self.folder / "replay_buffer.pkl")
        self.model.save_replay_buffer(str(temporary.with_suffix(".pkl")))
        os.replace(temporary.with_suffix(".pkl"), final)
        temporary, final = atomic_path(self.folder / "model.zip")
        self.model.save(str(temporary.with_suffix(".zip")))
        os.replace(temporary.with_suffix(".zip"), final)
        self._saved_at = self.num_timesteps


def train_dcrn(
    lrn: str | os.PathLike[str],
    config: AgentConfig,
    folder: str | os.PathLike[str],
    device: str = "auto",
    augmentation: Augmentation | None = None,
    **env_options: Any,
) -> DCRN:
    """Train, or go on training; the actor's weights are ``folder/weights.safetensors``, the model ``model.zip``.

    :param lrn: weights of the pretrained LRN
    :param config: how to train
    :param folder: where checkpoints, TensorBoard curves and weights go
    :param device: of the networks
    :param augmentation: the random views, where ``config`` wants some; None: as wide as
        :class:`~face_align_env.augmentation.Augmentation` makes them by default
    :param env_options: keywords of ``gym.make("FaceAlign-v0")``
    :return: the trained agent
    :raises ValueError: the folder holds a training with other settings
    """
    folder = Path(folder)
    pretrained = LRN.load(lrn)
    # More timesteps are welcome when it goes on, nothing else may differ.
    goal = {"timesteps", "checkpoint_timesteps"}
    fixed = {key: value for key, value in asdict(config).items() if key not in goal}
    views = augmentation or Augmentation()
    fixed["augmentation"] = None if views == Augmentation() else asdict(views)
    settle(folder / "settings.json", {**fixed, "lrn_sha256": file_digest(lrn), "environment": env_options})
    env = VecMonitor(
        FaceAlignVecEnv(
            config.num_envs,
            learned_history=True,
            action_limit=pretrained.config.action_limit,
            patch_size=pretrained.config.patch_size,
            augment=views if config.augment else False,
            **env_options,
        ),
        info_keywords=_MONITORED,
    )
    checkpoint, buffer = folder / "model.zip", folder / "replay_buffer.pkl"
    resumed = checkpoint.is_file() and buffer.is_file()
    if resumed:
        model = DCRN.load(checkpoint, env=env, device=device)
        model.load_replay_buffer(str(buffer))
        # Seeded by where it stands, or it would play the first faces again.
        model.set_random_seed(config.seed + model.num_timesteps)
    else:
        model = DCRN(
            env=env,
            lrn=pretrained,
            preset=config.preset,
            gradient_steps=config.gradient_steps,
            batch_size=config.batch_size,
            seed=config.seed,
            device=device,
            **(config.overrides or {}),
        )
    with needs("train", "Curves of the training"):
        import tensorboard  # noqa: F401
    model.set_logger(configure(str(folder / "tensorboard"), ["tensorboard"]))
    remaining = config.timesteps - model.num_timesteps
    if remaining > 0:
        callback = _Checkpoints(folder, config.checkpoint_timesteps, config.timesteps)
        model.learn(remaining, [callback, EpisodeMetrics()], log_interval=50, reset_num_timesteps=not resumed)
    env.close()
    notes = {"agent": "DCRN", "preset": config.preset, "timesteps": model.num_timesteps, "seed": config.seed}
    model.lrn.save(folder / "weights.safetensors", notes)
    return model
