"""termination="action": the agent says when a face is finished, in the environment and in the wrappers around it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from writers.environments import A, Toy, large_action, make, small_action

from face_align_env import FaceAlignEnv, FaceAlignVectorEnv, LearnedHistory
from face_align_env.networks.lrn import LRN
from face_align_env.released import find_release, load_networks
from face_align_env.wrappers import (
    ModeResiduals,
    PolicyCorrections,
    PolicyStops,
    PretrainedFeatures,
    ShapeModes,
    VectorPolicyCorrections,
    VectorPolicyStops,
    VectorPretrainedFeatures,
    VectorShapeModes,
)

FACES: dict[str, Any] = {"dataset_options": {"size": 12}}
TASK = "FaceAlign/Stop19-v0"
N = 4


def stopping(toy_dataset: Toy, **options: Any) -> FaceAlignEnv:
    return make(toy_dataset(), **{"termination": "action", **options})


def saying(number: float, increments: np.ndarray | None = None) -> np.ndarray:
    return np.r_[large_action() if increments is None else increments, number].astype(np.float32)


# -- the environment ---------------------------------------------------------------------------------------------------


def test_the_action_has_one_number_more(toy_dataset: Toy) -> None:
    space = stopping(toy_dataset, action_limit=16.0).action_space
    np.testing.assert_array_equal(space.high, np.r_[np.full(A, 16), 1])
    np.testing.assert_array_equal(space.low, -space.high)
    learned = stopping(toy_dataset, learned_history=True, action_limit=16.0).action_space
    np.testing.assert_array_equal(learned.high, np.r_[np.full(A, 16), 1, np.ones(512)])


@pytest.mark.parametrize(("number", "ends"), [(-1.0, False), (0.0, False), (1e-6, True), (1.0, True), (np.inf, True)])
@pytest.mark.parametrize("learned", [False, True])
def test_a_number_above_zero_ends_the_episode(toy_dataset: Toy, number: float, ends: bool, learned: bool) -> None:
    env = stopping(toy_dataset, learned_history=learned)
    _, start = env.reset(seed=0)
    # d_(t+1) is of the other sign: it must not be taken for the number that stops, nor the last increment.
    other = -1.0 if number > 0 else 1.0
    increments, history = large_action(other), np.full(512 * learned, other)
    _, _, terminated, truncated, info = env.step(np.r_[saying(number, increments), history])
    assert (terminated, truncated) == (ends, False)
    moved = info["landmarks"] - start["landmarks"]
    np.testing.assert_allclose(moved.ravel(), increments, rtol=1e-5)
    assert ("is_success" in info) is ends


@pytest.mark.parametrize("alpha_1", [1e-9, 1e9])
def test_eq_3_is_not_asked(toy_dataset: Toy, alpha_1: float) -> None:
    env = stopping(toy_dataset, alpha_1=alpha_1, max_iterations=2)
    env.reset(seed=0)
    assert env.step(saying(-1, small_action()))[2:4] == (False, False), "at rest, and perhaps found"
    assert env.step(saying(1, large_action()))[2:4] == (True, False), "far from rest"


@pytest.mark.parametrize(("alpha_1", "reward"), [(1e-9, -10.0), (1e9, 10.0)])
def test_the_end_is_paid_by_the_error(toy_dataset: Toy, alpha_1: float, reward: float) -> None:
    env = stopping(toy_dataset, alpha_1=alpha_1)
    env.reset(seed=0)
    _, paid, _, _, info = env.step(saying(1))
    assert paid == reward
    assert info["is_success"] is (reward > 0)


@pytest.mark.parametrize("terminates", [False, True])
def test_who_never_stops_has_no_success_at_the_limit(toy_dataset: Toy, terminates: bool) -> None:
    env = stopping(toy_dataset, alpha_1=1e9, max_iterations=2, terminate_at_limit=terminates)
    env.reset(seed=0)
    assert env.step(saying(-1))[2:4] == (False, False)
    _, reward, terminated, truncated, info = env.step(saying(-1))
    assert (reward, terminated, truncated) == (-10.0, terminates, not terminates)
    assert info["is_success"] is False
    env.reset(seed=0)
    env.step(saying(-1))
    _, reward, terminated, _, info = env.step(saying(1))
    assert (reward, terminated, info["is_success"]) == (10.0, True, True), "it has said so in time"


def test_a_dense_reward_less_the_cost_is_the_whole_return(toy_dataset: Toy) -> None:
    env = stopping(toy_dataset, reward="dense", iteration_cost=0.5)
    env.reset(seed=0)
    rewards = [env.step(saying(number))[1] for number in (-1, 0, 1)]
    info = env._info()
    assert sum(rewards) == pytest.approx(100 * (info["initial_nme"] - info["nme"]) - 1.5)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_history_is_made_of_increments_alone(toy_dataset: Toy, backend: Any) -> None:
    """With the same increments it is that of any other termination."""
    envs = [
        FaceAlignVectorEnv(2, toy_dataset(), initializer="mean", alpha_1=1e-9, termination=termination, backend=backend)
        for termination in ("action", "oracle")
    ]
    for env in envs:
        env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        increments = rng.uniform(-32, 32, (2, A)).astype(np.float32)
        ours = envs[0].step(np.c_[increments, [[-0.75], [-1]]].astype(np.float32))[0]
        theirs = envs[1].step(increments)[0]
        np.testing.assert_array_equal(np.asarray(ours["history"]), np.asarray(theirs["history"]))
        np.testing.assert_array_equal(np.asarray(ours["patches"]), np.asarray(theirs["patches"]))


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_each_slot_is_ended_by_its_own_number(toy_dataset: Toy, backend: Any) -> None:
    env = FaceAlignVectorEnv(
        3, toy_dataset(), initializer="mean", termination="action", backend=backend, learned_history=True
    )
    env.reset(seed=0)
    actions = np.zeros((3, A + 1 + 512), np.float32)
    actions[:, A] = [-0.5, 0.5, 0.0]
    actions[:, A + 1 :] = 1
    assert env.step(actions)[2].tolist() == [False, True, False]


@pytest.mark.parametrize("learned", [False, True])
def test_wrong_actions_are_refused_with_the_layout(toy_dataset: Toy, learned: bool) -> None:
    env = stopping(toy_dataset, learned_history=learned)
    env.reset(seed=0)
    size = A + 1 + 512 * learned
    layout = r"increments dx_1, .* pixels of the crop, then a number that stops above 0"
    layout += r", then d_\(t\+1\)\)" if learned else r"\)"
    with pytest.raises(ValueError, match=rf"shape \({size},\) \({layout}, got \({A},\)"):
        env.step(np.zeros(A))
    unknown = np.zeros(size)
    unknown[A] = np.nan
    with pytest.raises(ValueError, match=rf"holds 1 NaN.*\({layout}"):
        env.step(unknown)
    plain = make(toy_dataset())
    plain.reset()
    with pytest.raises(ValueError, match=r"\(increments dx_1, dy_1, ..., dx_K, dy_K in pixels of the crop\), got"):
        plain.step(np.zeros(A + 1))


def test_in_a_sequence_it_ends_the_frame() -> None:
    env = gym.make(
        "FaceAlign-v0", landmarks=19, frames=3, initializer="mean", termination="action", alpha_1=1e9, **FACES
    )
    _, info = env.reset(seed=0)
    stays, stops = (np.r_[np.full(38, 2.0), number].astype(np.float32) for number in (-1, 1))
    for frame in range(3):
        assert info["frame"] == frame
        _, reward, terminated, truncated, before = env.step(stays)
        assert (before["frame"], terminated, truncated) == (frame, False, False)
        _, reward, terminated, truncated, info = env.step(stops)
        assert (reward, terminated, truncated) == (10.0, frame == 2, False)
        assert (info["frames_found"], info["frame_iterations"]) == (frame + 1, 2)
        np.testing.assert_allclose(info["landmarks"] - before["landmarks"], 2, rtol=1e-4)
    assert info["is_success"]


def test_the_same_seed_plays_the_same(toy_dataset: Toy) -> None:
    env = stopping(toy_dataset)
    played = []
    for _ in range(2):
        rng = np.random.default_rng(3)
        env.reset(seed=7)
        episodes = []
        for _ in range(12):
            _, reward, terminated, truncated, info = env.step(rng.normal(0, 2, A + 1).astype(np.float32))
            episodes.append((reward, terminated, info["image_index"], info["nme"]))
            if terminated or truncated:
                env.reset()
        played.append(episodes)
    assert played[0] == played[1]
    assert len({index for _, _, index, _ in played[0]}) > 2, "several episodes were compared"


def test_a_state_is_replayed(toy_dataset: Toy) -> None:
    options: dict[str, Any] = {"initializer": "mean", "termination": "action", "max_iterations": 4}
    first, again = (FaceAlignVectorEnv(3, toy_dataset(), **options) for _ in range(2))
    first.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = rng.normal(0, 2, (8, 3, A + 1)).astype(np.float32)
    ends = 0
    for each in actions[:3]:
        first.step(each)
    again.set_state(first.get_state())
    for each in actions[3:]:
        (_, *ours), (_, *theirs) = first.step(each), again.step(each)
        np.testing.assert_equal(ours, theirs)
        ends += ours[1].sum()
    assert ends > 0


# -- wrappers that carry the number through ----------------------------------------------------------------------------


def test_a_learned_history_comes_after_it(toy_dataset: Toy) -> None:
    dataset = toy_dataset()
    wrapped = LearnedHistory(gym.make("FaceAlign-v0", dataset=dataset, initializer="mean", termination="action"))
    keyword = gym.make("FaceAlign-v0", dataset=dataset, initializer="mean", termination="action", learned_history=True)
    assert wrapped.action_space == keyword.action_space
    for number in (-0.5, 0.5):
        action = np.r_[large_action(), number, np.full(512, -np.sign(number))].astype(np.float32)
        for env in (wrapped, keyword):
            env.reset(seed=0)
        ours, theirs = wrapped.step(action), keyword.step(action)
        np.testing.assert_equal(ours, theirs)
        assert ours[2] is (number > 0)
    with pytest.raises(ValueError, match=r"\(649,\).*a number that stops above 0, then d_\(t\+1\)\), got \(648,\)"):
        wrapped.step(np.zeros(648))


def modes(**options: Any) -> tuple[Any, Any]:
    keywords = {"landmarks": 19, "initializer": "mean", **FACES, **options}
    return (
        ShapeModes(gym.make("FaceAlign-v0", **keywords), 4),
        VectorShapeModes(gym.make_vec("FaceAlign-v0", N, **keywords), 4),
    )


def test_it_is_the_last_component_beside_shape_modes() -> None:
    single, batch = modes(termination="action")
    plain, _ = modes()
    assert single.action_space == batch.single_action_space == gym.spaces.Box(-1, 1, (5,))
    coordinates = np.float32([0.5, -1, 0, 1])
    for env in (single, plain):
        env.reset(seed=0)
    *_, expected = plain.step(coordinates)
    _, _, terminated, _, info = single.step(np.r_[coordinates, np.float32(0.1)])
    assert terminated
    np.testing.assert_array_equal(info["landmarks"], expected["landmarks"])
    batch.reset(seed=0)
    said = np.float32([-1, 0.1, 0, 1])[:, None]
    _, _, terminated, _, infos = batch.step(np.concatenate([np.tile(coordinates, (N, 1)), said], axis=1))
    assert terminated.tolist() == [False, True, False, True]
    np.testing.assert_array_equal(infos["landmarks"][0], expected["landmarks"])
    with pytest.raises(ValueError, match=r"\(5,\) \(coordinates .* then a number that stops above 0\), got \(4,\)"):
        single.step(np.zeros(4))
    assert ModeResiduals(modes(termination="action", observe_residual=True)[0]).observation_space.shape == (4,)
    with pytest.raises(ValueError, match=r"38 coordinates, and the number that stops; .* \(551,\)"):
        modes(termination="action", learned_history=True)


@pytest.fixture(scope="module")
def lrn() -> LRN:
    return load_networks(find_release("synthetic-19"))[1]


def features(lrn: LRN, mode: AutoresetMode = AutoresetMode.NEXT_STEP, **options: Any) -> tuple[Any, Any]:
    """PretrainedFeatures and VectorPretrainedFeatures of an environment in which the agent stops."""
    keywords = {"landmarks": 19, "initializer": "mean", "learned_history": True, "termination": "action", **FACES}
    keywords |= {"observe_time": True, **options}
    return (
        PretrainedFeatures(gym.make("FaceAlign-v0", **keywords), lrn),
        VectorPretrainedFeatures(gym.make_vec("FaceAlign-v0", N, autoreset_mode=mode, **keywords), lrn),
    )


def test_features_take_increments_and_the_number(lrn: LRN) -> None:
    single, batch = features(lrn)
    assert single.action_space == batch.single_action_space == gym.spaces.Box(*_limits(39), dtype=np.float32)
    seen, _ = single.reset(seed=0)
    after, *_ = single.step(np.r_[np.full(38, 4.0), -1].astype(np.float32))
    np.testing.assert_array_equal(single.unwrapped.episodes.history[0], seen[:512])
    assert single.step(np.r_[np.zeros(38), 1].astype(np.float32))[2]
    assert after.shape == (513,)


def _limits(size: int) -> tuple[np.ndarray, np.ndarray]:
    high = np.r_[np.full(size - 1, 32), 1].astype(np.float32)
    return -high, high


def test_it_is_the_last_component_beside_corrections(lrn: LRN) -> None:
    single, batch = (
        wrap(env) for wrap, env in zip((PolicyCorrections, VectorPolicyCorrections), features(lrn), strict=True)
    )
    assert single.action_space == batch.single_action_space == gym.spaces.Box(-1, 1, (12,))
    corrections = np.random.default_rng(0).uniform(-1, 1, 11).astype(np.float32)
    batch.reset(seed=0)
    single.reset(seed=0)
    expected = 2 ** corrections[0] * single.env.pretrained_increments()[0] + corrections[1:] @ single.directions
    said = np.float32([0, 0.3, -1, 1])[:, None]
    _, _, terminated, _, infos = batch.step(np.concatenate([np.tile(corrections, (N, 1)), said], axis=1))
    assert terminated.tolist() == [False, True, False, True]
    _, _, stopped, _, info = single.step(np.r_[corrections, np.float32(1)])
    assert stopped
    moved = (info["landmarks"] - info["previous_landmarks"]).ravel()
    np.testing.assert_allclose(moved, expected.clip(-32, 32), atol=1e-3)
    np.testing.assert_allclose(infos["landmarks"][0], info["landmarks"], atol=1e-2)
    each = PolicyCorrections(features(lrn)[0], modes=None)
    assert each.action_space.shape == (1 + 38 + 1,)


# -- PolicyStops -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def acts(lrn: LRN, observations: dict[str, np.ndarray]) -> np.ndarray:
    increments, history = lrn(*(torch.from_numpy(observations[key]) for key in ("patches", "history")))
    both: np.ndarray = np.concatenate([increments.numpy(), history.numpy()], axis=1)
    return both


def test_who_does_not_stop_sees_the_pretrained_policy_play_to_the_limit(lrn: LRN) -> None:
    ours = gym.make_vec(TASK, N, **FACES)
    theirs = gym.make_vec(
        "FaceAlign-v0",
        N,
        landmarks=19,
        initializer="mean",
        learned_history=True,
        termination="limit",
        reward="dense",
        iteration_cost=gym.spec(TASK).kwargs["iteration_cost"],
        terminate_at_limit=True,
        **FACES,
    )
    seen, _ = ours.reset(seed=0)
    observations, _ = theirs.reset(seed=0)
    assert ours.single_action_space == gym.spaces.Box(-1, 1, (1,))
    for t in range(1, 11):
        action = acts(lrn, observations)
        np.testing.assert_allclose(seen[:, :-1], action[:, 38:], atol=1e-3)
        np.testing.assert_allclose(seen[:, -1], 1 - (t - 1) / 10, atol=1e-6)
        observations, expected, *_, expected_infos = theirs.step(action)
        seen, rewards, terminated, _, infos = ours.step(np.full((N, 1), -t / 10, np.float32))
        np.testing.assert_allclose(infos["landmarks"], expected_infos["landmarks"], atol=1e-2)
        np.testing.assert_allclose(rewards, expected, atol=1e-2)
        assert terminated.tolist() == [t == 10] * N
    assert not infos["is_success"].any()


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_batch_stops_as_single_environments_do(mode: AutoresetMode) -> None:
    ours = gym.make_vec(TASK, N, autoreset_mode=mode, **FACES)
    theirs = SyncVectorEnv([lambda: gym.make(TASK, **FACES)] * N, autoreset_mode=mode)
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.single_action_space == theirs.single_action_space
    np.testing.assert_allclose(ours.reset(seed=3)[0], theirs.reset(seed=3)[0], atol=1e-3)
    rng = np.random.default_rng(0)
    lengths = set()
    for _ in range(20):
        actions = rng.uniform(-1, 0.4, (N, 1)).astype(np.float32)
        outcome, expected = ours.step(actions), theirs.step(actions)
        for mine, yours in zip(outcome[1:4], expected[1:4], strict=True):
            np.testing.assert_allclose(mine, yours, atol=1e-2)
        np.testing.assert_allclose(outcome[0], expected[0], atol=5e-3)
        ended = outcome[2] | outcome[3]
        if ended.any():
            last = outcome[4].get("final_info", outcome[4])
            lengths |= set(last["iterations"][ended].tolist())
            if mode == AutoresetMode.DISABLED:
                for env in (ours, theirs):
                    env.reset(options={"reset_mask": ended.copy()})
    assert len(lengths) > 2, "faces have ended after different iterations"


def test_wrong_numbers_are_refused() -> None:
    env = gym.make(TASK, disable_env_checker=True, **FACES)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(1,\) \(a number in \[-1, 1\] that stops above 0\), got \(2,\)"):
        env.step(np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"1 NaN.*stops above 0"):
        env.step(np.float32([np.nan]))


def test_it_says_what_it_goes_around(lrn: LRN) -> None:
    for wrap, env in zip((PolicyStops, VectorPolicyStops), features(lrn, termination="blind"), strict=True):
        with pytest.raises(ValueError, match=rf"{wrap.__name__} needs .*termination='blind' does: .*='action'"):
            wrap(env)
    for wrap, env in zip((PolicyStops, VectorPolicyStops), features(lrn), strict=True):
        with pytest.raises(ValueError, match=rf"{wrap.__name__} goes around PretrainedFeatures.*\(551,\)"):
            wrap(env.env)
        wrap(env)
    with pytest.raises(ValueError, match=r"PolicyStops goes around PretrainedFeatures.*\(12,\)"):
        PolicyStops(PolicyCorrections(features(lrn)[0]))
    plain = gym.make("FaceAlign-v0", landmarks=19, initializer="mean", termination="action", **FACES)
    with pytest.raises(ValueError, match="goes around PretrainedFeatures, whose policy it plays; not"):
        PolicyStops(plain)
    with pytest.raises(TypeError, match="CartPole"):
        PolicyStops(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="make it with termination='action'"):
        gym.make(TASK, termination="oracle", **FACES)
