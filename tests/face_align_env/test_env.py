"""FaceAlign-v0 for one face: the rules of an episode, and the two env checkers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from writers.environments import A, Toy, corner, large_action, make, small_action
from writers.every import WRITERS
from writers.support import REAL_DATA

from face_align_env import FaceAlignEnv, LearnedHistory
from face_align_env.crops import crop_transform, transform_points
from face_align_env.datasets import REGISTRY, dataset_class
from face_align_env.prepared import PreparedFaces

# -- the checkers ------------------------------------------------------------------------------------------------------

STYLE_RECOMMENDATIONS = ("unconventional shape", "symmetric and normalized")


@pytest.fixture
def only_style_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # What other tests of this process have left behind is collected at any time.
        warnings.filterwarnings("ignore", category=ResourceWarning)
        warnings.filterwarnings("ignore", category=pytest.PytestUnraisableExceptionWarning)
        for message in STYLE_RECOMMENDATIONS:
            warnings.filterwarnings("ignore", message=f".*{message}.*")
        yield


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"augment": True},
        {"learned_history": True, "observe_time": True},
        {"reward": "shaped", "termination": "limit"},
        {"termination": "blind", "terminate_at_limit": True},
        {"termination": "action"},
        {"termination": "action", "learned_history": True, "observe_time": True, "reward": "dense"},
    ],
    ids=str,
)
@pytest.mark.usefixtures("only_style_warnings")
def test_env_checkers_pass(toy_dataset: Toy, options: dict[str, Any]) -> None:
    # "human" needs pygame; test_rendering.py looks at the render modes one by one
    gymnasium_check_env(make(toy_dataset(), **options), skip_render_check=True)
    sb3_check_env(make(toy_dataset(), **options))


@pytest.mark.usefixtures("only_style_warnings")
def test_env_checkers_pass_with_a_learned_history(env: FaceAlignEnv) -> None:
    # Gymnasium's checker warns of any wrapper whatsoever
    warnings.filterwarnings("ignore", message=".*different from the unwrapped version.*")
    gymnasium_check_env(LearnedHistory(env), skip_render_check=True)
    sb3_check_env(LearnedHistory(env))


@pytest.mark.usefixtures("only_style_warnings")
@pytest.mark.parametrize(
    ("dataset", "landmarks"),
    [
        (name, k)
        for name in REGISTRY
        for k in dataset_class(name).schemes
        if (name, k) not in {("pts", 29), ("pts", 19)}
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_env_checkers_pass_on_every_dataset(
    dataset: str, landmarks: int, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On real faces where they are at hand, else on a small copy in the same format."""
    root = None if dataset == "synthetic" else REAL_DATA / dataset
    if root is not None and not root.is_dir():
        root = tmp_path
        WRITERS[dataset](root)
        monkeypatch.setattr("face_align_env.datasets.aflw.AFLW._NUM_TRAIN", 5)
    # counts that are not the protocol's are reported once, and that is right
    warnings.filterwarnings("ignore", message=".*of the protocol's.*")
    options: dict[str, Any] = {"dataset_options": {"size": 8}} if root is None else {"root": root}
    name = dataset_class(dataset).test_split if split == "test" else split
    env = gym.make(
        "FaceAlign-v0", dataset=dataset, split=name, landmarks=landmarks, initializer="mean", **options
    ).unwrapped
    gymnasium_check_env(env, skip_render_check=True)
    sb3_check_env(env)


# -- an episode --------------------------------------------------------------------------------------------------------


def test_reset_shows_the_start(env: FaceAlignEnv) -> None:
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space
    assert not observation["history"].any()
    assert info["iterations"] == 0
    assert info["nme"] == info["initial_nme"] > 0
    np.testing.assert_array_equal(info["landmarks"], info["previous_landmarks"])
    assert "is_success" not in info, "an episode is never over before its first action"


