"""How methods bear what photos and detectors do to them: other boxes, few pixels, JPEG, too little or too much light.

A perturbation changes the photo or the face's box *before* the crop is cut, and the ground truth moves along. The NME
does not depend on the crop: error and normaliser scale alike. All methods and all perturbations see the same faces.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console

from face_align_env.agents.common.crop_rollout import CropAligner
from face_align_env.agents.evaluation.figures import write_figures
from face_align_env.agents.evaluation.run_evaluation import methods
from face_align_env.agents.evaluation.tables import Table, number, write_tables
from face_align_env.agents.run_folder import RunFolder
from face_align_env.agents.studies.peers import PREDICTOR, DlibAligner, evenly_spaced, peers_note
from face_align_env.agents.studies.perturbations import (
    BOXES,
    IDENTITY,
    PERTURBATIONS,
    Crop,
    Perturbation,
    View,
    crop_of,
)
from face_align_env.datasets import DatasetNotFoundError, dataset_class
from face_align_env.extras import needs
from face_align_env.files import write_json
from face_align_env.mdp import nme
from face_align_env.metrics import bootstrap_interval, failure_rate
from face_align_env.prepared import PreparedFaces
from face_align_env.pretrain.recipes import Data
from face_align_env.progress import Progress

with needs("plots", "A figure"):
    import matplotlib

    matplotlib.use("Agg")  # no screen is needed
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

METHODS = ("GEN", "GEN-LRN4", "GEN-LRN8", "LRN+Eq.3", "DCRN")  # of a run; LRN-m would only lengthen the tables
_BATCH = 64  # faces at a time, as in an evaluation; their crops under all perturbations take 0.4 GB

Errors = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured.

    :param perturbations: in the order of the tables
    :param errors: method -> perturbation's name -> (V, N) NME of each face at each value, fractions
    :param smaller: how many faces are smaller than each value of ``"resolution"``, and were left as they are
    """

    perturbations: tuple[Perturbation, ...]
    errors: dict[str, dict[str, Errors]]
    smaller: tuple[int, ...]


