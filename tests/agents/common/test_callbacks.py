"""The error of FaceAlign-v0 among the curves of any algorithm."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from face_align_env.agents.common.callbacks import METRICS, EpisodeMetrics
from face_align_env.agents.common.extractor import LRNExtractor
from face_align_env.agents.common.replay_buffer import FaceReplayBuffer, FacesFromEnv
from face_align_env.networks.lrn import LRN

NewEnv = Callable[..., VecEnv]
SMALL: dict[type[BaseAlgorithm], dict[str, Any]] = {
    PPO: {"n_steps": 8, "batch_size": 8, "n_epochs": 1},
    SAC: {"learning_starts": 8, "batch_size": 4, "buffer_size": 50, "replay_buffer_class": FaceReplayBuffer},
}
KEYWORDS = ("nme", "iterations", "is_success")


@pytest.fixture
def new_env(toy_env: Any, toy_vec_env: Any, tmp_path: Path) -> NewEnv:
    """``new_env(kind, keywords=())``: two faces, with a monitor that writes ``monitor.csv``, or without."""

    def make(kind: str, keywords: tuple[str, ...] = ()) -> VecEnv:
        file, options = str(tmp_path / "monitor.csv"), {"max_iterations": 3}
        if kind == "monitor":
            second = str(tmp_path / "second.monitor.csv")
            return DummyVecEnv(
                [lambda file=file: Monitor(toy_env(**options), file, info_keywords=keywords) for file in (file, second)]
            )
        if kind == "vec-monitor":
            return VecMonitor(toy_vec_env(2, **options), file, info_keywords=keywords)
        return toy_vec_env(2, **options)

    return make


class Witness(BaseCallback):
    """The last info of each episode."""

    def __init__(self) -> None:
        super().__init__()
        self.infos: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        ended = zip(self.locals["dones"], self.locals["infos"], strict=True)
        self.infos += [info for done, info in ended if done]
        return True


def learn(algorithm: type[BaseAlgorithm], env: VecEnv, lrn: LRN, folder: Path, **options: Any) -> Witness:
    """40 steps with curves in ``folder``."""
    witness = Witness()
    model = algorithm(
        "MultiInputPolicy",
        env,
        policy_kwargs={
            "features_extractor_class": LRNExtractor,
            "features_extractor_kwargs": {"lrn": lrn},
            "net_arch": [8],
        },
        tensorboard_log=str(folder),
        seed=0,
        device="cpu",
        **SMALL[algorithm],
        **options,
    )
    model.learn(40, CallbackList([FacesFromEnv(), EpisodeMetrics(), witness]), log_interval=1)
    env.close()
    return witness


def curves(folder: Path) -> EventAccumulator:
    """What TensorBoard would show of the one run in a folder."""
    (file,) = folder.glob("*/events*")
    return EventAccumulator(str(file.parent)).Reload()


@pytest.mark.parametrize("kind", ["monitor", "vec-monitor", "none"])
@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_tensorboard_shows_the_error_beside_the_success_rate(
    algorithm: type[BaseAlgorithm], kind: str, new_env: NewEnv, lrn: LRN, tmp_path: Path
) -> None:
    witness = learn(algorithm, new_env(kind), lrn, tmp_path / "curves")
    shown = curves(tmp_path / "curves")
    assert len(witness.infos) > 8
    if algorithm is PPO:  # it writes its log with all that has happened; SAC may stop before an episode's end
        for key in METRICS:
            expected = np.mean([info[key] for info in witness.infos])
            assert shown.Scalars(f"rollout/{key}")[-1].value == pytest.approx(expected, rel=1e-5)
    # Off-policy algorithms write a second row where two episodes end in one step, with nothing new in it.
    steps = {event.step for event in shown.Scalars("rollout/success_rate")}
    assert len(steps) > 1
    for key in METRICS:
        assert {event.step for event in shown.Scalars(f"rollout/{key}")} == steps


def test_the_means_are_over_as_many_episodes_as_those_of_the_return(new_env: NewEnv, lrn: LRN, tmp_path: Path) -> None:
    witness = learn(PPO, new_env("vec-monitor"), lrn, tmp_path / "curves", stats_window_size=4)
    expected = np.mean([info["nme"] for info in witness.infos[-4:]])
    assert curves(tmp_path / "curves").Scalars("rollout/nme")[-1].value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["monitor", "vec-monitor"])
def test_a_monitor_writes_the_same_when_it_is_asked(kind: str, new_env: NewEnv, lrn: LRN, tmp_path: Path) -> None:
    witness = learn(PPO, new_env(kind, KEYWORDS), lrn, tmp_path / "curves")
    rows: list[dict[str, str]] = []
    for path in tmp_path.glob("*monitor.csv"):
        header, *lines = path.read_text().splitlines()
        assert header.startswith("#{")
        rows += csv.DictReader(lines)
    assert len(rows) == len(witness.infos)
    assert list(rows[0]) == ["r", "l", "t", *KEYWORDS]
    assert {row["is_success"] for row in rows} <= {"True", "False"}
    assert all(row["iterations"] == row["l"] for row in rows)
    written, seen = ([row["nme"] for row in rows], [str(info["nme"]) for info in witness.infos])
    assert sorted(written) == sorted(seen)


def test_another_environment_is_an_error() -> None:
    model = PPO("MlpPolicy", gym.make("Pendulum-v1", max_episode_steps=4), n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ValueError, match=r"needs the infos of FaceAlign-v0 \(nme, initial_nme, iterations\)"):
        model.learn(8, EpisodeMetrics())
