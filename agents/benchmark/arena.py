"""The environments of a benchmark: for each start its observations and actions, for training and for measuring."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from gymnasium.vector import VectorWrapper
from gymnasium.wrappers.vector import RescaleAction
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from face_align_env.agents.benchmark.algorithms import acts_by_itself, find_algorithm
from face_align_env.agents.benchmark.settings import BenchmarkSettings
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.initialization import GENInitializer, Initializer, MeanShape
from face_align_env.networks.lrn import LRN
from face_align_env.networks.lrn import preset as lrn_preset
from face_align_env.networks.weights import file_digest
from face_align_env.prepared import FaceSource, PreparedFaces
from face_align_env.wrappers import (
    VectorCoarsePatches,
    VectorPolicyCorrections,
    VectorPretrainedFeatures,
    VectorShapeModes,
)

LRN_FILE, GEN_FILE = "pretrained/lrn.safetensors", "pretrained/gen.safetensors"
MEASURED_AT_ONCE = 50  # faces of a batch
MONITORED = ("nme", "iterations", "is_success")  # of an episode, logged at its end
TERMINATIONS = ("oracle", "blind")


def open_arena(folder: str | os.PathLike[str]) -> Arena:
    """The arena of a benchmark: of a dataset, or of a registered task.

    :raises FileNotFoundError, ValueError: see :class:`Arena`
    """
    return Arena(folder) if BenchmarkSettings.read(folder).task is None else TaskArena(folder)


class Arena:
    """What trainings and measurements of a benchmark happen in; faces and networks are read once.

    :param folder: of the benchmark
    :raises FileNotFoundError: it is no benchmark's folder, or the data is nowhere
    :raises ValueError: the pretrained networks are not those that the benchmark was begun with
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.settings = BenchmarkSettings.read(folder)
        self.lrn = LRN.load(self.folder / LRN_FILE)
        for path, digest in ((LRN_FILE, self.settings.lrn_sha256), (GEN_FILE, self.settings.gen_sha256)):
            if digest is not None and file_digest(self.folder / path) != digest:
                raise ValueError(
                    f"'{self.folder / path}' is not what this benchmark was begun with: use another folder."
                )
        self._prepared: dict[str | None, PreparedFaces] = {}
        self.initializer: Initializer = (
            MeanShape(self.prepared("train").mean_shape())
            if self.settings.initializer == "mean"
            else GENInitializer(self.folder / GEN_FILE)
        )

    def prepared(self, split: str | None) -> PreparedFaces:
        """The faces of a split; None: the test split."""
        if split not in self._prepared:
            self._prepared[split] = self.settings.data.prepare(split, max_cached=2048)
        return self._prepared[split]

    def fresh_lrn(self, seed: int) -> LRN:
        """A network of the pretrained one's sizes that has learnt nothing."""
        torch.manual_seed(seed)
        return LRN(self.lrn.config)

    def can_start(self, algorithm: str, start: str) -> bool:
        """Whether an algorithm takes what is observed from a start."""
        return True

    def starting_network(self, start: str, seed: int) -> LRN | None:
        """The network that an LRN begins with, or that sees the patches for another algorithm; None: no patches."""
        fresh = self.fresh_lrn(seed)
        if start == "scratch":
            return fresh
        if start == "features":
            fresh.trunk.load_state_dict(self.lrn.trunk.state_dict())
            return fresh
        return self.lrn

    def training_env(self, start: str, num_envs: int, seed: int, plain: bool) -> VecEnv:
        """Where an algorithm learns.

        :param start: see :data:`~face_align_env.agents.benchmark.settings.STARTS`
        :param num_envs: faces at once
        :param seed: of the order of faces
        :param plain: the algorithm acts by itself: increments and history, no wrapper
        """
        source = FaceSource(self.prepared("train"))
        options = {"terminate_at_limit": self.settings.terminate_at_limit, **(self.settings.environment or {})}
        env = self._env(source, num_envs, start, plain, "oracle", **options)
        env.seed(seed)
        return VecMonitor(env, info_keywords=MONITORED)

    def measuring_env(self, start: str, plain: bool, termination: str, **options: Any) -> VecEnv:
        """Where a policy is measured: the test split, the paper's reward and termination."""
        source = FaceSource(self.prepared(None))
        num_envs = min(MEASURED_AT_ONCE, self.settings.eval_faces, len(source.prepared))
        return self._env(source, num_envs, start, plain, termination, **options)

    def _env(
        self, source: FaceSource, num_envs: int, start: str, plain: bool, termination: str, **options: Any
    ) -> FaceAlignVecEnv:
        keywords = {
            "termination": termination,
            "learned_history": plain or start != "scratch",
            "observe_time": self.settings.observe_time and not plain,
            **options,
        }
        return FaceAlignVecEnv(
            num_envs,
            wrappers=() if plain else self._wrappers(start),
            copy=False,
            dataset=source,
            initializer=self.initializer,
            alpha_2=self.settings.alpha_2,
            action_limit=self.lrn.config.action_limit,
            patch_size=self.lrn.config.patch_size,
            **keywords,
        )

    def _wrappers(self, start: str) -> list[Callable[[Any], VectorWrapper]]:
        """Observations and actions of a start, the innermost first."""
        settings, shapes = self.settings, self.prepared("train").landmarks
        along_modes = settings.actions == "modes"
        if start == "policy":
            corrections = partial(
                VectorPolicyCorrections,
                modes=settings.modes if along_modes else None,
                step=settings.step,
                shapes=shapes,
            )
            return [self._features, corrections]
        seen = self._features if start == "features" else VectorCoarsePatches
        if along_modes:
            return [seen, partial(VectorShapeModes, modes=settings.modes, step=settings.step, shapes=shapes)]
        return [seen, partial(RescaleAction, min_action=-1.0, max_action=1.0)]

    def _features(self, env: Any) -> VectorPretrainedFeatures:
        return VectorPretrainedFeatures(env, self.lrn)


