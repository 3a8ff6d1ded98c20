"""``face-align run``: the whole path of the paper in one folder, each stage where the last one left it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from agents.aligner import FaceAligner
from agents.evaluation import (
    Outcome,
    Sheet,
    episode_returns,
    evaluate_method,
    occlusion_table,
    paired_differences,
    table,
    write_evaluation,
    write_tables,
)
from agents.figures import save_figures
from agents.paper_tables import PROTOCOLS, paper_tables
from agents.training import AgentConfig, train_dcrn
from face_align_env.crops import CROP_SIZE
from face_align_env.datasets import DatasetNotFoundError, FaceDataset, dataset_class, dataset_splits, load_dataset
from face_align_env.initialization import GENInitializer
from face_align_env.mdp import MAX_ITERATIONS
from face_align_env.networks.cascade import MeanStart
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.networks.weights import load_weights
from face_align_env.prepared import PreparedFaces
from pretrain.loop import make_fabric
from pretrain.recipes import Data, FacesOnDevice, pretrain_gen, pretrain_lrn, recipe
from pretrain.settings import settle

WEIGHTS = "weights.safetensors"
MEAN_CASCADES = (2, 4, 8)  # LRN-m of Table 6
GEN_CASCADE = 8  # GEN-LRN8


@dataclass(frozen=True)
class RunConfig:
    """A run: everything that shapes its results.

    :param data: which faces
    :param preset: networks and recipe
    :param seed: of everything random
    :param precision: of the supervised training, Fabric's name; None: by device
    :param gen_epochs: None: the recipe's
    :param lrn_epochs: None: the recipe's
    :param agent: how DCRN is trained
    :param alpha_2: Eq. 3's bound for DCRN and LRN+Eq.3; None: the dataset's
    """

    data: Data = field(default_factory=Data)
    preset: str = "compact"
    seed: int = 0
    precision: str | None = None
    gen_epochs: int | None = None
    lrn_epochs: int | None = None
    agent: AgentConfig = field(default_factory=AgentConfig)
    alpha_2: float | None = None

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> RunConfig:
        """The configuration that a run's folder was made with.

        :raises FileNotFoundError: it is no run's folder
        """
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"'{folder}' is no folder of a run: it has no config.json. Make one: face-align run"
            )
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**values, "data": Data(**values["data"]), "agent": AgentConfig(**values["agent"])})

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Store the configuration, or check that the folder's is the same.

        :raises ValueError: the folder belongs to a run with other settings
        """
        settle(Path(folder) / "config.json", asdict(self))


def run(
    config: RunConfig, folder: str | os.PathLike[str], device: str = "auto", console: Console | None = None
) -> None:
    """Train GEN, the cascades and DCRN, and evaluate; stages that are complete are left as they are.

    :param config: what to do
    :param folder: the run's folder
    :param device: ``"auto"``, ``"cpu"``, ``"cuda"``
    :param console: where to say what happens
    """
    console = console or Console()
    folder = Path(folder)
    chosen = recipe(config.preset)
    dataset = load_dataset(config.data.dataset, "train", config.data.root, config.data.landmarks, **_options(config))
    if config.alpha_2 is None:
        config = replace(config, alpha_2=dataset.alpha_2)
    assert config.alpha_2 is not None
    config.write(folder)
    fabric = make_fabric(device, config.precision)
    faces = FacesOnDevice(config.data, fabric.device)
    gen_config = replace(chosen.gen_training, seed=config.seed, epochs=config.gen_epochs or chosen.gen_training.epochs)
    lrn_config = replace(chosen.lrn_training, seed=config.seed, epochs=config.lrn_epochs or chosen.lrn_training.epochs)
    stages = ["gen", *(f"lrn-{m}" for m in MEAN_CASCADES), f"gen-lrn{GEN_CASCADE}", "dcrn"]
    console.print(
        f"Run in {folder}: {config.data.dataset}, {len(dataset)} training faces, {dataset.scheme.num_landmarks} "
        f"landmarks, preset {config.preset}, seed {config.seed}, on {fabric.device}."
    )
    if not all((folder / stage / WEIGHTS).is_file() for stage in stages if stage != "dcrn"):
        for part in ("train", "test"):
            faces(part, CROP_SIZE)  # read once, at full size; GEN's smaller crops are made from these
    for number, stage in enumerate(stages, 1):
        if (folder / stage / WEIGHTS).is_file():
            console.print(f"{number}/{len(stages) + 1} {stage}: complete")
            continue
        console.print(f"{number}/{len(stages) + 1} {stage}")
        if stage == "gen":
            pretrain_gen(faces, chosen.gen, gen_config, folder / stage, fabric)
        elif stage == "dcrn":
            train_dcrn(
                folder / f"gen-lrn{GEN_CASCADE}" / WEIGHTS,
                replace(config.agent, seed=config.seed),
                folder / stage,
                device=str(fabric.device),
                initializer=str(folder / "gen" / WEIGHTS),
                alpha_2=config.alpha_2,
                dataset=config.data.dataset,
                root=config.data.root,
                landmarks=config.data.landmarks,
                dataset_options=_options(config),
            )
        else:
            gen = folder / "gen" / WEIGHTS if stage.startswith("gen") else None
            iterations = int(stage.removeprefix("gen-").removeprefix("lrn").removeprefix("-"))
            pretrain_lrn(faces, chosen.lrn, lrn_config, folder / stage, fabric, gen, iterations)
    console.print(f"{len(stages) + 1}/{len(stages) + 1} evaluate")
    evaluate(folder, device=str(fabric.device), console=console)


