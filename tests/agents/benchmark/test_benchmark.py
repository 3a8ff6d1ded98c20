"""face-align benchmark and compare, at toy size."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from face_align_env.agents.benchmark import schedule, trial
from face_align_env.agents.benchmark.algorithms import ALGORITHMS, find_algorithm, load_algorithm
from face_align_env.agents.benchmark.arena import Arena
from face_align_env.agents.benchmark.baselines import FIXED, run_baselines
from face_align_env.agents.benchmark.compare import compare
from face_align_env.agents.benchmark.figures import CURVES, learning_curves
from face_align_env.agents.benchmark.results import Results, interquartile_mean, performance_profiles
from face_align_env.agents.benchmark.run import Pretraining, benchmark
from face_align_env.agents.benchmark.settings import STARTS, BenchmarkSettings, TrialKey, trial_keys
from face_align_env.agents.benchmark.trial import COLUMNS, is_complete, run_trial, trial_folder
from face_align_env.agents.cli.app import app
from face_align_env.agents.common.policies import lrn_policy, zero_policy
from face_align_env.agents.common.rollout import play, spread
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN
from face_align_env.pretrain.recipes import Data

pytest.importorskip("rliable", reason="the extra benchmark is not installed")

DATA = Data("synthetic", landmarks=19, options={"size": 6})
TOY = BenchmarkSettings(data=DATA, timesteps=40, evaluations=2, eval_faces=4, modes=3)
QUICK = {"learning_starts": 16, "batch_size": 8, "gradient_steps": 1}

OWN = '''
import numpy as np

class Still:
    """Learns nothing, and counts what it was asked for."""
    def __init__(self, env, seed):
        self.env = env
        self.env.reset()
    def learn(self, total_timesteps):
        for _ in range(-(-total_timesteps // self.env.num_envs)):
            self.env.step(np.zeros((self.env.num_envs, *self.env.action_space.shape), np.float32))
    def predict(self, observation, deterministic=True):
        return np.zeros((len(observation), *self.env.action_space.shape), np.float32), None

class Broken(Still):
    def learn(self, total_timesteps):
        raise RuntimeError("no idea")

def still(observation):
    return np.zeros(2 * len(observation["patches"]), np.float32)
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with somebody's own algorithms."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own.py").write_text(OWN)
    sys.modules.pop("own", None)
    return tmp_path


@pytest.fixture
def pretrained(tmp_path: Path, new_lrn: Callable[..., LRN]) -> Path:
    """A run's folder as far as a benchmark looks at it."""
    torch.manual_seed(0)
    folder = tmp_path / "pretrained"
    mean = np.linspace(60, 200, 38).reshape(19, 2).astype(np.float32)
    GEN(GENConfig(num_landmarks=19, input_size=16, width=4, hidden=16), mean).save(folder / "gen/weights.safetensors")
    for stage in ("gen-lrn4", "lrn-4"):
        new_lrn(gain=10.0, num_landmarks=19).save(folder / stage / "weights.safetensors")
    return folder


@pytest.fixture
def begun(here: Path, pretrained: Path) -> Path:
    """The folder of a benchmark in which nothing has been trained."""
    folder = here / "begun"
    benchmark(TOY, folder, [], [], 1, Pretraining(pretrained), 1, console=Console(quiet=True))
    return folder


def made_up(values: dict[tuple[str, str], tuple[float, float]]) -> Results:
    """Results whose every measure is the same number; (algorithm, start) -> its values at steps 0 and 10."""
    rows = [
        {**dict.fromkeys(COLUMNS, value), "algorithm": name, "start": start, "seed": 0, "step": 10 * i}
        | {"termination": "oracle"}
        for (name, start), curve in values.items()
        for i, value in enumerate(curve)
    ]
    return Results(pd.DataFrame(rows, columns=list(COLUMNS)), {}, ())


def test_seeds_that_were_measured_at_different_steps_count_with_their_last_measurement() -> None:
    def curves(*unfinished: TrialKey) -> tuple[list[float], list[list[float]]]:
        rows = [
            {**dict.fromkeys(COLUMNS, value), "algorithm": "a:B [x]", "start": "policy", "seed": seed, "step": step}
            | {"termination": "oracle"}
            for seed, points in enumerate(({0: 1.0, 5: 2.0, 11: 3.0}, {0: 4.0, 6: 5.0}))
            for step, value in points.items()
        ]
        results = Results(pd.DataFrame(rows, columns=list(COLUMNS)), {}, unfinished)
        steps, values = results.curve("a:B [x]", "policy", "oracle", "nme")
        return steps.tolist(), values.tolist()

    assert curves() == ([0, 5, 6, 11], [[1, 2, 2, 3], [4, 4, 5, 5]])
    assert curves(TrialKey("a:B [x]", "policy", 1)) == ([0, 5, 6, 11], [[1, 2, 2, 3]])
    assert curves(TrialKey("a:B [x]", "policy", 0), TrialKey("a:B [x]", "policy", 1)) == ([0, 5, 6, 11], [[1, 2, 2, 3]])
    assert curves(TrialKey("a:B", "policy", 1)) == curves(), "that is another benchmark's"


