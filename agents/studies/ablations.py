"""``face-align ablate``: what each part of DCRN's training does, one changed at a time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from face_align_env.agents.dcrn.training import train_dcrn
from face_align_env.agents.evaluation.measure import Outcome, evaluate_method, paired_differences
from face_align_env.agents.evaluation.tables import Table, write_tables
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.run_folder import RunFolder
from face_align_env.aligner.aligner import FaceAligner
from face_align_env.files import write_json
from face_align_env.mdp import MDPParameters
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.prepared import PreparedFaces
from face_align_env.pretrain.settings import read_json


@dataclass(frozen=True)
class Ablation:
    """One row: what is changed against the run's own training of DCRN.

    :param name: of the row and its folder
    :param preset: of DCRN; None: the run's
    :param overrides: keywords of :class:`~face_align_env.agents.dcrn.algorithm.DCRN`
    :param environment: keywords of ``gym.make`` for the training; every row is measured in the run's own environment
    """

    name: str
    preset: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> str:
        """What the row adds to the command of the run, ``face-align run ...``."""
        parts = [f"--agent {self.preset}"] if self.preset else []
        parts += [f"--set {name}={value}" for name, value in self.overrides.items()]
        for name, value in self.environment.items():
            parts.append("--no-augment" if (name, value) == ("augment", False) else f"--env {name}={value}")
        return " ".join(parts)


ABLATIONS = (
    Ablation("as-it-is"),
    Ablation("no-critic-warmup", overrides={"critic_warmup": 0}),
    Ablation("no-imitation", overrides={"imitation_weight": 0.0}),
    Ablation("imitation-0.2", overrides={"imitation_weight": 0.2}),
    Ablation("imitation-5", overrides={"imitation_weight": 5.0}),
    Ablation("noise-on-landmarks-only", overrides={"noise": 1.0, "gain_noise": 0.0}),
    Ablation("noise-on-length-only", overrides={"noise": 0.0}),
    Ablation("no-noise", overrides={"noise": 0.0, "gain_noise": 0.0}),
    Ablation("tau-0.8", overrides={"tau": 0.8}),
    Ablation("dense-reward", environment={"reward": "dense", "iteration_cost": 0.05}),
    Ablation("shaped-reward", environment={"reward": "shaped"}),
    Ablation("no-augmentation", environment={"augment": False}),
    Ablation("paper", preset="paper"),
)


def find_ablations(names: Sequence[str] | None) -> tuple[Ablation, ...]:
    """The rows of these names; None: all.

    :raises ValueError: there is no such row
    """
    known = {ablation.name: ablation for ablation in ABLATIONS}
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise ValueError(f"There is no ablation '{unknown[0]}'; there are {', '.join(known)}.")
    return ABLATIONS if names is None else tuple(known[name] for name in names)


def ablate(
    folder: str | os.PathLike[str],
    names: Sequence[str] | None = None,
    timesteps: int | None = None,
    split: str | None = None,
    root: str | None = None,
    device: str = "cpu",
    seed: int = 0,
    console: Console | None = None,
) -> Path:
    """Train DCRN once for each row, from the run's own GEN and pretrained LRN, and measure all on the same faces.

    A row's training is ``folder/ablations/NAME`` and goes on where it stopped, also with more timesteps than before.
    The figures are ``folder/ablations.json`` and ``folder/ablations.md``, where rows of earlier calls stay.

    :param folder: a run's folder, whose GEN and cascade are trained
    :param names: rows; None: all of :data:`ABLATIONS`
    :param timesteps: transitions of each training; None: the run's
    :param split: where it is measured; None: the dataset's test split
    :param root: of the data, where it is not where the run found it
    :param device: where the networks run
    :param seed: of the trainings and of the bootstrap
    :param console: where the table goes
    :return: the table's file
    :raises FileNotFoundError: the folder has no trained GEN and cascade
    :raises ValueError: there is no such row
    """
    console = console or Console()
    chosen = find_ablations(names)
    run = RunFolder(folder)
    config, data = run.config, run.data(root)
    environment = replace(config, data=data).env_options(str(run.gen))
    prepared = data.prepare(split, max_cached=2048)
    baseline = _measure("LRN+Eq.3", run.gen, run.policy, prepared, config, device)
    rows = _Rows(run.path / "ablations.json", prepared, baseline, seed)
    for ablation in chosen:
        agent = replace(
            config.agent,
            timesteps=timesteps or config.agent.timesteps,
            preset=ablation.preset or config.agent.preset,
            overrides={**(config.agent.overrides or {}), **ablation.overrides} or None,
        )
        options = dict(ablation.environment)
        agent = replace(agent, augment=options.pop("augment", agent.augment))
        console.print(f"{ablation.name}: {agent}, environment {options}", highlight=False)
        weights = run.ablation(ablation.name)
        if (agent, seed) == (config.agent, config.seed) and not options and run.agent.is_file():
            weights = run.agent  # the run has trained it already
        elif not weights.is_file() or rows.timesteps(ablation.name) < agent.timesteps:
            train_dcrn(run.policy, agent, weights.parent, device, config.views, seed, **{**environment, **options})
        outcome = _measure(ablation.name, run.gen, weights, prepared, config, device)
        rows.add(outcome, agent.timesteps)
        console.print(rows.table(run.path.name))
    path = run.path / "ablations.md"
    write_tables(path, f"What each part of DCRN's training does, {run.path.name}", [rows.table(run.path.name)])
    return path


class _Rows:
    """The rows that have been measured, in this call and earlier ones.

    :param path: ``ablations.json``; a file about other faces, another policy or another seed is begun anew
    :param prepared: the faces
    :param baseline: what the rows are compared with
    :param seed: of the trainings and of the bootstrap
    """

    def __init__(self, path: Path, prepared: PreparedFaces, baseline: Outcome, seed: int) -> None:
        self.path, self.prepared, self.baseline, self.seed = path, prepared, baseline, seed
        self.rows: dict[str, dict[str, Any]] = {}
        if path.is_file():
            document = read_json(path)
            try:
                known = (document.get("split"), document["seed"], document["baseline"]["nme"])
                if known == (prepared.dataset.split, seed, baseline.row.nme):
                    self.rows = {row["method"]: row for row in document["rows"]}
            except (AttributeError, KeyError, TypeError) as error:
                raise ValueError(f"'{path}' is damaged ({error!r}). Remove it to measure its rows again.") from error

    def timesteps(self, name: str) -> int:
        """How long a row was trained; 0: it is not there."""
        return int(self.rows.get(name, {}).get("timesteps", 0))

    def add(self, outcome: Outcome, timesteps: int) -> None:
        """Put a row in its place, and write all."""
        row = {**asdict(outcome.row), "timesteps": timesteps}
        self.rows[outcome.row.method] = {**row, "differences": paired_differences(outcome, self.baseline, self.seed)}
        self.rows = {a.name: self.rows[a.name] for a in ABLATIONS if a.name in self.rows}
        document = {"split": self.prepared.dataset.split, "baseline": asdict(self.baseline.row), "seed": self.seed}
        write_json(self.path, {**document, "rows": list(self.rows.values())})

    def table(self, name: str) -> Table:
        """Each row's figures, and what it changes against the baseline on the same faces."""

        def difference(row: Mapping[str, Any], name: str) -> str:
            mean, low, high = row["differences"][name]
            return f"{mean:+.3f} ({low:+.3f} .. {high:+.3f})"

        def figures(row: Mapping[str, Any]) -> tuple[str, ...]:
            return (
                f"{row['nme']:.2f}",
                f"{row['failure_rate']:.1f}",
                f"{row['iterations']:.2f}",
                f"{row['mean_return']:+.2f}",
            )

        options = {ablation.name: ablation.options for ablation in ABLATIONS}
        rows = [
            (
                row["method"],
                options[row["method"]],
                f"{row['timesteps']:,}",
                *figures(row),
                *(difference(row, name) for name in ("NME", "iterations", "return")),
            )
            for row in self.rows.values()
        ]
        dataset = self.prepared.dataset
        return Table(
            f"{name}, {dataset.name} {dataset.split}, {len(self.prepared)} faces",
            ("row", "option of run", "transitions", "NME %", "failures %", "iterations", "return", *_CHANGES),
            (("LRN+Eq.3 (no RL)", "", "0", *figures(asdict(self.baseline.row)), "", "", ""), *rows),
            ("change: against LRN+Eq.3 on the same faces, with 95 % bootstrap intervals",),
        )


_CHANGES = ("NME: change", "iterations: change", "return: change")


def _measure(name: str, gen: Path, lrn: Path, prepared: PreparedFaces, config: RunConfig, device: str) -> Outcome:
    """A policy on the faces: blind to the ground truth for shapes, with oracle termination for returns."""
    alpha_2 = prepared.dataset.alpha_2 if config.alpha_2 is None else config.alpha_2
    aligner = FaceAligner(GEN.load(gen), LRN.load(lrn), alpha_2, device=device)
    return evaluate_method(name, aligner, prepared, parameters=MDPParameters(alpha_2=alpha_2))
