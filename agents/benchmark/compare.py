"""``face-align compare``: benchmarks, or runs, side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from face_align_env.agents.benchmark.arena import TERMINATIONS
from face_align_env.agents.benchmark.figures import learning_curves
from face_align_env.agents.benchmark.report import final_table
from face_align_env.agents.benchmark.results import Results, labelled
from face_align_env.agents.benchmark.settings import BenchmarkSettings
from face_align_env.agents.benchmark.trial import RESULTS
from face_align_env.agents.evaluation.figures import write_figures
from face_align_env.agents.evaluation.files import read_rows
from face_align_env.agents.evaluation.measure import Row
from face_align_env.agents.evaluation.tables import Table, number, write_tables
from face_align_env.extras import needs

with needs("benchmark", "A comparison of algorithms"):
    import pandas as pd


def compare(
    folders: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], console: Console | None = None
) -> list[Path]:
    """Put benchmarks side by side, with their curves in the same axes; or the evaluations of runs.

    :param folders: of benchmarks (``face-align benchmark``) or of runs (``face-align run``), all of one kind
    :param output: folder for ``compare.md``, ``results.csv`` and pictures
    :param console: where the tables go
    :return: the files
    :raises FileNotFoundError: a folder is neither
    :raises ValueError: both kinds, one folder only, two of one name, or benchmarks that have measured other faces
    """
    console = console or Console()
    named = _named([Path(folder) for folder in folders])
    kinds = {name: (folder / RESULTS).is_file() for name, folder in named.items()}
    for name, folder in named.items():
        if not kinds[name] and not any(folder.glob("evaluation*.json")):
            raise FileNotFoundError(
                f"'{folder}' holds neither a benchmark's {RESULTS} nor a run's evaluation.json: face-align benchmark, "
                "or face-align evaluate, makes them."
            )
    if len(set(kinds.values())) > 1:
        raise ValueError(f"Benchmarks and runs do not compare; of these are benchmarks: {', '.join(_true(kinds))}.")
    output = Path(output)
    tables, written = (_benchmarks if all(kinds.values()) else _runs)(named, output)
    for table in tables:
        console.print(table)
    path = output / "compare.md"
    write_tables(path, ", ".join(named), tables)
    return [path, *written]


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    if len(folders) < 2:
        raise ValueError("Comparing takes two folders or more.")
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):  # seed-0 of two runs
        names = ["/".join(folder.resolve().parts[-2:]) for folder in folders]
    if len(set(names)) < len(names):
        raise ValueError(f"Two of the folders have the same name: {', '.join(names)}.")
    return dict(zip(names, folders, strict=True))


def _true(values: Mapping[str, bool]) -> list[str]:
    return [name for name, value in values.items() if value]


def _benchmarks(named: Mapping[str, Path], output: Path) -> tuple[list[Table], list[Path]]:
    """All trainings in one set of results: an algorithm is called by its benchmark as well."""
    settings = {name: BenchmarkSettings.read(folder) for name, folder in named.items()}
    first = next(iter(settings))
    for name, other in settings.items():
        measured = [(s.data.dataset, s.data.landmarks, s.data.options, s.eval_faces) for s in (settings[first], other)]
        if measured[0] != measured[1]:
            raise ValueError(f"'{first}' and '{name}' have measured other faces: {measured[0]} and {measured[1]}.")
    found = {name: Results.read(folder) for name, folder in named.items()}
    frames = [
        results.frame.assign(algorithm=[labelled(each, name) for each in results.frame["algorithm"]])
        for name, results in found.items()
    ]
    together = Results(
        frame=pd.concat(frames, ignore_index=True),
        faces={
            (labelled(algorithm, name), start): arrays
            for name, results in found.items()
            for (algorithm, start), arrays in results.faces.items()
        },
        unfinished=tuple(
            replace(key, algorithm=labelled(key.algorithm, name))
            for name, results in found.items()
            for key in results.unfinished
        ),
    )
    together.write(output / RESULTS)
    drawn = {f"learning-curves-{termination}": learning_curves(together, termination) for termination in TERMINATIONS}
    paths = write_figures(drawn, output)
    return [final_table(together, termination) for termination in TERMINATIONS], [output / RESULTS, *paths]


def _runs(named: Mapping[str, Path], output: Path) -> tuple[list[Table], list[Path]]:
    """A table for each split that some run has measured: a row for each run and method."""
    splits = sorted({path.stem for folder in named.values() for path in folder.glob("evaluation*.json")})
    columns = ("run", "method", "NME %", "95 % interval", "failures %", "AUC", "iterations", "ms a face")
    tables = []
    for split in splits:
        rows = [
            (name, *_cells(row))
            for name, folder in named.items()
            if (folder / f"{split}.json").is_file()
            for row in read_rows(folder / f"{split}.json")
        ]
        tables.append(Table(split, columns, tuple(rows)))
    return tables, []


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.method,
        number(row.nme),
        f"{row.nme_low:.2f} .. {row.nme_high:.2f}",
        number(row.failure_rate, 1),
        number(row.auc, 3),
        number(row.iterations),
        number(row.ms_per_face, 1),
    )