def test_a_ruined_policy_does_not_hide_the_others_in_the_curves_of_the_nme() -> None:
    still = {("do-nothing", "-"): (30.0, 30.0), ("sac", "policy"): (12.0, 10.0), ("sac", "scratch"): (30.0, 28.0)}
    for worst, top in ((200.0, 45.0), (31.0, 31.0)):
        results = made_up({**still, ("dcrn", "scratch"): (30.0, worst)})
        assert results.starts() == ["policy", "scratch"]
        figure = learning_curves(results, "oracle")
        of_nme = figure.axes[2 * CURVES.index("nme") + 1]
        assert of_nme.get_ylim()[1] == pytest.approx(top, abs=0.5)
        of_returns = figure.axes[2 * CURVES.index("return") + 1]
        assert of_returns.get_ylim()[1] > worst, "only errors are known to be worth nothing up there"
        plt.close(figure)


def quick(algorithm: str) -> dict[str, Any]:
    return {"n_steps": 8, "batch_size": 8} if algorithm == "ppo" else QUICK


def check_report_of_csv(folder: Path, alone: Path) -> None:
    """The results.csv alone gives the same tables, and the pictures that need no single faces."""
    alone.mkdir()
    (alone / "toy.csv").write_bytes((folder / "results.csv").read_bytes())
    result = CliRunner().invoke(app, ["benchmark-report", str(alone / "toy.csv")])
    assert result.exit_code == 0, result.output
    assert (alone / "tables.md").read_text() == (folder / "tables.md").read_text()
    assert "Who solves it" in (alone / "tables.md").read_text()
    pictures = sorted(path.name for path in (alone / "figures").iterdir())
    assert pictures == ["learning-curves-blind.png", "learning-curves-oracle.png"]
    result = CliRunner().invoke(app, ["benchmark-report", str(folder), "--output", str(alone / "again")])
    assert result.exit_code == 0, result.output
    assert (alone / "again" / "tables.md").read_text() == (folder / "tables.md").read_text()
    (alone / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"other.csv' is no results.csv of a benchmark: it has no algorithm, start"):
        Results.read(alone / "other.csv")


def test_the_whole_command(here: Path, pretrained: Path) -> None:
    options = [
        *("--landmarks", "19", "--option", "size=6", "--run", str(pretrained), "--timesteps", "40"),
        *("--evaluations", "2", "--eval-faces", "4", "--modes", "3", "--start", "policy", "--workers", "2"),
        *("--set", "sac.learning_starts=16", "--set", "sac.batch_size=8", "--name", "toy"),
    ]

    def call(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["benchmark", *options, *arguments])

    result = call("--algos", "sac,own:Still,own:still", "--seeds", "1")
    assert result.exit_code == 0, result.output
    folder = here / "runs" / "toy"
    frame = pd.read_csv(folder / "results.csv")
    assert tuple(frame.columns) == (*COLUMNS, "complete")
    assert set(frame["algorithm"]) == {"sac", "own:Still", "own:still", "LRN+Eq.3", "do-nothing", "random", *FIXED}
    sac = frame[(frame["algorithm"] == "sac") & (frame["termination"] == "oracle")]
    assert sac["step"].tolist() == [0, 32, 48]
    assert frame["episode_length"].between(1, 10).all()
    assert (frame[frame["algorithm"] == "LRN x7"]["episode_length"] == 7).all()
    assert not frame.isna().any().any()
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    check_report_of_csv(folder, here / "alone")
    assert "sac.learning_starts=16" in page or "learning_starts" in page
    assert "gymnasium" in page
    assert "http" not in page.replace("http-equiv", ""), "it needs nothing from elsewhere"
    assert len(list((folder / "figures").glob("*.png"))) == 6
    assert "| sac | policy |" in (folder / "tables.md").read_text()

    # Doing nothing is the same, whoever does it.
    def ends(name: str) -> np.ndarray:
        rows = frame[(frame["algorithm"] == name) & (frame["termination"] == "blind")]
        return rows[["return", "episode_length", "nme"]].to_numpy()[0]

    np.testing.assert_allclose(ends("own:still"), ends("do-nothing"))
    np.testing.assert_allclose(ends("own:Still"), ends("LRN+Eq.3"), rtol=1e-4)

    times = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/faces.npz")}
    result = call("--algos", "sac,own:Broken", "--seeds", "2")
    assert result.exit_code == 1
    assert "own:Broken from policy, seed 1" in result.output
    assert "no idea" in result.output
    assert all(path.stat().st_mtime_ns == time for path, time in times.items()), "what is complete stays"
    frame = pd.read_csv(folder / "results.csv")
    assert set(frame[frame["algorithm"] == "sac"]["seed"]) == {0, 1}
    assert set(frame[frame["algorithm"] == "random"]["seed"]) == {0, 1}
    changed = CliRunner().invoke(app, ["benchmark", *options, "--algos", "sac", "--timesteps", "80"])
    assert "timesteps: 40 before, 80 now" in changed.output


