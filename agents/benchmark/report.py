"""What a benchmark leaves: one CSV file, tables, pictures, and a page that shows all of it."""

from __future__ import annotations

import base64
import html
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scipy.integrate import trapezoid

from face_align_env.agents.benchmark import figures
from face_align_env.agents.benchmark.arena import TERMINATIONS
from face_align_env.agents.benchmark.baselines import FIXED, NOT_TRAINED
from face_align_env.agents.benchmark.results import Results, kind_of
from face_align_env.agents.benchmark.settings import BenchmarkSettings
from face_align_env.agents.benchmark.trial import RESULTS
from face_align_env.agents.common.rollout import MEASURES
from face_align_env.agents.evaluation.figures import write_figures
from face_align_env.agents.evaluation.tables import Table, write_tables
from face_align_env.extras import needs
from face_align_env.files import write_bytes

with needs("plots", "A figure"):
    from matplotlib.figure import Figure

PACKAGES = ("face-align-env", "gymnasium", "stable-baselines3", "sb3-contrib", "rliable", "torch", "numpy")
PICTURES: Mapping[str, Callable[[Results, str], Figure]] = {
    "learning-curves": figures.learning_curves,
    "episode-lengths": figures.episode_lengths,
    "profiles": figures.profiles,
}
OF_FACES = ("episode-lengths", "profiles")  # pictures that need what was measured of each face
SOLVED = (50, 80)  # percent of the faces
_COMMANDS = "commands.txt"


def final_table(results: Results, termination: str) -> Table:
    """What every algorithm has reached in the end: interquartile means over seeds, with 95 % intervals.

    :param results: of a benchmark
    :param termination: under which it was measured; cascades of a fixed length have their own
    """
    rows: list[tuple[str, ...]] = []
    for name in results.baselines():
        measured = "limit" if kind_of(name) in FIXED else termination
        rows.append((name, NOT_TRAINED, *_cells(results, name, NOT_TRAINED, measured), ""))
    for start in results.starts():
        for name in results.trained(start):
            seconds = results.curve(name, start, termination, "wall_clock")[1][:, -1].mean()
            rows.append((name, start, *_cells(results, name, start, termination), f"{seconds:.0f}"))
    columns = ("method", "start", *(figures.LABELS[measure] for measure in MEASURES), "seconds")
    notes = [
        "interquartile means over seeds, with 95 % bootstrap intervals (rliable) where there are several",
        "seconds: of training, on average over seeds, with as many trainings at a time as there were workers",
    ]
    if results.unfinished:
        notes.append(f"not complete, and counted as far as they are: {', '.join(map(str, results.unfinished))}")
    return Table(f"Held-out faces, {termination} termination", columns, tuple(rows), tuple(notes))


def _cells(results: Results, name: str, start: str, termination: str) -> Iterator[str]:
    """The last figures of a row."""
    of_seeds = len(results.curve(name, start, termination, "nme")[1]) > 1
    for measure in MEASURES:
        _, value = results.interval(name, start, termination, measure)
        form = "{:+.2f}" if measure == "return" else "{:.1f}" if measure in ("success", "failure_rate") else "{:.2f}"
        mean, low, high = (form.format(float(end[-1])) for end in (value.iqm, value.low, value.high))
        yield f"{mean} ({low} .. {high})" if of_seeds else mean


def efficiency_table(results: Results, termination: str) -> Table:
    """How soon every algorithm gets somewhere: interquartile means over seeds.

    :param results: of a benchmark
    :param termination: under which it was measured
    """
    rows = []
    for start in results.starts():
        for name in results.trained(start):
            steps, found = results.interval(name, start, termination, "success")
            mean = float(trapezoid(found.iqm, steps) / steps[-1]) if len(steps) > 1 else float(found.iqm[-1])
            reached = [steps[found.iqm >= share] for share in SOLVED]
            seconds = results.curve(name, start, termination, "wall_clock")[1][:, -1].mean()
            pace = f"{1000 * seconds / steps[-1]:.1f}" if steps[-1] else ""
            first = (f"{when[0]:,.0f}" if len(when) else "never" for when in reached)
            rows.append((name, start, f"{found.iqm[-1]:.1f}", f"{mean:.1f}", *first, pace))
    columns = ("method", "start", "success at the end, %", "over the training, %")
    shares = tuple(f"transitions to {share} %" for share in SOLVED)
    notes = ("success: share of the held-out faces whose episode ends in a terminal state with an NME below alpha_1",)
    heading = f"Who solves it, and how soon, {termination} termination"
    return Table(heading, (*columns, *shares, "seconds per 1,000 transitions"), tuple(rows), notes)


