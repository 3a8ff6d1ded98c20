"""``face-align benchmark|compare|speed``: algorithms side by side, and how fast the parts are."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from face_align_env.agents.benchmark.settings import BenchmarkSettings, trial_keys
from face_align_env.agents.cli.options import DeviceOption, JsonOption, PresetOption, console, written
from face_align_env.agents.cli.parameters import settings_command
from face_align_env.agents.common.trust import TRUST
from face_align_env.pretrain.settings import SettingError


@settings_command
def benchmark(
    settings: BenchmarkSettings,
    algos: Annotated[
        str,
        typer.Option(
            help="Separated by commas: dcrn, ddpg, td3, sac, ppo, a2c, tqc, crossq, or your own as MODULE:NAME, a "
            "class with learn and predict, or a function policy(obs) -> action."
        ),
    ] = "dcrn,ddpg,td3,sac,ppo,tqc,crossq",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each algorithm, with seeds 0, 1, ...")] = 5,
    run: Annotated[
        Path | None, typer.Option(help="Folder of a run whose GEN and LRN are used; default: they are trained first.")
    ] = None,
    gen_epochs: Annotated[
        int | None, typer.Option(min=1, help="Where GEN is trained first; default: the recipe's.")
    ] = None,
    lrn_epochs: Annotated[
        int | None, typer.Option(min=1, help="Where LRN is trained first; default: the recipe's.")
    ] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(
            help="policy: the pretrained policy, features: what its trunk sees, scratch: fresh networks and patches; "
            "repeat for several. Default: policy and features."
        ),
    ] = None,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="From scratch, too.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Trainings at a time; default: by cores and memory.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Train on a Ray cluster: local (this machine's cores), auto (the cluster that it is a node of), or "
            "the head's address."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The folder is runs/NAME; default: benchmark-DATASET.")] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Resume from checkpoints that no training of yours has written, too.")
    ] = False,
) -> None:
    """Train RL algorithms on FaceAlign-v0 with several seeds, and compare them: curves, tables, report.html."""
    algorithms = [algo.strip() for algo in algos.split(",") if algo.strip()]
    if not algorithms:
        raise SettingError("algos", "--algos", "must name at least one algorithm.")
    starts = list(start or (["policy", "features"] if settings.task is None else ["scratch"]))
    if from_scratch and "scratch" not in starts:
        starts.append("scratch")
    if workers is not None and cluster is not None:
        raise SettingError("workers", "--workers", "is for this machine's processes; a cluster has its own.")
    if trust:
        os.environ[TRUST] = "1"  # for the trials, which are processes of their own
    settings.check(algorithms)
    list(trial_keys(algorithms, starts, seeds))  # its mistakes come before the slow imports
    from face_align_env.agents.benchmark import run as benchmarks

    complete = benchmarks.benchmark(
        settings,
        Path("runs") / (name or f"benchmark-{Path(settings.task or settings.data.dataset).name}"),
        algorithms,
        starts,
        seeds,
        benchmarks.Pretraining(run, gen_epochs, lrn_epochs),
        workers,
        cluster,
        shlex.join(["face-align", *sys.argv[1:]]),
        console,
    )
    if not complete:
        raise typer.Exit(1)


def benchmark_tune(
    task: Annotated[str, typer.Option(help="A registered task without patches.")] = "FaceAlign/State19-v0",
    algos: Annotated[
        str, typer.Option(help="Separated by commas: ppo, ddpg, td3, sac, tqc, crossq.")
    ] = "ppo,ddpg,td3,sac,tqc,crossq",
    trials: Annotated[int, typer.Option(min=2, help="Of each algorithm; the first is the default's.")] = 10,
    timesteps: Annotated[int, typer.Option(min=1, help="Transitions of each trial.")] = 20_000,
    faces: Annotated[int, typer.Option(min=1, help="Of the training split that a trial is measured on.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
    output: Annotated[
        Path, typer.Option(help="JSON to write; what is there of other tasks and algorithms stays.")
    ] = Path("runs/tuned.json"),
) -> None:
    """Search for good keywords of algorithms on a task with Optuna; what ships was found by this command."""
    from face_align_env.agents.benchmark.tuning import Search, check_search, keep, tune

    algorithms = [algo.strip() for algo in algos.split(",") if algo.strip()]
    check_search(task, algorithms, timesteps)
    for algorithm in algorithms:
        for found in tune(task, algorithm, trials, timesteps, faces, seed):
            if isinstance(found, Search):
                keep(output, task, algorithm, found)
            else:
                keywords, value = found
                console.print(f"{algorithm}: {value:+.2f} with {keywords}", highlight=False)
    written([output], as_json=False)


def benchmark_report(
    results: Annotated[Path, typer.Argument(help="Folder of a benchmark, or its results.csv alone.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder for tables, pictures and page; default: where the results are.")
    ] = None,
) -> None:
    """Make the report of a benchmark again, from its folder or from a results.csv: tables.md, figures, report.html."""
    from face_align_env.agents.benchmark.report import report

    for table in report(results, output):
        console.print(table)
    written([(output or (results.parent if results.is_file() else results)) / "report.html"], as_json=False)


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of benchmarks, or of runs.")],
    output: Annotated[Path, typer.Option(help="Folder for tables and pictures.")] = Path("runs/compare"),
) -> None:
    """Put several benchmarks, or several runs, side by side: one table and one set of curves."""
    from face_align_env.agents.benchmark.compare import compare as side_by_side

    written(side_by_side(runs, output, console), as_json=False)


def speed(
    preset: PresetOption = "compact",
    device: DeviceOption = "auto",
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="memory, patches, env, replay, networks, aligner, training or scaling; repeat for several. "
            "Default: all but scaling."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each figure; it is their median.")] = 7,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch; default: torch's own choice.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Of trainings: 32-true, bf16-mixed or 16-mixed (not DCRN's); default: as pretrain has it."),
    ] = None,
    output: Annotated[Path, typer.Option(help="JSON to write.")] = Path("runs/speed.json"),
    before: Annotated[
        Path | None,
        typer.Option(help="JSON of another run, as of an older version: its times, and the gain, beside the new ones."),
    ] = None,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Curves over faces, landmarks, patch size and datasets, too.")
    ] = False,
    max_faces: Annotated[
        int, typer.Option(min=1, help="Largest dataset of scaling; 20,000 take 7.4 GB of disk.")
    ] = 1000,
    quick: Annotated[bool, typer.Option("--quick", help="Toy sizes: does everything run?")] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure every part on this machine, each as a ratio to a limit or to a baseline of the same minutes."""
    from face_align_env.agents.speed.report import run
    from face_align_env.agents.speed.workbench import Settings

    settings = Settings(preset, device, repeats, threads, precision, quick, max_faces)
    written(run(settings, output, console, only, scaling, before), as_json)