def measure(
    aligners: Sequence[tuple[str, CropAligner]],
    prepared: PreparedFaces,
    faces: npt.NDArray[np.int64] | None = None,
    boxes: tuple[str, str, PreparedFaces] | None = None,
    perturbations: Sequence[Perturbation] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Measured:
    """The errors of methods on the same faces under every perturbation.

    :param aligners: names and methods
    :param prepared: the faces
    :param faces: (N,) which of them; None: all
    :param boxes: what the boxes of ``prepared`` are called, what other boxes are, and the same faces with these
    :param perturbations: what to try; None: all of :data:`PERTURBATIONS`
    :param seed: of the directions in which boxes are shifted: one a face, the same for every distance
    :param progress: show a bar
    :raises ValueError: a perturbed box lies outside of its photo, or ``boxes`` has other faces
    :raises BadFaceError: an image cannot be read
    """
    faces = np.arange(len(prepared)) if faces is None else faces
    directions = np.random.default_rng(seed).uniform(0, 2 * np.pi, len(prepared))
    panels = list(PERTURBATIONS if perturbations is None else perturbations)
    if boxes is not None:
        if boxes[2].ids != prepared.ids:
            raise ValueError(f"The faces with {boxes[1]} boxes are not those with {boxes[0]} boxes.")
        panels.insert(0, replace(BOXES, labels=boxes[:2]))
    # Every perturbation has a value that changes nothing: measured once.
    conditions = [(None, 0.0), *((p, value) for p in panels for value in p.values if value != p.neutral)]
    errors = {name: np.empty((len(conditions), len(faces))) for name, _ in aligners}

    def make(index: int) -> list[Crop]:
        face, d = prepared.dataset[index], prepared.d[index] / prepared.transforms[index, 0, 0]
        crops = [Crop(prepared.crop(index), prepared.landmarks[index], float(prepared.d[index]))]
        for perturbation, value in conditions[1:]:
            assert perturbation is not None
            if perturbation.perturb is None:
                assert boxes is not None
                # The other dataset's landmarks are the same, its normaliser need not be: of AFLW it is the box itself.
                box = boxes[2].dataset.annotation(index).box.astype(np.float64)
                view = View(face.image, box, IDENTITY)
            else:
                view = perturbation.perturb(face, value, float(directions[index]))
            crops.append(crop_of(view, face, d, prepared.margin))
        return crops

    with Progress(total=len(faces), desc="perturbing", unit="face", disable=not progress, leave=False) as bar:
        for start in range(0, len(faces), _BATCH):
            batch = slice(start, min(start + _BATCH, len(faces)))
            made = [make(int(index)) for index in faces[batch]]
            for c in range(len(conditions)):
                crops = [of_face[c] for of_face in made]
                images = np.stack([crop.image for crop in crops])
                truth = np.stack([crop.landmarks for crop in crops])
                d = np.array([crop.d for crop in crops])
                for name, aligner in aligners:
                    shapes = aligner.align_crops(images)[0][:, -1]
                    errors[name][c, batch] = nme(shapes, truth, d, prepared.counted[faces[batch]])
            bar.update(len(made))

    def of_panel(found: Errors, panel: Perturbation) -> Errors:
        rows = [0 if v == panel.neutral else conditions.index((panel, v)) for v in panel.values]
        return found[rows]

    sides = (prepared.boxes[:, 2:] - prepared.boxes[:, :2]).max(axis=1) / prepared.transforms[:, 0, 0]
    resolution = next((p.values for p in panels if p.name == "resolution"), ())
    return Measured(
        tuple(panels),
        {name: {panel.name: of_panel(found, panel) for panel in panels} for name, found in errors.items()},
        tuple(int((sides[faces] <= value).sum()) if math.isfinite(value) else 0 for value in resolution),
    )


@dataclass(frozen=True)
class Cell:
    """A method under one condition.

    :param perturbation: its name
    :param value: what it was changed to, as the tables have it
    :param method: name
    :param nme: mean NME, percent
    :param nme_low: lower end of its 95 % bootstrap interval over faces, percent
    :param nme_high: upper end, percent
    :param failure_rate: faces with an NME above 0.1, percent
    :param change: what the perturbation adds to the mean NME, points of percent
    :param change_low: lower end of its 95 % bootstrap interval, face by face
    :param change_high: upper end
    """

    perturbation: str
    value: str
    method: str
    nme: float
    nme_low: float
    nme_high: float
    failure_rate: float
    change: float
    change_low: float
    change_high: float


def cells(measured: Measured, seed: int = 0) -> list[Cell]:
    """The figures of all conditions.

    :param measured: the errors
    :param seed: of the bootstrap intervals
    """
    found = []
    for panel in measured.perturbations:
        for method, errors in measured.errors.items():
            of_panel = errors[panel.name]
            usual = of_panel[panel.values.index(panel.neutral)]
            for heading, values in zip(panel.headings, of_panel, strict=True):
                low, high = bootstrap_interval(values, seed=seed)
                change = values - usual
                change_low, change_high = bootstrap_interval(change, seed=seed)
                figures = (values.mean(), low, high, failure_rate(values), change.mean(), change_low, change_high)
                found.append(Cell(panel.name, heading, method, *(100 * float(figure) for figure in figures)))
    return found


def tables_of(measured: Measured, found: Sequence[Cell], title: str, notes: Sequence[str] = ()) -> list[Table]:
    """A table for each perturbation: the mean NME and the failure rate of each method at each value.

    :param measured: the errors
    :param found: their figures, see :func:`cells`
    :param title: of each table
    :param notes: under each table
    """
    by_key = {(cell.perturbation, cell.value, cell.method): cell for cell in found}
    tables = []
    for panel in measured.perturbations:
        rows = []
        for method in measured.errors:
            row = [by_key[panel.name, heading, method] for heading in panel.headings]
            rows.append((method, *(f"{number(cell.nme)} ({number(cell.failure_rate, 1)})" for cell in row)))
        remarks = ["NME % (failures %)", *notes]
        if panel.name == "resolution" and any(measured.smaller):
            pairs = zip(panel.headings, measured.smaller, strict=True)
            counts = ", ".join(f"{heading}: {count:,}" for heading, count in pairs if count)
            remarks.insert(1, f"faces that are not larger in the photo, left as they are: {counts}")
        tables.append(Table(f"{title}: {panel.title}", ("method", *panel.headings), tuple(rows), tuple(remarks)))
    return tables


def robustness_figure(measured: Measured, found: Sequence[Cell], title: str) -> Figure:
    """The mean NME with its interval: a panel a perturbation, a curve a method.

    :param measured: the errors
    :param found: their figures, see :func:`cells`
    :param title: above all
    """
    columns = min(4, len(measured.perturbations))
    rows = -(-len(measured.perturbations) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(3.6 * columns, 3.1 * rows), layout="constrained", sharey=True, squeeze=False
    )
    for axes, panel in zip(grid.flat, measured.perturbations, strict=False):
        places = np.arange(len(panel.values))
        for method in measured.errors:
            of_method = [cell for cell in found if (cell.perturbation, cell.method) == (panel.name, method)]
            (line,) = axes.plot(places, [cell.nme for cell in of_method], marker="o", markersize=3, label=method)
            low, high = [cell.nme_low for cell in of_method], [cell.nme_high for cell in of_method]
            axes.fill_between(places, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.axvline(panel.values.index(panel.neutral), color="0.7", linestyle=":", zorder=0)
        axes.set(xlabel=panel.title, xticks=places, xticklabels=panel.headings)
        axes.grid(alpha=0.3)
    for axes in grid.flat[len(measured.perturbations) :]:
        axes.axis("off")
    for axes in grid[:, 0]:
        axes.set_ylabel("mean NME, %")
    grid.flat[0].legend(fontsize=8)
    figure.suptitle(title)
    return figure


def write_robustness(
    folder: str | os.PathLike[str],
    measured: Measured,
    prepared: PreparedFaces,
    title: str,
    notes: Sequence[str] = (),
    seed: int = 0,
    suffix: str = "",
) -> tuple[list[Table], list[Path]]:
    """Write ``robustness.json``, ``robustness.md`` and ``figures/robustness.png``, each complete or not at all.

    :param folder: of the run
    :param measured: the errors
    :param prepared: the faces
    :param title: of tables and figure
    :param notes: under each table
    :param seed: of the directions and of the bootstrap intervals
    :param suffix: of the files' names
    :return: the tables, and the paths
    :raises OSError: a file cannot be written
    """
    folder = Path(folder)
    found = cells(measured, seed)
    tables = tables_of(measured, found, title, notes)
    count = next(iter(next(iter(measured.errors.values())).values())).shape[1]
    paths = [
        folder / f"robustness{suffix}.json",
        folder / f"robustness{suffix}.md",
        folder / "figures" / f"robustness{suffix}.png",
    ]
    document = {
        "dataset": prepared.dataset.name,
        "split": prepared.dataset.split,
        "num_faces": count,
        "seed": seed,
        "notes": list(notes),
        "cells": [asdict(cell) for cell in found],
    }
    write_json(paths[0], document)
    write_tables(paths[1], f"{folder.resolve().name}: robustness", tables)
    write_figures({paths[2].stem: robustness_figure(measured, found, title)}, paths[2].parent)
    return tables, paths


def other_boxes(data: Data, split: str) -> tuple[str, str, PreparedFaces] | None:
    """The same faces with the boxes that the run does not use, where the dataset has two kinds of them.

    :param data: the faces
    :param split: which
    :return: as :func:`measure` takes it; None: there is one kind
    :raises DatasetNotFoundError: the other's files are not there
    """
    kinds = [dataset_class(part) for part in data.dataset.split("+")]
    if not all("boxes" in inspect.signature(kind).parameters for kind in kinds):
        return None
    options = dict(data.options or {})
    own = str(options.get("boxes", "landmarks"))
    other = "landmarks" if own == "detector" else "detector"
    return own, other, replace(data, options={**options, "boxes": other}).prepare(split)


def run_robustness(
    folder: str | os.PathLike[str],
    split: str | None = None,
    faces: int | None = None,
    root: str | None = None,
    device: str = "cpu",
    peers: str | os.PathLike[str] | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> list[Path]:
    """Measure the methods of a run, and dlib where it has been trained, under every perturbation.

    :param folder: the run's folder
    :param split: None: the dataset's test split
    :param faces: how many, evenly spaced; None: all
    :param root: of the data, where it is not where the run found it
    :param device: where the networks run
    :param peers: folder of dlib's predictor; None: ``peers`` in the run's folder
    :param seed: of the directions in which boxes are shifted, and of the bootstrap intervals
    :param console: where to say what happens
    :return: the files that were written
    :raises FileNotFoundError: it is no run's folder, it has no weights, there is no data, or ``peers`` has no predictor
    :raises ModuleNotFoundError: ``peers`` is given, and dlib is not installed
    """
    console = console or Console()
    run = RunFolder(folder)
    config, data = run.config, run.data(root)
    split = split or data.test_split
    prepared = data.prepare(split)
    indices = evenly_spaced(len(prepared), faces)
    aligners: list[tuple[str, CropAligner]] = [
        (name, aligner) for name, aligner in methods(run, device) if name in METHODS
    ]
    notes = [f"{len(indices):,} of {len(prepared):,} faces"] if len(indices) < len(prepared) else []
    where = Path(peers) if peers is not None else run.path / "peers"
    if peers is not None or (where / PREDICTOR).is_file():
        try:
            dlib = DlibAligner(where)
        except ModuleNotFoundError as error:
            if peers is not None:
                raise  # it was asked for
            notes.append(f"dlib is left out: {error}")
            console.print(notes[-1], highlight=False, markup=False)
        else:
            if dlib.num_landmarks != prepared.scheme.num_landmarks:
                raise ValueError(
                    f"dlib's predictor in '{where}' gives {dlib.num_landmarks} landmarks, the faces have "
                    f"{prepared.scheme.num_landmarks}."
                )
            aligners.append(("dlib", dlib))
            notes.append(peers_note(dlib))
    boxes = None
    try:
        boxes = other_boxes(data, split)
    except DatasetNotFoundError as error:
        # The other perturbations are worth having without them, and the tables say what they lack.
        notes.append(f"other boxes are left out: {error}")
        console.print(notes[-1], highlight=False, markup=False)
    measured = measure(aligners, prepared, indices, boxes, seed=seed, progress=console.is_terminal)
    title = f"{data.dataset} {split}, {len(indices)} faces, preset {config.preset}, seed {config.seed}"
    suffix = "" if split == data.test_split else f"-{split}"
    tables, paths = write_robustness(run.path, measured, prepared, title, notes, seed, suffix)
    for table in tables:
        console.print(table)
    return paths
