"""Tables 3 to 6 of the paper: its figures, quoted, with a run's own beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from face_align_env.agents.evaluation.measure import Outcome
from face_align_env.agents.evaluation.tables import Table, number

QUOTED = "quoted from the paper"


@dataclass(frozen=True)
class Quote:
    """A row of one of the paper's tables.

    :param method: as the paper calls it
    :param year: in which the method was published; None: the paper's own, whose text bears no year
    :param values: a figure for each column of the table, percent; None: the paper has none
    """

    method: str
    year: int | None
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Column:
    """What a column holds of a run.

    :param heading: above it
    :param split: of the dataset
    :param field: of :class:`~face_align_env.agents.evaluation.measure.Row`
    """

    heading: str
    split: str
    field: str


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper, or the part of it that is about one dataset and one normaliser.

    :param title: its number, and what it measures
    :param columns: which of a run's figures stand under the quoted ones
    :param quotes: the paper's rows, in its order
    """

    title: str
    columns: tuple[Column, ...]
    quotes: tuple[Quote, ...]


@dataclass(frozen=True)
class Protocol:
    """What a figure must have been measured with to stand beside the paper's (sections 4.1 and 4.2).

    :param num_landmarks: K
    :param normalizer: of Eq. 2, see :func:`face_align_env.metrics.normalizing_distance`
    """

    num_landmarks: int
    normalizer: str


PROTOCOLS = {
    "300w": Protocol(68, "inter_ocular"),
    "cofw": Protocol(29, "inter_ocular"),
    "aflw": Protocol(19, "face_size"),
}


def _three_subsets(field: str) -> tuple[Column, ...]:
    return tuple(Column(split, split, field) for split in ("common", "challenging", "full"))


def _ablation(
    name: str, split: str, errors: tuple[float, float, float, float, float, float], steps: float
) -> PaperTable:
    """A row of Table 6, turned: GEN, LRN-2, -4, -8, GEN-LRN8 and DCRN, and the iterations of DCRN."""
    methods = ("GEN", "LRN-2", "LRN-4", "LRN-8", "GEN-LRN8", "DCRN")
    return PaperTable(
        f"Table 6: mean error in % and iterations, {name}",
        (Column("NME %", split, "nme"), Column("iterations", split, "iterations")),
        tuple(
            Quote(method, None, (error, steps if method == "DCRN" else None))
            for method, error in zip(methods, errors, strict=True)
        ),
    )


