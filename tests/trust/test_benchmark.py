"""A benchmark that is killed, started twice, or asked for nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from stable_baselines3 import SAC
from trust.refusals import Refused

from face_align_env.agents.benchmark import trial
from face_align_env.agents.benchmark.arena import LRN_FILE
from face_align_env.agents.benchmark.run import benchmark
from face_align_env.agents.benchmark.settings import BenchmarkSettings, TrialKey
from face_align_env.agents.benchmark.trial import is_complete, run_trial, trial_folder
from face_align_env.agents.common.trust import UntrustedFileError
from face_align_env.files import FolderInUseError
from face_align_env.networks.lrn import LRN, LRNConfig
from face_align_env.networks.weights import file_digest
from face_align_env.pretrain.recipes import Data

DATA = Data("synthetic", landmarks=19, options={"size": 6})
KEY = TrialKey("sac", "features", 0)
SLOW = """
import os, time
class Slow:
    def __init__(self, env, seed):
        self.size = env.action_space.shape
    def learn(self, total_timesteps):
        open("pid.tmp", "w").write(str(os.getpid()))
        os.replace("pid.tmp", "pid")
        time.sleep(600)
    def predict(self, observation, deterministic=True):
        import numpy as np
        return np.zeros((len(observation), *self.size), np.float32), None
"""
BENCHMARK = """
import sys
from face_align_env.agents.benchmark.schedule import run_trials
from face_align_env.agents.benchmark.settings import TrialKey
run_trials(sys.argv[1], [TrialKey("slow:Slow", "features", 0)], 1)
"""


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The folder of a benchmark in which nothing has been trained."""
    folder = tmp_path / "toy"
    torch.manual_seed(0)
    LRN(LRNConfig(19, encoder=((4, 10, 10, 1),), bottleneck=4)).save(folder / LRN_FILE)
    quick = {"sac.learning_starts": 16, "sac.batch_size": 8, "sac.gradient_steps": 1}
    digest = file_digest(folder / LRN_FILE)
    settings = BenchmarkSettings(
        DATA, initializer="mean", lrn_sha256=digest, timesteps=64, evaluations=4, eval_faces=2, modes=3, overrides=quick
    )
    settings.write(folder)
    return folder


def train_until(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, killed: Any) -> None:
    """Train until a function of the trial is killed."""
    with monkeypatch.context() as patch:
        patch.setattr(trial, name, killed)
        with pytest.raises(KeyboardInterrupt):
            run_trial(folder, KEY, checkpoint_seconds=0)


def kill(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_trial_that_is_killed_after_its_model_is_trained_for_as_long_as_was_asked(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(monkeypatch, begun, "write_faces", kill)
    own = trial_folder(begun, KEY)
    assert (own / "model.zip").is_file()
    assert not is_complete(begun, KEY)
    run_trial(begun, KEY, checkpoint_seconds=0)
    assert is_complete(begun, KEY)
    assert SAC.load(own / "model.zip").num_timesteps == 64
    assert pd.read_csv(own / "results.csv")["step"].unique().tolist() == [0, 16, 32, 48, 64]
    assert not list(own.glob("*checkpoint*"))


def test_a_checkpoint_that_is_cut_off_is_none(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the second one is written: the training goes on from the first."""
    written = trial.write_bytes
    states = []

    def killed(path: Path, data: bytes) -> None:
        if path.name == "state.json":
            states.append(path)
            if len(states) == 2:
                raise KeyboardInterrupt
        written(path, data)

    train_until(monkeypatch, begun, "write_bytes", killed)
    own = trial_folder(begun, KEY)
    (checkpoint,) = own.glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-16"
    run_trial(begun, KEY, checkpoint_seconds=0)
    assert SAC.load(own / "model.zip").num_timesteps == 64
    assert not list(own.glob(".checkpoint*")), "what the killed one has left is gone"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("model.zip", UntrustedFileError, "may hold code, and no training of yours has written it as it is"),
        ("replay_buffer.pkl", UntrustedFileError, "remove it"),
        ("state.json", ValueError, "checkpoint-48' is damaged .*Remove it to begin sac from features, seed 0 again"),
    ],
)
def test_a_damaged_checkpoint_is_named(
    begun: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception], message: str, refused: Refused
) -> None:
    train_until(monkeypatch, begun, "write_faces", kill)
    path = trial_folder(begun, KEY) / "checkpoint-48" / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(error, match=message) as caught:
        run_trial(begun, KEY)
    refused(caught.value)


def test_a_figure_that_was_changed_in_a_checkpoint_is_noticed(
    begun: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    train_until(monkeypatch, begun, "write_faces", kill)
    path = trial_folder(begun, KEY) / "checkpoint-48" / "state.json"
    path.write_text(path.read_text().replace('"transitions": 48', '"transitions": 32'))
    with pytest.raises(ValueError, match="does not fit its checksum") as caught:
        run_trial(begun, KEY)
    refused(caught.value)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition: Any, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_trials_end_with_their_benchmark_and_nobody_trains_one_twice(
    begun: Path, monkeypatch: pytest.MonkeyPatch, ending: signal.Signals
) -> None:
    monkeypatch.chdir(begun.parent)
    (begun.parent / "slow.py").write_text(SLOW)
    key, said = TrialKey("slow:Slow", "features", 0), begun.parent / "pid"
    with subprocess.Popen([sys.executable, "-c", BENCHMARK, str(begun)], stderr=subprocess.DEVNULL) as parent:
        try:
            assert until(said.is_file, 120), (trial_folder(begun, key) / "output.txt").read_text()
            pid = int(said.read_text())
            assert pid != parent.pid
            with pytest.raises(FolderInUseError, match=rf"slow-Slow.features.0' is in use by process {pid} on "):
                run_trial(begun, key)
        finally:
            parent.send_signal(ending)
    assert until(lambda: not alive(pid), 10)
    with trial.locked_folder(trial_folder(begun, key)):
        pass  # the next one may go on


def test_what_makes_no_sense_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "nothing"
    settings = BenchmarkSettings(DATA, timesteps=640)
    with pytest.raises(ValueError, match="at least 1 worker, got -1"):
        benchmark(settings, folder, ["ppo"], ["policy"], 1, workers=-1)
    with pytest.raises(ValueError, match=r"sac learns nothing in 640 transitions: .* after 1,000 \(learning_starts\)"):
        benchmark(settings, folder, ["ppo", "sac"], ["policy"], 1)
    for name in ("dcrn", "td3"):
        with pytest.raises(ValueError, match=f"{name} learns nothing in 64 transitions"):
            benchmark(BenchmarkSettings(DATA, timesteps=64), folder, [name], ["policy"], 1)
    assert not folder.exists()


def test_a_benchmark_that_is_running_is_not_begun_again(begun: Path) -> None:
    with trial.locked_folder(begun), pytest.raises(FolderInUseError, match=f"in use by process {os.getpid()} "):
        benchmark(BenchmarkSettings(DATA, timesteps=64), begun, ["ppo"], ["policy"], 1)
