"""Gymnasium's recorders and Stable-Baselines3's monitors see episodes as they are: returns, lengths, infos, films."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics, RecordVideo
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordStatistics
from gymnasium.wrappers.vector import RecordVideo as RecordVideos
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecMonitor, VecVideoRecorder

import face_align_env
from face_align_env.agents.common.vec_env import FaceAlignVecEnv

assert face_align_env  # importing it registers FaceAlign-v0
TINY: dict[str, Any] = {"dataset_options": {"size": 4}, "landmarks": 19, "initializer": "mean", "max_iterations": 3}
LIMIT = {**TINY, "termination": "limit"}  # each episode takes three iterations
COLUMNS = ("nme", "iterations", "is_success")
A, N = 38, 2


def single(**options: Any) -> gym.Env[Any, Any]:
    return gym.make("FaceAlign-v0", **{**LIMIT, **options})


def batch(**options: Any) -> Any:
    return gym.make_vec("FaceAlign-v0", num_envs=N, vectorization_mode="vector_entry_point", **{**LIMIT, **options})


def actions(steps: int, num_envs: int = 1) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    return (rng.normal(0, 4, (num_envs, A)).astype(np.float32) for _ in range(steps))


def frames_of(path: Path) -> list[np.ndarray]:
    film = cv2.VideoCapture(str(path))
    frames = []
    while (read := film.read())[0]:
        frames.append(read[1])
    return frames


# -- Gymnasium ---------------------------------------------------------------------------------------------------------


def test_statistics_of_a_single_environment() -> None:
    env = RecordEpisodeStatistics(single())
    env.reset(seed=0)
    rewards, info = [], {}
    for (action,) in actions(3):
        _, reward, *_, info = env.step(action)
        rewards.append(reward)
    assert info["episode"]["r"] == pytest.approx(sum(rewards))
    assert info["episode"]["l"] == 3
    assert list(env.length_queue) == [3]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_statistics_of_a_batch(mode: AutoresetMode) -> None:
    env = RecordStatistics(batch(autoreset_mode=mode))
    env.reset(seed=0)
    total, found = np.zeros(N), []
    for action in actions(8, N):
        _, rewards, terminated, truncated, infos = env.step(action)
        total += rewards
        ended = terminated | truncated
        assert infos.get("_episode", np.zeros(N, dtype=bool)).tolist() == ended.tolist()
        if ended.any():
            assert infos["episode"]["l"].tolist() == [3, 3]
            np.testing.assert_allclose(infos["episode"]["r"], total)
            found.append(infos["episode"]["r"])
            total[:] = 0
            if mode == AutoresetMode.DISABLED:
                env.reset(options={"reset_mask": ended})
    # a step that only begins the next episode belongs to none
    assert len(found) == 2
    np.testing.assert_allclose(list(env.return_queue), np.concatenate(found))


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_statistics_of_a_batch_are_those_of_gymnasiums_own(mode: AutoresetMode) -> None:
    """Gymnasium 1.2 loses a step of each episode but the first under SAME_STEP (its pull request 1624 mends that)."""
    theirs = SyncVectorEnv([single] * N, autoreset_mode=mode)
    recorders = [RecordStatistics(env) for env in (batch(autoreset_mode=mode), theirs)]
    for env in recorders:
        env.reset(seed=0)
    for action in actions(3 if mode == AutoresetMode.DISABLED else 8, N):
        for env in recorders:
            env.step(action)
    assert recorders[0].return_queue == recorders[1].return_queue
    assert recorders[0].length_queue == recorders[1].length_queue
    assert list(recorders[0].length_queue)[:N] == [3] * N


def test_statistics_of_a_batch_whose_slots_end_at_different_times() -> None:
    """One slot is played to the end and begun again; the other's episode goes on."""
    env = RecordStatistics(batch(termination="blind", max_iterations=4))
    env.reset(seed=0)
    lengths = []
    for t in range(5):
        action = np.full((N, A), 8.0, dtype=np.float32)
        action[0] = 0.0 if t == 1 else 8.0  # Eq. 3 stops slot 0 at its second step
        _, _, terminated, truncated, infos = env.step(action)
        ended = terminated | truncated
        if ended.any():
            lengths.append((infos["episode"]["l"] * ended).tolist())
    assert lengths == [[2, 0], [0, 4]]