# Years are those of the paper's references, except where its number in a table is plainly that of another paper:
# Table 4 numbers HPM [28], DRDA [21], RAR [15] and PCD-CNN [12]. Those are Ghiasi and Fowlkes (CVPR 2014), Zhang et al.
# (CVPR 2016), reference [26] (ECCV 2016) and reference [13] (CVPR 2018).
TABLES: dict[str, tuple[PaperTable, ...]] = {
    "300w": (
        PaperTable(
            "Table 3, inter-pupil normalisation: mean error in %, 300W (68 landmarks)",
            _three_subsets("nme_inter_pupil"),
            (
                Quote("SDM", 2013, (5.57, 15.40, 7.50)),
                Quote("CFAN", 2014, (5.50, 16.78, 7.69)),
                Quote("CFSS", 2015, (4.73, 9.98, 5.76)),
                Quote("MDM", 2016, (4.83, 10.14, 5.88)),
                Quote("RAR", 2016, (4.12, 8.35, 4.94)),
                Quote("TSR", 2017, (4.36, 7.56, 4.99)),
                Quote("DCRN", None, (4.64, 9.21, 5.54)),
            ),
        ),
        PaperTable(
            "Table 3, inter-ocular normalisation: mean error in %, 300W (68 landmarks)",
            _three_subsets("nme"),
            (
                Quote("DSRN", 2018, (4.12, 9.68, 5.21)),
                Quote("PCD-CNN", 2018, (3.67, 7.62, 4.44)),
                Quote("SAN", 2018, (3.34, 6.60, 3.98)),
                Quote("DCRN", None, (3.32, 6.35, 3.92)),
            ),
        ),
        _ablation("300W full set", "full", (6.57, 5.16, 4.53, 4.44, 4.02, 3.92), 2.61),
    ),
    "cofw": (
        PaperTable(
            "Table 4: mean error and failure rate in %, COFW (29 landmarks)",
            (Column("NME %", "test", "nme"), Column("failures %", "test", "failure_rate")),
            (
                Quote("HPM", 2014, (7.50, 13.00)),
                Quote("DRDA", 2016, (6.46, 6.00)),
                Quote("RAR", 2016, (6.03, 4.14)),
                Quote("DAC-CSR", 2017, (6.03, 4.73)),
                Quote("PCD-CNN", 2018, (5.77, 3.73)),
                Quote("DCRN", None, (5.42, 4.34)),
            ),
        ),
        _ablation("COFW", "test", (6.37, 27.32, 17.17, 16.73, 5.07, 5.42), 3.25),
    ),
    "aflw": (
        PaperTable(
            "Table 5: mean error in % of the face's size, AFLW (19 landmarks)",
            (Column("full", "full", "nme"), Column("frontal", "frontal", "nme")),
            (
                Quote("RCPR", 2013, (3.73, 2.87)),
                Quote("CFSS", 2015, (3.92, 2.68)),
                Quote("DAC-CSR", 2017, (2.27, 1.81)),
                Quote("TSR", 2017, (2.17, None)),
                Quote("SAN", 2018, (1.91, 1.85)),
                Quote("DCRN", None, (1.92, 1.78)),
            ),
        ),
        _ablation("AFLW full", "full", (2.15, 3.91, 3.64, 3.85, 1.97, 1.92), 2.09),
    ),
}


def fill(
    paper: PaperTable,
    outcomes: Mapping[str, Sequence[Outcome]],
    source: str = "this run",
    notes: Sequence[str] = (),
) -> Table:
    """A table of the paper with a run's rows: each behind the quoted row of its method, the others at the end.

    :param paper: the table
    :param outcomes: split -> what was measured on it; the cells of a split that is not there stay empty
    :param source: what the run's rows are called
    :param notes: lines under the table
    """
    rows = {split: {outcome.row.method: outcome.row for outcome in found} for split, found in outcomes.items()}
    used = [rows.get(column.split, {}) for column in paper.columns]
    own: dict[str, tuple[str, ...]] = {}
    for method in dict.fromkeys(method for found in used for method in found):
        values = [
            getattr(found[method], column.field) if method in found else None
            for column, found in zip(paper.columns, used, strict=True)
        ]
        own[method] = (method, "", *map(number, values), source)
    lines: list[tuple[str, ...]] = []
    for quote in paper.quotes:
        lines.append((quote.method, number(quote.year, 0), *map(number, quote.values), QUOTED))
        if quote.method in own:
            lines.append(own.pop(quote.method))
    headings = ("method", "year", *(column.heading for column in paper.columns), "source")
    lines = [headings, *lines, *own.values()]
    if all(quote.year is None for quote in paper.quotes):  # Table 6 has nobody else's methods
        lines = [(method, *rest) for method, _, *rest in lines]
    return Table(paper.title, lines[0], tuple(lines[1:]), tuple(notes))


def paper_tables(
    dataset: str,
    outcomes: Mapping[str, Sequence[Outcome]],
    source: str = "this run",
    notes: Sequence[str] = (),
) -> list[Table]:
    """The paper's tables of a dataset that have a split in common with what was measured; see :func:`fill`.

    :param dataset: its name; of any but 300w, cofw and aflw the paper has no figures
    """
    return [
        fill(paper, outcomes, source, notes)
        for paper in TABLES.get(dataset, ())
        if any(column.split in outcomes for column in paper.columns)
    ]
