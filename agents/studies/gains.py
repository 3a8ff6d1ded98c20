"""``face-align calibrate``: the head that predicts what an iteration gains, and how well it does on test faces."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from face_align_env.agents.evaluation.tables import Table, number, write_tables
from face_align_env.agents.studies.calibration import Subject
from face_align_env.augmentation import Augmentation
from face_align_env.crops import CROP_SIZE
from face_align_env.files import write_json
from face_align_env.metrics import spearman
from face_align_env.networks.gain import GainHead
from face_align_env.pretrain.faces import DeviceFaces
from face_align_env.pretrain.gain import Paths, fit_gain_head, see_paths
from face_align_env.released import FOLDER


@dataclass(frozen=True)
class Gain:
    """What an iteration gains on test faces, and what it was predicted to.

    :param iteration: after which the prediction was made
    :param by_length: whether the length of its increment tells anything; otherwise all faces are predicted the same
    :param predicted: mean, points of percent
    :param real: mean, points of percent
    :param spearman: rank correlation of both; None: all predictions are the same
    """

    iteration: int
    by_length: bool
    predicted: float
    real: float
    spearman: float | None


@dataclass(frozen=True)
class Gains:
    """What was fitted and measured.

    :param gains: of each iteration but the last
    :param paths: the files that were written
    """

    gains: tuple[Gain, ...]
    paths: tuple[Path, ...]


def calibrate_gain(
    weights: str | os.PathLike[str],
    root: str | None = None,
    views: int = 2,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
    weights_folder: str | os.PathLike[str] = FOLDER,
    console: Console | None = None,
) -> Gains:
    """Fit the head of a run or a release on its training faces, measure it on test faces, and store it.

    :param weights: the folder of a run, which gets ``gain.safetensors``; or the name of a release, whose file gets the
        head and whose card is brought up to date
    :param root: of the data, where it is not where the run found it; a release does not know where it is
    :param views: random views of each training face
    :param seed: of the views
    :param output: folder of the figures of test faces, ``gain.json`` and ``.md``; None: the run's, or ``runs/NAME``
    :param weights_folder: where releases are
    :param console: where the table goes
    :raises FileNotFoundError, ValueError, WeightsError, DatasetNotFoundError: see
        :func:`~face_align_env.agents.studies.calibration.calibrate`
    """
    console = console or Console()
    subject = Subject.of(weights, root, weights_folder)
    data, aligner = subject.data, subject.aligner
    train, test = (DeviceFaces(data.prepare(split), CROP_SIZE) for split in (data.splits[0], None))
    head, by_length = fit_gain_head(see_paths(aligner, train, Augmentation(), views, seed), aligner.start.num_landmarks)
    after = ", ".join(map(str, by_length)) or "none"
    told = (
        f"least squares on the lengths of a_t after iterations {after}, the mean after others; {views} random views of "
        f"each of {len(train):,} training faces"
    )
    measured = tuple(measure_gains(head, by_length, see_paths(aligner, test)))
    written = subject.store("gain", head, told)
    folder = Path(output or subject.folder)
    title = f"{test.prepared.dataset.name} {test.prepared.dataset.split}, {len(test)} faces"
    table = gain_table(measured, title, [f"the head: {told}"])
    console.print(table)
    document = {
        "dataset": test.prepared.dataset.name,
        "split": test.prepared.dataset.split,
        "num_faces": len(test),
        "test": [asdict(each) for each in measured],
    }
    paths = folder / "gain.json", folder / "gain.md"
    write_json(paths[0], document)
    write_tables(paths[1], "What an iteration gains", [table])
    return Gains(measured, (written, *paths))


def measure_gains(head: GainHead, by_length: Sequence[int], paths: Paths) -> Iterator[Gain]:
    """How well a head predicts what the iterations of test faces gain."""
    gains = paths.errors[1:-1] - paths.errors[2:]
    for t, (lengths, real) in enumerate(zip(paths.lengths[:-1], gains, strict=True), 1):
        predicted = head.of_lengths(t, torch.from_numpy(lengths.astype(np.float32))).double().numpy()
        told = t in by_length
        rank = spearman(predicted, real) if told else None
        yield Gain(t, told, float(predicted.mean()), float(real.mean()), rank)


def gain_table(measured: Sequence[Gain], title: str, notes: Sequence[str] = ()) -> Table:
    """A row for each iteration.

    :param measured: what was found
    :param title: above it
    :param notes: under it
    """
    columns = ("iteration", "predicted of the next, points of %", "gained", "Spearman")
    rows = [
        (
            str(each.iteration),
            number(each.predicted, 3),
            number(each.real, 3),
            "same for all faces" if each.spearman is None else number(each.spearman),
        )
        for each in measured
    ]
    return Table(title, columns, tuple(rows), tuple(notes))