def test_step_moves_the_shape_by_the_action(env: FaceAlignEnv) -> None:
    _, start = env.reset(seed=0)
    action = np.arange(A, dtype=np.float32) / 10
    *_, info = env.step(action)
    np.testing.assert_array_equal(info["previous_landmarks"], start["landmarks"])
    np.testing.assert_array_equal(info["landmarks"], start["landmarks"] + action.reshape(-1, 2))
    assert info["initial_nme"] == start["nme"]
    assert info["iterations"] == 1


def test_actions_are_clipped_to_the_box(env: FaceAlignEnv) -> None:
    _, start = env.reset(seed=0)
    action = np.zeros(A, dtype=np.float32)
    action[0], action[1] = 100.0, -np.inf
    *_, info = env.step(action)
    np.testing.assert_allclose((info["landmarks"] - start["landmarks"])[0], [32, -32], rtol=1e-6)


def test_nme_is_eq_2_with_the_distance_of_the_outer_eye_corners(toy_dataset: Toy) -> None:
    dataset = toy_dataset("test")
    env = make(dataset, initializer=corner)
    _, info = env.reset(options={"index": 2})
    annotation = dataset.annotation(2)
    truth = transform_points(crop_transform(annotation.box), annotation.landmarks).astype(np.float64)
    d = np.hypot(*(truth[36] - truth[45]))
    expected = np.hypot(*(info["landmarks"] - truth).T).mean() / d
    assert info["nme"] == pytest.approx(expected, rel=1e-5)


def test_history_is_the_latest_actions_newest_first(env: FaceAlignEnv) -> None:
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = [rng.uniform(-32, 32, A).astype(np.float32) for _ in range(5)]
    for count in range(1, 6):
        observation, *_ = env.step(actions[count - 1])
        expected = np.concatenate([*reversed(actions[:count]), np.zeros(512, dtype=np.float32)])[:512] / 32
        np.testing.assert_array_equal(observation["history"], expected.astype(np.float32))


def test_perfect_start_and_small_step_end_the_episode(toy_dataset: Toy) -> None:
    dataset = toy_dataset()
    prepared = PreparedFaces(dataset)
    env = make(dataset, initializer=lambda crops: prepared.landmarks[[3]])
    _, info = env.reset(options={"index": 3})
    assert info["nme"] == 0
    _, reward, terminated, truncated, info = env.step(np.zeros(A, dtype=np.float32))
    assert (reward, terminated, truncated) == (10.0, True, False)
    assert info["is_success"] is True


def test_oracle_waits_for_a_small_error_and_blind_does_not(toy_dataset: Toy) -> None:
    for termination, ends in (("oracle", False), ("blind", True)):
        env = make(toy_dataset(), termination=termination, alpha_1=1e-4)
        env.reset(seed=0)
        assert env.step(large_action())[2] is False, "a large action ends nothing"
        assert env.step(small_action())[2] is ends


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("termination", [None, "oracle", "blind", "limit"])
def test_standing_still_is_no_success_on_any_split(split: str, termination: str | None) -> None:
    options = {} if termination is None else {"termination": termination}
    env = gym.make("FaceAlign-v0", split=split, dataset_options={"size": 20}, initializer="mean", **options)
    for index in range(20):
        _, info = env.reset(options={"index": index})
        assert info["nme"] >= 0.07, "the test proves too little"
        steps, ended, total = 0, False, 0.0
        while not ended:
            _, reward, terminated, truncated, info = env.step(np.zeros(A, dtype=np.float32))
            steps, ended, total = steps + 1, terminated or truncated, total + reward
        assert total == -10
        assert info["is_success"] is False
        assert terminated is (termination == "blind"), "only the blind rule takes rest for an end"
        assert steps == (1 if termination == "blind" else 10)


@pytest.mark.parametrize(("alpha_1", "reward"), [(1e-9, -10.0), (1e9, 10.0)])
def test_a_blind_end_is_paid_by_the_error(toy_dataset: Toy, alpha_1: float, reward: float) -> None:
    env = make(toy_dataset(), termination="blind", alpha_1=alpha_1)
    env.reset(seed=0)
    _, paid, terminated, truncated, info = env.step(small_action())
    assert (paid, terminated, truncated) == (reward, True, False)
    assert info["is_success"] is (reward == 10)


