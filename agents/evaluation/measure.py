"""Evaluation: the rows of Table 6 on a split, with intervals, as table and JSON."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table

from face_align_env.files import atomic_path, write_bytes, write_json
from face_align_env.mdp import nme
from face_align_env.metrics import auc, bootstrap_interval, failure_rate, landmark_errors, mean_over_faces
from face_align_env.networks.lrn import LRN
from face_align_env.prepared import FaceSource, PreparedFaces
from face_align_env.vector_env import FaceAlignVectorEnv

GAMMA = 0.9  # Table 2
OCCLUDED = 0.3  # of a face's points: our line between a face that is hardly occluded and one that is heavily


class CropAligner(Protocol):
    """A row of the table: whatever finds landmarks in crops, as ``FaceAligner`` does."""

    batch_size: int

    def align_crops(self, crops: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """(N, 256, 256, 3) uint8 -> trajectories (N, T + 1, K, 2) in crop pixels, and (N,) numbers of iterations."""
        ...


@dataclass(frozen=True)
class Row:
    """One method on one split.

    :param method: ``GEN``, ``LRN-2``, ..., ``DCRN``
    :param nme: mean NME (Eq. 2) under the dataset's normaliser, percent
    :param nme_low: lower end of its 95 % bootstrap interval over faces, percent
    :param nme_high: upper end, percent
    :param nme_inter_pupil: mean NME under the inter-pupil distance, percent; None where a face has no such distance,
        because a point of its eyes is not annotated
    :param failure_rate: faces with an NME above 0.1, percent
    :param auc: area under the CED curve up to 0.1, a fraction
    :param iterations: mean number of iterations of LRN
    :param ms_per_face: median over batches of the time from crop to shape, milliseconds a face
    :param mean_return: mean return of an episode under Eq. 3's oracle termination and Eq. 4, not discounted; None
        where the method has no episodes
    :param success_rate: share of those episodes that end in a terminal state, percent
    """

    method: str
    nme: float
    nme_low: float
    nme_high: float
    nme_inter_pupil: float | None
    failure_rate: float
    auc: float
    iterations: float
    ms_per_face: float
    mean_return: float | None = None
    success_rate: float | None = None


# What evaluation.json says of each method: the fields that every method has.
_JSON_KEYS = tuple(field.name for field in fields(Row) if field.default is MISSING)


@dataclass(frozen=True, eq=False)
class Episodes:
    """An episode of each face.

    :param rewards: (T, N) float64, what Eq. 4 paid for each iteration; NaN after an episode's end
    :param successes: (N,) bool, whether it ended in a terminal state
    """

    rewards: npt.NDArray[np.float64]
    successes: npt.NDArray[np.bool_]

    @property
    def returns(self) -> npt.NDArray[np.float64]:
        """(N,) sums of the rewards."""
        return self.discounted(1.0)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(N,) iterations until the end."""
        lengths: npt.NDArray[np.int64] = (~np.isnan(self.rewards)).sum(axis=0)
        return lengths

    @property
    def saturated(self) -> npt.NDArray[np.bool_]:
        """(N,) whether Eq. 4 has paid all that it pays in so many iterations: +1 for each but the last, +10 for that.

        With a discount of 0.9 these episodes return 10, whatever their length, and none returns more:
        1 + 0.9 + 0.9^2 + ... = 10, so that the terminal +10 is worth as much now as after any number of +1.
        """
        gained: npt.NDArray[np.bool_] = self.successes & ((self.rewards == 1).sum(axis=0) == self.lengths - 1)
        return gained

    def discounted(self, gamma: float = GAMMA) -> npt.NDArray[np.float64]:
        """(N,) returns as seen from the first state: the reward of iteration t counts gamma^(t - 1) times."""
        returns: npt.NDArray[np.float64] = np.nansum(
            gamma ** np.arange(len(self.rewards))[:, None] * self.rewards, axis=0
        )
        return returns


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method did to each face.

    :param row: the summary
    :param errors: (N,) final NME, fractions
    :param iterations: (N,) int64
    :param error_path: (T + 1, N) NME of x_t; it stands still after a face's last iteration
    :param shapes: (N, K, 2) float32 final shapes, crop pixels
    :param landmark_errors: (N, K) error of each landmark in the final shape, fractions; NaN where it does not count
    :param inter_pupil_errors: (N,) final NME under the inter-pupil distance, fractions; None: see ``Row``
    :param episodes: of each face, see :func:`play_episodes`; None: the method has no episodes
    """

    row: Row
    errors: npt.NDArray[np.float64]
    iterations: npt.NDArray[np.int64]
    error_path: npt.NDArray[np.float64]
    shapes: npt.NDArray[np.float32] | None = None
    landmark_errors: npt.NDArray[np.float64] | None = None
    inter_pupil_errors: npt.NDArray[np.float64] | None = None
    episodes: Episodes | None = None

    @property
    def returns(self) -> npt.NDArray[np.float64] | None:
        """(N,) return of each face's episode, not discounted; None: no episodes."""
        return None if self.episodes is None else self.episodes.returns

    def with_episodes(self, episodes: Episodes) -> Outcome:
        """The same with what :func:`play_episodes` has found."""
        success_rate = 100 * float(episodes.successes.mean())
        row = replace(self.row, mean_return=float(episodes.returns.mean()), success_rate=success_rate)
        return replace(self, row=row, episodes=episodes)


