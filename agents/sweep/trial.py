"""One training of a search: a run on most of the training faces, measured on those that are held out."""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from face_align_env.agents.evaluation.measure import Row
from face_align_env.agents.evaluation.run_evaluation import measure_methods
from face_align_env.agents.run import train_stages
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.run_folder import STAGES
from face_align_env.pretrain.recipes import HELD_OUT

STEPS = 10
"""Of each stage: progress is counted in these."""

FIGURES = ("nme", "nme_low", "nme_high", "failure_rate", "iterations", "mean_return")
"""What a search keeps of a :class:`~face_align_env.agents.evaluation.measure.Row`."""

Report = Callable[[dict[str, Any]], None]


def train_trial(config: RunConfig, stages: Sequence[str], device: str, report: Report) -> Row:
    """Train in a temporary folder, and measure the last stage.

    :param config: with faces held out
    :param stages: names of :data:`~face_align_env.agents.run_folder.STAGES`, gen among them
    :param device: ``"cpu"``, ``"cuda"``
    :param report: is told the measurements on the way: ``progress``, a whole number below :data:`STEPS` times the
        stages, ``stage``, and ``nme``, percent. It may raise to end the training
    :return: what the last stage's method does on the faces held out
    :raises ValueError: no faces are held out, settings make no sense together, or a stage needs another one
    :raises FloatingPointError: the training has diverged
    """
    if HELD_OUT not in (config.data.options or {}):
        raise ValueError("A search must not see test faces: hold some of the training faces out (held_out).")
    names = [name for name in STAGES if name in stages]
    reached, last = 0, STEPS * len(names) - 1  # the end itself is told by the row

    def watch(stage: str, share: float, nme: float) -> None:
        nonlocal reached
        progress = min(names.index(stage) * STEPS + int(STEPS * share), last)
        if progress > reached:
            reached = progress
            report({"progress": progress, "stage": stage, "nme": 100 * nme})

    with tempfile.TemporaryDirectory(prefix="face-align-sweep-") as folder:
        run = train_stages(config, folder, device, Console(file=io.StringIO()), names, watch)
        method = names[-1].upper()  # as the tables have it: GEN, GEN-LRN4, DCRN
        row = measure_methods(run, run.data().prepare(), device, config.seed, method)[0].row
    if not math.isfinite(row.nme):
        raise FloatingPointError(f"The NME of {method} is {row.nme}: lower the learning rate.")
    return row


def figures(row: Row) -> dict[str, float | None]:
    """What a search keeps of a row."""
    return {name: getattr(row, name) for name in FIGURES}