def evaluate(
    folder: str | os.PathLike[str],
    splits: Sequence[str] | None = None,
    device: str = "cpu",
    console: Console | None = None,
    root: str | None = None,
    on: str | None = None,
    seed: int = 0,
) -> None:
    """Measure every method of a run on test splits, and set the figures beside the paper's where it has some.

    ``evaluation.json`` is that of the dataset's test split, ``tables.md`` that of all splits.

    :param folder: the run's folder
    :param splits: None: every split but the training split, without those that this copy of the dataset lacks
    :param device: where the networks run
    :param console: where the tables go
    :param root: of the data, where it is not where the run found it
    :param on: another dataset of the same landmarks; None: the run's own
    :param seed: of the bootstrap intervals
    :raises FileNotFoundError: it is no run's folder, it has no weights, or there is no data
    :raises ValueError: the other dataset has no such landmarks
    """
    console = console or Console()
    folder = Path(folder)
    config = RunConfig.read(folder)
    data = config.data
    own = on is None or on == data.dataset
    if not own:
        assert on is not None
        data = Data(on, root, GEN.load(folder / "gen" / WEIGHTS).num_landmarks)
    elif root is not None:
        data = replace(data, root=root)
    test_split = dataset_class(data.dataset.partition("+")[0]).test_split  # of a joined dataset its first part's
    initializer = GENInitializer(folder / "gen" / WEIGHTS, device)
    trained = "" if own else f", trained on {config.data.dataset}"
    settings = f"preset {config.preset}, seed {config.seed}{trained}"
    training = _training_caveats(data if own else config.data)
    measured: dict[str, list[Outcome]] = {}
    counts: list[str] = []
    lacking: list[str] = []
    obstacle: str | None = None
    sheets: list[Sheet] = []
    absent: DatasetNotFoundError | None = None
    for split in splits or dataset_splits(data.dataset)[1:]:
        try:
            prepared = data.prepare(split, max_cached=2048)
        except DatasetNotFoundError as error:
            if splits:
                raise
            absent = error
            console.print(
                f"Skipped {data.dataset} {split}: its data is not there (--split {split} says what is missing)."
            )
            continue
        outcomes = _measure(folder, config, prepared, initializer, device, seed)
        measured[split] = outcomes
        counts.append(f"{split} {len(prepared):,} faces")
        caveats = _caveats(prepared.dataset)
        lacking += caveats
        obstacle = _obstacle(prepared)
        name = _name("evaluation", None if own else data.dataset, [] if split == test_split else [split])
        write_evaluation(folder / f"{name}.json", prepared, config.seed, outcomes)
        title = f"{data.dataset} {split}, {len(prepared)} faces, {settings}"
        notes = [*caveats, *training]
        shown = [
            table(title, [outcome.row for outcome in outcomes], notes),
            *filter(None, [occlusion_table(title, outcomes, prepared, notes)]),
        ]
        for sheet in shown:
            console.print(sheet)
        sheets += shown
        by_name = {outcome.row.method: outcome for outcome in outcomes}
        if "DCRN" in by_name and "LRN+Eq.3" in by_name:
            changes = paired_differences(by_name["DCRN"], by_name["LRN+Eq.3"], seed)
            parts = [f"{key} {mean:+.3f} ({low:+.3f} .. {high:+.3f})" for key, (mean, low, high) in changes.items()]
            console.print(f"DCRN minus LRN+Eq.3, face by face: {', '.join(parts)}")
        figures = save_figures(outcomes, title, folder / "figures" / (split if own else f"{data.dataset}-{split}"))
        console.print(f"Results: {folder / name}.json, figures: {figures[0].parent}")
    if absent is not None and not measured:
        raise absent
    if obstacle:
        console.print(f"The paper's tables are left out: {obstacle}.")
    else:
        notes = [f"this run: {data.dataset}, {', '.join(counts)}, {settings}", *lacking, *training]
        beside = paper_tables(data.dataset, measured, f"this run{trained}", notes)
        for sheet in beside:
            console.print(sheet)
        sheets += beside
    path = folder / f"{_name('tables', None if own else data.dataset, splits or [])}.md"
    write_tables(path, f"{folder.resolve().name} on {data.dataset}", sheets)
    console.print(f"Tables: {path}")