def evaluate_method(method: str, aligner: CropAligner, prepared: PreparedFaces, seed: int = 0) -> Outcome:
    """Run a method on every face of a split.

    :param method: its name in the table
    :param aligner: the method
    :param prepared: the faces
    :param seed: of the bootstrap interval
    """
    trajectories, iterations, times = [], [], []
    batch = aligner.batch_size
    for start in range(0, len(prepared), batch):
        crops = np.stack([prepared.crop(i) for i in range(start, min(start + batch, len(prepared)))])
        if start == 0:
            aligner.align_crops(crops)  # the first call pays for memory and kernels
        began = time.perf_counter()
        shapes, steps = aligner.align_crops(crops)
        times.append((time.perf_counter() - began) / len(crops))
        trajectories.append(shapes)
        iterations.append(steps)
    path, steps = np.concatenate(trajectories), np.concatenate(iterations)
    errors = np.stack([nme(path[:, t], prepared.landmarks, prepared.d, prepared.counted) for t in range(path.shape[1])])
    pupils = prepared.distances("inter_pupil")
    # A mean over some of the faces would be a figure of another set of faces: all of them, or none.
    known = not np.isnan(pupils).any()
    inter_pupil = nme(path[:, -1], prepared.landmarks, pupils, prepared.counted) if known else None
    low, high = bootstrap_interval(errors[-1], seed=seed)
    row = Row(
        method=method,
        nme=100 * float(errors[-1].mean()),
        nme_low=100 * low,
        nme_high=100 * high,
        nme_inter_pupil=None if inter_pupil is None else 100 * float(inter_pupil.mean()),
        failure_rate=100 * failure_rate(errors[-1]),
        auc=auc(errors[-1]),
        iterations=float(steps.mean()),
        ms_per_face=1000 * float(np.median(times)),
    )
    final = path[:, -1].copy()  # a view would keep the whole trajectories
    by_landmark = landmark_errors(final, prepared.landmarks, prepared.d, prepared.counted)
    return Outcome(row, errors[-1], steps, errors, final, by_landmark, inter_pupil)


@torch.inference_mode()
def play_episodes(lrn: LRN, prepared: PreparedFaces, initializer: Any, num_envs: int = 64, **options: Any) -> Episodes:
    """Play each face once with LRN as the policy, under oracle termination.

    :param lrn: the policy network
    :param prepared: the faces
    :param initializer: of x_0, see :mod:`face_align_env.initialization`
    :param num_envs: faces at a time
    :param options: further keywords of the environment (``alpha_2``, ...)
    :return: an episode of each face
    """
    device = next(lrn.parameters()).device
    rewards: list[npt.NDArray[np.float64]] = []  # of each iteration
    successes = np.zeros(len(prepared), dtype=np.bool_)
    for start in range(0, len(prepared), num_envs):
        faces = np.arange(start, min(start + num_envs, len(prepared)))
        env = FaceAlignVectorEnv(
            len(faces),
            dataset=FaceSource(prepared),
            initializer=initializer,
            termination="oracle",
            learned_history=True,
            action_limit=lrn.config.action_limit,
            patch_size=lrn.config.patch_size,
            **options,
        )
        observations, _ = env.reset(options={"index": faces})
        going = np.ones(len(faces), dtype=np.bool_)
        for t in count():
            patches = torch.from_numpy(observations["patches"]).to(device)
            actions = torch.cat(lrn(patches, torch.from_numpy(observations["history"]).to(device)), dim=1)
            # Slots whose episode is over begin another one; only the first of each counts.
            observations, earned, terminated, truncated, _ = env.step(actions.cpu().numpy())
            if t == len(rewards):
                rewards.append(np.full(len(prepared), np.nan))
            rewards[t][faces[going]] = earned[going]
            successes[faces[going & terminated]] = True
            going &= ~(terminated | truncated)
            if not going.any():
                break
    return Episodes(np.stack(rewards), successes)