@pytest.mark.parametrize("wrap_statistics", [False, True])
def test_film_of_a_single_environment(tmp_path: Path, wrap_statistics: bool) -> None:
    env = RecordVideo(single(render_mode="rgb_array"), str(tmp_path / "films"), episode_trigger=lambda _: True)
    recorded = RecordEpisodeStatistics(env) if wrap_statistics else env
    for _ in range(2):
        recorded.reset(seed=0)
        for (action,) in actions(3):
            recorded.step(action)
    recorded.close()
    films = sorted((tmp_path / "films").glob("*.mp4"))
    assert [film.name for film in films] == ["rl-video-episode-0.mp4", "rl-video-episode-1.mp4"]
    frames = frames_of(films[0])
    assert len(frames) == 4, "x_0 and one frame an iteration"
    assert frames[0].shape == (512, 512, 3)
    assert cv2.VideoCapture(str(films[0])).get(cv2.CAP_PROP_FPS) == 2


def test_film_of_a_batch(tmp_path: Path) -> None:
    env = RecordVideos(batch(render_mode="rgb_array"), str(tmp_path / "films"), episode_trigger=lambda t: t == 0)
    env.reset(seed=0)
    for action in actions(4, N):  # the last one only begins the next episode
        env.step(action)
    env.close()
    (film,) = (tmp_path / "films").glob("*.mp4")
    frames = frames_of(film)
    assert len(frames) == 4
    assert sorted(frames[0].shape) == [3, 512, 1024], "both faces"


# -- Stable-Baselines3 -------------------------------------------------------------------------------------------------


def read_monitor(path: Path) -> list[dict[str, str]]:
    """The rows of a ``monitor.csv``, under its line of JSON."""
    header, *lines = path.read_text().splitlines()
    assert header.startswith("#")
    assert "t_start" in json.loads(header[1:])
    return list(csv.DictReader(lines))


def test_monitor_of_a_single_environment(tmp_path: Path) -> None:
    env = Monitor(single(), str(tmp_path / "one"), info_keywords=COLUMNS)
    ends = []
    for _ in range(2):
        env.reset(seed=0)
        for (action,) in actions(3):
            *_, info = env.step(action)
        ends.append(info)
    env.close()
    rows = read_monitor(tmp_path / "one.monitor.csv")
    assert [row["l"] for row in rows] == [row["iterations"] for row in rows] == ["3", "3"]
    for row, end in zip(rows, ends, strict=True):
        assert float(row["nme"]) == end["nme"] == end["episode"]["nme"]
        assert row["is_success"] == str(end["is_success"])


def test_monitor_of_a_batch(tmp_path: Path) -> None:
    env = VecMonitor(FaceAlignVecEnv(N, **LIMIT), str(tmp_path / "many"), info_keywords=COLUMNS)
    env.seed(0)
    env.reset()
    ends, total = [], np.zeros(N)
    for action in actions(6, N):
        _, rewards, dones, infos = env.step(action)
        total += rewards
        if dones.all():
            ends += [(info["episode"], info["nme"], reward) for info, reward in zip(infos, total, strict=True)]
            total[:] = 0
    env.close()
    rows = read_monitor(tmp_path / "many.monitor.csv")
    assert len(rows) == len(ends) == 2 * N
    for row, (episode, nme, earned) in zip(rows, ends, strict=True):
        assert float(row["nme"]) == episode["nme"] == nme, "of the episode's end, not of the next one's beginning"
        assert int(row["iterations"]) == episode["iterations"] == int(row["l"]) == 3
        assert row["is_success"] == str(episode["is_success"])
        assert episode["r"] == pytest.approx(earned)


def test_monitors_of_a_batch_and_of_single_environments_say_the_same(tmp_path: Path) -> None:
    many = VecMonitor(FaceAlignVecEnv(N, **LIMIT), info_keywords=COLUMNS)
    many.seed(3)
    many.reset()
    ones = [Monitor(single(), info_keywords=COLUMNS) for _ in range(N)]
    for seed, one in enumerate(ones, 3):
        one.reset(seed=seed)
    for action in actions(3, N):
        *_, infos = many.step(action)
        outcomes = [one.step(each) for one, each in zip(ones, action, strict=True)]
    for info, outcome in zip(infos, outcomes, strict=True):
        mine, theirs = info["episode"], outcome[-1]["episode"]
        assert {key: mine[key] for key in ("l", *COLUMNS)} == {key: theirs[key] for key in ("l", *COLUMNS)}
        assert mine["r"] == pytest.approx(theirs["r"])


def test_film_of_stable_baselines3(tmp_path: Path) -> None:
    env = VecVideoRecorder(
        FaceAlignVecEnv(N, render_mode="rgb_array", **LIMIT), str(tmp_path), lambda step: step == 0, video_length=3
    )
    env.reset()
    for action in actions(3, N):
        env.step(action)
    env.close()
    (film,) = tmp_path.glob("*.mp4")
    assert frames_of(film)