def report_folder(folder: str | os.PathLike[str], command: str) -> list[Table]:
    """Write ``results.csv`` of a benchmark, and its report beside it.

    :param folder: of the benchmark
    :param command: that made it, or the latest of several: ``commands.txt`` keeps them all
    :return: the tables
    :raises FileNotFoundError: it is no benchmark's folder, or nothing has been measured
    """
    folder = Path(folder)
    settings, results = BenchmarkSettings.read(folder), Results.read(folder)
    _remember(folder / _COMMANDS, command)
    results.write(folder / RESULTS)
    return write_report(results, folder, folder.resolve().name, asdict(settings), _commands(folder))


def report(path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> list[Table]:
    """The report of a benchmark anew, from its folder or from its ``results.csv`` alone.

    :param path: the folder, or the file; without the folder nothing is known of single faces, settings and commands
    :param output: folder for tables, pictures and page; None: where the results are
    :return: the tables
    :raises FileNotFoundError: nothing has been measured
    :raises ValueError: the file is no benchmark's
    """
    path = Path(path)
    if path.is_file():
        return write_report(Results.read(path), path.parent if output is None else output, path.stem)
    settings = asdict(BenchmarkSettings.read(path))
    into = path if output is None else output
    return write_report(Results.read(path), into, path.resolve().name, settings, _commands(path))


def write_report(
    results: Results,
    output: str | os.PathLike[str],
    name: str,
    settings: Mapping[str, Any] | None = None,
    commands: Sequence[str] = (),
) -> list[Table]:
    """Write ``tables.md``, ``figures/*.png`` and ``report.html``.

    :param results: of a benchmark
    :param output: folder for the files
    :param name: of the benchmark
    :param settings: of it; None: they are not known
    :param commands: that made it
    :return: the tables
    """
    output = Path(output)
    tables = [make(results, termination) for termination in TERMINATIONS for make in (final_table, efficiency_table)]
    tables = [table for table in tables if table.rows]
    write_tables(output / "tables.md", f"Benchmark {name}", tables)
    drawn = {
        f"{title}-{termination}": draw(results, termination)
        for termination in TERMINATIONS
        for title, draw in PICTURES.items()
        if results.starts() and (results.faces or title not in OF_FACES)
    }
    pictures = {path.stem: path.read_bytes() for path in write_figures(drawn, output / "figures")}
    write_bytes(output / "report.html", page(name, commands, settings, tables, pictures).encode())
    return tables


def _commands(folder: Path) -> list[str]:
    path = folder / _COMMANDS
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _remember(path: Path, command: str) -> None:
    """Add a command to those of a folder, a line each: trainings are added by further calls."""
    commands = _commands(path.parent)
    if command and command not in commands:
        write_bytes(path, "".join(f"{line}\n" for line in [*commands, command]).encode())


def versions() -> dict[str, str]:
    """Of Python and the packages that decide the figures; those that are absent are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def page(
    name: str,
    commands: Sequence[str],
    settings: Mapping[str, Any] | None,
    tables: Sequence[Table],
    pictures: Mapping[str, bytes],
) -> str:
    """The whole benchmark as one file without links: tables, pictures, settings, commands, versions.

    :param name: of the benchmark
    :param commands: that made it
    :param settings: of it; None: they are not known
    :param tables: its tables
    :param pictures: title -> PNG
    """
    parts = [
        f"<h1>Benchmark {html.escape(name)}</h1>",
        f"<pre>{html.escape(chr(10).join(commands))}</pre>",
        *(_html(table) for table in tables),
    ]
    for title, png in pictures.items():
        data = base64.b64encode(png).decode()
        alternative = html.escape(title)
        parts.append(f'<h2>{alternative}</h2>\n<img alt="{alternative}" src="data:image/png;base64,{data}">')
    packages = "\n".join(f"{package} {number}" for package, number in versions().items())
    if settings is not None:
        parts.append(f"<h2>Settings</h2>\n<pre>{html.escape(json.dumps(settings, indent=2))}</pre>")
    parts += [
        f"<h2>Versions</h2>\n<pre>{html.escape(packages)}\n{html.escape(platform.platform())}</pre>",
    ]
    body = "\n".join(parts)
    return _PAGE.format(title=html.escape(name), body=body)


def _html(table: Table) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    lines = "\n".join([row(table.columns, "th"), *(row(cells, "td") for cells in table.rows)])
    notes = "<br>".join(map(html.escape, table.notes))
    return f"<h2>{html.escape(table.title)}</h2>\n<table>\n{lines}\n</table>\n<p>{notes}</p>"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font-family: sans-serif; margin: 2em auto; max-width: 75em; color: #222; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid #ccc; padding: 0.2em 0.7em; text-align: right; }}
th:nth-child(-n+2), td:nth-child(-n+2) {{ text-align: left; }}
img {{ max-width: 100%; }}
pre {{ background: #f4f4f4; padding: 0.7em; overflow-x: auto; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
