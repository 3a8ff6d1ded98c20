"""The configuration of a run: everything that shapes its results."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from face_align_env.agents.dcrn.config import DCRNTraining
from face_align_env.files import write_json
from face_align_env.pretrain.recipes import (
    ENCODER_SHARE,
    PRECISIONS,
    TrainingConfig,
    check_preset,
    make_jitter,
    make_visited,
    recipe,
)
from face_align_env.pretrain.settings import require_same, setting

if TYPE_CHECKING:
    from face_align_env.pretrain.objectives import StartJitter, VisitedStates

CONFIG = "config.json"


@dataclass(frozen=True)
class RunConfig(DCRNTraining):
    """A run: everything that shapes its results.

    :param preset: networks and recipe: tiny (CPU trials), compact, paper (Table 1), mdm (LRN as in MDM)
    :param precision: of the supervised training: 32-true, bf16-mixed or 16-mixed; default: bf16-mixed on CUDA, else
        32-true
    :param gen_epochs: passes over the faces that train GEN; default: the recipe's
    :param gen_learning_rate: Adam's for GEN, at its highest; default: the recipe's
    :param lrn_epochs: passes over the faces that train each LRN; default: the recipe's
    :param lrn_batch_size: faces a step of LRN's training; default: the recipe's
    :param lrn_learning_rate: Adam's for LRN, at its highest; default: the recipe's
    :param gen: weights of a GEN, or the name of a release, taken over instead of training one; default: train one
    :param gen_init: weights of a GEN, or the name of a release, that GEN is fine-tuned from; default: fresh weights
    :param jitter: how GEN's x_0 is moved for the cascades as KEY=VALUE (shift=0, scale, rotation); repeat for more
    :param visited: faces that GEN's cascades roll forward before the trained iterations, as KEY=VALUE (share=0.6,
        depth=8); repeat for more. share=0: none
    :param encoder_share: of the patches, that LRN's encoder learns from in a step: half of them teach it nearly as
        much, and its passes take little more than half the time; 1: all
    :param lrn_init: weights of an LRN, or the name of a release, that GEN's cascades are fine-tuned from; default:
        fresh weights
    """

    preset: str = setting("compact")
    precision: str | None = setting(choices=PRECISIONS)
    gen_epochs: int | None = setting(least=1)
    gen_learning_rate: float | None = setting(above=0)
    lrn_epochs: int | None = setting(least=1)
    lrn_batch_size: int | None = setting(least=1)
    lrn_learning_rate: float | None = setting(above=0)
    gen: str | None = setting()
    gen_init: str | None = setting()
    jitter: dict[str, float] | None = setting()
    visited: dict[str, float] | None = setting()
    encoder_share: float = setting(ENCODER_SHARE, above=0, most=1)
    lrn_init: str | None = setting()

    @property
    def start_jitter(self) -> StartJitter:
        """How x_0 is moved for the cascades that start from GEN."""
        return make_jitter(self)

    @property
    def visited_states(self) -> VisitedStates:
        """Where the trained iterations of the cascades that start from GEN begin."""
        return make_visited(self)

    @property
    def gen_training(self) -> TrainingConfig:
        """How GEN is trained."""
        return recipe(self.preset).gen_training.changed(
            seed=self.seed, epochs=self.gen_epochs, learning_rate=self.gen_learning_rate
        )

    @property
    def lrn_training(self) -> TrainingConfig:
        """How each LRN is trained."""
        return recipe(self.preset).lrn_training.changed(
            seed=self.seed,
            epochs=self.lrn_epochs,
            batch_size=self.lrn_batch_size,
            learning_rate=self.lrn_learning_rate,
        )

    def check(self) -> None:
        check_preset(self)
        super().check()
        make_jitter(self)
        make_visited(self)
        for name in ("gen_epochs", "gen_learning_rate", "gen_init"):
            if self.gen is not None and getattr(self, name) is not None:
                self.refuse(name, "is of GEN's training, and with --gen one is taken over.")

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> RunConfig:
        """The configuration that a run's folder was made with.

        :raises FileNotFoundError: it is no run's folder
        :raises ValueError: its configuration is damaged
        """
        path = Path(folder) / CONFIG
        if not path.is_file():
            raise FileNotFoundError(
                f"'{folder}' is no folder of a run: it has no config.json. Make one: face-align run"
            )
        return cls.load(path)

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Store the configuration, or check that the folder's is the same; the data may have moved meanwhile.

        :raises ValueError: the folder belongs to a run with other settings
        """
        path = Path(folder) / CONFIG
        if path.is_file():
            before = RunConfig.read(folder)
            if before == self:
                return
            require_same(folder, before.without_root().document(), self.without_root().document())
        write_json(path, self.document())

    def without_root(self) -> RunConfig:
        """The configuration without the place of its data."""
        return replace(self, data=replace(self.data, root=None))
