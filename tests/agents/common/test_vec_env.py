"""FaceAlignVecEnv: to Stable-Baselines3 it is a DummyVecEnv of single environments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TimeLimit
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecVideoRecorder

from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.env import FaceAlignEnv

VecEnvs = Callable[..., FaceAlignVecEnv]


@pytest.mark.parametrize("learned", [False, True], ids=["plain", "learned_history"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_it_plays_what_single_environments_play(toy_env: Any, toy_vec_env: VecEnvs, learned: bool, split: str) -> None:
    options = {"augment": split == "train", "alpha_1": 0.5, "max_iterations": 4}
    batch = toy_vec_env(3, learned, split, **options)
    singles = DummyVecEnv([lambda: toy_env(learned, split, **options) for _ in range(3)])
    assert batch.observation_space == singles.observation_space
    assert batch.action_space == singles.action_space
    for envs in (batch, singles):
        envs.seed(5)
    np.testing.assert_equal(batch.reset(), singles.reset())
    rng = np.random.default_rng(0)
    terminations = truncations = 0
    for _ in range(200):
        # small steps terminate, large ones do not
        actions = rng.normal(0, 1, (3, *batch.action_space.shape)) * rng.choice([0.5, 4.0], (3, 1), p=[0.3, 0.7])
        actions = actions.astype(np.float32)
        (observations, rewards, dones, infos), expected = batch.step(actions), singles.step(actions)
        np.testing.assert_equal(observations, expected[0])
        np.testing.assert_array_equal(rewards, expected[1])
        np.testing.assert_array_equal(dones, expected[2])
        np.testing.assert_equal(infos, expected[3])
        np.testing.assert_equal(batch.reset_infos, singles.reset_infos)
        assert rewards.dtype == expected[1].dtype
        assert dones.dtype == expected[2].dtype
        truncations += sum(info["TimeLimit.truncated"] for info in infos)
        terminations += sum(bool(info.get("is_success")) for info in infos)
    assert terminations > 20
    assert truncations > 20


def test_terminal_observations_and_infos_survive_the_reset(toy_vec_env: VecEnvs) -> None:
    envs = toy_vec_env(2, termination="blind", alpha_1=1e9)
    envs.seed(0)
    envs.reset()
    actions = np.stack([np.full(136, 1.0), np.full(136, 5.0)]).astype(np.float32)  # the first stops
    observations, rewards, dones, infos = envs.step(actions)
    assert dones.tolist() == [True, False]
    assert rewards[0] == 10
    assert infos[0]["is_success"]
    assert infos[0]["iterations"] == 1
    assert "terminal_observation" not in infos[1]
    np.testing.assert_allclose(infos[0]["terminal_observation"]["history"][:136], 1 / 32)
    assert not observations["history"][0].any(), "the next episode has begun"
    assert envs.reset_infos[0]["iterations"] == 0


def test_options_of_the_reset_choose_faces(toy_vec_env: VecEnvs) -> None:
    envs = toy_vec_env(3)
    envs.set_options({"index": 4})
    envs.reset()
    assert [info["image_index"] for info in envs.reset_infos] == [4, 4, 4]
    envs.set_options([{"index": 1}, {}, {"index": 2}])
    envs.seed(0)
    envs.reset()
    first, free, last = (info["image_index"] for info in envs.reset_infos)
    assert (first, last) == (1, 2)
    envs.seed(0)
    envs.reset()
    assert envs.reset_infos[1]["image_index"] == free, "options hold for one reset"


def test_attributes_belong_to_all_faces(toy_vec_env: VecEnvs) -> None:
    envs = toy_vec_env(3, max_iterations=7)
    tasks = envs.get_attr("task")
    assert len(tasks) == 3
    assert tasks[0].parameters.max_iterations == 7
    assert len(envs.get_attr("task", indices=[0, 2])) == 2
    assert len(envs.get_attr("task", indices=1)) == 1
    envs.set_attr("note", "seen")
    assert envs.get_attr("note") == ["seen"] * 3
    with pytest.raises(ValueError, match="share 'note'"):
        envs.set_attr("note", "other", indices=[1])
    assert envs.env_is_wrapped(TimeLimit) == [False] * 3
    assert envs.env_method("close", indices=[0]) == [None]


def test_it_renders_and_closes(toy_vec_env: VecEnvs) -> None:
    envs = toy_vec_env(2, render_mode="rgb_array")
    envs.reset()
    images = envs.get_images()
    assert [image.shape for image in images if image is not None] == [(512, 512, 3)] * 2
    frame = envs.render()
    assert frame is not None
    assert frame.ndim == 3, "Stable-Baselines3 tiles them"
    envs.close()


def test_films_of_it_run_as_slowly_as_those_of_one_environment(
    toy_vec_env: VecEnvs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("moviepy", reason="the extra video is not installed")
    monkeypatch.chdir(tmp_path)
    envs = toy_vec_env(2, render_mode="rgb_array")
    film = VecVideoRecorder(envs, "films", lambda step: step == 0, video_length=3)
    film.reset()
    for _ in range(3):
        film.step(np.zeros((2, *envs.action_space.shape), np.float32))
    film.close()
    (path,) = (tmp_path / "films").glob("*.mp4")
    capture = cv2.VideoCapture(str(path))
    assert capture.get(cv2.CAP_PROP_FPS) == FaceAlignEnv.metadata["render_fps"]
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) >= 3


def test_vec_monitor_logs_episodes(toy_vec_env: VecEnvs) -> None:
    envs = VecMonitor(toy_vec_env(2, max_iterations=3), info_keywords=("nme", "iterations"))
    envs.reset()
    for _ in range(3):
        *_, infos = envs.step(np.full((2, 136), 5.0, dtype=np.float32))
    assert [info["episode"]["l"] for info in infos] == [3, 3]
    assert infos[0]["episode"]["iterations"] == 3
    assert infos[0]["episode"]["nme"] == infos[0]["nme"]


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_algorithms_learn_the_same_without_copies(algorithm: Any) -> None:
    """Two arrays that take turns are enough for the last observation and the new one."""
    options: dict[str, Any] = {"landmarks": 19, "dataset_options": {"size": 6}, "initializer": "mean", "patch_size": 4}
    kind = {"n_steps": 8, "batch_size": 8} if algorithm is PPO else {"learning_starts": 4, "buffer_size": 50}
    weights = []
    for copy in (True, False):
        env = FaceAlignVecEnv(2, copy=copy, max_iterations=3, **options)
        env.seed(0)
        model = algorithm("MultiInputPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **kind)
        model.learn(32)
        weights.append([each.detach().clone() for each in model.policy.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_named_task_is_played(toy_vec_env: VecEnvs) -> None:
    env = FaceAlignVecEnv(2, "FaceAlign/State19-v0", dataset_options={"size": 6})
    assert env.observation_space.shape == (11,)
    assert env.get_attr("faces")[0].prepared.scheme.num_landmarks == 19
    assert env.get_attr("directions")[0].shape == (10, 38)
    env.set_options([{"face": 1}, {}])
    with pytest.raises(ValueError, match="options index; got 'face'"):
        env.reset()