def _measure(
    folder: Path, config: RunConfig, prepared: PreparedFaces, initializer: GENInitializer, device: str, seed: int
) -> list[Outcome]:
    """Every method of a run on the faces of a split, and the episodes of those that have some."""
    outcomes = []
    for method, aligner in methods(folder, config, device):
        outcome = evaluate_method(method, aligner, prepared, seed)
        if method in ("LRN+Eq.3", "DCRN"):
            assert aligner.lrn is not None
            returns, successes = episode_returns(aligner.lrn, prepared, initializer, alpha_2=config.alpha_2)
            outcome = outcome.with_episodes(returns, successes)
        outcomes.append(outcome)
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


def _name(kind: str, dataset: str | None, splits: Sequence[str]) -> str:
    return "-".join([kind, *([] if dataset is None else [dataset]), *splits])


def _caveats(dataset: FaceDataset) -> list[str]:
    """What the published protocol has and this copy of a split lacks, a line each."""
    return [f"{part.name} {part.split}: {line}" for part in dataset.parts for line in part.missing()]


def _training_caveats(data: Data) -> list[str]:
    """The same of the faces that the run has learnt from; none where they are not at hand any more."""
    try:
        return _caveats(load_dataset(data.dataset, "train", data.root, data.landmarks, **(data.options or {})))
    except DatasetNotFoundError:
        return []


def methods(folder: Path, config: RunConfig, device: str) -> Iterator[tuple[str, FaceAligner]]:
    """The rows of Table 6 that the run has weights for, and ``LRN+Eq.3``: the pretrained LRN stopped by Eq. 3."""
    gen = GEN.load(folder / "gen" / WEIGHTS)
    yield "GEN", FaceAligner(gen, None, device=device)
    for m in MEAN_CASCADES:
        path = folder / f"lrn-{m}" / WEIGHTS
        if path.is_file():
            notes: dict[str, Any] = load_weights(path, "lrn")[2]
            start = MeanStart(torch.tensor(notes["mean_shape"]))
            yield f"LRN-{m}", FaceAligner(start, LRN.load(path), alpha_2=None, max_iterations=m, device=device)
    cascade = folder / f"gen-lrn{GEN_CASCADE}" / WEIGHTS
    if cascade.is_file():
        lrn = LRN.load(cascade)
        yield f"GEN-LRN{GEN_CASCADE}", FaceAligner(gen, lrn, None, GEN_CASCADE, device=device)
        yield "LRN+Eq.3", FaceAligner(gen, lrn, config.alpha_2, MAX_ITERATIONS, device=device)
    agent = folder / "dcrn" / WEIGHTS
    if agent.is_file():
        yield "DCRN", FaceAligner(gen, LRN.load(agent), config.alpha_2, MAX_ITERATIONS, device=device)


def _options(config: RunConfig) -> dict[str, Any]:
    return dict(config.data.options or {})
