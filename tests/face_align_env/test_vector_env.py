"""FaceAlignVectorEnv plays what single environments play, to the bit, by Gymnasium's rules."""

from __future__ import annotations

import gc
import tracemalloc
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from writers.environments import Toy, corner

from face_align_env import FaceAlignEnv, FaceAlignVectorEnv, LearnedHistory
from face_align_env.datasets import FaceDataset
from face_align_env.prepared import FaceSource, PreparedFaces

N = 3
MODES = pytest.mark.parametrize("mode", list(AutoresetMode))


def vector(dataset: FaceDataset | FaceSource, num_envs: int = N, **options: Any) -> FaceAlignVectorEnv:
    env = gym.make_vec("FaceAlign-v0", num_envs=num_envs, dataset=dataset, **{"initializer": "mean", **options})
    assert isinstance(env, FaceAlignVectorEnv)
    return env


def singles(dataset: FaceDataset | FaceSource, mode: AutoresetMode, num_envs: int = N, **options: Any) -> SyncVectorEnv:
    """N single environments behind Gymnasium's own vector environment."""
    options = {"initializer": "mean", **options}
    limit = options.pop("max_episode_steps", None)

    def make() -> gym.Env[Any, Any]:
        env = FaceAlignEnv(dataset=dataset, **options)
        return env if limit is None else TimeLimit(env, limit)

    return SyncVectorEnv([make] * num_envs, autoreset_mode=mode)


