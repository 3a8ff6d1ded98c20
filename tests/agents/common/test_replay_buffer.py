"""FaceReplayBuffer: it keeps no pixel and gives each one back."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from face_align_env.agents.common.extractor import LRNExtractor
from face_align_env.agents.common.replay_buffer import FaceReplayBuffer, FacesFromEnv, bytes_per_transition
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.agents.dcrn.algorithm import DCRN
from face_align_env.networks.lrn import LRN

NewDCRN = Callable[..., DCRN]


class Recorder:
    """Everything that Stable-Baselines3 hands to the buffer, by its place there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: dict[int, tuple[Any, ...]] = {}
        self.added = 0
        add = FaceReplayBuffer.add

        def record(buffer: FaceReplayBuffer, *transition: Any) -> None:
            self.rows[buffer.pos] = copy.deepcopy(transition)
            self.added += 1
            add(buffer, *transition)

        monkeypatch.setattr(FaceReplayBuffer, "add", record)


def sample(buffer: FaceReplayBuffer, n: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """A minibatch, and the rows and environments that it was drawn from."""
    np.random.seed(0)
    data = buffer.sample(n)
    np.random.seed(0)
    rows = np.random.randint(0, buffer.size(), size=n)
    return data, rows, np.random.randint(0, buffer.n_envs, size=n)


def sac(env: Any, lrn: LRN, **options: Any) -> SAC:
    return SAC(
        "MultiInputPolicy",
        env,
        replay_buffer_class=FaceReplayBuffer,
        policy_kwargs={
            "features_extractor_class": LRNExtractor,
            "features_extractor_kwargs": {"lrn": lrn},
            "net_arch": [8],
        },
        device="cpu",
        **{
            "replay_buffer_kwargs": {"faces": env.get_attr("faces")[0]},
            "learning_starts": 1000,
            "buffer_size": 45,
            "seed": 0,
            **options,
        },
    )


@pytest.mark.parametrize("augment", [False, True], ids=["plain", "augmented"])
@pytest.mark.parametrize("kind", ["sac", "sac-learned", "dcrn", "dcrn-single"])
def test_samples_are_what_the_environment_gave_to_the_bit(
    kind: str,
    augment: bool,
    toy_env: Any,
    toy_vec_env: Any,
    lrn: LRN,
    new_dcrn: NewDCRN,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder(monkeypatch)
    learned = kind != "sac"
    options = {"augment": augment, "max_iterations": 4, "alpha_1": 1.0}
    if kind == "dcrn-single":
        env: Any = DummyVecEnv([lambda: toy_env(True, **options)])
    else:
        env = toy_vec_env(3, learned, **options)
    model: BaseAlgorithm = sac(env, lrn)
    if kind.startswith("dcrn"):
        # the noise of 2 pixels is above alpha_2 for some actions, below for others
        model = new_dcrn(env, learning_starts=1000, buffer_size=45, noise=1.9, gain_noise=0.0, freeze_encoder=False)
    model.learn(60 if env.num_envs == 3 else 50)
    buffer = model.replay_buffer  # type: ignore[attr-defined]
    assert recorder.added > buffer.size() == len(recorder.rows), "the buffer has run around"

    data, rows, envs = sample(buffer, 80)
    num_dones = 0
    for i, (row, j) in enumerate(zip(rows.tolist(), envs.tolist(), strict=True)):
        obs, next_obs, action, reward, done, _ = recorder.rows[row]
        for key in ("patches", "history"):
            np.testing.assert_array_equal(data.observations[key][i].numpy(), obs[key][j])
            np.testing.assert_array_equal(data.next_observations[key][i].numpy(), next_obs[key][j])
            assert data.observations[key].numpy().dtype == obs[key].dtype
        np.testing.assert_array_equal(data.actions[i, :136].numpy(), action[j, :136])
        # what is not clipped of a history comes through exactly; scaling to [-1, 1] and back rounds
        np.testing.assert_allclose(data.actions[i, 136:].numpy(), action[j, 136:], atol=1e-6)
        assert data.rewards[i].item() == reward[j]
        num_dones += int(done[j])
    assert num_dones > 5, "terminal observations are among them"


@pytest.mark.parametrize("learned", [False, True], ids=["plain", "learned_history"])
def test_a_transition_takes_less_than_8_kilobytes(toy_env: Any, learned: bool) -> None:
    env = toy_env(learned)
    buffer = FaceReplayBuffer(50, env.observation_space, env.action_space, "cpu", n_envs=2)
    assert buffer.patch_size == 30
    # two shapes, two histories, an action in float32; then index, seed, reward, done, timeout
    assert 2 * 544 + 2 * 2048 + 544 < bytes_per_transition(buffer) < 8000
    assert buffer.buffer_size == 25
    larger = FaceReplayBuffer(150, env.observation_space, env.action_space, "cpu", n_envs=2)
    on_disk = (len(pickle.dumps(larger)) - len(pickle.dumps(buffer))) / 100
    assert on_disk == pytest.approx(bytes_per_transition(buffer), abs=1)


def test_the_time_limit_is_bootstrapped_unless_told_otherwise(toy_vec_env: Any, lrn: LRN) -> None:
    env = toy_vec_env(2, max_iterations=2, alpha_1=1e-9)  # every episode is cut off
    model = sac(env, lrn)
    model.learn(20)
    buffer = model.replay_buffer
    assert buffer is not None
    assert buffer.dones[: buffer.pos].sum() == 10
    data, rows, envs = sample(buffer, 40)
    assert (data.rewards == -10).sum() > 5
    assert data.dones.sum() == 0
    buffer.handle_timeout_termination = False
    buffer.timeouts[:] = 0
    np.testing.assert_array_equal(sample(buffer, 40)[0].dones[:, 0].numpy(), buffer.dones[rows, envs])


def test_a_wrapper_may_give_the_action_another_size(toy_env: Any) -> None:
    env = toy_env(False)
    buffer = FaceReplayBuffer(4, env.observation_space, spaces.Box(-1, 1, (5,)), "cpu", faces=env.unwrapped.faces)
    observation, _ = env.reset(seed=0)
    next_observation, reward, *_, info = env.step(np.zeros(env.action_space.shape, np.float32))
    components = np.linspace(-1, 1, 5, dtype=np.float32)
    batched = ({key: value[None] for key, value in each.items()} for each in (observation, next_observation))
    buffer.add(*batched, components[None], np.array([reward]), np.array([False]), [info])
    np.testing.assert_array_equal(buffer.sample(1).actions.numpy(), components[None])


def test_the_number_that_stops_is_kept_beside_a_learned_history(toy_env: Any) -> None:
    env = toy_env(True, termination="action")
    buffer = FaceReplayBuffer(4, env.observation_space, env.action_space, "cpu", faces=env.unwrapped.faces)
    observation, _ = env.reset(seed=0)
    action = np.linspace(-1, 1, 136 + 1 + 512, dtype=np.float32)
    next_observation, reward, terminated, _, info = env.step(action)
    batched = ({key: value[None] for key, value in each.items()} for each in (observation, next_observation))
    buffer.add(*batched, action[None], np.array([reward]), np.array([terminated]), [info])
    np.testing.assert_array_equal(buffer.sample(1).actions.numpy(), action[None])
    assert buffer.actions.shape[-1] == 137, "the history is not stored twice"


def test_sac_learns_with_it(toy_vec_env: Any, lrn: LRN) -> None:
    model = sac(toy_vec_env(2, augment=True), lrn, learning_starts=4, batch_size=4)
    before = model.policy.actor.mu.weight.clone()  # type: ignore[union-attr]
    model.learn(12)
    assert model.policy.actor.mu.weight.ne(before).any()  # type: ignore[union-attr]


def test_saved_buffers_forget_the_faces_and_get_them_back(toy_vec_env: Any, new_dcrn: NewDCRN, tmp_path: Path) -> None:
    model = new_dcrn(toy_vec_env(2, True, augment=True), freeze_encoder=False)
    model.learn(12)
    buffer = model.replay_buffer
    assert isinstance(buffer, FaceReplayBuffer)
    before, *_ = sample(buffer, 5)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    model.save(tmp_path / "model.zip")
    assert buffer.faces is not None, "saving does not take them away"
    stored = pickle.loads((tmp_path / "buffer.pkl").read_bytes())
    assert stored.faces is None
    with pytest.raises(ValueError, match=r"does not know the faces.*unwrapped.faces"):
        stored.sample(5)

    again = DCRN.load(tmp_path / "model.zip", env=toy_vec_env(2, True, augment=True), device="cpu")
    assert again.replay_buffer is not None
    assert again.replay_buffer.size() == 0
    again.load_replay_buffer(tmp_path / "buffer.pkl")
    after, *_ = sample(again.replay_buffer, 5)  # type: ignore[arg-type]
    for key in ("patches", "history"):
        np.testing.assert_array_equal(after.observations[key], before.observations[key])
    again.learn(4, reset_num_timesteps=False)
    assert again.num_timesteps == 16


@pytest.mark.parametrize("kind", ["batch", "dummy", "subproc"])
def test_a_callback_gives_it_the_faces_of_the_environment(kind: str, toy_env: Any, toy_vec_env: Any, lrn: LRN) -> None:
    env: Any = toy_vec_env(2, augment=True)
    if kind != "batch":
        env = (DummyVecEnv if kind == "dummy" else SubprocVecEnv)([lambda: toy_env(augment=True)] * 2)
    model = sac(env, lrn, learning_starts=4, batch_size=4, replay_buffer_kwargs={})
    buffer = model.replay_buffer
    assert isinstance(buffer, FaceReplayBuffer)
    assert buffer.faces is None
    model.learn(12, FacesFromEnv())
    assert buffer.faces is not None
    if kind != "subproc":  # another process's faces are a copy
        assert buffer.faces is env.get_attr("faces")[0]
    env.close()


def test_the_callback_leaves_other_algorithms_alone(toy_env: Any, lrn: LRN) -> None:
    policy_kwargs = {"features_extractor_class": LRNExtractor, "features_extractor_kwargs": {"lrn": lrn}}
    model = PPO("MultiInputPolicy", toy_env(), n_steps=4, batch_size=4, policy_kwargs=policy_kwargs, device="cpu")
    model.learn(4, FacesFromEnv())


def test_other_environments_are_an_error(toy_env: Any) -> None:
    env = toy_env()
    space, actions = env.observation_space, env.action_space
    with pytest.raises(ValueError, match="made for FaceAlign-v0's observations"):
        FaceReplayBuffer(10, spaces.Box(0, 1, (3,)), actions)
    with pytest.raises(ValueError, match="optimize_memory_usage at False"):
        FaceReplayBuffer(10, space, actions, optimize_memory_usage=True)
    buffer = FaceReplayBuffer(10, space, actions, "cpu")
    observation = {key: value[None] for key, value in env.reset()[0].items()}
    with pytest.raises(ValueError, match="needs the infos of FaceAlign-v0"):
        buffer.add(observation, observation, np.zeros((1, 136)), np.zeros(1), np.zeros(1), [{}])


def test_gymnasiums_infos_do_as_well(toy_dataset: Any, mean_shape: np.ndarray) -> None:
    from gymnasium.vector import AutoresetMode

    from face_align_env.initialization import MeanShape
    from face_align_env.vector_env import FaceAlignVectorEnv

    envs = FaceAlignVectorEnv(
        2,
        autoreset_mode=AutoresetMode.SAME_STEP,
        dataset=toy_dataset("train"),
        initializer=MeanShape(mean_shape),
        max_iterations=2,
        alpha_1=1e-9,
    )
    buffer = FaceReplayBuffer(
        20, envs.single_observation_space, envs.single_action_space, "cpu", n_envs=2, faces=envs.task.source
    )
    obs, _ = envs.reset(seed=0)
    given = []
    for _ in range(4):
        actions = envs.action_space.sample()
        next_obs, rewards, terminated, truncated, infos = envs.step(actions)
        last = {key: value.copy() for key, value in next_obs.items()}
        for j in np.flatnonzero(truncated):
            for key in last:
                last[key][j] = infos["final_obs"][j][key]
        buffer.add(obs, last, actions, rewards, terminated, infos)
        given.append((obs, last))
        obs = next_obs
    data, rows, slots = sample(buffer, 30)
    for i, (row, j) in enumerate(zip(rows.tolist(), slots.tolist(), strict=True)):
        for key in ("patches", "history"):
            np.testing.assert_array_equal(data.observations[key][i].numpy(), given[row][0][key][j])
            np.testing.assert_array_equal(data.next_observations[key][i].numpy(), given[row][1][key][j])
    assert data.dones.sum() == 0, "terminated was passed, and the limit only cuts off"


def test_the_time_left_is_kept_and_sac_learns_on_a_named_task() -> None:
    options: dict[str, Any] = {"dataset_options": {"size": 6}, "patch_size": 4}
    env = FaceAlignVecEnv(2, "FaceAlign/Synthetic19-v0", copy=False, **options)
    model = SAC(
        "MultiInputPolicy",
        env,
        buffer_size=50,
        learning_starts=4,
        batch_size=8,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [8]},
        replay_buffer_class=FaceReplayBuffer,
        replay_buffer_kwargs={"faces": env.get_attr("faces")[0]},
    )
    model.learn(30)
    buffer = model.replay_buffer
    assert isinstance(buffer, FaceReplayBuffer)
    batch = buffer.sample(40)
    left = {round(float(each), 1) for each in batch.observations["time_left"]}
    assert len(left) > 5, "the test proves too little"
    assert left <= {each / 10 for each in range(1, 11)}
    torch.testing.assert_close(batch.next_observations["time_left"], batch.observations["time_left"] - 0.1)