def paired_differences(outcome: Outcome, baseline: Outcome, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """What a method changes on the same faces, with 95 % bootstrap intervals.

    :param outcome: the method
    :param baseline: what it is compared with
    :param seed: of the bootstrap
    :return: mean difference (method minus baseline), lower and upper end, for ``"NME"`` in percent, ``"iterations"``
        and, where both have played episodes, ``"return"``
    """
    differences = {
        "NME": 100 * (outcome.errors - baseline.errors),
        "iterations": (outcome.iterations - baseline.iterations).astype(np.float64),
    }
    if outcome.returns is not None and baseline.returns is not None:
        differences["return"] = outcome.returns - baseline.returns
    return {
        name: (float(values.mean()), *bootstrap_interval(values, seed=seed)) for name, values in differences.items()
    }


def write_evaluation(
    path: str | os.PathLike[str], prepared: PreparedFaces, seed: int, outcomes: Sequence[Outcome]
) -> None:
    """Write ``evaluation.json`` and, beside it, what was measured of each face (``.npz``).

    The arrays of a method are ``METHOD/nme`` and ``METHOD/nme_inter_pupil`` (N,), fractions; ``METHOD/landmark_nme``
    (K,), means over faces; ``METHOD/iterations`` (N,); and of its episodes ``METHOD/return`` and ``METHOD/success``
    (N,), and ``METHOD/rewards`` (T, N), NaN after an episode's end. ``ids`` (N,) names the faces.

    :param path: the JSON file
    :param prepared: the faces that were evaluated
    :param seed: of the training
    :param outcomes: the rows, in the order of the table
    """
    document = {
        "dataset": prepared.dataset.name,
        "split": prepared.dataset.split,
        "num_faces": len(prepared),
        "seed": seed,
        "rows": [{key: getattr(outcome.row, key) for key in _JSON_KEYS} for outcome in outcomes],
    }
    write_json(path, document)
    arrays = {"ids": np.array(prepared.ids), "normalizer": np.array(prepared.normalizer)}
    for outcome in outcomes:
        found: dict[str, npt.NDArray[Any] | None] = {
            "nme": outcome.errors,
            "nme_inter_pupil": outcome.inter_pupil_errors,
            "landmark_nme": None if outcome.landmark_errors is None else mean_over_faces(outcome.landmark_errors),
            "iterations": outcome.iterations,
        }
        if outcome.episodes is not None:
            found["return"] = outcome.episodes.returns
            found["success"] = outcome.episodes.successes
            found["rewards"] = outcome.episodes.rewards.astype(np.float32)
        arrays |= {f"{outcome.row.method}/{key}": array for key, array in found.items() if array is not None}
    temporary, final = atomic_path(Path(path).with_suffix(".npz"))
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    os.replace(temporary, final)


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of an ``evaluation.json``."""
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    names = {field.name for field in fields(Row)}
    return [Row(**{key: value for key, value in row.items() if key in names}) for row in document["rows"]]


def number(value: float | None, digits: int = 2) -> str:
    """A cell of a table: empty where there is no figure."""
    return "" if value is None else f"{value:.{digits}f}"


@dataclass(frozen=True)
class Sheet:
    """The content of a table, for the terminal and for Markdown.

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
        view = Table(title=escape(self.title), caption=caption, caption_justify="left")
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


def write_tables(path: str | os.PathLike[str], heading: str, sheets: Sequence[Sheet]) -> None:
    """Write tables into a Markdown file, complete or not at all.

    :param path: the file
    :param heading: its first line
    :param sheets: the tables
    :raises OSError: it cannot be written
    """
    write_bytes(path, "\n".join([f"# {heading}\n", *(sheet.markdown() for sheet in sheets)]).encode())


def table(title: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> Sheet:
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
    return Sheet(title, (*columns, "return"), tuple(cells), tuple(notes))


@dataclass(frozen=True)
class Group:
    """Some of a split's faces under one method.

    :param faces: how many
    :param nme: their mean NME, percent; None: there are no faces
    :param failure_rate: share of them with an NME above 0.1, percent; None: there are no faces
    """

    faces: int
    nme: float | None
    failure_rate: float | None


def nme_by_occlusion(outcome: Outcome, prepared: PreparedFaces, threshold: float = OCCLUDED) -> tuple[Group, Group]:
    """A method's errors on the faces that are hardly, and on those that are heavily occluded.

    :param outcome: the method on a split
    :param prepared: the faces of that split
    :param threshold: share of a face's points that are not visible, from which on the face counts as heavily occluded
    :return: the faces below the threshold, and the others
    """
    heavily = (~prepared.visible).mean(axis=1) >= threshold

    def group(errors: npt.NDArray[np.float64]) -> Group:
        if not len(errors):
            return Group(0, None, None)
        return Group(len(errors), 100 * float(errors.mean()), 100 * failure_rate(errors))

    return group(outcome.errors[~heavily]), group(outcome.errors[heavily])


def occlusion_table(
    title: str, outcomes: Sequence[Outcome], prepared: PreparedFaces, notes: Sequence[str] = ()
) -> Sheet | None:
    """All methods on hardly and on heavily occluded faces; see :func:`nme_by_occlusion`.

    :return: None where the dataset marks no point as occluded; one that is not annotated at all tells nothing of that
    """
    if not (prepared.counted & ~prepared.visible).any():
        return None
    groups = [nme_by_occlusion(outcome, prepared) for outcome in outcomes]
    few, many = groups[0]
    share = f"{100 * OCCLUDED:.0f} %"
    counts = f"points occluded: fewer than {share} in {few.faces:,} faces, {share} or more in {many.faces:,} faces"
    return Sheet(
        f"{title}, by occlusion",
        ("method", f"< {share}: NME %", "failures %", f">= {share}: NME %", "failures %"),
        tuple(
            (outcome.row.method, *(cell for g in both for cell in (number(g.nme), number(g.failure_rate, 1))))
            for outcome, both in zip(outcomes, groups, strict=True)
        ),
        (counts, *notes),
    )