def test_the_limit_terminates_where_that_is_wanted(toy_dataset: Toy) -> None:
    for terminates in (False, True):
        env = make(toy_dataset(), alpha_1=1e-9, max_iterations=2, terminate_at_limit=terminates)
        env.reset(seed=0)
        assert env.step(large_action())[2:4] == (False, False)
        _, reward, terminated, truncated, info = env.step(large_action())
        assert (reward, terminated, truncated) == (-10.0, terminates, not terminates)
        assert info["is_success"] is False


def test_the_time_left_can_be_observed(toy_dataset: Toy) -> None:
    env = make(toy_dataset(), alpha_1=1e-9, max_iterations=4, observe_time=True)
    left = [env.reset(seed=0)[0]["time_left"]]
    left += [env.step(large_action())[0]["time_left"] for _ in range(4)]
    np.testing.assert_array_equal(np.concatenate(left), np.float32([1, 0.75, 0.5, 0.25, 0]))
    assert left[0] in env.observation_space["time_left"]
    assert "time_left" not in make(toy_dataset()).reset()[0]


def test_tenth_step_truncates_and_costs_ten(env: FaceAlignEnv) -> None:
    env.reset(seed=0)
    for t in range(1, 11):
        _, reward, terminated, truncated, info = env.step(large_action((-1) ** t))
        assert not terminated
        assert truncated is (t == 10)
        assert (reward == -10) is (t == 10)
        assert ("is_success" in info) is (t == 10)
    assert info["is_success"] is False
    assert info["iterations"] == 10


def test_terminal_state_at_the_tenth_step_is_no_timeout(toy_dataset: Toy) -> None:
    env = make(toy_dataset(), termination="blind", alpha_1=1e9)
    env.reset(seed=0)
    for t in range(9):
        env.step(large_action((-1) ** t))
    _, reward, terminated, truncated, _ = env.step(small_action())
    assert (reward, terminated, truncated) == (10.0, True, False)


@pytest.mark.parametrize(("factor", "expected"), [(0.9, 1.0), (0.99, 0.0), (1.1, -1.0)])
def test_rewards_follow_the_error(toy_dataset: Toy, factor: float, expected: float) -> None:
    """All landmarks are 10 pixels to the right of the truth, and come to 10 ``factor``."""
    dataset = toy_dataset()
    truth = PreparedFaces(dataset).landmarks[[0]]
    env = make(dataset, initializer=lambda crops: truth + np.float32([10, 0]), alpha_1=0.001)
    env.reset(options={"index": 0})
    action = np.zeros((68, 2), dtype=np.float32)
    action[:, 0] = 10 * (factor - 1)
    assert env.step(action.ravel())[1] == expected


def test_every_parameter_reaches_the_dynamics(toy_dataset: Toy) -> None:
    env = make(
        toy_dataset(),
        alpha_1=0.5,
        alpha_2=0.1,
        beta_1=0.2,
        beta_2=-0.3,
        max_iterations=2,
        action_limit=8,
        patch_size=20,
    )
    assert env.observation_space["patches"].shape == (68, 20, 20, 3)
    assert env.action_space.high.max() == 8
    assert (env.task.parameters.beta_1, env.task.parameters.beta_2) == (0.2, -0.3)
    env.reset(seed=0)
    assert not env.step(np.full(A, 0.2))[2], "an L1 length of 0.4 K is not below alpha_2 K"
    assert env.step(large_action())[3], "two iterations are the limit"


@pytest.mark.parametrize("cost", [0.0, 0.25])
def test_dense_reward_and_the_cost_of_an_iteration(toy_dataset: Toy, cost: float) -> None:
    env = make(toy_dataset(), reward="dense", iteration_cost=cost, max_iterations=3, alpha_1=1e-9)
    _, info = env.reset(seed=0)
    total, ended = 0.0, False
    rng = np.random.default_rng(0)
    while not ended:
        _, reward, terminated, truncated, info = env.step(rng.uniform(-3, 3, A).astype(np.float32))
        total, ended = total + reward, terminated or truncated
    assert total == pytest.approx(100 * (info["initial_nme"] - info["nme"]) - 3 * cost), "no -10 at the end"
    paper = make(toy_dataset(), iteration_cost=cost)
    paper.reset(seed=0)
    assert paper.step(np.zeros(A))[1] == pytest.approx({True: 10, False: 0}[paper.episodes.nme[0] < 0.07] - cost)


