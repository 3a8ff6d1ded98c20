"""``face-align benchmark|compare``: reinforcement learning algorithms side by side."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from face_align_env.agents.cli.options import (
    DatasetOption,
    EnvironmentOption,
    LandmarksOption,
    OptionOption,
    RootOption,
    console,
    data_of,
    done,
    options_of,
)


def benchmark(
    algos: Annotated[
        str,
        typer.Option(
            help="Separated by commas: dcrn, ddpg, td3, sac, ppo, a2c, tqc, crossq, or your own as MODULE:NAME, a "
            "class with learn and predict, or a function policy(obs) -> action."
        ),
    ] = "dcrn,ddpg,td3,sac,ppo,tqc,crossq",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each algorithm, with seeds 0, 1, ...")] = 5,
    timesteps: Annotated[int, typer.Option(help="Transitions of each training.")] = 20_000,
    dataset: DatasetOption = "synthetic",
    root: RootOption = None,
    landmarks: LandmarksOption = None,
    option: OptionOption = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder of a run whose GEN and LRN are used; default: they are trained first.")
    ] = None,
    preset: Annotated[str, typer.Option(help="Networks and recipe, where they are trained first.")] = "tiny",
    gen_epochs: Annotated[int | None, typer.Option(help="Where GEN is trained first; default: the recipe's.")] = None,
    lrn_epochs: Annotated[int | None, typer.Option(help="Where LRN is trained first; default: the recipe's.")] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(
            help="policy: the pretrained policy, features: what its trunk sees, scratch: fresh networks and patches; "
            "repeat for several. Default: policy and features."
        ),
    ] = None,
    initializer: Annotated[str, typer.Option(help="Where episodes start: gen, or mean, the mean shape.")] = "gen",
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="From scratch, too.")] = False,
    evaluations: Annotated[int, typer.Option(help="How often each training is measured.")] = 10,
    eval_faces: Annotated[int, typer.Option(help="Held-out faces that are measured on.")] = 100,
    actions: Annotated[str, typer.Option(help="modes: along shape modes; landmarks: each coordinate by itself.")] = (
        "modes"
    ),
    modes: Annotated[int, typer.Option(help="Number of shape modes.")] = 10,
    step: Annotated[float, typer.Option(help="Full step along a mode, standard deviations of the faces.")] = 0.1,
    environment: EnvironmentOption = None,
    alpha_2: Annotated[float | None, typer.Option("--alpha-2", help="Eq. 3's bound, pixels; default: Table 2's.")] = (
        None
    ),
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Keyword of an algorithm as ALGO.KEY=VALUE (sac.learning_rate=0.001); repeat."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Trainings at a time; default: by cores and memory.")] = None,
    name: Annotated[str | None, typer.Option(help="The folder is runs/NAME; default: benchmark-DATASET.")] = None,
) -> None:
    """Train RL algorithms on FaceAlign-v0 with several seeds, and compare them: curves, tables, report.html."""
    from face_align_env.agents.benchmark import run as benchmarks
    from face_align_env.agents.benchmark.settings import BenchmarkSettings, overrides_of

    settings = BenchmarkSettings(
        data=data_of(dataset, root, landmarks, option),
        preset=preset,
        initializer=initializer,
        timesteps=timesteps,
        evaluations=evaluations,
        eval_faces=eval_faces,
        actions=actions,
        modes=modes,
        step=step,
        environment=options_of(environment, "--env") or None,
        alpha_2=alpha_2,
        overrides=overrides_of(options_of(overrides, "--set")) or None,
    )
    starts = list(start or ["policy", "features"])
    if from_scratch and "scratch" not in starts:
        starts.append("scratch")
    folder = Path("runs") / (name or f"benchmark-{dataset}")
    complete = benchmarks.benchmark(
        settings,
        folder,
        [algo.strip() for algo in algos.split(",") if algo.strip()],
        starts,
        seeds,
        benchmarks.Pretraining(run, gen_epochs, lrn_epochs),
        workers,
        shlex.join(["face-align", *sys.argv[1:]]),
        console,
    )
    if not complete:
        raise typer.Exit(1)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of benchmarks, or of runs.")],
    output: Annotated[Path, typer.Option(help="Folder for tables and pictures.")] = Path("runs/compare"),
) -> None:
    """Put several benchmarks, or several runs, side by side: one table and one set of curves."""
    from face_align_env.agents.benchmark.compare import compare as side_by_side

    for path in side_by_side(runs, output, console):
        done("Written", path)
