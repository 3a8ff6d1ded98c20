"""The configuration of a run: everything that shapes its results."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from face_align_env.agents.dcrn.training import AgentConfig
from face_align_env.pretrain.objectives import StartJitter, VisitedStates
from face_align_env.pretrain.recipes import Data
from face_align_env.pretrain.settings import settle

from face_align_env.augmentation import Augmentation


@dataclass(frozen=True)
class RunConfig:
    """A run: everything that shapes its results.

    :param data: which faces
    :param preset: networks and recipe
    :param seed: of everything random
    :param precision: of the supervised training, Fabric's name; None: by device
    :param gen_epochs: None: the recipe's
    :param lrn_epochs: None: the recipe's
    :param agent: how DCRN is trained
    :param alpha_2: Eq. 3's bound for DCRN and LRN+Eq.3; None: the dataset's
    :param environment: further keywords of ``gym.make`` for DCRN's training; measured is always under the defaults
    :param augmentation: ranges of the random views, of every stage, that differ from
        :class:`~face_align_env.augmentation.Augmentation`'s
    :param jitter: how GEN's x_0 is moved for the cascades, where that differs from
        :class:`~face_align_env.pretrain.objectives.StartJitter`
    :param visited: where the trained iterations of the cascades that start from GEN begin, where that differs from
        :class:`~face_align_env.pretrain.objectives.VisitedStates`
    """

    data: Data = field(default_factory=Data)
    preset: str = "compact"
    seed: int = 0
    precision: str | None = None
    gen_epochs: int | None = None
    lrn_epochs: int | None = None
    agent: AgentConfig = field(default_factory=AgentConfig)
    alpha_2: float | None = None
    environment: dict[str, Any] | None = None
    augmentation: dict[str, float] | None = None
    jitter: dict[str, float] | None = None
    visited: dict[str, Any] | None = None

    @property
    def views(self) -> Augmentation:
        """The random views of the training faces."""
        return Augmentation(**(self.augmentation or {}))

    @property
    def start_jitter(self) -> StartJitter:
        """How x_0 is moved for the cascades that start from GEN."""
        return StartJitter(**(self.jitter or {}))

    @property
    def visited_states(self) -> VisitedStates:
        """Where the trained iterations of the cascades that start from GEN begin."""
        return VisitedStates(**(self.visited or {}))

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> RunConfig:
        """The configuration that a run's folder was made with.

        :raises FileNotFoundError: it is no run's folder
        """
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"'{folder}' is no folder of a run: it has no config.json. Make one: face-align run"
            )
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**values, "data": Data(**values["data"]), "agent": AgentConfig(**values["agent"])})

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Store the configuration, or check that the folder's is the same.

        :raises ValueError: the folder belongs to a run with other settings
        """
        settle(Path(folder) / "config.json", asdict(self))