@pytest.mark.parametrize(("algorithm", "start"), [(name, start) for name in ALGORITHMS for start in STARTS])
def test_every_algorithm_starts_from_everywhere(begun: Path, algorithm: str, start: str) -> None:
    config = json.loads((begun / "config.json").read_text())
    given = {} if algorithm == "a2c" else quick(algorithm)
    config["overrides"] = {f"{algorithm}.{key}": value for key, value in given.items()}
    config.update(timesteps=32, evaluations=1)
    (begun / "config.json").write_text(json.dumps(config))
    key = TrialKey(algorithm, start, 3)
    run_trial(begun, key)
    assert is_complete(begun, key)
    frame = pd.read_csv(trial_folder(begun, key) / "results.csv")
    assert set(frame["termination"]) == {"oracle", "blind"}
    assert frame["step"].min() == 0
    assert frame["step"].max() >= 32
    assert np.isfinite(frame[list(COLUMNS[5:])]).all().all()
    with np.load(trial_folder(begun, key) / "faces.npz") as faces:
        np.testing.assert_allclose(100 * faces["blind/nme"].mean(), frame["nme"].iloc[-1])
    if start == "policy" and algorithm == "dcrn":
        pretrained = Results.read(begun).frame.query("algorithm == 'LRN+Eq.3' and termination == 'oracle'")
        first = frame[(frame["step"] == 0) & (frame["termination"] == "oracle")]
        assert first["nme"].item() == pytest.approx(pretrained["nme"].item())


