"""Evaluation of a run: every method that it has trained, on test faces, beside the paper's figures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from face_align_env.agents.evaluation.face_figures import save_face_figures
from face_align_env.agents.evaluation.figures import save_figures
from face_align_env.agents.evaluation.files import write_evaluation
from face_align_env.agents.evaluation.measure import Outcome, evaluate_method, paired_differences
from face_align_env.agents.evaluation.paper_tables import PROTOCOLS, paper_tables
from face_align_env.agents.evaluation.rewards import reward_tables
from face_align_env.agents.evaluation.tables import Table, method_table, occlusion_table, write_tables
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.run_folder import GEN_CASCADES, MEAN_CASCADES, RunFolder
from face_align_env.aligner.aligner import FaceAligner
from face_align_env.datasets import DatasetNotFoundError, FaceDataset, load_dataset
from face_align_env.mdp import MAX_ITERATIONS, MDPParameters
from face_align_env.networks.cascade import MeanStart
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.networks.weights import load_weights
from face_align_env.prepared import PreparedFaces
from face_align_env.pretrain.recipes import Data


@dataclass(frozen=True)
class _Evaluation:
    """What all splits of an evaluation have in common.

    :param run: its folder
    :param config: of the run
    :param data: what is measured on; its own splits are the run's test splits where ``own``
    :param own: whether the run has learnt from this dataset
    :param training: lines about what its training faces lack of the protocol
    :param device: where the networks run
    :param seed: of the bootstrap intervals
    :param console: where the tables go
    """

    run: RunFolder
    config: RunConfig
    data: Data
    own: bool
    training: list[str]
    device: str
    seed: int
    console: Console

    @property
    def source(self) -> str:
        """What the run's rows are called beside the paper's."""
        return "this run" if self.own else f"this run, trained on {self.config.data.dataset}"

    @property
    def settings(self) -> str:
        """How the run was trained, for titles."""
        return f"preset {self.config.preset}, seed {self.config.seed}{self.source.removeprefix('this run')}"

    def name(self, kind: str, splits: Sequence[str]) -> str:
        """Of a file: its kind, the dataset where it is not the run's, and splits."""
        return "-".join([kind, *([] if self.own else [self.data.dataset]), *splits])


@dataclass(frozen=True)
class _Measured:
    """A split that has been evaluated.

    :param outcomes: its rows
    :param num_faces: N
    :param tables: its tables
    :param caveats: lines about what this copy of it lacks of the protocol
    :param obstacle: see :func:`_obstacle`
    :param path: its figures as JSON
    """

    outcomes: list[Outcome]
    num_faces: int
    tables: list[Table]
    caveats: list[str]
    obstacle: str | None
    path: Path


def evaluate(
    folder: str | os.PathLike[str],
    splits: Sequence[str] | None = None,
    device: str = "cpu",
    console: Console | None = None,
    root: str | None = None,
    on: str | None = None,
    seed: int = 0,
) -> list[Path]:
    """Measure every method of a run on test splits, and set the figures beside the paper's where it has some.

    ``evaluation.json`` is that of the dataset's test split, ``tables.md`` that of all splits.

    :param folder: the run's folder
    :param splits: None: every split but the training split, without those that this copy of the dataset lacks
    :param device: where the networks run
    :param console: where the tables go
    :param root: of the data, where it is not where the run found it
    :param on: another dataset of the same landmarks; None: the run's own
    :param seed: of the bootstrap intervals
    :return: the figures of each split as JSON
    :raises FileNotFoundError: it is no run's folder, it has no weights, or there is no data
    :raises ValueError: the other dataset has no such landmarks
    """
    console = console or Console()
    work = _begin_evaluation(RunFolder(folder), root, on, device, seed, console)
    dataset = work.data.dataset
    measured: dict[str, _Measured] = {}
    absent: DatasetNotFoundError | None = None
    for split in splits or work.data.splits[1:]:
        try:
            prepared = work.data.prepare(split, max_cached=2048)
        except DatasetNotFoundError as error:
            if splits:
                raise
            absent = error
            console.print(f"Skipped {dataset} {split}: its data is not there (--split {split} says what is missing).")
            continue
        measured[split] = _evaluate_split(work, split, prepared)
    if absent is not None and not measured:
        raise absent
    tables = [table for found in measured.values() for table in found.tables]
    path = work.run.path / f"{work.name('tables', splits or [])}.md"
    heading = f"{work.run.path.resolve().name} on {dataset}"
    write_tables(path, heading, [*tables, *_beside_the_paper(work, measured)])
    console.print(f"Tables: {path}")
    return [found.path for found in measured.values()]


def _begin_evaluation(
    run: RunFolder, root: str | None, on: str | None, device: str, seed: int, console: Console
) -> _Evaluation:
    config = run.config
    own = on is None or on == config.data.dataset
    if own:
        data = run.data(root)
    else:
        assert on is not None
        data = Data(on, root, GEN.load(run.gen).num_landmarks)
    training = _training_caveats(data if own else config.data)
    return _Evaluation(run, config, data, own, training, device, seed, console)


