"""What a benchmark compares, and where it keeps it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym

from face_align_env.agents.dcrn.config import check_environment
from face_align_env.files import write_json
from face_align_env.pretrain.recipes import Data, check_preset
from face_align_env.pretrain.settings import Settings, read_json, require_same, setting

STARTS = ("policy", "features", "scratch")
"""What a training starts with: the pretrained policy; the features of its trunk, with fresh layers behind them; fresh
networks that see coarse patches (DCRN: its own network, patches)."""

ACTIONS = ("modes", "landmarks")
INITIALIZERS = ("gen", "mean")
CONFIG = "config.json"  # in a benchmark's folder


@dataclass(frozen=True)
class BenchmarkSettings(Settings):
    """What all trials of a benchmark have in common.

    :param task: a registered task (FaceAlign/Features19-v0), learned from scratch as it is, in place of a dataset,
        starts, an initializer and modes
    :param preset: networks and recipe, where GEN and LRN are trained first: tiny, compact, paper or mdm
    :param lrn_sha256: of the pretrained LRN
    :param initializer: where episodes start: gen; or mean, the mean shape, with an LRN that was pretrained there
    :param gen_sha256: of GEN; None: it is not needed
    :param timesteps: transitions of each training
    :param evaluations: how often each training is measured, at equal distances; the start is measured as well
    :param eval_faces: held-out faces that are measured on, evenly spaced over the test split
    :param actions: modes: along shape modes; landmarks: each coordinate by itself
    :param modes: number of shape modes
    :param step: full step along a mode, standard deviations of the training shapes
    :param environment: keyword of the environment in which RL trains as KEY=VALUE (reward=dense, iteration_cost=0.1);
        repeat for more. Measured is always under the paper's
    :param alpha_2: Eq. 3's bound, pixels; default: Table 2's for the dataset
    :param overrides: keyword of an algorithm as ALGO.KEY=VALUE (sac.learning_rate=0.001); repeat for more
    :param tuned: whether a task's algorithms have the keywords that face-align benchmark-tune has found for it, where
        there are some; they become part of the overrides
    :param terminate_at_limit: whether the limit of iterations is an end, as Algorithm 1 takes it (the -10 is part of
        Eq. 4), for all algorithms alike; else those that bootstrap past limits learn another problem than DCRN
    :param observe_time: whether algorithms see the share of iterations that is left, on which that -10 depends; DCRN,
        whose network is the pretrained one, does not. A task says so by itself
    """

    title: ClassVar[str] = "Benchmark"

    data: Data = field(default_factory=Data)
    task: str | None = setting()
    preset: str = setting("tiny")
    lrn_sha256: str = setting("", flag="")
    initializer: str = setting("gen", choices=INITIALIZERS)
    gen_sha256: str | None = setting(flag="")
    timesteps: int = setting(20_000, least=1)
    evaluations: int = setting(10, least=1)
    eval_faces: int = setting(100, least=1)
    actions: str = setting("modes", choices=ACTIONS)
    modes: int = setting(10, least=1)
    step: float = setting(0.1, above=0)
    environment: dict[str, Any] | None = setting(flag="--env")
    alpha_2: float | None = setting(above=0)
    overrides: dict[str, Any] | None = setting(flag="--set")
    tuned: bool = setting(True)
    terminate_at_limit: bool = setting(True)
    observe_time: bool = setting(True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_environment(self)
        for name in ("data", "initializer", "actions", "modes", "step", "observe_time"):
            if self.task is not None and getattr(self, name) != getattr(BenchmarkSettings(), name):
                self.refuse("task", f"'{self.task}' says by itself what {name} is: leave that out.")
        if self.evaluations > self.timesteps:
            self.refuse("evaluations", f"must be at most --timesteps, {self.timesteps}, got {self.evaluations}.")
        for key in self.overrides or {}:
            if not key.rpartition(".")[1]:
                self.refuse("overrides", f"must say whose keyword it is: ALGORITHM.{key}=..., got '{key}'.")

    def check(self, algorithms: Sequence[str]) -> None:
        """Look at the names in the settings.

        :param algorithms: that are to be trained
        :raises SettingError: there is no such preset, dataset, task or algorithm; or the agent ends the task's episodes
        """
        tasks = [name for name in gym.registry if name.startswith("FaceAlign/")]
        if self.task is not None and self.task not in tasks:
            self.refuse("task", f"must be one of {', '.join(tasks)}, got '{self.task}'.")
        if self.task is not None and gym.spec(self.task).kwargs.get("termination") == "action":
            self.refuse(
                "task",
                f"'{self.task}' is ended by the agent, and a benchmark measures where Eq. 3 ends an episode: learn it "
                "as examples/stopping.py does.",
            )
        check_preset(self)
        self.data.check()
        for key in self.overrides or {}:
            if key.rpartition(".")[0] not in algorithms:
                self.refuse("overrides", f"sets '{key}', and the algorithms are {', '.join(algorithms)}.")

    def with_tuned(self, tuned: Mapping[str, Mapping[str, Any]]) -> BenchmarkSettings:
        """With what was found for the task, where it is wanted and nothing else is said.

        :param tuned: algorithm -> keywords
        """
        if not self.tuned:
            return self
        found = {f"{name}.{key}": value for name, keywords in tuned.items() for key, value in keywords.items()}
        return replace(self, overrides={**found, **(self.overrides or {})} or None)

    def keywords(self, algorithm: str) -> dict[str, Any]:
        """What is set of an algorithm's keywords."""
        given = {key.rpartition("."): value for key, value in (self.overrides or {}).items()}
        return {name: value for (whose, _, name), value in given.items() if whose == algorithm}

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> BenchmarkSettings:
        """The settings that a benchmark's folder was made with.

        :raises FileNotFoundError: it is no benchmark's folder
        :raises ValueError: its settings are damaged
        """
        path = Path(folder) / CONFIG
        values = read_json(path) if path.is_file() else None
        if not isinstance(values, dict) or "lrn_sha256" not in values:
            raise FileNotFoundError(f"'{folder}' is no folder of a benchmark. Make one: face-align benchmark")
        # Of older versions, in which these could not be chosen.
        older = {"terminate_at_limit": False, "observe_time": False, "tuned": values.get("task") is None}
        values = {**older, **values}
        overrides = values.get("overrides")
        nested: dict[str, Any] = overrides if isinstance(overrides, dict) else {}
        if not overrides:
            values = {**values, "overrides": None}
        elif nested and all(isinstance(inner, dict) and "." not in key for key, inner in nested.items()):
            # of older versions, too
            flat = {f"{whose}.{key}": value for whose, inner in nested.items() for key, value in inner.items()}
            values = {**values, "overrides": flat or None}
        return cls.from_document(values, path)

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Store the settings, or check that the folder's are the same.

        :raises ValueError: the folder belongs to a benchmark with other settings
        """
        path = Path(folder) / CONFIG
        if path.is_file():
            require_same(folder, BenchmarkSettings.read(folder).document(), self.document())
        else:
            write_json(path, self.document())

    def steps(self) -> list[int]:
        """The numbers of transitions after which a training is measured, its start left out."""
        return [round(self.timesteps * (i + 1) / self.evaluations) for i in range(self.evaluations)]


@dataclass(frozen=True, order=True)
class TrialKey:
    """Which training.

    :param algorithm: a name of :mod:`face_align_env.agents.benchmark.algorithms`, or an import path ``module:name``
    :param start: one of :data:`STARTS`
    :param seed: of everything random
    """

    algorithm: str
    start: str
    seed: int

    @property
    def folder_name(self) -> str:
        """Of the trial's folder; an import path's colon and dots are no letters of a file's name everywhere."""
        return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', self.algorithm)}.{self.start}.{self.seed}"

    def __str__(self) -> str:
        return f"{self.algorithm} from {self.start}, seed {self.seed}"


def trial_keys(algorithms: Sequence[str], starts: Sequence[str], seeds: int) -> Iterator[TrialKey]:
    """All trials, seed by seed: a benchmark that is stopped early has every algorithm.

    :raises ValueError: there is no such start, something is there twice, or there are no seeds
    """
    unknown = [start for start in starts if start not in STARTS]
    if unknown:
        raise ValueError(f"There is no start '{unknown[0]}'; there are {', '.join(STARTS)}.")
    for kind, values in {"algorithm": algorithms, "start": starts}.items():
        if len(set(values)) < len(values):
            raise ValueError(f"An {kind} is there twice: {', '.join(values)}.")
    if seeds < 1:
        raise ValueError(f"There must be at least 1 seed, got {seeds}.")
    for seed in range(seeds):
        for start in starts:
            for algorithm in algorithms:
                yield TrialKey(algorithm, start, seed)
