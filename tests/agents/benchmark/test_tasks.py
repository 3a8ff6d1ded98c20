"""Benchmarks on registered tasks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from face_align_env.agents.benchmark.arena import TaskArena, open_arena
from face_align_env.agents.benchmark.baselines import CHANCE, NOTHING, run_baselines
from face_align_env.agents.benchmark.report import report_folder
from face_align_env.agents.benchmark.run import benchmark
from face_align_env.agents.benchmark.settings import BenchmarkSettings, TrialKey
from face_align_env.agents.benchmark.trial import run_trial
from face_align_env.pretrain.settings import SettingError

pytest.importorskip("rliable", reason="the extra benchmark is not installed")

QUICK = {
    "dcrn.learning_starts": 16,
    "crossq.learning_starts": 16,
    "crossq.batch_size": 8,
    "ppo.n_steps": 8,
    "ppo.batch_size": 8,
    "sac.learning_starts": 16,
    "sac.batch_size": 8,
}


def settings(task: str) -> BenchmarkSettings:
    return BenchmarkSettings(task=task, preset="tiny", timesteps=32, evaluations=1, eval_faces=3, overrides=QUICK)


@pytest.mark.parametrize(
    ("task", "algorithm", "patches"),
    [
        ("FaceAlign/State19-v0", "crossq", False),
        ("FaceAlign/Features19-v0", "ppo", False),
        ("FaceAlign/Synthetic19-v0", "sac", True),
    ],
)
def test_a_registered_task_is_learned_as_it_is(tmp_path: Path, task: str, algorithm: str, patches: bool) -> None:
    settings(task).write(tmp_path)
    arena = open_arena(tmp_path)
    assert isinstance(arena, TaskArena)
    assert not arena.can_start("dcrn", "scratch"), "it needs a pretrained network"
    assert not arena.can_start(algorithm, "policy")
    assert arena.can_start("crossq", "scratch") is not patches
    run_baselines(arena, [], 1)
    run_trial(tmp_path, TrialKey(algorithm, "scratch", 0))
    report_folder(tmp_path, "a command")
    frame = pd.read_csv(tmp_path / "results.csv")
    assert set(frame["algorithm"]) == {algorithm, NOTHING, CHANCE}
    still = frame[(frame["algorithm"] == NOTHING) & (frame["termination"] == "oracle")]
    assert still["return"].tolist() == [-10], "the drawn tasks begin too far from the faces"
    trained = frame[(frame["algorithm"] == algorithm) & (frame["termination"] == "oracle")]
    assert trained["step"].tolist()[0] == 0
    assert trained["step"].tolist()[-1] >= 32
    assert np.isfinite(frame["nme"]).all()


def test_nothing_is_pretrained_for_a_task(tmp_path: Path) -> None:
    told = Console(record=True, file=io.StringIO(), width=200)
    folder = tmp_path / "state"
    assert benchmark(settings("FaceAlign/State19-v0"), folder, ["dcrn"], ["scratch"], 1, workers=1, console=told)
    assert "Left out: dcrn cannot start from scratch" in told.export_text()
    assert not (folder / "pretraining").exists()
    assert "do-nothing" in (folder / "tables.md").read_text()


def test_a_task_says_by_itself_what_it_is() -> None:
    with pytest.raises(SettingError, match=r"FaceAlign/State19-v0' says by itself what modes is"):
        BenchmarkSettings(task="FaceAlign/State19-v0", modes=3)
    with pytest.raises(SettingError, match=r"must be one of .*FaceAlign/Features19-v0.*got 'FaceAlign/Nothing-v0'"):
        BenchmarkSettings(task="FaceAlign/Nothing-v0").check(["ppo"])
    with pytest.raises(SettingError, match=r"FaceAlign/Stop19-v0' is ended by the agent"):
        BenchmarkSettings(task="FaceAlign/Stop19-v0").check(["ppo"])