def _evaluate_split(work: _Evaluation, split: str, prepared: PreparedFaces) -> _Measured:
    """Measure all methods on a split; print its tables, write its figures and ``evaluation*.json``."""
    outcomes = measure_methods(work.run, prepared, work.device, work.seed)
    path = work.run.path / f"{work.name('evaluation', [] if split == work.data.test_split else [split])}.json"
    write_evaluation(path, prepared, work.config.seed, outcomes)
    caveats = _caveats(prepared.dataset)
    title = f"{work.data.dataset} {split}, {len(prepared)} faces, {work.settings}"
    notes = [*caveats, *work.training]
    shown = [
        method_table(title, [outcome.row for outcome in outcomes], notes),
        *filter(None, [occlusion_table(title, outcomes, prepared, notes)]),
    ]
    for table in shown:
        work.console.print(table)
    _print_what_rl_changed(work, outcomes)
    figures = work.run.path / "figures" / (split if work.own else f"{work.data.dataset}-{split}")
    save_figures(outcomes, title, figures)
    save_face_figures(outcomes, prepared, title, figures)
    work.console.print(f"Results: {path}, figures: {figures}")
    tables = [*shown, *reward_tables(title, outcomes)]
    return _Measured(outcomes, len(prepared), tables, caveats, _obstacle(prepared), path)


def _print_what_rl_changed(work: _Evaluation, outcomes: Sequence[Outcome]) -> None:
    by_name = {outcome.row.method: outcome for outcome in outcomes}
    if "DCRN" in by_name and "LRN+Eq.3" in by_name:
        changes = paired_differences(by_name["DCRN"], by_name["LRN+Eq.3"], work.seed)
        parts = [f"{key} {mean:+.3f} ({low:+.3f} .. {high:+.3f})" for key, (mean, low, high) in changes.items()]
        work.console.print(f"DCRN minus LRN+Eq.3, face by face: {', '.join(parts)}")


def _beside_the_paper(work: _Evaluation, measured: Mapping[str, _Measured]) -> list[Table]:
    """The paper's tables with the run's rows, printed; none where the figures do not compare."""
    obstacle = next((found.obstacle for found in measured.values() if found.obstacle), None)
    if obstacle:
        work.console.print(f"The paper's tables are left out: {obstacle}.")
        return []
    counts = [f"{split} {found.num_faces:,} faces" for split, found in measured.items()]
    lacking = [line for found in measured.values() for line in found.caveats]
    notes = [f"this run: {work.data.dataset}, {', '.join(counts)}, {work.settings}", *lacking, *work.training]
    outcomes = {split: found.outcomes for split, found in measured.items()}
    tables = paper_tables(work.data.dataset, outcomes, work.source, notes)
    for table in tables:
        work.console.print(table)
    return tables


def measure_methods(
    run: RunFolder, prepared: PreparedFaces, device: str, seed: int, only: str | None = None
) -> list[Outcome]:
    """Every method of a run on the faces of a split, and the episodes of those that have some.

    :param run: the run
    :param prepared: the faces
    :param device: where the networks run
    :param seed: of the bootstrap intervals
    :param only: the name of one method, see :func:`methods`; None: all
    :raises FileNotFoundError: see :func:`methods`
    """
    outcomes = []
    for method, aligner in methods(run, device):
        if only not in (None, method):
            continue
        # Only those that Eq. 3 stops have episodes.
        alpha_2 = None if aligner.lrn is None else aligner.alpha_2
        parameters = None if alpha_2 is None else MDPParameters(alpha_2=alpha_2)
        outcomes.append(evaluate_method(method, aligner, prepared, seed, parameters))
    return outcomes


def _obstacle(prepared: PreparedFaces) -> str | None:
    """Why the paper's figures on a dataset do not compare with those on these faces; None: nothing, or it has none."""
    protocol = PROTOCOLS.get(prepared.dataset.name)
    found = (prepared.scheme.num_landmarks, prepared.normalizer)
    if protocol is None or found == (protocol.num_landmarks, protocol.normalizer):
        return None
    return (
        f"they are of {protocol.num_landmarks} landmarks and the normaliser '{protocol.normalizer}', "
        f"these figures of {found[0]} and '{found[1]}'"
    )


def _caveats(dataset: FaceDataset) -> list[str]:
    """What the published protocol has and this copy of a split lacks, a line each."""
    return [f"{part.name} {part.split}: {line}" for part in dataset.parts for line in part.missing()]


def _training_caveats(data: Data) -> list[str]:
    """The same of the faces that the run has learnt from; none where they are not at hand any more."""
    try:
        return _caveats(load_dataset(data.dataset, "train", data.root, data.landmarks, **(data.options or {})))
    except DatasetNotFoundError:
        return []


def methods(run: RunFolder, device: str) -> Iterator[tuple[str, FaceAligner]]:
    """The rows of Table 6 that the run has weights for, and ``LRN+Eq.3``: the pretrained LRN stopped by Eq. 3.

    :param run: the run
    :param device: where the networks run
    :raises FileNotFoundError: it is not the folder of a run, or has no GEN
    """
    alpha_2 = run.config.alpha_2
    gen = GEN.load(run.gen)
    yield "GEN", FaceAligner(gen, None, device=device)
    for m in MEAN_CASCADES:
        path = run.cascade(m, from_mean=True)
        if path.is_file():
            notes: dict[str, Any] = load_weights(path, "lrn")[2]
            start = MeanStart(torch.tensor(notes["mean_shape"]))
            yield f"LRN-{m}", FaceAligner(start, LRN.load(path), alpha_2=None, max_iterations=m, device=device)
    for m in GEN_CASCADES:
        path = run.cascade(m)
        if path.is_file():
            yield f"GEN-LRN{m}", FaceAligner(gen, LRN.load(path), None, m, device=device)
    for method, path in {"LRN+Eq.3": run.policy, "DCRN": run.agent}.items():
        if path.is_file():
            yield method, FaceAligner(gen, LRN.load(path), alpha_2, MAX_ITERATIONS, device=device)
