"""CodeReplayBuffer: codes of a frozen encoder, each state once."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from face_align_env.agents.common.replay_buffer import FaceReplayBuffer
from face_align_env.agents.dcrn.algorithm import DCRN
from face_align_env.agents.dcrn.code_buffer import CodeReplayBuffer
from gymnasium import spaces
from stable_baselines3.common.logger import configure

from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.lrn import LRN

NewDCRN = Callable[..., DCRN]


def learnt(model: DCRN, steps: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Let it collect; what its buffer was given, call by call."""
    given: list[tuple[Any, ...]] = []
    add = CodeReplayBuffer.add

    def record(buffer: CodeReplayBuffer, *transition: Any) -> None:
        given.append(copy.deepcopy(transition))
        add(buffer, *transition)

    monkeypatch.setattr(CodeReplayBuffer, "add", record)
    model.learn(steps)
    return given


@pytest.mark.parametrize("rows", [100, 7], ids=["all", "overwritten"])
def test_samples_are_what_was_stored(
    rows: int, toy_vec_env: Any, new_dcrn: NewDCRN, lrn: LRN, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = toy_vec_env(3, learned=True, max_iterations=4, alpha_1=1.0)
    model = new_dcrn(env, buffer_size=3 * rows, learning_starts=1000, noise=3.0)
    given = learnt(model, 60, monkeypatch)
    buffer = model.replay_buffer
    assert isinstance(buffer, CodeReplayBuffer)
    kept = list(range(max(0, len(given) - rows), len(given)))  # numbers of the calls to add
    done = np.array([call[4] for call in given])
    assert done.any()
    assert not done.all()

    np.random.seed(0)
    data = buffer.sample(400)
    np.random.seed(0)
    complete = np.flatnonzero(buffer.followed[: buffer.size()] | buffer.dones[: buffer.size()])
    drawn = np.random.choice(complete, 400)
    # every transition is drawn but those of the newest row that go on
    assert len(complete) == 3 * len(kept) - (~done[-1]).sum()
    call_of_row = {call % rows: call for call in kept}
    encode = lrn.trunk.encode
    for i in range(0, 400, 7):
        row, k = divmod(int(drawn[i]), 3)
        obs, next_obs, action, reward, dones, _ = given[call_of_row[row]]
        with torch.no_grad():
            codes, next_codes = (encode(torch.from_numpy(o["patches"][k : k + 1])) for o in (obs, next_obs))
        torch.testing.assert_close(data.observations["codes"][i : i + 1], codes, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(data.observations["history"][i], obs["history"][k], atol=1e-3)
        np.testing.assert_array_equal(data.actions[i], action[k, :136])
        assert data.rewards[i] == reward[k]
        assert data.dones[i] == dones[k]
        if not dones[k]:
            torch.testing.assert_close(data.next_observations["codes"][i : i + 1], next_codes, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(data.next_observations["history"][i], next_obs["history"][k], atol=1e-3)


def test_what_comes_after_loading_does_not_continue_what_was_before(toy_vec_env: Any, new_dcrn: NewDCRN) -> None:
    model = new_dcrn(toy_vec_env(2, learned=True, alpha_1=1e-9), learning_starts=1000)
    model.learn(6)  # three rows of episodes that take ten steps
    buffer = pickle.loads(pickle.dumps(model.replay_buffer))
    assert buffer.encoder is None
    model.replay_buffer = buffer
    model._attach()
    model.learn(2, reset_num_timesteps=False)
    assert buffer.followed[:4].tolist() == [[True] * 2, [True] * 2, [False] * 2, [False] * 2]
    rows = {tuple(code.tolist()) for code in buffer.sample(200).observations["codes"].half().numpy()}
    assert len(rows) == 4, "two rows of two environments"


def test_an_update_looks_at_no_pixel(toy_vec_env: Any, new_dcrn: NewDCRN, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_dcrn(toy_vec_env(2, learned=True), critic_warmup=0)
    model.learn(12)
    updates = model._n_updates
    monkeypatch.setattr(model.policy.reference.lrn.trunk.encoder, "forward", None)
    model.set_logger(configure(None, []))
    model.train(2, 8)
    assert model._n_updates == updates + 2


def test_a_state_is_encoded_once(toy_vec_env: Any, new_dcrn: NewDCRN, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_dcrn(toy_vec_env(2, learned=True), critic_warmup=0)
    encoder, seen = model.policy.reference.lrn.trunk.encoder, []
    forward = encoder.forward

    def counted(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return forward(images)

    monkeypatch.setattr(encoder, "forward", counted)
    model.learn(20)
    assert model._n_updates > 0
    assert seen == [2 * 68] * 10, "by who acts; neither the buffer nor an update asks again"


def test_codes_and_patches_lead_to_the_same_values(toy_vec_env: Any, new_dcrn: NewDCRN) -> None:
    env = toy_vec_env(4, learned=True)
    model = new_dcrn(env)
    obs = {key: torch.from_numpy(np.copy(value)) for key, value in env.reset().items()}
    coded = {"codes": model.policy.encode(obs["patches"]), "history": obs["history"]}
    for network in (model.policy.actor, model.policy.actor_target, model.policy.reference):
        torch.testing.assert_close(network(coded), network(obs))
    actions = model.policy.actor(obs)
    torch.testing.assert_close(model.policy.critic(coded, actions)[0], model.policy.critic(obs, actions)[0])


def test_a_transition_of_compact_is_under_8_kb(toy_vec_env: Any, new_dcrn: NewDCRN) -> None:
    compact = LRN(lrn_network.preset("compact", 68))
    model = new_dcrn(toy_vec_env(2, learned=True), lrn=compact, buffer_size=2000, learning_starts=1000)
    model.learn(2)
    assert isinstance(model.replay_buffer, CodeReplayBuffer)
    assert 5000 < model.replay_buffer.bytes_per_transition < 8000


@pytest.mark.parametrize("frozen", [True, False])
def test_the_buffer_follows_from_the_encoder(toy_vec_env: Any, new_dcrn: NewDCRN, frozen: bool) -> None:
    model = new_dcrn(toy_vec_env(2, learned=True), freeze_encoder=frozen)
    assert type(model.replay_buffer) is (CodeReplayBuffer if frozen else FaceReplayBuffer)


def test_what_it_refuses(toy_vec_env: Any) -> None:
    env = toy_vec_env(2, learned=True)
    arguments = (10, env.observation_space, env.action_space, "cpu", 2)
    with pytest.raises(ValueError, match="FaceAlign-v0"):
        CodeReplayBuffer(10, spaces.Box(0, 1), env.action_space)
    for flag in ("optimize_memory_usage", "handle_timeout_termination"):
        with pytest.raises(ValueError, match=flag):
            CodeReplayBuffer(*arguments, **{flag: True})
    buffer = CodeReplayBuffer(*arguments)
    obs = env.reset()
    with pytest.raises(ValueError, match="encoder"):
        buffer.add(obs, obs, np.zeros((2, 648)), np.zeros(2), np.zeros(2), [{}, {}])
    buffer.encoder = lambda patches: torch.zeros(len(patches), 3)
    buffer.add(obs, obs, np.zeros((2, 648)), np.zeros(2), np.zeros(2), [{}, {}])
    with pytest.raises(ValueError, match="learning_starts"):
        buffer.sample(4)