def play(env: FaceAlignEnv, seed: int) -> tuple[list[float], dict[str, Any], dict[str, Any]]:
    """Rewards, first and last info of an episode of steps that come to rest, or do not: that is up to the seed."""
    rng = np.random.default_rng(seed)
    fading = rng.uniform(0.5, 1.0)
    _, first = env.reset(seed=seed)
    rewards: list[float] = []
    while True:
        _, reward, terminated, truncated, info = env.step(rng.normal(0, 8 * fading ** len(rewards), A))
        rewards.append(reward)
        if terminated or truncated:
            return rewards, first, info


@pytest.mark.parametrize("termination", ["oracle", "blind", "limit"])
@pytest.mark.parametrize(("gamma", "scale"), [(0.9, 1.0), (0.5, 3.0), (1.0, 0.2)])
def test_shaping_changes_a_return_by_a_constant_of_the_start(
    toy_dataset: Toy, termination: str, gamma: float, scale: float
) -> None:
    """Ng, Harada, Russell (1999): so no policy gains on another, however the episode ends."""
    options: dict[str, Any] = {"termination": termination, "alpha_1": 0.14, "iteration_cost": 0.1, "max_iterations": 6}
    paper = make(toy_dataset(), **options)
    shaped = make(toy_dataset(), reward="shaped", shaping_gamma=gamma, shaping_scale=scale, **options)
    ends = set()
    for seed in range(12):
        (one, first, last), (other, *_) = play(paper, seed), play(shaped, seed)
        assert len(one) == len(other)
        returns = [np.polyval(rewards[::-1], gamma) for rewards in (one, other)]
        assert returns[1] - returns[0] == pytest.approx(100 * scale * first["nme"])
        ends.add(last["is_success"])
    assert ends == {True, False}, "the test proves too little"


def test_shaping_is_paid_step_by_step(toy_dataset: Toy) -> None:
    env, paper = (make(toy_dataset(), reward=reward, alpha_1=1e-9) for reward in ("shaped", "paper"))
    _, before = env.reset(seed=0)
    paper.reset(seed=0)
    _, reward, _, _, after = env.step(large_action())
    expected = 100 * (before["nme"] - 0.9 * after["nme"])
    assert reward == pytest.approx(paper.step(large_action())[1] + expected)


@pytest.mark.parametrize(("alpha_1", "success"), [(1e-9, False), (1e9, True)])
def test_a_cascade_of_fixed_length_ends_at_the_limit(toy_dataset: Toy, alpha_1: float, success: bool) -> None:
    """Neither a shape that has settled ends it nor one that has not: the last state's error says what it was worth."""
    env = make(toy_dataset(), termination="limit", alpha_1=alpha_1, max_iterations=3)
    env.reset(seed=0)
    for action in (np.zeros(A), small_action()):
        _, reward, terminated, truncated, info = env.step(action)
        assert (terminated, truncated) == (False, False)
        assert reward in (-1, 0, 1), "Eq. 4 until then"
        assert "is_success" not in info
    _, reward, terminated, truncated, info = env.step(large_action())
    assert (reward, terminated, truncated) == ((10, True, False) if success else (-10, False, True))
    assert info["is_success"] is success


def test_normalizer_and_margin_reach_the_faces(toy_dataset: Toy) -> None:
    inter_pupil, wide = make(toy_dataset(), normalizer="inter_pupil"), make(toy_dataset(), margin=0.5)
    plain = make(toy_dataset())
    assert (inter_pupil.faces.prepared.d < plain.faces.prepared.d).all()
    assert (wide.faces.prepared.d < plain.faces.prepared.d).all()