def test_a_trial_goes_on_from_its_checkpoint(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = json.loads((begun / "config.json").read_text())
    config["overrides"] = {f"sac.{key}": value for key, value in QUICK.items()}
    config.update(timesteps=64, evaluations=4)
    (begun / "config.json").write_text(json.dumps(config))
    key = TrialKey("sac", "policy", 0)
    learn, calls = trial._learn, []

    def killed(learner: Any, transitions: int) -> None:
        calls.append(transitions)
        if len(calls) == 3:
            raise KeyboardInterrupt
        learn(learner, transitions)

    monkeypatch.setattr(trial, "_learn", killed)
    with pytest.raises(KeyboardInterrupt):
        run_trial(begun, key, checkpoint_seconds=0)
    assert not is_complete(begun, key)
    before = pd.read_csv(trial_folder(begun, key) / "results.csv")
    assert before["step"].unique().tolist() == [0, 16, 32]
    assert key in Results.read(begun).unfinished
    run_trial(begun, key, checkpoint_seconds=0)
    assert calls == [16] * 5, "the first two are not repeated"
    after = pd.read_csv(trial_folder(begun, key) / "results.csv")
    assert after["step"].unique().tolist() == [0, 16, 32, 48, 64]
    pd.testing.assert_frame_equal(after.iloc[: len(before)], before)
    assert is_complete(begun, key)
    assert not list(trial_folder(begun, key).glob("checkpoint*"))


def test_playing_is_what_the_environment_does(begun: Path) -> None:
    arena = Arena(begun)
    env = arena.measuring_env("policy", True, "oracle")
    act = lrn_policy(arena.lrn)
    faces = [3, 0, 5, 1, 4, 2]  # more than the environments, and the last batch is not full
    played = play(act, env, faces)
    for position, face in enumerate(faces):
        env.set_options([{"index": face}] * env.num_envs)
        observations, total = env.reset(), 0.0
        length, done = 0, False
        while not done:
            observations, rewards, dones, infos = env.step(act(observations))
            total, length, done = total + rewards[0], length + 1, dones[0]
        assert played.returns[position] == pytest.approx(total)
        assert played.lengths[position] == length
        assert played.nme[position] == pytest.approx(infos[0]["nme"], rel=1e-4)
        assert played.successes[position] == infos[0]["is_success"]


def test_blind_stops_are_no_successes_where_the_error_is_large(begun: Path) -> None:
    env = Arena(begun).measuring_env("scratch", True, "blind", learned_history=False)
    played = play(zero_policy, env, [0, 1])
    assert (played.lengths == 1).all()
    np.testing.assert_array_equal(played.successes, played.nme < 0.07)
    assert not played.successes.all()


def test_faces_are_spread_over_the_split() -> None:
    assert spread(11, 3) == [0, 5, 10]
    assert spread(3, 10) == [0, 1, 2]


def test_interquartile_means_are_rliables() -> None:
    from rliable.metrics import aggregate_iqm

    scores = np.random.default_rng(0).normal([0, 5, 10], size=(8, 3))
    found = interquartile_mean(scores)
    np.testing.assert_allclose(found.iqm, [aggregate_iqm(scores[:, [t]]) for t in range(3)])
    assert (found.low < found.iqm).all()
    assert (found.iqm < found.high).all()
    assert (found.high - found.low < 3).all()
    np.random.seed(5)  # whatever has been drawn before
    again = interquartile_mean(scores)
    np.testing.assert_array_equal([found.low, found.high], [again.low, again.high])
    one = interquartile_mean(scores[:1])
    np.testing.assert_array_equal(one.low, scores[0])


def test_profiles_count_what_lies_below() -> None:
    scores = np.tile(np.arange(10.0), (4, 1))
    found = performance_profiles({"a": scores}, np.array([-1.0, 4.0, 9.0]))["a"]
    np.testing.assert_allclose(found.iqm, [0, 0.5, 1])
    assert (found.low <= found.iqm).all()
    assert (found.iqm <= found.high).all()


def test_from_the_mean_shape_gen_is_not_needed(here: Path, pretrained: Path) -> None:
    (pretrained / "gen" / "weights.safetensors").unlink()
    settings = BenchmarkSettings(data=DATA, initializer="mean", timesteps=16, evaluations=1, eval_faces=3, modes=3)
    folder = here / "mean"
    assert benchmark(settings, folder, [], [], 1, Pretraining(pretrained), 1, console=Console(quiet=True))
    assert not (folder / "pretrained" / "gen.safetensors").exists()
    with pytest.raises(FileNotFoundError, match="gen/weights"):
        benchmark(TOY, here / "other", [], [], 1, Pretraining(pretrained), 1, console=Console(quiet=True))


def test_other_networks_are_another_benchmark(begun: Path, new_lrn: Callable[..., LRN]) -> None:
    new_lrn(seed=5, num_landmarks=19).save(begun / "pretrained" / "lrn.safetensors")
    with pytest.raises(ValueError, match="not what this benchmark was begun with"):
        Arena(begun)


def test_benchmarks_and_runs_are_put_side_by_side(begun: Path, here: Path, tmp_path: Path) -> None:
    key = TrialKey("own:Still", "policy", 0)
    run_trial(begun, key)
    from face_align_env.agents.benchmark.report import report_folder

    for command in ("first", "and <more>", "first"):
        report_folder(begun, command)
    assert "\nfirst\nand &lt;more&gt;</pre>" in (begun / "report.html").read_text()
    second = here / "second"
    (begun / "report.html").unlink()
    second.mkdir()
    for name in ("config.json", "results.csv"):
        (second / name).write_bytes((begun / name).read_bytes())
    for path in begun.glob("*/*/*"):
        if path.name in ("results.csv", "faces.npz"):
            target = second / path.relative_to(begun)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    written = compare([begun, second], tmp_path / "out", Console(quiet=True))
    assert all(path.is_file() for path in written)
    text = (tmp_path / "out" / "compare.md").read_text()
    assert "own:Still [begun]" in text
    assert "own:Still [second]" in text
    assert "LRN x10 [second]" in text
    with pytest.raises(ValueError, match="two folders"):
        compare([begun], tmp_path / "out")
    with pytest.raises(ValueError, match="same name"):
        compare([begun, begun], tmp_path / "out")
    run = tmp_path / "a-run"
    run.mkdir()
    with pytest.raises(FileNotFoundError, match="neither"):
        compare([begun, run], tmp_path / "out")
    (run / "evaluation.json").write_text("{}")
    with pytest.raises(ValueError, match="do not compare"):
        compare([begun, run], tmp_path / "out")
    config = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps({**config, "eval_faces": 2}))
    with pytest.raises(ValueError, match="other faces"):
        compare([begun, second], tmp_path / "out")


