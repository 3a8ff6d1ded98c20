"""What the seeds of a run say together.

A run of several seeds is a folder with an ordinary run's folder for each, ``seed-0``, ``seed-1``, ...
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from face_align_env.agents.evaluation.files import read_evaluation, read_faces
from face_align_env.agents.evaluation.tables import Table, number, write_tables
from face_align_env.agents.run_folder import RunFolder
from face_align_env.files import write_json
from face_align_env.metrics import FAILURE_THRESHOLD
from face_align_env.pretrain.settings import require_same

CONFIDENCE = 0.95
RESAMPLES = 2000

Floats = npt.NDArray[np.float64]

# What a method's (S, N) errors and counts tell of each face, so that a mean over faces is the figure of the table.
_MEASURES: dict[str, tuple[str, Callable[[Floats], Floats]]] = {
    "nme": ("nme", lambda error: 100 * error),
    "nme_inter_pupil": ("nme_inter_pupil", lambda error: 100 * error),
    "failure_rate": ("nme", lambda error: 100 * (error > FAILURE_THRESHOLD).astype(np.float64)),
    "auc": ("nme", lambda error: np.clip(1 - error / FAILURE_THRESHOLD, 0, None)),
    "iterations": ("iterations", lambda count: count),
    "return": ("return", lambda value: value),
}
_DIFFERENCES = {"nme": "NME, points of %", "iterations": "iterations", "return": "return"}


@dataclass(frozen=True)
class Estimate:
    """A figure over several seeds.

    :param mean: over the seeds
    :param low: lower end of its 95 % interval, see :func:`estimate`
    :param high: upper end
    :param by_seed: the figure of each seed
    """

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]


def estimate(values: Floats, over: Floats | None = None, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean over seeds and faces, with an interval for other seeds and other faces.

    Two things vary: the faces, which are the same for all seeds, and the seeds. Faces are resampled, all seeds with
    the same ones. Seeds are too few for that: resampling three of them gives intervals that are far too narrow (about
    80 % instead of 95 % coverage, in simulations). Instead, each resample is shifted by a draw from Student's t
    distribution with S - 1 degrees of freedom, times the standard error of the seeds' mean. With one seed there is no
    such shift, and the interval is one of faces only.

    :param values: (S, N), a number for each seed and face
    :param over: (S, N); given, the figure is the ratio of the two means
    :param seed: of the resampling
    :param resamples: number of bootstrap samples
    """
    seeds, faces = values.shape
    rng = np.random.default_rng(seed)

    def figure(weights: Floats) -> Floats:
        """(S, ...) the figure of each seed with the faces weighted."""
        top = values @ weights
        return top if over is None else top / (over @ weights)

    by_seed = figure(np.full(faces, 1 / faces))
    drawn = np.empty(resamples)
    for start in range(0, resamples, 100):  # a part at a time: the weights of all would be large
        count = min(100, resamples - start)
        weights = rng.multinomial(faces, np.full(faces, 1 / faces), size=count).T / faces
        drawn[start : start + count] = figure(weights).mean(axis=0)
    if seeds > 1:
        drawn += rng.standard_t(seeds - 1, resamples) * by_seed.std(ddof=1) / np.sqrt(seeds)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(by_seed.mean()), float(low), float(high), tuple(by_seed.tolist()))


@dataclass(frozen=True, eq=False)
class Split:
    """What the seeds have measured on a split.

    :param name: of the files, ``evaluation-common``
    :param title: dataset and split
    :param seeds: those that have measured it
    :param methods: method -> array's name in the ``.npz`` -> (S, N); only what all these seeds have
    :param notes: what is missing
    """

    name: str
    title: str
    seeds: tuple[int, ...]
    methods: dict[str, dict[str, Floats]]
    notes: tuple[str, ...]

    @property
    def num_faces(self) -> int:
        """N."""
        return int(next(iter(self.methods.values()))["nme"].shape[1])

    def measured(self, seed: int = 0) -> dict[str, dict[str, Estimate]]:
        """Method -> measure -> its estimate; NME and failure rate in percent, AUC a fraction."""
        return {
            method: {
                measure: estimate(of_faces(arrays[key]), seed=seed)
                for measure, (key, of_faces) in _MEASURES.items()
                if key in arrays
            }
            for method, arrays in self.methods.items()
        }

    def compared(self, seed: int = 0) -> dict[str, Estimate]:
        """What the paper's argument rests on, each on the same faces and within the same seed."""
        found = {}
        ours = self.methods.get("DCRN", {})
        without_rl = self.methods.get("LRN+Eq.3", {})
        for measure, label in _DIFFERENCES.items():
            if measure in ours and measure in without_rl:
                _, of_faces = _MEASURES[measure]
                difference = of_faces(ours[measure]) - of_faces(without_rl[measure])
                found[f"DCRN minus LRN+Eq.3: {label}"] = estimate(difference, seed=seed)
        for method in ("GEN", "GEN-LRN8"):
            if "nme" in ours and method in self.methods:
                found[f"DCRN over {method}: ratio of NME"] = estimate(ours["nme"], self.methods[method]["nme"], seed)
        return found


def seed_folders(folder: str | os.PathLike[str]) -> dict[int, Path]:
    """The runs of a run of several seeds, by seed.

    :raises FileNotFoundError: there is none
    :raises ValueError: they differ in more than their seed
    """
    found = {int(path.parent.name[5:]): path.parent for path in Path(folder).glob("seed-*/config.json")}
    if not found:
        raise FileNotFoundError(
            f"'{folder}' is no run of several seeds: it has no seed-*/config.json. Make one: face-align run --seeds 3"
        )
    found = dict(sorted(found.items()))
    first, *others = found.values()
    for other in others:
        require_same(other, _settings(first), _settings(other))
    return found


