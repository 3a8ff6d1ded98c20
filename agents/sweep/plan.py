"""What a search does: its trainings, and what becomes of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from face_align_env.agents.run import stages_of
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.run_folder import RELEASED_STAGES, STAGES, RunFolder
from face_align_env.agents.sweep.space import Space, Values, with_values
from face_align_env.pretrain.recipes import HELD_OUT
from face_align_env.pretrain.settings import SettingError, read_json

COMPLETE, STOPPED, FAILED = "complete", "stopped", "failed"


@dataclass(frozen=True)
class Training:
    """One training of a search.

    :param trial: number of its settings
    :param seed: of everything random in it
    :param values: of the settings that are tried
    """

    trial: int
    seed: int
    values: Values

    @property
    def name(self) -> str:
        """Of its file, without the suffix."""
        return f"{self.trial:04d}-seed-{self.seed}"

    def config(self, others: RunConfig) -> RunConfig:
        """Its configuration.

        :param others: the settings that are not tried
        """
        return replace(with_values(others, self.values), seed=self.seed)


@dataclass
class Record:
    """What has become of a training.

    :param training: which
    :param status: :data:`COMPLETE`, :data:`STOPPED` (it fell behind) or :data:`FAILED`
    :param curve: measurements on the way: ``progress``, ``stage``, ``nme`` (percent)
    :param figures: of the last stage, see :data:`~face_align_env.agents.sweep.trial.FIGURES`; None: not complete
    :param error: why it has failed
    :param seconds: from its first to its last word
    """

    training: Training
    status: str = FAILED
    curve: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, float | None] | None = None
    error: str = ""
    seconds: float = 0.0

    @property
    def done(self) -> bool:
        """Whether it is not begun again."""
        return self.status in (COMPLETE, STOPPED)

    def document(self) -> dict[str, Any]:
        """The record as JSON has it."""
        return {**vars(self), "training": vars(self.training)}

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record of a file.

        :raises ValueError: it is damaged; the message names it
        """
        document = read_json(path)
        try:
            return cls(**{**document, "training": Training(**document["training"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"'{path}' is no record of a search's training ({error}). Remove it.") from error


@dataclass(frozen=True)
class Sweep:
    """A search.

    :param config: of the settings that are not tried; the sampling has its seed, the trainings that and those after it
    :param space: the settings that are tried
    :param trials: how many of them
    :param seeds: trainings of each; their mean counts
    :param stages: that are trained; the last one is measured
    :param held_out: share of the training faces that are measured on instead of being learnt from
    :param stop_early: whether ASHA stops trainings that fall behind
    """

    config: RunConfig
    space: Space
    trials: int = 16
    seeds: int = 1
    stages: tuple[str, ...] = RELEASED_STAGES
    held_out: float = 0.2
    stop_early: bool = True

    def check(self) -> None:
        """Look at everything that can be known to be wrong.

        :raises SettingError: something makes no sense
        """
        if HELD_OUT in (self.config.data.options or {}):
            raise SettingError("options", "--option", "cannot set 'held_out' of a search: use --held-out.")
        self.measured.check()
        if "gen" not in self.stages:
            raise SettingError("stage", "--stage", "must have gen among the stages of a search.")
        stages_of(self.stages, RunFolder(""))
        self.space.check(self.measured)

    @property
    def measured(self) -> RunConfig:
        """The configuration with a share of the training faces in the place of the test faces."""
        data = self.config.data
        return replace(self.config, data=replace(data, options={**(data.options or {}), HELD_OUT: self.held_out}))

    @property
    def last_stage(self) -> str:
        """The one that is measured."""
        return [name for name in STAGES if name in self.stages][-1]

    def trainings(self) -> Iterator[Training]:
        """All of them, the seeds of a setting one after the other."""
        for trial in range(self.trials):
            values = self.space.values(trial, self.config.seed)
            if values is not None:
                for seed in range(self.config.seed, self.config.seed + self.seeds):
                    yield Training(trial, seed, values)

    def document(self) -> dict[str, Any]:
        """What shapes the result of a training; there may be more of them when a search goes on."""
        return {
            "config": replace(self.config, data=replace(self.config.data, root=None)).document(),
            "search": self.space.document(),
            "stages": list(self.stages),
            "held_out": self.held_out,
        }
