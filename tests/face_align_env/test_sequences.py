"""Sequences: episodes of a face that moves, frame by frame."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import face_align_env  # noqa: F401 - registers the tasks
from face_align_env import mdp
from face_align_env.agents.common.replay_buffer import FaceReplayBuffer
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.sequences import MAX_FRAMES, Motion, first_frame

OPTIONS: dict[str, Any] = {"landmarks": 19, "dataset_options": {"size": 6}, "initializer": "mean", "frames": 3}
SEED = 5 * MAX_FRAMES


def sequence(**options: Any) -> gym.Env[Any, Any]:
    return gym.make("FaceAlign-v0", **{**OPTIONS, **options})


def to_the_truth(env: gym.Env[Any, Any]) -> np.ndarray:
    episodes = env.unwrapped.episodes
    way: np.ndarray = (episodes.ground_truth - episodes.x).reshape(-1)
    return way


# -- the motion --------------------------------------------------------------------------------------------------------


def test_a_frame_is_a_function_of_its_seed() -> None:
    seeds = SEED + np.arange(4)
    views = Motion().sample_seeded(seeds)
    np.testing.assert_array_equal(Motion().sample_seeded(seeds[2:3]).matrices[0], views.matrices[2])
    np.testing.assert_array_equal(first_frame(seeds), [SEED] * 4)
    assert not np.allclose(Motion().sample_seeded([SEED + MAX_FRAMES]).matrices[0], views.matrices[0])


def test_a_face_moves_smoothly_and_as_far_as_it_is_told() -> None:
    motion = Motion(shift=0.1, rotation=20, scale=0.3, slowest=0.02, fastest=0.02)
    views = motion.sample_seeded(SEED + np.arange(50))  # there and back once
    middle = np.full(2, 127.5)
    ways = views.matrices @ [*middle, 1.0] - middle
    assert np.abs(ways).max(axis=0) == pytest.approx([25.6, 25.6], rel=0.01)
    assert np.linalg.norm(np.diff(ways, axis=0), axis=1).max() <= 25.6 * 2 * np.pi * 0.02 * np.sqrt(2)
    angles = np.rad2deg(np.arctan2(views.matrices[:, 1, 0], views.matrices[:, 0, 0]))
    assert np.abs(angles).max() == pytest.approx(20, rel=0.01)
    assert views.scales.max() == pytest.approx(1.3, rel=0.01)
    assert views.scales.min() == pytest.approx(1 / 1.3, rel=0.01)
    np.testing.assert_allclose(np.linalg.det(views.matrices[:, :, :2]), views.scales**2)
    assert not views.mirrored.any()


def test_the_truth_moves_with_the_pixels() -> None:
    env = sequence(alpha_1=10.0)
    env.reset(seed=0)
    source, episodes = env.unwrapped.faces, env.unwrapped.episodes
    first = episodes.ground_truth.copy()
    env.step(np.zeros(38, np.float32))
    assert episodes.frame_number[0] == 1
    crops = source.crops(episodes.index.repeat(2), episodes.view_seed - [1, 0])
    assert np.abs(episodes.ground_truth - first).mean() > 1
    for crop, shape in zip(crops, (first, episodes.ground_truth), strict=True):
        again = source.crops(episodes.index, episodes.view_seed - (shape is first))
        np.testing.assert_array_equal(again[0], crop)
    assert (crops[0] != crops[1]).any()


# -- the episode -------------------------------------------------------------------------------------------------------


def test_the_next_frame_begins_where_the_last_one_was_left() -> None:
    env = sequence(observe_time=True, iteration_cost=0.25, learned_history=True, action_limit=100.0)
    observation, info = env.reset(seed=1)
    assert (info["frame"], info["frames_found"], info["frame_iterations"]) == (0, 0, 0)
    assert np.isinf(info["frame_nme"])
    assert observation["frames_left"] == 1
    rewards = []
    for frame in range(3):
        history = np.full(512, 0.1 * (frame + 1), np.float32)
        for settled in (False, True):  # a leap to the truth is too long for Eq. 3: a second look confirms it
            before = info
            observation, reward, terminated, truncated, info = env.step(np.concatenate([to_the_truth(env), history]))
            rewards.append(reward)
            np.testing.assert_array_equal(info["previous_landmarks"], before["landmarks"])
            assert info["previous_view_seed"] == before["view_seed"]
            assert terminated == (settled and frame == 2)
            assert not truncated
        assert info["frames_found"] == frame + 1
        assert info["frame_nme"] < 1e-4
        assert info["frame_iterations"] == 2
        np.testing.assert_array_equal(observation["history"], history)
        if frame < 2:
            assert info["frame"] == frame + 1
            assert info["iterations"] == 0
            assert info["view_seed"] == before["view_seed"] + 1
            assert info["nme"] == info["initial_nme"] > 0.01, "the face has moved on"
            assert observation["time_left"] == 1
            assert observation["frames_left"] == pytest.approx(1 - (frame + 1) / 3)
    assert info["is_success"]
    assert rewards == [0.75, 9.75] * 3


def test_a_frame_that_is_not_found_costs_its_ten_and_the_sequence_goes_on() -> None:
    env = sequence(max_iterations=2, terminate_at_limit=True)
    env.reset(seed=0)
    away = np.full(38, -30, np.float32)
    ends = [env.step(away) for _ in range(6)]
    assert [reward for _, reward, *_ in ends] == [-1, -10] * 3
    assert [terminated for _, _, terminated, *_ in ends] == [False] * 5 + [True]
    info = ends[-1][-1]
    assert info["frames_found"] == 0
    assert not info["is_success"]
    env = sequence(max_iterations=2)
    env.reset(seed=0)
    ends = [env.step(away) for _ in range(6)]
    assert [truncated for *_, truncated, _ in ends] == [False] * 5 + [True]


def test_one_frame_that_is_lost_is_no_success() -> None:
    env = sequence(max_iterations=2, action_limit=200.0)
    env.reset(seed=0)
    for frame in range(3):
        for _ in range(2):
            action = np.full(38, 50, np.float32) if frame == 1 else to_the_truth(env)
            *_, info = env.step(action)
    assert info["frames_found"] == 2
    assert not info["is_success"]


def test_errors_are_those_of_eq_2_in_each_frame() -> None:
    env = sequence(alpha_1=10.0, alpha_2=100.0)
    env.reset(seed=3)
    episodes = env.unwrapped.episodes
    for _ in range(2):
        *_, info = env.step(np.ones(38, np.float32))
        expected = mdp.nme(episodes.x, episodes.ground_truth, episodes.d, episodes.counted)
        assert info["nme"] == expected[0]


def test_a_window_shows_the_frame() -> None:
    env = sequence(render_mode="rgb_array", alpha_1=10.0)
    env.reset(seed=0)
    before = env.render()
    env.step(np.zeros(38, np.float32))
    assert (env.render() != before).any()


# -- what goes with it -------------------------------------------------------------------------------------------------


def test_a_replay_buffer_gives_back_the_frames_that_were_seen() -> None:
    env = FaceAlignVecEnv(2, **OPTIONS, observe_time=True, max_iterations=2, alpha_1=1e-9)
    env.seed(0)
    buffer = FaceReplayBuffer(24, env.observation_space, env.action_space, "cpu", 2, faces=env.get_attr("faces")[0])
    seen = env.reset()
    kept = []
    rng = np.random.default_rng(0)
    for _ in range(12):
        actions = rng.uniform(-5, 5, (2, 38)).astype(np.float32)
        after, rewards, dones, infos = env.step(actions)
        last = {key: value.copy() for key, value in after.items()}
        for slot in np.flatnonzero(dones):
            for key in last:
                last[key][slot] = infos[slot]["terminal_observation"][key]
        buffer.add(seen, last, actions, rewards, dones, infos)
        kept.append((seen, last))
        seen = after
    sampled = buffer._get_samples(np.arange(12))
    for row, (before, after) in enumerate(kept):
        for found, expected in ((sampled.observations, before), (sampled.next_observations, after)):
            matches = [
                all((found[key][row].numpy() == expected[key][slot]).all() for key in expected) for slot in range(2)
            ]
            assert any(matches)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "frames must be"),
        ({"frames": 2000}, "frames must be at most 1024"),
        ({"frames": 1, "motion": {}}, "motion is that of a sequence"),
        ({"augment": True}, "leave augment out"),
        ({"motion": {"speed": 1}}, "motion may have shift"),
        ({"motion": {"scale": -1}}, "scale must be"),
        ({"motion": {"slowest": 0.2, "fastest": 0.1}}, "fastest must be"),
        ({"motion": 3}, "motion must be a Motion or a mapping"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sequence(**options)


def test_a_motion_may_be_an_object() -> None:
    env = sequence(motion=Motion(shift=0.0, rotation=0.0, scale=0.0), alpha_1=10.0)
    env.reset(seed=0)
    truth = env.unwrapped.episodes.ground_truth.copy()
    env.step(np.zeros(38, np.float32))
    assert env.unwrapped.episodes.frame_number[0] == 1
    np.testing.assert_array_equal(env.unwrapped.episodes.ground_truth, truth)