def _settings(folder: Path) -> dict[str, Any]:
    """A run's settings without its seed, and without the place of its data: that its faces are the same is checked."""
    return replace(RunFolder(folder).config, seed=0).without_root().document()


def summarize(folder: str | os.PathLike[str], console: Console | None = None, seed: int = 0) -> None:
    """What the seeds of a run say together: ``seeds.md`` and ``seeds.json`` in its folder.

    Seeds that have not measured a split yet are named and left out.

    :param folder: with ``seed-0``, ``seed-1``, ...
    :param console: where the tables go
    :param seed: of the intervals
    :raises FileNotFoundError: there are no seeds, or none has been evaluated
    :raises ValueError: the seeds have other settings, or have measured other faces
    """
    console = console or Console()
    folder = Path(folder)
    folders = seed_folders(folder)
    names = sorted({path.stem for each in folders.values() for path in each.glob("evaluation*.json")})
    splits = [split for name in names if (split := _read_split(name, folders)) is not None]
    if not splits:
        raise FileNotFoundError(f"No seed of '{folder}' has been evaluated: face-align evaluate {folder}/seed-...")
    tables: list[Table] = []
    document = {}
    for split in splits:
        measured, compared = split.measured(seed), split.compared(seed)
        tables += _tables(split, measured, compared)
        document[split.name] = {
            "title": split.title,
            "num_faces": split.num_faces,
            "seeds": list(split.seeds),
            "notes": list(split.notes),
            "methods": {name: {key: asdict(v) for key, v in values.items()} for name, values in measured.items()},
            "compared": {key: asdict(value) for key, value in compared.items()},
        }
    for table in tables:
        console.print(table)
    write_json(folder / "seeds.json", {"seeds": list(folders), "evaluations": document})
    write_tables(folder / "seeds.md", f"{folder.resolve().name}, {len(folders)} seeds", tables)
    console.print(f"Seeds: {folder / 'seeds.md'}, {folder / 'seeds.json'}")


def _read_split(name: str, folders: Mapping[int, Path]) -> Split | None:
    """One evaluation of all seeds that have it; None: no seed has all of it.

    :raises ValueError: the seeds have measured other faces
    """
    documents: dict[int, dict[str, Any]] = {}
    arrays: dict[int, dict[str, npt.NDArray[Any]]] = {}
    for seed, folder in folders.items():
        path = folder / f"{name}.json"
        if path.is_file() and path.with_suffix(".npz").is_file():
            documents[seed] = read_evaluation(path)
            arrays[seed] = read_faces(path)
    if not arrays:
        return None
    first = min(arrays)
    for seed, found in arrays.items():
        for key in ("ids", "normalizer"):
            if not np.array_equal(found[key], arrays[first][key]):
                raise ValueError(
                    f"'{folders[seed]}' and '{folders[first]}' have measured other faces or with another normaliser "
                    f"({name}: '{key}' differs): evaluate both on the same data, with face-align evaluate."
                )
    notes = []
    absent = [seed for seed in folders if seed not in arrays]
    if absent:
        notes.append(f"not measured yet: seed {_listed(absent)}")
    if len(arrays) == 1:
        notes.append("one seed: the intervals say nothing of how much seeds differ")
    methods: dict[str, dict[str, Floats]] = {}
    for method in dict.fromkeys(row["method"] for document in documents.values() for row in document["rows"]):
        without = [seed for seed in arrays if f"{method}/nme" not in arrays[seed]]
        if without:  # the evaluation is older than the stage
            notes.append(f"{method} is left out: seed {_listed(without)} has not measured it; evaluate again")
            continue
        methods[method] = {
            key: np.stack([found[f"{method}/{key}"] for found in arrays.values()]).astype(np.float64)
            for key in ("nme", "nme_inter_pupil", "iterations", "return")
            if all(f"{method}/{key}" in found for found in arrays.values())
        }
    if not methods:
        return None
    document = documents[first]
    return Split(name, f"{document['dataset']} {document['split']}", tuple(arrays), methods, tuple(notes))


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _tables(
    split: Split, measured: Mapping[str, Mapping[str, Estimate]], compared: Mapping[str, Estimate]
) -> list[Table]:
    """A split's tables: the methods, and what they are to each other."""

    def cell(found: Mapping[str, Estimate], measure: str, digits: int = 2) -> str:
        return number(found[measure].mean, digits) if measure in found else ""

    title = f"{split.title}, {split.num_faces:,} faces, seeds {_listed(split.seeds)}"
    rows = tuple(
        (
            method,
            cell(found, "nme"),
            f"{found['nme'].low:.2f} .. {found['nme'].high:.2f}",
            ", ".join(number(value) for value in found["nme"].by_seed),
            cell(found, "nme_inter_pupil"),
            cell(found, "failure_rate", 1),
            cell(found, "auc", 3),
            cell(found, "iterations"),
            f"{found['return'].mean:+.2f}" if "return" in found else "",
        )
        for method, found in measured.items()
    )
    columns = ("method", "NME %", "95 % interval", "of each seed", "inter-pupil %", "failures %", "AUC", "iterations")
    notes = ("means over seeds; the intervals are for other seeds and other faces", *split.notes)
    tables = [Table(title, (*columns, "return"), rows, notes)]
    if compared:
        lines = []
        for label, value in compared.items():
            form = "{:.3f}" if "ratio of" in label else "{:+.3f}"
            mean, low, high, *each = map(form.format, (value.mean, value.low, value.high, *value.by_seed))
            lines.append((label, mean, f"{low} .. {high}", ", ".join(each)))
        heading = f"{title}: compared on the same faces, seed by seed"
        tables.append(Table(heading, ("compared", "mean", "95 % interval", "of each seed"), tuple(lines), split.notes))
    return tables