class TaskArena(Arena):
    """A registered task as it is: whatever it observes, and whatever its actions are.

    :param folder: of the benchmark
    :raises FileNotFoundError: it is no benchmark's folder, or the data is nowhere
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.settings = BenchmarkSettings.read(folder)
        probe = self._task_env(1, "test")
        self.sees_patches = isinstance(probe.observation_space, spaces.Dict)
        self._prepared = {None: probe.get_attr("faces")[0].prepared}

    def prepared(self, split: str | None) -> PreparedFaces:
        """The faces of the test split."""
        return self._prepared[None]

    def can_start(self, algorithm: str, start: str) -> bool:
        """All take numbers; patches, those that take dictionaries. DCRN needs a pretrained network."""
        made = find_algorithm(algorithm)
        return start == "scratch" and not acts_by_itself(algorithm) and (not self.sees_patches or made.dictionaries)

    def starting_network(self, start: str, seed: int) -> LRN | None:
        """A fresh network of the preset for the patches; None: there are none."""
        if not self.sees_patches:
            return None
        torch.manual_seed(seed)
        return LRN(lrn_preset(self.settings.preset, self._prepared[None].scheme.num_landmarks))

    def training_env(self, start: str, num_envs: int, seed: int, plain: bool) -> VecEnv:
        """The training split of the task."""
        options = {"terminate_at_limit": self.settings.terminate_at_limit, **(self.settings.environment or {})}
        env = self._task_env(num_envs, "train", **options)
        env.seed(seed)
        return VecMonitor(env, info_keywords=MONITORED)

    def measuring_env(self, start: str, plain: bool, termination: str, **options: Any) -> VecEnv:
        """The test split of the task, under the paper's reward and termination."""
        num_envs = min(MEASURED_AT_ONCE, self.settings.eval_faces, len(self._prepared[None]))
        return self._task_env(num_envs, "test", termination=termination, **options)

    def _task_env(self, num_envs: int, split: str, **options: Any) -> FaceAlignVecEnv:
        if self.settings.alpha_2 is not None:
            options["alpha_2"] = self.settings.alpha_2
        assert self.settings.task is not None
        return FaceAlignVecEnv(num_envs, task=self.settings.task, split=split, **options)