def assert_same(one: Any, other: Any) -> None:
    """Equal to the bit, in type and dtype too."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, tuple):
        for each, its_other in zip(one, other, strict=True):
            assert_same(each, its_other)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        if one.dtype == object:
            assert_same(tuple(one), tuple(other))
        else:
            np.testing.assert_array_equal(one, other)
    else:
        assert one == other


def random_actions(rng: np.random.Generator, like: np.ndarray) -> np.ndarray:
    """Large and small ones, so that episodes end in both ways."""
    size = rng.choice([0.5, 8.0], size=(len(like), 1))
    return (rng.normal(size=like.shape) * size).astype(np.float32)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Warping single faces is a little work for torch: on a busy machine its threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@MODES
@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 1000),
        ({"augment": True, "termination": "blind"}, 100),
        ({"learned_history": True, "termination": "blind"}, 200),
        ({"reward": "shaped", "shaping_scale": 0.3, "iteration_cost": 0.1}, 100),
        ({"reward": "shaped", "termination": "limit", "max_iterations": 3, "alpha_1": 0.3}, 100),
        ({"observe_time": True, "terminate_at_limit": True, "max_iterations": 3, "alpha_1": 0.3}, 100),
        ({"termination": "action", "max_iterations": 3, "alpha_1": 0.3}, 100),
        ({"termination": "action", "learned_history": True, "reward": "dense", "iteration_cost": 0.5}, 100),
        ({"termination": "action", "frames": 3, "observe_time": True, "max_iterations": 4}, 100),
        ({"max_episode_steps": 3, "max_iterations": 5, "termination": "blind"}, 100),
        ({"max_episode_steps": 3, "max_iterations": 3, "terminate_at_limit": True, "alpha_1": 0.3}, 100),
    ],
    ids=str,
)
@pytest.mark.usefixtures("one_thread")
def test_agrees_with_single_environments_to_the_bit(
    toy_dataset: Toy, mode: AutoresetMode, options: dict[str, Any], steps: int
) -> None:
    dataset = toy_dataset()
    ours, theirs = vector(dataset, autoreset_mode=mode, **options), singles(dataset, mode, **options)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    rng = np.random.default_rng(0)
    assert_same(ours.reset(seed=5), theirs.reset(seed=5))
    ends = np.zeros(2, dtype=int)
    for _ in range(steps // N + 1):
        actions = random_actions(rng, ours.action_space.low)
        outcome, expected = ours.step(actions), theirs.step(actions)
        assert_same(outcome, expected)
        terminated, truncated = outcome[2], outcome[3]
        ends += terminated.sum(), truncated.sum()
        if mode == AutoresetMode.DISABLED and (terminated | truncated).any():
            mask = terminated | truncated
            ended = [{"reset_mask": mask.copy()} for _ in range(2)]
            assert_same(ours.reset(options=ended[0]), theirs.reset(options=ended[1]))
    assert ends[0] > 0, "no episode has terminated: the test proves too little"
    assert_same(ours.np_random_seed, theirs.np_random_seed)


def test_both_ways_to_end_were_compared(toy_dataset: Toy) -> None:
    env = vector(toy_dataset(), alpha_1=1e-6)
    env.reset(seed=0)
    for t in range(1, 11):
        *_, terminated, truncated, infos = env.step(np.full((N, 136), (-1) ** t * 4.0))
    assert truncated.all()
    assert not terminated.any()
    assert infos["_is_success"].all()
    assert not infos["is_success"].any()


@MODES
def test_timeouts_agree_with_single_environments(toy_dataset: Toy, mode: AutoresetMode) -> None:
    options: dict[str, Any] = {"alpha_1": 1e-6, "max_iterations": 3}
    ours, theirs = vector(toy_dataset(), autoreset_mode=mode, **options), singles(toy_dataset(), mode, **options)
    rng = np.random.default_rng(0)
    assert_same(ours.reset(seed=5), theirs.reset(seed=5))
    for _ in range(3 if mode == AutoresetMode.DISABLED else 20):
        actions = random_actions(rng, ours.action_space.low)
        assert_same(ours.step(actions), theirs.step(actions))


@pytest.mark.parametrize("termination", ["oracle", "blind", "limit", "action"])
def test_shaping_changes_a_return_by_a_constant_of_the_start(toy_dataset: Toy, termination: str) -> None:
    options: dict[str, Any] = {"termination": termination, "alpha_1": 0.3, "max_iterations": 4}
    envs = [
        vector(toy_dataset(), autoreset_mode="Disabled", reward=reward, **options) for reward in ("paper", "shaped")
    ]
    rng = np.random.default_rng(0)
    for seed in range(6):
        (_, infos), _ = (env.reset(seed=seed) for env in envs)
        start, returns, going = infos["nme"].copy(), np.zeros((2, N)), np.ones(N, dtype=bool)
        for t in range(4):
            actions = random_actions(rng, envs[0].action_space.low)
            outcomes = [env.step(actions) for env in envs]
            returns += [0.9**t * going * outcome[1] for outcome in outcomes]
            ended = outcomes[0][2] | outcomes[0][3]
            np.testing.assert_array_equal(ended, outcomes[1][2] | outcomes[1][3])
            going &= ~ended
            if not going.any():
                break
            if ended.any():  # the slots that are over begin another episode, which does not count
                for env in envs:
                    env.reset(options={"reset_mask": ended})
        np.testing.assert_allclose(returns[1] - returns[0], 100 * start)


def test_slots_of_a_test_split_each_go_through_it_in_order(toy_dataset: Toy) -> None:
    dataset = toy_dataset("test", size=2)
    ours, theirs = vector(dataset, initializer=corner), singles(dataset, AutoresetMode.NEXT_STEP, initializer=corner)
    assert_same(ours.reset(seed=0), theirs.reset(seed=0))
    for expected in (1, 0, 1):
        observations, infos = ours.reset()
        assert_same((observations, infos), theirs.reset())
        assert infos["image_index"].tolist() == [expected] * N


def test_next_step_ignores_the_action_of_a_slot_that_begins(toy_dataset: Toy) -> None:
    env = vector(toy_dataset(), max_iterations=1, alpha_1=1e-6)
    env.reset(seed=0)
    actions = np.full((N, 136), 4.0, dtype=np.float32)
    *_, truncated, infos = env.step(actions)
    assert truncated.all()
    assert infos["iterations"].tolist() == [1, 1, 1]
    observations, rewards, terminated, truncated, infos = env.step(actions)
    assert not (terminated | truncated).any()
    assert not rewards.any()
    assert not observations["history"].any()
    assert infos["iterations"].tolist() == [0, 0, 0]


def test_same_step_gives_the_last_observation_and_the_next_start(toy_dataset: Toy) -> None:
    env = vector(toy_dataset(), max_iterations=1, alpha_1=1e-6, autoreset_mode="SameStep")
    env.reset(seed=0)
    observations, _, _, truncated, infos = env.step(np.full((N, 136), 4.0, dtype=np.float32))
    assert truncated.all()
    assert infos["final_info"]["iterations"].tolist() == [1, 1, 1]
    assert infos["iterations"].tolist() == [0, 0, 0]
    assert (infos["final_obs"][0]["history"][:136] == 0.125).all()
    assert not observations["history"].any()


def test_without_autoreset_a_finished_slot_must_be_reset(toy_dataset: Toy) -> None:
    env = vector(toy_dataset(), max_iterations=1, alpha_1=1e-6, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    env.step(np.full((N, 136), 4.0))
    with pytest.raises(ResetNeeded, match=r"\[0, 1, 2\]"):
        env.step(np.zeros((N, 136)))
    env.reset(options={"reset_mask": np.array([True, True, False])})
    with pytest.raises(ResetNeeded, match=r"\[2\]"):
        env.step(np.zeros((N, 136)))
    env.reset(options={"reset_mask": np.array([False, False, True])})
    env.step(np.zeros((N, 136)))


def test_reset_mask_leaves_the_other_slots_alone(toy_dataset: Toy) -> None:
    env = vector(toy_dataset(), alpha_1=1e-6, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    before, *_ = env.step(np.full((N, 136), 4.0, dtype=np.float32))
    options = {"reset_mask": np.array([False, True, False])}
    after, infos = env.reset(options=options)
    assert "reset_mask" in options, "the caller's options are the caller's"
    assert infos["_nme"].tolist() == [False, True, False]
    assert infos["nme"].tolist()[::2] == [0, 0]
    np.testing.assert_array_equal(before["patches"][[0, 2]], after["patches"][[0, 2]])
    assert not after["history"][1].any()
    assert env.episodes.t.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        ([True] * N, TypeError),
        (np.ones(N), TypeError),
        (np.ones(N + 1, dtype=bool), ValueError),
        (np.zeros(N, dtype=bool), ValueError),
    ],
    ids=["list", "float", "long", "empty"],
)
def test_wrong_reset_masks_are_refused(toy_dataset: Toy, mask: Any, error: type[Exception]) -> None:
    env = vector(toy_dataset(), autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    with pytest.raises(error, match="reset_mask"):
        env.reset(options={"reset_mask": mask})


def test_index_chooses_faces(toy_dataset: Toy) -> None:
    env = vector(toy_dataset())
    assert env.reset(options={"index": 4})[1]["image_index"].tolist() == [4, 4, 4]
    assert env.reset(options={"index": [2, 0, 5]})[1]["image_index"].tolist() == [2, 0, 5]
    assert env.reset(options={"index": np.array([1, 1, 3])})[1]["image_index"].tolist() == [1, 1, 3]
    with pytest.raises(ValueError, match="each of the 3 slots; got 2"):
        env.reset(options={"index": [1, 2]})


@pytest.mark.parametrize("options", [{"index": [1, 2, 6]}, {"index": -1}, {"index": [0, 1]}, {"reset": 1}], ids=str)
def test_a_reset_that_is_refused_leaves_the_episodes_whole(toy_dataset: Toy, options: dict[str, Any]) -> None:
    env, other = vector(toy_dataset()), vector(toy_dataset())
    for each in (env, other):
        each.reset(seed=0)
    with pytest.raises(ValueError, match="index"):
        env.reset(seed=7, options=options)
    actions = np.full((N, 136), 4.0, dtype=np.float32)
    assert_same(env.step(actions), other.step(actions))
    assert_same(env.reset(), other.reset())


@MODES
def test_a_reset_that_fails_leaves_no_episode(toy_dataset: Toy, mode: AutoresetMode) -> None:
    calls: list[int] = []

    def initializer(crops: np.ndarray) -> np.ndarray:
        calls.append(len(crops))
        return corner(crops) if len(calls) != 2 else corner(crops) + np.nan

    env = vector(toy_dataset(), initializer=initializer, max_iterations=1, alpha_1=1e-6, autoreset_mode=mode)
    env.reset(seed=0)
    actions = np.full((N, 136), 4.0, dtype=np.float32)
    if mode != AutoresetMode.SAME_STEP:
        env.step(actions)  # ends the episodes
    with pytest.raises(ValueError, match="not finite"):
        env.reset() if mode == AutoresetMode.DISABLED else env.step(actions)
    with pytest.raises(ResetNeeded):
        env.step(actions)
    env.reset()
    env.step(actions)


def test_each_slot_can_have_its_own_seed(toy_dataset: Toy) -> None:
    env = vector(toy_dataset())
    one, _ = env.reset(seed=[4, None, 6])
    other, _ = env.reset(seed=4)
    np.testing.assert_array_equal(one["patches"][[0, 2]], other["patches"][[0, 2]])
    with pytest.raises(ValueError, match="3 slots, got 2"):
        env.reset(seed=[1, 2])


def test_what_was_returned_stays_as_it_was(toy_dataset: Toy) -> None:
    env = vector(toy_dataset())
    observations, infos = env.reset(seed=0)
    kept = observations["history"].copy(), observations["patches"].copy(), infos["landmarks"].copy()
    env.step(np.full((N, 136), 4.0))
    assert_same((observations["history"], observations["patches"], infos["landmarks"]), kept)


def test_wrong_actions_and_too_early_steps_are_refused(toy_dataset: Toy) -> None:
    env = vector(toy_dataset(), render_mode="rgb_array")
    for too_early in (lambda: env.step(np.zeros((N, 136))), env.render):
        with pytest.raises(ResetNeeded):
            too_early()
    with pytest.raises(ResetNeeded, match="all slots"):
        env.reset(options={"reset_mask": np.array([True, False, False])})
    env.reset()
    with pytest.raises(ValueError, match=r"shape \(3, 136\).*got \(136,\)"):
        env.step(np.zeros(136))
    with pytest.raises(ValueError, match="136 NaN"):
        env.step(np.stack([np.zeros(136), np.full(136, np.nan), np.zeros(136)]))


@pytest.mark.parametrize(
    "options",
    [
        {"num_envs": 0},
        {"num_envs": 1.5},
        {"render_mode": "human"},
        {"copy": 1},
        {"max_episode_steps": 0},
        {"alpha_1": -1.0},
        {"termination": None},
    ],
    ids=str,
)
def test_wrong_keywords_are_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        gym.make_vec("FaceAlign-v0", **{"num_envs": 2, **options})
    with pytest.raises(TypeError, match=r"FaceAlignVectorEnv.*alpha_3"):
        gym.make_vec("FaceAlign-v0", alpha_3=1)


@pytest.mark.parametrize("mode", ["sync", "async", "vector_entry_point"])
def test_make_vec(toy_dataset: Toy, mode: str) -> None:
    dataset = toy_dataset()
    reference = vector(dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # forking a process that has started threads, as torch has by now in a whole test run
        warnings.filterwarnings("ignore", message=".*multi-threaded.*")
        env = gym.make_vec("FaceAlign-v0", num_envs=N, vectorization_mode=mode, dataset=dataset, initializer="mean")
    try:
        for _ in range(2):
            observations, infos = env.reset(seed=3)
            expected, expected_infos = reference.reset(seed=3)
            assert_same(dict(observations), expected)
            assert_same(infos, expected_infos)
        actions = np.random.default_rng(0).normal(0, 4, (N, 136)).astype(np.float32)
        outcome, expected_outcome = env.step(actions), reference.step(actions)
        assert_same(outcome[1:], expected_outcome[1:])
    finally:
        env.close()


def test_make_vec_with_a_learned_history(toy_dataset: Toy) -> None:
    options: dict[str, Any] = {"num_envs": N, "dataset": toy_dataset(), "initializer": "mean"}
    wrapped = gym.make_vec("FaceAlign-v0", vectorization_mode="sync", wrappers=[LearnedHistory], **options)
    ours = gym.make_vec("FaceAlign-v0", learned_history=True, **options)
    assert ours.action_space == wrapped.action_space
    assert_same(ours.reset(seed=0), wrapped.reset(seed=0))
    actions = ours.action_space.sample()
    assert_same(ours.step(actions), wrapped.step(actions))


def test_slots_share_one_source(toy_dataset: Toy) -> None:
    source = FaceSource(PreparedFaces(toy_dataset()))
    assert vector(source).faces is source


def test_initializer_is_called_once_for_all_faces(toy_dataset: Toy) -> None:
    calls: list[int] = []

    def initializer(crops: np.ndarray) -> np.ndarray:
        calls.append(len(crops))
        return corner(crops)

    env = vector(toy_dataset(), num_envs=5, initializer=initializer)
    env.reset(seed=0)
    assert calls == [5]


def test_observations_stay_as_they_are_while_they_are_held(toy_dataset: Any) -> None:
    env = FaceAlignVectorEnv(3, dataset=toy_dataset(), initializer="mean")
    env.action_space.seed(0)
    held = [env.reset(seed=0)[0]]
    copies = [{key: value.copy() for key, value in held[0].items()}]
    for _ in range(25):
        held.append(env.step(env.action_space.sample())[0])
        copies.append({key: value.copy() for key, value in held[-1].items()})
    for observation, copy in zip(held, copies, strict=True):
        for key, value in copy.items():
            np.testing.assert_array_equal(observation[key], value)


def test_without_copy_two_observations_at_a_time_are_whole(toy_dataset: Any) -> None:
    """What Stable-Baselines3 holds: the observation that was acted on, and the one that came of it."""
    safe, fast = (vector(toy_dataset(), copy=copy, autoreset_mode="SameStep") for copy in (True, False))
    before, expected = fast.reset(seed=0)[0], safe.reset(seed=0)[0]
    rng, memory = np.random.default_rng(0), set()
    for _ in range(30):
        actions = random_actions(rng, safe.action_space.low)
        after, *_, infos = fast.step(actions)
        following, *_, their_infos = safe.step(actions)
        assert_same(before, expected)
        assert_same(after, following)
        assert_same(infos, their_infos)
        before, expected = after, following
        memory.add(after["patches"].ctypes.data)
    assert len(memory) == 2


def test_make_vec_limits_steps(toy_dataset: Any) -> None:
    for mode in ("sync", "vector_entry_point"):
        envs = gym.make_vec(
            "FaceAlign-v0", 2, mode, max_episode_steps=2, dataset=toy_dataset(), initializer="mean", alpha_1=1e-9
        )
        envs.reset(seed=0)
        actions = np.full((2, 136), 4.0, dtype=np.float32)
        assert not envs.step(actions)[3].any()
        _, rewards, terminated, truncated, infos = envs.step(actions)
        assert truncated.all()
        assert not terminated.any()
        assert (rewards > -10).all(), "the limit of Eq. 4 is another"
        assert "is_success" not in infos


def test_memory_does_not_grow_with_the_steps(toy_dataset: Any) -> None:
    env = FaceAlignVectorEnv(2, dataset=toy_dataset(), initializer="mean", patch_size=4)
    env.reset(seed=0)
    action = np.ones(env.action_space.shape, dtype=np.float32)
    # What threads of other tests (servers, clusters) allocate meanwhile is traced as well, but not in here.
    of_the_steps = tracemalloc.Filter(inclusive=True, filename_pattern=__file__, all_frames=True)

    def play(steps: int) -> int:
        for _ in range(steps):
            env.step(action)
        gc.collect()
        kept = tracemalloc.take_snapshot().filter_traces([of_the_steps])
        return sum(trace.size for trace in kept.traces)

    tracemalloc.start(8)  # frames: as many as lie between an allocation in a step and this function
    try:
        before = play(500)
        after = play(4_000)
    finally:
        tracemalloc.stop()
    assert after - before < 20_000, "bytes"


def test_a_reset_calls_the_initializer_once_for_all_its_faces(toy_dataset: Any) -> None:
    calls = []

    def initializer(crops: np.ndarray) -> np.ndarray:
        calls.append(len(crops))
        return np.full((len(crops), 68, 2), 128, dtype=np.float32)

    env = FaceAlignVectorEnv(5, dataset=toy_dataset(), initializer=initializer, max_iterations=3)
    env.reset(seed=0)
    assert calls == [5]
    action = np.full(env.action_space.shape, 9, dtype=np.float32)
    for _ in range(4):
        env.step(action)
    assert calls == [5, 5], "all episodes end together"
