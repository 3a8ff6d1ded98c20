"""``face-align calibrate``: the head that predicts the error of a face, and how well it does on test faces."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from face_align_env.agents.evaluation.figures import write_figures
from face_align_env.agents.evaluation.tables import Table, number, write_tables
from face_align_env.agents.release import add_head
from face_align_env.agents.run_folder import RunFolder
from face_align_env.aligner import FaceAligner
from face_align_env.augmentation import Augmentation
from face_align_env.crops import CROP_SIZE
from face_align_env.datasets import REGISTRY, dataset_class
from face_align_env.datasets.held_out import VALIDATION
from face_align_env.extras import needs
from face_align_env.files import write_json
from face_align_env.metrics import ReliabilityBin, reliability, spearman
from face_align_env.networks.confidence import ErrorHead
from face_align_env.networks.gain import GainHead
from face_align_env.pretrain.confidence import Fit, Seen, Stretch, fit_error_head, fit_stretch, predict, see, stretched
from face_align_env.pretrain.faces import DeviceFaces
from face_align_env.pretrain.recipes import Data
from face_align_env.pretrain.settings import read_json
from face_align_env.released import FOLDER, Release, find_release, load_networks

with needs("plots", "A figure"):
    import matplotlib

    matplotlib.use("Agg")  # no screen is needed
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

NAMES = ("one look", "two looks")


@dataclass(frozen=True)
class Reliability:
    """Predicted and real errors of test faces.

    :param looks: ``"one look"``, or ``"two looks"`` (with the mirrored one)
    :param nme: mean NME, percent
    :param predicted: mean predicted NME, percent
    :param spearman: rank correlation of both
    :param deviation: mean absolute difference of both, points of percent
    :param bins: tenths of the faces, the surest first
    """

    looks: str
    nme: float
    predicted: float
    spearman: float
    deviation: float
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class Calibration:
    """What was fitted and measured.

    :param fit: how the head was fitted
    :param stretch: how it was corrected for faces that the networks have not seen; None: it was not
    :param reliabilities: of one look and of two
    :param paths: the files that were written
    """

    fit: Fit
    stretch: Stretch | None
    reliabilities: tuple[Reliability, ...]
    paths: tuple[Path, ...]


def calibrate(
    weights: str | os.PathLike[str],
    root: str | None = None,
    views: int = 2,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
    weights_folder: str | os.PathLike[str] = FOLDER,
    held_out: str | os.PathLike[str] | None = None,
    like: str | os.PathLike[str] | None = None,
    console: Console | None = None,
) -> Calibration:
    """Fit the head of a run or a release on its training faces, measure it on test faces, and store it.

    :param weights: the folder of a run, which gets ``confidence.safetensors``; or the name of a release, whose file
        gets the head and whose card is brought up to date
    :param root: of the data, where it is not where the run found it; a release does not know where it is
    :param views: random views of each training face
    :param seed: of the views
    :param output: folder of the figures of test faces, ``confidence.json``, ``.md`` and ``.png``; None: the run's, or
        ``runs/NAME``
    :param weights_folder: where releases are
    :param held_out: text file with the ids of those faces of the training split that the networks have not seen, a line
        each; the head is fitted on the others, and stretched by these. None: those that the run has held out
        (``--option held_out=0.1``); where there are none, the head will be too sure of faces that they have not seen
    :param like: ``confidence.json`` of other weights that were calibrated with ``held_out``, for the same stretch
    :param console: where the table goes
    :raises FileNotFoundError: the folder is not that of a run, or has no weights
    :raises ValueError: there is no such release, a face is not one of the training split, or ``like`` has no stretch
    :raises WeightsError: the release is damaged
    :raises DatasetNotFoundError: the data is nowhere to be found
    """
    console = console or Console()
    subject = Subject.of(weights, root, weights_folder)
    data, aligner = subject.data, subject.aligner
    other = None if like is None else _read_stretch(like)
    train, test = (DeviceFaces(data.whole.prepare(split), CROP_SIZE) for split in (data.splits[0], None))
    names: Sequence[str] = []
    if held_out is not None:
        names = Path(held_out).read_text(encoding="utf-8").split() or [""]
    elif data.whole != data:
        names = data.prepare(VALIDATION).ids
    unseen = _places(names, train.prepared.ids, held_out)
    known = np.setdiff1d(np.arange(len(train)), unseen)
    head, fit = fit_error_head(see(aligner, train, Augmentation(), views, seed).of(known), aligner.start.num_landmarks)
    told = (
        f"ridge regression of log NME on d_T, {views} random views of each of {len(known):,} training faces, penalty "
        f"{fit.penalty:g}"
    )
    stretch = fit_stretch(head, see(aligner, train).of(unseen)) if len(unseen) else other
    if stretch is not None:
        head = stretched(head, stretch)
        source = (
            f"{len(unseen):,} training faces held out" if len(unseen) else "faces that another cascade had not seen"
        )
        told += f"; stretched by {source} (slope {stretch.one[1]:.2f}, {stretch.two[1]:.2f} for two looks)"
    measured = tuple(measure(head, see(aligner, test)))
    written = subject.store("confidence", head, told)
    folder = Path(output or subject.folder)
    title = f"{test.prepared.dataset.name} {test.prepared.dataset.split}, {len(test)} faces"
    left_out = f"Spearman on views that were left out {fit.spearman_one:.2f}, with the mirror {fit.spearman_two:.2f}"
    table = reliability_table(measured, title, [f"the head: {told}", left_out])
    console.print(table)
    document = {
        "dataset": test.prepared.dataset.name,
        "split": test.prepared.dataset.split,
        "num_faces": len(test),
        "fit": asdict(fit),
        "stretch": None if stretch is None else asdict(stretch),
        "test": [asdict(each) for each in measured],
    }
    paths = [folder / "confidence.json", folder / "confidence.md"]
    write_json(paths[0], document)
    write_tables(paths[1], "Predicted and real errors", [table])
    paths += write_figures({"confidence": reliability_figure(measured, title)}, folder / "figures")
    return Calibration(fit, stretch, measured, (written, *paths))


@dataclass(frozen=True)
class Subject:
    """What is taught to predict something of its faces.

    :param source: a run or a release
    :param data: the faces that it has learnt from
    :param aligner: its own, which looks twice
    """

    source: RunFolder | Release
    data: Data
    aligner: FaceAligner

    @classmethod
    def of(cls, weights: str | os.PathLike[str], root: str | None, weights_folder: str | os.PathLike[str]) -> Subject:
        """What a name, or a folder, names.

        :param weights, root, weights_folder: see :func:`calibrate`
        :raises FileNotFoundError, ValueError, WeightsError: see :func:`calibrate`
        """
        if Path(weights).is_dir():
            run = RunFolder(weights)
            return cls(run, run.data(root), run.aligner(mirror=True))
        release = find_release(os.fspath(weights), weights_folder)
        return cls(release, *_released(release, root))

    @property
    def folder(self) -> Path:
        """Where its figures go."""
        return self.source.path if isinstance(self.source, RunFolder) else Path("runs") / self.source.name

    def store(self, part: str, head: ErrorHead | GainHead, told: str) -> Path:
        """Keep a head with the weights.

        :param part: ``confidence`` or ``gain``
        :param told: how it was fitted, in words
        :return: the file that has it
        """
        if isinstance(self.source, Release):
            return add_head(self.source, part, head, told).path
        path = self.source.head(part)
        head.save(path, {"fit": told})
        return path


def _released(release: Release, root: str | None) -> tuple[Data, FaceAligner]:
    """The faces that a release has learnt from, and its aligner."""
    card = release.card
    options: dict[str, Any] = {} if card.data.boxes == "landmarks" else {"boxes": card.data.boxes}
    name = "+".join(card.data.datasets)
    if name in REGISTRY and dataset_class(name).generated:
        options["size"] = card.data.datasets[name]
    data = Data(name, root, card.landmarks, options or None)
    gen, lrn = load_networks(release)
    return data, FaceAligner(gen, lrn, card.alpha_2, margin=card.margin, mirror=True)


def _places(
    names: Sequence[str], ids: Sequence[str], path: str | os.PathLike[str] | None = None
) -> npt.NDArray[np.int64]:
    """Where faces are among the training faces.

    :param names: their ids
    :param ids: of all training faces
    :param path: the file that names them
    :raises ValueError: one is not there
    """
    places = {str(name): i for i, name in enumerate(ids)}
    unknown = [name for name in map(str, names) if name not in places]
    if unknown:
        raise ValueError(f"'{path}' must name training faces such as '{ids[0]}', one a line; got '{unknown[0]}'.")
    return np.array(sorted(places[str(name)] for name in names), dtype=np.int64)


def _read_stretch(path: str | os.PathLike[str]) -> Stretch:
    """The stretch that another calibration has found.

    :raises ValueError: it has found none
    """
    document = read_json(path).get("stretch")
    if document is None:
        raise ValueError(f"'{path}' has no stretch: calibrate those weights with --held-out.")
    return Stretch.from_document(document)


def measure(head: ErrorHead, seen: Seen) -> Iterator[Reliability]:
    """How well a head predicts the errors of test faces, without and with the mirrored look."""
    for name, predicted, errors in zip(NAMES, predict(head, seen), seen.errors[[0, 2]], strict=True):
        yield Reliability(
            name,
            float(errors.mean()),
            float(predicted.mean()),
            spearman(predicted, errors),
            float(np.abs(predicted - errors).mean()),
            tuple(reliability(predicted, errors)),
        )


def reliability_table(measured: Sequence[Reliability], title: str, notes: Sequence[str] = ()) -> Table:
    """A row for each tenth of the faces.

    :param measured: of one look and of two
    :param title: above it
    :param notes: under it
    """
    columns = ["faces, the surest first"]
    for each in measured:
        columns += [f"{each.looks}: predicted %", "NME %", "95 % interval"]
    rows = []
    for bins in zip(*(each.bins for each in measured), strict=True):
        cells = [f"{bins[0].faces}"]
        for part in bins:
            cells += [number(part.predicted), number(part.real), f"{part.low:.2f} .. {part.high:.2f}"]
        rows.append(tuple(cells))
    summary = [
        f"{each.looks}: NME {each.nme:.2f} %, predicted {each.predicted:.2f} %, Spearman {each.spearman:.2f}, mean "
        f"deviation {each.deviation:.2f} points"
        for each in measured
    ]
    return Table(title, tuple(columns), tuple(rows), (*summary, *notes))


def reliability_figure(measured: Sequence[Reliability], title: str) -> Figure:
    """Real over predicted errors, a point for each tenth of the faces, with 95 % intervals."""
    figure, axes = plt.subplots(figsize=(4.8, 4.4), layout="constrained")
    highest = max(part.high for each in measured for part in each.bins)
    axes.plot([0, highest], [0, highest], color="0.7", linewidth=1, label="predicted = real")
    for each, marker in zip(measured, "os", strict=True):
        predicted, real = [part.predicted for part in each.bins], [part.real for part in each.bins]
        bars = [p.real - p.low for p in each.bins], [p.high - p.real for p in each.bins]
        label = f"{each.looks}, Spearman {each.spearman:.2f}"
        axes.errorbar(predicted, real, bars, marker=marker, markersize=4, elinewidth=0.8, label=label)
    axes.set(xlabel="predicted NME, %", ylabel="NME, %", title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
