"""The search for keywords, and the values that ship."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3.common.base_class import BaseAlgorithm

from face_align_env.agents.benchmark import tuning
from face_align_env.agents.benchmark.algorithms import make_learner
from face_align_env.agents.benchmark.settings import BenchmarkSettings
from face_align_env.agents.benchmark.tuning import (
    FILE,
    NETWORK,
    SPACES,
    Search,
    check_search,
    keep,
    tune,
    tuned_keywords,
)
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.pretrain.settings import SettingError, read_json

STATE = "FaceAlign/State19-v0"


def test_a_search_is_seeded_and_begins_with_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna", reason="the extra tune is not installed")
    # What a training is worth is not what this is about: the nearer to a learning rate, the better.
    monkeypatch.setattr(
        tuning, "_trial_value", lambda task, name, keywords, *rest: -abs(keywords.get("learning_rate", 1) - 1e-3)
    )
    first, second, other = (list(tune(STATE, "sac", 12, 100, 4, seed)) for seed in (0, 0, 1))
    assert first == second != other
    *trials, found = first
    assert trials[0] == ({"policy_kwargs": NETWORK}, -(1 - 1e-3))
    assert isinstance(found, Search)
    assert found.value == max(value for _, value in trials) > found.default
    assert found.keywords == max(trials, key=lambda trial: trial[1])[0]
    assert found.trials == len(trials) == 12


@pytest.mark.slow
def test_a_trial_is_the_mean_return_of_a_training_on_training_faces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    values = [tuning._trial_value(STATE, "ppo", {"n_steps": 8, "batch_size": 16}, 512, 4) for _ in range(2)]
    assert values[0] == values[1], "it is seeded"
    assert -20 < values[0] < 20
    assert list(tmp_path.glob("SB3-*")) == [], "no folder of a logger is left behind"


def test_what_was_found_is_kept_beside_the_others(tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    keep(path, STATE, "sac", Search({"tau": 0.1}, 2.0, 1.0, 3, 100))
    keep(path, STATE, "ppo", Search({"n_steps": 16}, 3.0, 1.0, 3, 100))
    keep(path, STATE, "sac", Search({"tau": 0.2}, 2.5, 1.0, 3, 100))
    assert tuned_keywords(STATE, path) == {"ppo": {"n_steps": 16}, "sac": {"tau": 0.2}}
    assert tuned_keywords("FaceAlign/Features19-v0", path) == tuned_keywords(None, path) == {}


def shipped() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (task, algorithm, found["keywords"])
        for task, searches in read_json(FILE).items()
        for algorithm, found in searches.items()
    ]


@pytest.mark.parametrize(("task", "algorithm", "keywords"), shipped())
def test_the_values_that_ship_are_keywords_of_their_algorithms(
    task: str, algorithm: str, keywords: dict[str, Any]
) -> None:
    if algorithm in ("tqc", "crossq"):
        pytest.importorskip("sb3_contrib", reason="the extra benchmark is not installed")
    assert task in gym.registry
    assert algorithm in SPACES
    env = FaceAlignVecEnv(2, task, dataset_options={"size": 8})
    model = make_learner(algorithm, env, "scratch", None, 0, 1000, keywords)
    assert isinstance(model, BaseAlgorithm)
    assert model.learning_rate == keywords.get("learning_rate", model.learning_rate)
    assert model.policy_kwargs["net_arch"] == NETWORK["net_arch"]


def test_a_benchmark_of_a_task_has_them_unless_something_else_is_said() -> None:
    tuned = {"ppo": {"n_steps": 16, "learning_rate": 1e-3}, "sac": {"tau": 0.1}}
    settings = BenchmarkSettings(task=STATE, overrides={"ppo.n_steps": 32})
    assert settings.with_tuned(tuned).keywords("ppo") == {"n_steps": 32, "learning_rate": 1e-3}
    assert settings.with_tuned(tuned).keywords("sac") == {"tau": 0.1}
    untuned = BenchmarkSettings(task=STATE, tuned=False)
    assert untuned.with_tuned(tuned).overrides is None


def test_settings_with_nested_keywords_are_read_as_they_were_written(tmp_path: Path) -> None:
    settings = BenchmarkSettings(task=STATE, overrides={"ppo.policy_kwargs": {"log_std_init": -1.0}})
    settings.write(tmp_path)
    assert BenchmarkSettings.read(tmp_path) == settings
    assert json.loads((tmp_path / "config.json").read_text())["overrides"] == settings.overrides


@pytest.mark.parametrize(
    ("task", "algorithms", "message"),
    [
        (STATE, ["dcrn"], "got 'dcrn'"),
        (STATE, [], "must be some of"),
        ("FaceAlign/Nothing-v0", ["ppo"], "must be a registered id"),
        ("FaceAlign/Synthetic19-v0", ["ppo"], "has patches"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(task: str, algorithms: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        check_search(task, algorithms, 5000)
