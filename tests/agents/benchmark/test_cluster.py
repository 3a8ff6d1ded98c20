"""face-align benchmark --cluster: the same results from a Ray cluster, one of whose nodes dies."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from face_align_env.agents.benchmark import cluster as clusters
from face_align_env.agents.benchmark.run import benchmark
from face_align_env.agents.benchmark.settings import BenchmarkSettings, TrialKey
from face_align_env.agents.benchmark.trial import ERROR, trial_folder
from face_align_env.agents.cli.app import app

ray = pytest.importorskip("ray", reason="the extra cluster is not installed")
pytest.importorskip("rliable", reason="the extra benchmark is not installed")

SETTINGS = BenchmarkSettings(task="FaceAlign/State19-v0", timesteps=512, evaluations=1, eval_faces=8)


def run(folder: Path, cluster: str | None) -> tuple[bool, pd.DataFrame]:
    complete = benchmark(
        SETTINGS, folder, ["a2c"], ["scratch"], 4, cluster=cluster, console=Console(file=io.StringIO())
    )
    return complete, pd.read_csv(folder / "results.csv").drop(columns="wall_clock")


@pytest.mark.timeout(600)
def test_a_killed_node_costs_nothing_but_time(
    three_nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of a cluster that has lost a node in the middle is that of one machine."""
    keep, first = clusters._keep, threading.Event()

    def kept(*arguments: Any) -> None:
        keep(*arguments)
        if not first.is_set():  # others are being trained
            first.set()
            three_nodes.remove_node(three_nodes.nodes[-1], allow_graceful=False)

    monkeypatch.setattr(clusters, "_keep", kept)
    complete, far = run(tmp_path / "cluster", three_nodes.address)
    assert first.is_set()
    assert complete
    complete, near = run(tmp_path / "here", None)
    assert complete
    pd.testing.assert_frame_equal(far, near)


def test_a_trial_that_fails_says_why(tmp_path: Path) -> None:
    """In the files that come back; the trial is not complete."""
    files = clusters._train(("another version", {}), TrialKey("ppo", "scratch", 0))
    assert b"not another version" in files[ERROR]
    clusters._keep(tmp_path, TrialKey("ppo", "scratch", 0), files)
    assert (trial_folder(tmp_path, TrialKey("ppo", "scratch", 0)) / ERROR).is_file()
    (files,) = [clusters._train((clusters.version("face-align-env"), {}), TrialKey("ppo", "scratch", 0))]
    assert b"no folder of a benchmark" in files[ERROR]


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["benchmark", "--task", "FaceAlign/State19-v0", "--algos", "ppo", "--timesteps", "1024"]
    result = CliRunner().invoke(app, [*command, "--cluster", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert "--cluster 127.0.0.1:1: no Ray cluster answers there" in result.stderr
    result = CliRunner().invoke(app, [*command, "--cluster", "local", "--workers", "2"])
    assert result.exit_code == 2
    assert "--workers is for this machine's processes" in result.stderr
