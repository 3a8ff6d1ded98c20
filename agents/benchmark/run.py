"""A benchmark from its beginning to its report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from face_align_env.agents.benchmark.algorithms import check_updates, is_policy, load_algorithm
from face_align_env.agents.benchmark.arena import GEN_FILE, LRN_FILE, open_arena
from face_align_env.agents.benchmark.baselines import run_baselines
from face_align_env.agents.benchmark.cluster import run_on_cluster
from face_align_env.agents.benchmark.report import report_folder
from face_align_env.agents.benchmark.schedule import default_workers, run_trials, why_failed
from face_align_env.agents.benchmark.settings import BenchmarkSettings, trial_keys
from face_align_env.agents.benchmark.tuning import tuned_keywords
from face_align_env.agents.run import run as make_run
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.run_folder import POLICY_CASCADE, RELEASED_STAGES, RunFolder
from face_align_env.files import locked_folder, replacing
from face_align_env.networks.weights import file_digest

FROM_MEAN = f"lrn-{POLICY_CASCADE}"  # the stage of a run whose cascade starts from the mean shape


@dataclass(frozen=True)
class Pretraining:
    """Where GEN and the pretrained LRN come from.

    :param run: a run's folder that has them; None: they are trained first, in the benchmark's folder
    :param gen_epochs: of that training; None: the recipe's
    :param lrn_epochs: of that training; None: the recipe's
    :param seed: of that training
    """

    run: str | os.PathLike[str] | None = None
    gen_epochs: int | None = None
    lrn_epochs: int | None = None
    seed: int = 0


def benchmark(
    settings: BenchmarkSettings,
    folder: str | os.PathLike[str],
    algorithms: Sequence[str],
    starts: Sequence[str],
    seeds: int,
    pretraining: Pretraining | None = None,
    workers: int | None = None,
    cluster: str | None = None,
    command: str = "face-align benchmark",
    console: Console | None = None,
) -> bool:
    """Train every algorithm from every start with every seed, measure them and the baselines, and report.

    What is complete in the folder stays; more algorithms, starts and seeds may be added to it.

    :param settings: what all trials have in common; the digests of its networks are filled in here
    :param folder: of the benchmark
    :param algorithms: names of :mod:`face_align_env.agents.benchmark.algorithms`, or import paths of classes or
        functions
    :param starts: see :data:`~face_align_env.agents.benchmark.settings.STARTS`
    :param seeds: how many, from 0 on
    :param pretraining: where GEN and the pretrained LRN come from
    :param workers: processes at a time; None: see :func:`~face_align_env.agents.benchmark.schedule.default_workers`
    :param cluster: the Ray cluster whose nodes train, see :func:`~face_align_env.agents.common.cluster.connected`;
        None: this machine's processes
    :param command: for the report
    :param console: where to say what happens
    :return: whether every trial is complete
    :raises ValueError: an unknown algorithm or start, an algorithm that would never be updated, no workers, or the
        folder belongs to another benchmark
    :raises FolderInUseError: another process works in the folder
    :raises ModuleNotFoundError: a package or module of an algorithm is not there, or Ray for a cluster
    """
    console = console or Console()
    folder = Path(folder)
    settings = settings.with_tuned(tuned_keywords(settings.task))
    found = {name: load_algorithm(name) for name in algorithms}
    if workers is not None and workers < 1:
        raise ValueError(f"There must be at least 1 worker, got {workers}.")
    for name in algorithms:
        check_updates(name, settings.timesteps, settings.keywords(name))
    functions = [name for name, made in found.items() if is_policy(made)]
    keys = list(trial_keys([name for name in algorithms if name not in functions], starts, seeds))
    with locked_folder(folder):
        if settings.task is None:
            settings = _with_networks(settings, folder, pretraining or Pretraining(), console)
        settings.write(folder)
        arena = open_arena(folder)
        impossible = {(key.algorithm, key.start) for key in keys if not arena.can_start(key.algorithm, key.start)}
        keys = [key for key in keys if (key.algorithm, key.start) not in impossible]
        for algorithm, start in sorted(impossible):
            console.print(f"Left out: {algorithm} cannot start from {start}: it does not take what is observed there.")
        workers = workers or default_workers()
        console.print(
            f"Benchmark in {folder}: {len(keys)} trainings of {settings.timesteps:,} transitions on "
            f"{settings.task or settings.data.dataset}, "
            f"{f'{workers} at a time' if cluster is None else f'on the cluster {cluster}'}.",
            highlight=False,
        )
        run_baselines(arena, functions, seeds)
        failed = run_trials(folder, keys, workers) if cluster is None else run_on_cluster(folder, keys, cluster)
        for table in report_folder(folder, command):
            console.print(table)
        for key in failed:
            console.print(f"Failed: {key}: {why_failed(folder, key)}", highlight=False, markup=False)
        console.print(f"Report: {folder / 'report.html'}, results: {folder / 'results.csv'}", highlight=False)
        return not failed


def _with_networks(
    settings: BenchmarkSettings, folder: Path, pretraining: Pretraining, console: Console
) -> BenchmarkSettings:
    """The settings with the digests of the pretrained networks, which are copied into the benchmark's folder."""
    gen, lrn = _pretrained(settings, folder, pretraining, console)
    settings = replace(settings, lrn_sha256=file_digest(lrn), gen_sha256=None if gen is None else file_digest(gen))
    settings.write(folder)
    for source, name in ((gen, GEN_FILE), (lrn, LRN_FILE)):
        if source is not None:
            with replacing(folder / name) as temporary:
                shutil.copyfile(source, temporary)
    return settings


def _pretrained(
    settings: BenchmarkSettings, folder: Path, pretraining: Pretraining, console: Console
) -> tuple[Path | None, Path]:
    """GEN's weights, where they are needed, and those of the pretrained LRN."""
    source = RunFolder(folder / "pretraining" if pretraining.run is None else pretraining.run)
    gen: Path | None = source.gen
    lrn = source.policy
    stages: Sequence[str] = RELEASED_STAGES[:2]
    if settings.initializer == "mean":
        gen, lrn, stages = None, source.weights(FROM_MEAN), [FROM_MEAN]
    if pretraining.run is None and not lrn.is_file():
        config = RunConfig(
            data=settings.data,
            preset=settings.preset,
            seed=pretraining.seed,
            gen_epochs=pretraining.gen_epochs,
            lrn_epochs=pretraining.lrn_epochs,
            alpha_2=settings.alpha_2,
        )
        make_run(config, source.path, "cpu", console, stages)
    for path in (gen, lrn):
        if path is not None and not path.is_file():
            raise FileNotFoundError(
                f"'{path}' is missing: '{source.path}' has no pretrained networks. Make them: face-align run, or leave "
                "out --run."
            )
    return gen, lrn