def test_evaluations_of_runs_are_put_side_by_side(tmp_path: Path) -> None:
    row = {"nme": 4.0, "nme_low": 3.9, "nme_high": 4.1, "nme_inter_pupil": None, "failure_rate": 1.0}
    rows = [{"method": "DCRN", **row, "auc": 0.6, "iterations": 2.5, "ms_per_face": 3.0}]
    document = {"dataset": "synthetic", "split": "test", "num_faces": 6, "rows": rows}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation.json").write_text(json.dumps(document))
    compare([tmp_path / "one", tmp_path / "two"], tmp_path / "out", Console(quiet=True))
    text = (tmp_path / "out" / "compare.md").read_text()
    assert "| one | DCRN | 4.00 | 3.90 .. 4.10 |" in text
    assert "| two | DCRN |" in text


def test_mistakes_are_named(begun: Path, here: Path, pretrained: Path) -> None:
    with pytest.raises(ValueError, match="no algorithm 'sax'; there are dcrn"):
        find_algorithm("sax")
    with pytest.raises(ValueError, match="'own' has no 'Nothing'"):
        load_algorithm("own:Nothing")
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        load_algorithm("nowhere:Algorithm")
    with pytest.raises(ValueError, match="no start 'begin'"):
        list(trial_keys(["sac"], ["begin"], 1))
    with pytest.raises(ValueError, match="twice"):
        list(trial_keys(["sac", "sac"], ["policy"], 1))
    with pytest.raises(ValueError, match=r"ALGORITHM\.learning_rate"):
        BenchmarkSettings(overrides={"learning_rate": 1})
    settings = BenchmarkSettings(overrides={"own:Still.a": 1, "sac.b": 2})
    assert [settings.keywords(name) for name in ("own:Still", "sac", "td3")] == [{"a": 1}, {"b": 2}, {}]
    with pytest.raises(ValueError, match=r"sets 'sac\.b', and the algorithms are td3, own:Still"):
        settings.check(["td3", "own:Still"])
    with pytest.raises(FileNotFoundError, match="no folder of a benchmark"):
        BenchmarkSettings.read(pretrained)
    for wrong, message in {"rewrd": "no keyword 'rewrd'", "reward": "reward must be one of paper"}.items():
        with pytest.raises(ValueError, match=message):
            BenchmarkSettings(environment={wrong: "much"})
    with pytest.raises(ValueError, match="modes, landmarks"):
        BenchmarkSettings(actions="pixels")
    with pytest.raises(ValueError, match="must be at most --timesteps, 5, got 10"):
        BenchmarkSettings(timesteps=5)
    with pytest.raises(FileNotFoundError, match="holds no measurement"):
        Results.read(pretrained)


@pytest.mark.parametrize("algorithm", ["dcrn", "sac"])
def test_the_limit_of_iterations_is_an_end_for_all(begun: Path, algorithm: str) -> None:
    env = Arena(begun).training_env("scratch", 4, 0, plain=algorithm == "dcrn")
    env.reset()
    nothing = np.zeros((4, *env.action_space.shape), np.float32)  # type: ignore[misc]
    for _ in range(10):
        _, rewards, dones, infos = env.step(nothing)
    assert rewards.tolist() == [-10] * 4
    assert dones.all()
    assert not any(info["TimeLimit.truncated"] for info in infos)


def test_baselines_are_measured_once(begun: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in begun.glob("baselines/*/faces.npz")}
    assert len(times) == 13
    run_baselines(Arena(begun), [], 2)
    changed = {path.parent.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {"random"}, "it has another seed now"


def test_workers_fit_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert schedule.default_workers() >= 1
    monkeypatch.setattr(schedule, "_free_memory", lambda: 10)
    assert schedule.default_workers() == 1
    monkeypatch.setattr(schedule, "_free_memory", lambda: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    assert schedule.default_workers() == 6


@pytest.mark.parametrize("overrides", [{"learning_rate": 0.1}, [1], 7, {"sac": 3, "ppo": {"n_steps": 8}}])
def test_overrides_of_no_algorithm_in_a_file_are_named(tmp_path: Path, overrides: Any) -> None:
    document = {**BenchmarkSettings().document(), "overrides": overrides}
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"config\.json': .*overrides"):
        BenchmarkSettings.read(tmp_path)
