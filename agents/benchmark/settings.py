"""What a benchmark compares, and where it keeps it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from face_align_env.agents.dcrn.training import check_environment
from face_align_env.pretrain.recipes import Data
from face_align_env.pretrain.settings import settle

STARTS = ("policy", "features", "scratch")
"""What a training starts with: the pretrained policy; the features of its trunk, with fresh layers behind them; fresh
networks that see patches."""

ACTIONS = ("modes", "landmarks")
INITIALIZERS = ("gen", "mean")


@dataclass(frozen=True)
class BenchmarkSettings:
    """What all trials of a benchmark have in common.

    :param data: the faces; training on the training split, measured on the test split
    :param preset: of GEN and LRN
    :param lrn_sha256: of the pretrained LRN
    :param initializer: ``"gen"``: episodes start from GEN, and the pretrained LRN is the one that DCRN starts from;
        ``"mean"``: from the mean shape, with an LRN that was pretrained there
    :param gen_sha256: of GEN; None: it is not needed
    :param timesteps: transitions of each training
    :param evaluations: how often a training is measured, at equal distances; the start is measured as well
    :param eval_faces: faces that are measured on, evenly spaced over the test split
    :param actions: ``"modes"``: shape modes; ``"landmarks"``: each coordinate by itself, the environment's own
    :param modes: number of shape modes
    :param step: length of a full step along a mode, standard deviations of the training shapes
    :param environment: further keywords of ``gym.make`` for the training; measured is always under the defaults
    :param alpha_2: Eq. 3's bound in both; None: the dataset's
    :param overrides: keywords of an algorithm, by its name
    :raises ValueError: a value that makes no sense
    """

    data: Data = field(default_factory=Data)
    preset: str = "tiny"
    lrn_sha256: str = ""
    initializer: str = "gen"
    gen_sha256: str | None = None
    timesteps: int = 20_000
    evaluations: int = 10
    eval_faces: int = 100
    actions: str = "modes"
    modes: int = 10
    step: float = 0.1
    environment: dict[str, Any] | None = None
    alpha_2: float | None = None
    overrides: dict[str, dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        for name, known in {"actions": ACTIONS, "initializer": INITIALIZERS}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'.")
        for name in ("timesteps", "evaluations", "eval_faces", "modes", "step"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        check_environment(self.environment or {})
        if self.evaluations > self.timesteps:
            raise ValueError(f"{self.timesteps} timesteps cannot be measured {self.evaluations} times.")

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> BenchmarkSettings:
        """The settings that a benchmark's folder was made with.

        :raises FileNotFoundError: it is no benchmark's folder
        """
        path = Path(folder) / "config.json"
        if not path.is_file() or "lrn_sha256" not in (values := json.loads(path.read_text(encoding="utf-8"))):
            raise FileNotFoundError(f"'{folder}' is no folder of a benchmark. Make one: face-align benchmark")
        return cls(**{**values, "data": Data(**values["data"])})

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Store the settings, or check that the folder's are the same.

        :raises ValueError: the folder belongs to a benchmark with other settings
        """
        settle(Path(folder) / "config.json", asdict(self))

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


def overrides_of(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``{"sac.learning_rate": 1e-3}`` as ``{"sac": {"learning_rate": 1e-3}}``.

    :raises ValueError: a key without an algorithm
    """
    found: dict[str, dict[str, Any]] = {}
    for key, value in given.items():
        algorithm, dot, name = key.rpartition(".")
        if not dot:
            raise ValueError(f"'{key}' does not say whose keyword it is: write ALGORITHM.{key}=...")
        found.setdefault(algorithm, {})[name] = value
    return found
