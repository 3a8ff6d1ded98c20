"""The registered tasks keep the contracts of Gymnasium and Stable-Baselines3, single and as a batch."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.vec_env import VecMonitor
from stable_baselines3.ppo import PPO

import face_align_env  # noqa: F401 - registers the tasks
from face_align_env.agents.common.rollout import play
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.wrappers import CoarsePatches, ModeResiduals, PretrainedFeatures, ShapeModes, shape_modes

FACES: dict[str, Any] = {"dataset_options": {"size": 12}}
# The batches of a network round differently.
STILL_AND_EQUAL = (
    "FaceAlign/State19-v0",
    "FaceAlign/Patches19-v0",
    "FaceAlign/Synthetic19-v0",
    "FaceAlign/Synthetic68-v0",
)
TRACKING = "FaceAlign/Tracking68-v0"
STILL = (*STILL_AND_EQUAL, "FaceAlign/Features19-v0")
EQUAL = (*STILL_AND_EQUAL, TRACKING)
STOPS = "FaceAlign/Stop19-v0"
DRAWN = (*STILL, "FaceAlign/Policy19-v0", STOPS)  # an action of zeros is a policy in the last two
EVERY = ("FaceAlign-v0", *DRAWN, TRACKING)
TASKS = pytest.mark.parametrize("task", EVERY)
MODES = pytest.mark.parametrize("mode", list(AutoresetMode))
N = 3


def single(task: str, **options: Any) -> gym.Env[Any, Any]:
    return gym.make(task, **{"initializer": "mean", **FACES, **options})


def batch(task: str, num_envs: int = N, mode: str | None = None, **options: Any) -> Any:
    return gym.make_vec(task, num_envs, mode, **{"initializer": "mean", **FACES, **options})


@pytest.fixture
def only_style_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for message in ("unconventional shape", "symmetric and normalized", "different from the unwrapped version"):
            warnings.filterwarnings("ignore", message=f".*{message}.*")
        # a residual has no bounds
        warnings.filterwarnings("ignore", message=".*observation space (minimum|maximum) value is -?infinity.*")
        yield


# -- what a task is ----------------------------------------------------------------------------------------------------


@TASKS
@pytest.mark.usefixtures("only_style_warnings")
def test_env_checkers_pass(task: str) -> None:
    env = single(task)
    gymnasium_check_env(env.unwrapped if task == "FaceAlign-v0" else env, skip_render_check=True)
    sb3_check_env(env)


@pytest.mark.parametrize("task", [*DRAWN, TRACKING, "FaceAlign/300W-v0"])
def test_named_tasks_say_what_they_are(task: str) -> None:
    spec = gym.spec(task)
    assert spec.max_episode_steps == 10 * spec.kwargs.get("frames", 1)
    assert spec.reward_threshold is not None
    assert spec.vector_entry_point is not None
    assert EnvSpec.from_json(spec.to_json()) == spec
    assert spec.kwargs["observe_time"]
    assert spec.kwargs["terminate_at_limit"]


def test_the_default_task_has_no_limit_of_gymnasiums() -> None:
    assert gym.spec("FaceAlign-v0").max_episode_steps is None


@TASKS
def test_the_spec_makes_it_again(task: str) -> None:
    env = single(task)
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert data_equivalence(env.reset(seed=3), again.reset(seed=3))
    action = env.action_space.sample()
    assert data_equivalence(env.step(action), again.step(action))


@pytest.mark.parametrize("task", STILL)
@pytest.mark.parametrize("split", ["train", "test"])
def test_standing_still_is_no_success(task: str, split: str) -> None:
    env = batch(task, 12, split=split)
    env.reset(seed=0, options={"index": np.arange(12)})
    rewards = np.zeros(12)
    for _ in range(10):
        _, paid, terminated, truncated, infos = env.step(np.zeros(env.action_space.shape, np.float32))
        rewards += paid
    assert terminated.all()
    assert truncated.all(), "Gymnasium's limit is as long"
    assert not infos["is_success"].any()
    assert (rewards == -10).all()


def test_the_limit_is_an_end_to_every_algorithm() -> None:
    """Stable-Baselines3 bootstraps past what it takes for a limit of time."""
    env = FaceAlignVecEnv(2, "FaceAlign/State19-v0", **FACES)
    env.reset()
    for _ in range(10):
        _, _, dones, infos = env.step(np.zeros((2, 10), np.float32))
    assert dones.all()
    assert not any(info["TimeLimit.truncated"] for info in infos)
    assert infos[0]["terminal_observation"][-1] == 0, "no time is left"


def test_who_sees_the_way_goes_it() -> None:
    # the modes of twelve training faces would not span the test faces
    env = batch("FaceAlign/State19-v0", 12, split="test", dataset_options={"size": 300})
    observations, _ = env.reset(options={"index": np.arange(12)})
    going, returns = np.ones(12, dtype=bool), np.zeros(12)
    while going.any():
        observations, rewards, terminated, truncated, infos = env.step(np.clip(observations[:, :-1], -1, 1))
        returns += rewards * going
        ended = going & (terminated | truncated)
        if ended.any():
            assert infos["is_success"][ended].all()
        going &= ~ended
    assert returns.mean() > 12


def test_eval_callback_says_what_our_evaluation_says() -> None:
    """On a test split, of a policy that hardly moves: Stable-Baselines3 must not take it for the best model."""
    test = VecMonitor(FaceAlignVecEnv(4, "FaceAlign/State19-v0", split="test", **FACES))
    env = FaceAlignVecEnv(2, "FaceAlign/State19-v0", **FACES)
    model = PPO("MlpPolicy", env, learning_rate=0.0, n_steps=8, batch_size=16, seed=0, device="cpu")
    callback = EvalCallback(test, n_eval_episodes=4, eval_freq=8, verbose=0, warn=False)
    model.learn(16, callback)
    # Every slot of a test split begins at its first face.
    played = play(lambda observations: model.predict(observations, deterministic=True)[0], test, [0])
    assert callback.last_mean_reward == pytest.approx(played.returns[0])
    assert np.mean(callback._is_success_buffer) == played.successes.mean() == 0
    assert callback.last_mean_reward < 0


# -- the contract of a vector environment ------------------------------------------------------------------------------


@TASKS
@pytest.mark.parametrize("mode", ["sync", "vector_entry_point"])
def test_spaces_and_shapes(task: str, mode: str) -> None:
    env = batch(task, mode=mode)
    observations, infos = env.reset(seed=0)
    assert env.num_envs == N
    assert observations in env.observation_space
    assert gym.vector.utils.batch_space(env.single_observation_space, N) == env.observation_space
    assert gym.vector.utils.batch_space(env.single_action_space, N) == env.action_space
    assert all(len(infos[key]) == N for key in infos)
    observations, rewards, terminated, truncated, infos = env.step(env.action_space.sample())
    assert observations in env.observation_space
    assert [each.shape for each in (rewards, terminated, truncated)] == [(N,)] * 3
    assert [each.dtype for each in (rewards, terminated, truncated)] == [np.float64, np.bool_, np.bool_]
    env.close()
    env.close()


@pytest.mark.parametrize("task", EQUAL)
@MODES
def test_a_batch_plays_what_single_environments_play(task: str, mode: AutoresetMode) -> None:
    ours = batch(task, autoreset_mode=mode, copy=True)
    theirs = SyncVectorEnv([lambda: single(task)] * N, autoreset_mode=mode)
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.single_action_space == theirs.single_action_space
    assert data_equivalence(ours.reset(seed=2), theirs.reset(seed=2))
    rng = np.random.default_rng(0)
    for _ in range(25):
        actions = (rng.normal(size=ours.action_space.shape) * ours.action_space.high / 4).astype(np.float32)
        outcome, expected = ours.step(actions), theirs.step(actions)
        for one, other in zip(outcome[:4], expected[:4], strict=True):
            assert data_equivalence(one, other, exact=True)
        for key in ("final_obs", "_final_obs", "nme", "_nme", "is_success", "_is_success"):
            _assert_same(outcome[4].get(key), expected[4].get(key))
        ended = outcome[2] | outcome[3]
        if mode == AutoresetMode.DISABLED and ended.any():
            masks = [{"reset_mask": ended.copy()} for _ in range(2)]
            assert data_equivalence(ours.reset(options=masks[0]), theirs.reset(options=masks[1]))


def _assert_same(one: Any, other: Any) -> None:
    if isinstance(one, np.ndarray) and one.dtype == object:
        assert len(one) == len(other)
        for mine, yours in zip(one, other, strict=True):
            assert data_equivalence(mine, yours)
    else:
        np.testing.assert_array_equal(one, other)


@MODES
def test_features_of_a_batch_are_those_of_single_environments(mode: AutoresetMode) -> None:
    task = "FaceAlign/Features19-v0"
    ours, theirs = batch(task, autoreset_mode=mode), SyncVectorEnv([lambda: single(task)] * N, autoreset_mode=mode)
    np.testing.assert_allclose(ours.reset(seed=2)[0], theirs.reset(seed=2)[0], atol=1e-4)
    rng = np.random.default_rng(0)
    for _ in range(12):
        actions = rng.uniform(-1, 1, (N, 10)).astype(np.float32)
        outcome, expected = ours.step(actions), theirs.step(actions)
        for one, other in zip(outcome[:4], expected[:4], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)
        if "final_obs" in outcome[4]:
            for one, other in zip(outcome[4]["final_obs"], expected[4]["final_obs"], strict=True):
                np.testing.assert_allclose(one, other, atol=1e-4)
        ended = outcome[2] | outcome[3]
        if mode == AutoresetMode.DISABLED and ended.any():
            for env in (ours, theirs):
                env.reset(options={"reset_mask": ended.copy()})


@TASKS
def test_observations_and_infos_are_the_callers(task: str) -> None:
    env = batch(task, copy=True)
    observations, infos = env.reset(seed=0)
    kept = copy.deepcopy((observations, infos))
    for _ in range(12):
        actions = env.action_space.sample()
        before = actions.copy()
        env.step(actions)
        np.testing.assert_array_equal(actions, before)
    env.reset()
    assert data_equivalence((observations, infos), kept)


@TASKS
@pytest.mark.parametrize("mode", ["sync", "vector_entry_point"])
def test_unknown_render_modes_options_and_keywords_are_refused(task: str, mode: str) -> None:
    warnings.filterwarnings("ignore", message=".*render_mode='ansi'.*")
    with pytest.raises(ValueError, match="render_mode"):
        batch(task, mode=mode, render_mode="ansi")
    with pytest.raises(ValueError, match="alpha_1"):
        batch(task, mode=mode, alpha_1=-1)
    with pytest.raises(TypeError, match="alpha_3"):
        batch(task, mode=mode, alpha_3=-1)
    with pytest.raises(ValueError, match="options index"):
        batch(task, mode=mode).reset(options={"face": 3})


@TASKS
def test_max_episode_steps_limits_single_and_batch(task: str) -> None:
    for mode in ("sync", "vector_entry_point"):
        env = batch(task, mode=mode, max_episode_steps=2)
        env.reset(seed=0)
        actions = np.zeros(env.action_space.shape, np.float32)
        assert not env.step(actions)[3].any()
        _, _, terminated, truncated, infos = env.step(actions)
        assert truncated.all()
        assert not terminated.any()
        assert "is_success" not in infos


@pytest.mark.parametrize("task", ["FaceAlign-v0", *STILL, TRACKING, STOPS])
def test_wrappers_of_gymnasium_go_around_it(task: str) -> None:
    env = gym.wrappers.RecordEpisodeStatistics(gym.wrappers.FlattenObservation(single(task)))
    observation, _ = env.reset(seed=0)
    assert observation.shape == gym.spaces.flatten_space(single(task).observation_space).shape
    steps = 10 * env.unwrapped.task.frames
    far = env.action_space.low  # out of the picture, where no frame is found
    for _ in range(steps):
        *_, info = env.step(far)
    assert info["episode"]["l"] == steps
    envs = gym.wrappers.vector.RecordEpisodeStatistics(batch(task))
    envs.reset(seed=0)
    for _ in range(steps):
        *_, infos = envs.step(envs.action_space.low)
    assert infos["episode"]["l"].tolist() == [steps] * N


def test_an_environment_can_be_pickled() -> None:
    env = single("FaceAlign/State19-v0")
    env.reset(seed=0)
    again = pickle.loads(pickle.dumps(env.unwrapped))
    action = np.full(38, 3.0, dtype=np.float32)
    assert data_equivalence(env.unwrapped.step(action), again.step(action))


# -- the wrappers ------------------------------------------------------------------------------------------------------


def test_a_mode_moves_the_shape_by_a_step_of_it() -> None:
    env = ShapeModes(gym.make("FaceAlign-v0", landmarks=19, initializer="mean", **FACES), modes=4, step=0.25)
    _, info = env.reset(seed=0)
    action = np.float32([0, -2, 0, 0])  # clipped
    *_, after = env.step(action)
    expected = -0.25 * shape_modes(env.unwrapped.faces.prepared.landmarks, 4)[1]
    np.testing.assert_allclose((after["landmarks"] - info["landmarks"]).ravel(), expected, atol=1e-4)
    with pytest.raises(ValueError, match="NaN"):
        env.step(np.full(4, np.nan))
    with pytest.raises(ValueError, match=r"\(4,\).*got \(5,\)"):
        env.step(np.zeros(5))


def test_without_patches_an_episode_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    keywords = {"landmarks": 19, "initializer": "mean", "observe_residual": True, **FACES}
    seeing, blind = (gym.make_vec("FaceAlign-v0", N, observe_patches=each, **keywords) for each in (True, False))
    monkeypatch.setattr(blind.unwrapped.faces, "crops", None, raising=True)  # nobody may ask for an image
    expected, found = seeing.reset(seed=0), blind.reset(seed=0)
    for _ in range(25):
        assert set(expected[0]) - set(found[0]) == {"patches"}
        for key, value in found[0].items():
            np.testing.assert_array_equal(value, expected[0][key])
        for mine, yours in zip(found[1:-1], expected[1:-1], strict=True):
            np.testing.assert_array_equal(mine, yours)
        assert data_equivalence(found[-1], expected[-1])
        actions = seeing.action_space.sample() / 8
        expected, found = seeing.step(actions), blind.step(actions)


def test_without_patches_it_is_drawn_and_starts_from_whatever_looks_at_the_face() -> None:
    def first_shape(crops: np.ndarray) -> np.ndarray:
        assert crops.shape == (1, 256, 256, 3)
        return np.full((1, 19, 2), crops.mean() / 2, np.float32)

    frames = []
    for observed in (True, False):
        env = gym.make(
            "FaceAlign-v0",
            landmarks=19,
            initializer=first_shape,
            observe_patches=observed,
            render_mode="rgb_array",
            disable_env_checker=True,
            **FACES,
        )
        env.reset(seed=0)
        frames.append(env.render())
    np.testing.assert_array_equal(*frames)


def test_modes_are_those_of_the_training_split() -> None:
    train, test = (single("FaceAlign/State19-v0", split=split) for split in ("train", "test"))
    np.testing.assert_array_equal(train.get_wrapper_attr("directions"), test.get_wrapper_attr("directions"))


def test_shape_modes_are_principal_axes() -> None:
    shapes = np.random.default_rng(0).normal(size=(500, 3, 2)) * [[3.0, 1.0], [1.0, 2.0], [1.0, 1.0]]
    modes = shape_modes(shapes, 6)
    lengths = np.linalg.norm(modes, axis=1)
    assert (np.diff(lengths) <= 0).all()
    assert lengths[0] == pytest.approx(shapes[:, 0, 0].std(), rel=0.05)
    np.testing.assert_allclose(modes @ modes.T, np.diag(lengths**2), atol=1e-5)
    for count in (0, 7):
        with pytest.raises(ValueError, match=f"not {count}"):
            shape_modes(shapes, count)


def test_coarse_patches_are_what_is_bright_and_dark_in_each() -> None:
    inner = gym.make("FaceAlign-v0", landmarks=19, observe_time=True, initializer="mean", **FACES)
    env = CoarsePatches(inner, side=3)
    patches = np.zeros((19, 30, 30, 3), np.uint8)
    patches[0, :10, 20:] = 90  # the block at the top right
    patches[1] = 200  # flat, however bright
    patches[2] = 2 * patches[0] + 7  # in another light
    seen = env.observation({"patches": patches, "time_left": np.float32([0.3])})
    assert seen in env.observation_space
    blocks = seen[:-1].reshape(19, 3, 3)
    expected = np.full((3, 3), -10.0)
    expected[0, 2] += 90
    np.testing.assert_allclose(blocks[0], expected / (expected.std() + 8), rtol=1e-5)
    assert not blocks[1].any()
    np.testing.assert_allclose(blocks[2], blocks[0], rtol=0.25)
    assert seen[-1] == np.float32(0.3)


def test_features_are_what_the_trunk_says_of_the_state_that_the_environment_shows() -> None:
    inner = gym.make("FaceAlign-v0", landmarks=19, initializer="mean", learned_history=True, **FACES)
    env = PretrainedFeatures(inner, "synthetic-19")
    first, _ = env.reset(seed=0)
    env.step(np.full(38, 4.0, dtype=np.float32))
    np.testing.assert_array_equal(inner.unwrapped.episodes.history[0], first)
    assert env.observation_space.shape == (512,)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ShapeModes(gym.make("CartPole-v1")), TypeError, "CartPole"),
        (lambda: ShapeModes(single("FaceAlign-v0"), modes=0), ValueError, "modes"),
        (lambda: ShapeModes(single("FaceAlign-v0"), step=np.nan), ValueError, "step"),
        (lambda: ShapeModes(single("FaceAlign-v0", learned_history=True)), ValueError, r"\(648,\)"),
        (lambda: PretrainedFeatures(single("FaceAlign-v0", learned_history=True)), ValueError, "19 landmarks"),
        (lambda: CoarsePatches(single("FaceAlign-v0"), side=4), ValueError, "side=4 does not divide .* 30 pixels"),
        (lambda: CoarsePatches(single("FaceAlign-v0"), side=0), ValueError, "side"),
        (lambda: CoarsePatches(single("FaceAlign/State19-v0")), ValueError, "observe_patches"),
        (lambda: ModeResiduals(single("FaceAlign-v0")), ValueError, "observe_residual"),
        (lambda: ModeResiduals(single("FaceAlign-v0", observe_residual=True)), ValueError, "ShapeModes"),
    ],
)
def test_wrappers_say_what_they_need(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
