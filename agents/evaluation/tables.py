"""Tables of an evaluation, for the terminal and for Markdown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import rich.table
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape

from face_align_env.agents.evaluation.measure import OCCLUDED, Outcome, Row, nme_by_occlusion
from face_align_env.files import write_bytes
from face_align_env.prepared import PreparedFaces


def number(value: float | None, digits: int = 2) -> str:
    """A cell of a table: empty where there is no figure."""
    return "" if value is None else f"{value:.{digits}f}"


@dataclass(frozen=True)
class Table:
    """What a table says, for the terminal and for Markdown.

    :param title: above it
    :param columns: headings
    :param rows: a cell for each column
    :param notes: lines under it
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def _is_text(self, column: int) -> bool:
        return self.columns[column] in ("method", "source", "compared", "row", "start", "run")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Drawn for the terminal; without a frame, and with headings on several lines, where it would not fit."""
        columns = [[heading, *cells] for heading, *cells in zip(self.columns, *self.rows, strict=True)]
        framed = sum(max(map(len, column)) + 3 for column in columns) + 1 <= options.max_width
        caption = escape("\n".join(self.notes)) or None
        view = rich.table.Table(title=escape(self.title), caption=caption, caption_justify="left")
        if not framed:
            view.box, view.show_edge, view.padding = SIMPLE_HEAD, False, 0
        for i, (heading, *cells) in enumerate(columns):
            # Narrow columns are as wide as their cells: Rich would rather cut these than break a heading.
            fixed = not framed and heading != "source"
            width = max(map(len, [*heading.split(), *cells])) if fixed else None
            view.add_column(escape(heading), justify="left" if self._is_text(i) else "right", width=width)
        for row in self.rows:
            view.add_row(*map(escape, row))
        yield view

    def markdown(self) -> str:
        """The same as Markdown, ending in a line break."""
        rules = ["---" if self._is_text(i) else "---:" for i in range(len(self.columns))]
        grid = ["| " + " | ".join(cells) + " |" for cells in (self.columns, rules, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *grid, "", *(f"- {note}" for note in self.notes), ""])


def write_tables(path: str | os.PathLike[str], heading: str, tables: Sequence[Table]) -> None:
    """Write tables into a Markdown file, complete or not at all.

    :param path: the file
    :param heading: its first line
    :param tables: the tables
    :raises OSError: it cannot be written
    """
    write_bytes(path, "\n".join([f"# {heading}\n", *(table.markdown() for table in tables)]).encode())


def method_table(title: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> Table:
    """What was measured on a split, as a table.

    :param title: above the table
    :param rows: a row for each method
    :param notes: lines under the table
    """
    columns = ("method", "NME %", "95 % interval", "inter-pupil %", "failures %", "AUC", "iterations", "ms a face")
    cells = [
        (
            row.method,
            number(row.nme),
            f"{row.nme_low:.2f} .. {row.nme_high:.2f}",
            number(row.nme_inter_pupil),
            number(row.failure_rate, 1),
            number(row.auc, 3),
            number(row.iterations),
            number(row.ms_per_face, 1),
            "" if row.mean_return is None else f"{row.mean_return:+.2f}",
        )
        for row in rows
    ]
    return Table(title, (*columns, "return"), tuple(cells), tuple(notes))


def occlusion_table(
    title: str, outcomes: Sequence[Outcome], prepared: PreparedFaces, notes: Sequence[str] = ()
) -> Table | None:
    """All methods on hardly and on heavily occluded faces; see :func:`nme_by_occlusion`.

    :return: None where the dataset marks no point as occluded; one that is not annotated at all tells nothing of that
    """
    if not (prepared.counted & ~prepared.visible).any():
        return None
    groups = [nme_by_occlusion(outcome, prepared) for outcome in outcomes]
    few, many = groups[0]
    share = f"{100 * OCCLUDED:.0f} %"
    counts = f"points occluded: fewer than {share} in {few.faces:,} faces, {share} or more in {many.faces:,} faces"
    return Table(
        f"{title}, by occlusion",
        ("method", f"< {share}: NME %", "failures %", f">= {share}: NME %", "failures %"),
        tuple(
            (outcome.row.method, *(cell for g in both for cell in (number(g.nme), number(g.failure_rate, 1))))
            for outcome, both in zip(outcomes, groups, strict=True)
        ),
        (counts, *notes),
    )
