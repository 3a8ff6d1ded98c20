"""``face-align sweep``: settings of a run tried on the nodes of a Ray cluster, by Ray Tune.

Settings are sampled at random, each a function of its number; ASHA stops those that fall behind (L. Li et al., "A
System for Massively Parallel Hyperparameter Tuning", MLSys 2020). They are measured on training faces that are held
out.
"""

from __future__ import annotations

import csv
import io
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from face_align_env.agents.common.cluster import connected
from face_align_env.agents.run import checked
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.sweep.plan import COMPLETE, FAILED, Record, Sweep, Training
from face_align_env.agents.sweep.space import Values, with_values
from face_align_env.agents.sweep.trial import FIGURES
from face_align_env.agents.sweep.tuner import run_trainings
from face_align_env.files import locked_folder, write_bytes, write_json
from face_align_env.pretrain.settings import settle
from face_align_env.progress import Progress

SETTINGS, TRIALS, RESULTS, BEST = "sweep.json", "trials", "results.csv", "best.json"
_SHOWN = 10  # settings in the table


def search(
    sweep: Sweep,
    folder: str | os.PathLike[str],
    cluster: str = "local",
    device: str = "cpu",
    console: Console | None = None,
) -> bool:
    """Train what is not there yet, and write the tables.

    ``trials/`` gets a file for each training as soon as it ends, so that a search that is killed resumes with those
    that were under way. ``results.csv`` has a row for each, ``best.json`` the best settings and the command that trains
    with them on all training faces.

    Datasets other than ``synthetic`` must be on each node under the same path.

    :param sweep: what to do
    :param folder: of the search
    :param cluster: see :func:`~face_align_env.agents.common.cluster.connected`
    :param device: ``"cpu"``, or ``"cuda"``: a GPU for each training
    :param console: where to say what happens
    :return: whether no training has failed
    :raises SettingError, ValueError: something makes no sense, or the folder belongs to another search
    :raises MissingExtraError: Ray is not installed
    :raises DatasetNotFoundError: the data is nowhere to be found
    :raises FolderInUseError: another process works in the folder
    """
    console, folder = console or Console(), Path(folder)
    sweep.check()
    others = _absolute(sweep.measured)
    checked(others)  # its data is there
    trainings = list(sweep.trainings())
    with locked_folder(folder):
        settle(folder / SETTINGS, sweep.document())
        records = {training.name: _record(folder, training) for training in trainings}
        waiting = [record.training for record in records.values() if not record.done]
        console.print(
            f"Search in {folder}: {len(trainings)} trainings of {others.data.dataset}, {len(waiting)} of them to do, "
            f"on the cluster {cluster}.",
            highlight=False,
        )
        if waiting:
            with (
                connected(cluster),
                Progress(total=len(trainings), initial=len(trainings) - len(waiting), desc="trainings") as bar,
            ):

                def keep(record: Record) -> None:
                    records[record.training.name] = record
                    write_json(folder / TRIALS / f"{record.training.name}.json", record.document())
                    bar.update()

                run_trainings(sweep, others, waiting, device, keep)
        return report(sweep, folder, list(records.values()), console)


def _absolute(config: RunConfig) -> RunConfig:
    """The configuration with absolute paths: a node's processes have folders of their own."""
    data = config.data
    if data.root is not None:
        config = replace(config, data=replace(data, root=os.path.abspath(data.root)))
    for name in ("gen", "gen_init", "lrn_init"):
        path = getattr(config, name)
        if path is not None and Path(path).exists():  # otherwise it is the name of a release
            config = replace(config, **{name: os.path.abspath(path)})
    return config


def _record(folder: Path, training: Training) -> Record:
    """What the folder has of a training."""
    path = folder / TRIALS / f"{training.name}.json"
    return Record.read(path) if path.is_file() else Record(training)


@dataclass(frozen=True)
class Setting:
    """Values that have been tried.

    :param trial: their number
    :param values: of the settings
    :param nme: mean over the seeds, percent
    :param iterations: mean over the seeds
    """

    trial: int
    values: Values
    nme: float
    iterations: float


def settings_of(records: Sequence[Record], seeds: int) -> list[Setting]:
    """The settings whose trainings are all complete, the best first.

    :param records: of all trainings
    :param seeds: trainings of each setting
    """
    found = []
    for trial in sorted({record.training.trial for record in records}):
        own = [record for record in records if record.training.trial == trial and record.status == COMPLETE]
        rows = [record.figures for record in own if record.figures is not None]
        if len(rows) == seeds:
            nme, iterations = (mean(float(row[name] or 0) for row in rows) for name in ("nme", "iterations"))
            found.append(Setting(trial, own[0].training.values, nme, iterations))
    return sorted(found, key=lambda setting: setting.nme)


def report(sweep: Sweep, folder: Path, records: Sequence[Record], console: Console) -> bool:
    """Write ``results.csv`` and ``best.json``, and show the best settings.

    :return: whether no training has failed
    """
    rows = [_row(record) for record in records]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(folder / RESULTS, text.getvalue().encode())
    ranked = settings_of(records, sweep.seeds)
    stage, stopped = sweep.last_stage, sum(record.status == "stopped" for record in records)
    keys = [dimension.key for dimension in sweep.space.dimensions]
    table = Table("setting", *keys, "NME %", "iterations", title=f"{stage} on the faces held out")
    table.caption = f"{len(ranked)} settings complete, {stopped} trainings stopped because they fell behind"
    for setting in ranked[:_SHOWN]:
        table.add_row(
            str(setting.trial),
            *(_shown(setting.values[key]) for key in keys),
            f"{setting.nme:.2f}",
            f"{setting.iterations:.2f}",
        )
    console.print(table)
    if ranked:
        best = with_values(sweep.config, ranked[0].values)
        command = ["face-align", "run", *best.arguments()]
        command += [word for each in sweep.stages for word in ("--stage", each)]
        write_json(
            folder / BEST,
            {
                "settings": ranked[0].values,
                "trial": ranked[0].trial,
                "held_out_nme_percent": ranked[0].nme,
                "seeds": sweep.seeds,
                "settings_complete": len(ranked),
                "command": shlex.join(command),
            },
        )
        console.print(f"All training faces with the best of them: {shlex.join(command)}", highlight=False, markup=False)
    for record in records:
        if record.status == FAILED:
            console.print(f"Failed: {record.training.name}: {record.error}", highlight=False, markup=False)
    console.print(f"Results: {folder / RESULTS}", highlight=False)
    return not any(record.status == FAILED for record in records)


def _row(record: Record) -> dict[str, Any]:
    """Of ``results.csv``."""
    training = record.training
    last: dict[str, Any] = record.curve[-1] if record.curve else {}
    return {
        "trial": training.trial,
        "seed": training.seed,
        "status": record.status,
        **training.values,
        **{name: (record.figures or {}).get(name) for name in FIGURES},
        "last_stage": last.get("stage"),
        "last_nme": last.get("nme"),
        "seconds": round(record.seconds, 1),
        "error": record.error,
    }


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
