"""DCRN: DDPG that starts from a pretrained LRN."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from torch import Tensor, nn

from face_align_env.agents.dcrn.algorithm import DCRN, PRESETS
from face_align_env.agents.dcrn.policy import DCRNPolicy
from face_align_env.networks.lrn import LRN

NewDCRN = Callable[..., DCRN]
NewLRN = Callable[..., LRN]


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(module: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def observe(env: Any, n: int = 1) -> dict[str, np.ndarray]:
    """(n, ...) observations of different faces, with histories."""
    rng = np.random.default_rng(0)
    observations = [env.reset(options={"index": i})[0] for i in range(n)]
    patches = np.stack([o["patches"] for o in observations])
    return {"patches": patches, "history": rng.uniform(-1, 1, (n, 512)).astype(np.float32)}


@pytest.mark.parametrize("preset", list(PRESETS))
def test_it_starts_as_the_pretrained_lrn(toy_env: Any, new_dcrn: NewDCRN, lrn: LRN, preset: str) -> None:
    env = toy_env(True)
    model = new_dcrn(env, preset=preset)
    observation = observe(env, 3)
    actions, _ = model.predict(observation, deterministic=True)
    a, d = lrn(torch.from_numpy(observation["patches"]), torch.from_numpy(observation["history"]))
    np.testing.assert_allclose(actions[:, :136], a.detach(), atol=1e-4, err_msg="pixels")
    np.testing.assert_allclose(actions[:, 136:], d.detach(), atol=1e-6)
    for network in (model.policy.actor.lrn, model.policy.actor_target.lrn, model.policy.reference.lrn):
        assert same(network, state(lrn))
    for trunk in (model.policy.critic.trunk, model.policy.critic_target.trunk):
        assert same(trunk, state(lrn.trunk))
    averaged = preset == "stable"
    assert model.lrn is (model.policy.actor_target if averaged else model.policy.actor).lrn
    assert model.lrn is not lrn


def test_lrn_may_come_from_a_file_or_from_nowhere(toy_env: Any, new_dcrn: NewDCRN, lrn: LRN, tmp_path: Path) -> None:
    lrn.save(tmp_path / "lrn.safetensors")
    model = new_dcrn(toy_env(True), lrn=tmp_path / "lrn.safetensors")
    assert same(model.lrn, state(lrn))
    assert new_dcrn(toy_env(True), lrn=None).lrn.config.bottleneck == 32, "compact"


@pytest.mark.parametrize("kind", ["single", "dummy", "batch", "tensors", "monitored"])
def test_it_learns_on_every_kind_of_environment(toy_env: Any, toy_vec_env: Any, new_dcrn: NewDCRN, kind: str) -> None:
    env: Any = {
        "single": lambda: toy_env(True),
        "dummy": lambda: DummyVecEnv([lambda: toy_env(True)] * 2),
        "batch": lambda: toy_vec_env(2, True),
        "tensors": lambda: toy_vec_env(2, True, backend="torch"),
        "monitored": lambda: VecMonitor(toy_vec_env(2, True), info_keywords=("nme",)),
    }[kind]()
    model = new_dcrn(env, critic_warmup=0, gradient_steps=2)
    before = state(model.policy.actor)
    model.learn(16)
    assert model.num_timesteps == 16
    updates = 16 - 8 if kind == "single" else (16 - 8) // 2
    assert model._n_updates == 2 * updates
    assert not same(model.policy.actor, before)
    assert all(torch.isfinite(p).all() for p in model.policy.parameters())


def test_saved_models_predict_alike_and_learn_on(toy_env: Any, new_dcrn: NewDCRN, tmp_path: Path) -> None:
    env = toy_env(True)
    model = new_dcrn(env, critic_warmup=0, noise=0.7, imitation_weight=0.25)
    model.learn(14)
    model.save(tmp_path / "model.zip")
    again = DCRN.load(tmp_path / "model.zip", device="cpu")
    observation = observe(env, 2)
    np.testing.assert_array_equal(again.predict(observation)[0], model.predict(observation)[0])
    for name in ("critic_warmup", "imitation_weight", "noise", "preset", "gamma", "tau", "num_timesteps"):
        assert getattr(again, name) == getattr(model, name), name
    assert same(again.policy, state(model.policy)), "critic, targets and reference too"
    before = again.policy.actor.optimizer.state_dict()["state"]
    assert before, "the optimiser's moments are there"
    again.set_env(toy_env(True))
    again.learn(20, reset_num_timesteps=False)
    assert again.num_timesteps == 34


def test_a_loaded_model_goes_on_without_its_transitions(toy_vec_env: Any, new_dcrn: NewDCRN, tmp_path: Path) -> None:
    new_dcrn(toy_vec_env(2, True)).learn(10).save(tmp_path / "model.zip")
    model = DCRN.load(tmp_path / "model.zip", env=toy_vec_env(2, True), device="cpu")
    updates = model._n_updates
    model.learn(4, reset_num_timesteps=False)
    assert model._n_updates == updates + 2


@pytest.mark.parametrize("num_envs", [1, 2])
def test_a_loaded_model_goes_on_with_any_number_of_faces(
    toy_vec_env: Any, new_dcrn: NewDCRN, tmp_path: Path, num_envs: int
) -> None:
    new_dcrn(toy_vec_env(3, True)).learn(9).save(tmp_path / "model.zip")
    model = DCRN.load(tmp_path / "model.zip", env=toy_vec_env(num_envs, True), device="cpu")
    model.learn(4, reset_num_timesteps=False)
    assert model.num_timesteps == 9 + 4


def test_runs_with_one_seed_are_equal(toy_vec_env: Any, new_dcrn: NewDCRN) -> None:
    # each learns before the next is made: Stable-Baselines3 seeds the global generators
    models = [new_dcrn(toy_vec_env(2, True, augment=True), critic_warmup=0, seed=s).learn(16) for s in (4, 4, 5)]
    assert same(models[1].policy, state(models[0].policy))
    assert not same(models[2].policy, state(models[0].policy))


@pytest.mark.parametrize("warmup", [1000, 0])
def test_in_the_warmup_the_critic_learns_alone(toy_vec_env: Any, new_dcrn: NewDCRN, warmup: int) -> None:
    model = new_dcrn(toy_vec_env(2, True), critic_warmup=warmup)
    actor, target, critic = state(model.policy.actor), state(model.policy.actor_target), state(model.policy.critic)
    model.learn(20)
    assert not same(model.policy.critic, critic)
    assert same(model.policy.actor, actor) == (warmup > 0)
    if warmup:
        torch.testing.assert_close(dict(model.policy.actor_target.state_dict()), target)


def test_no_update_before_learning_starts(toy_vec_env: Any, new_dcrn: NewDCRN) -> None:
    model = new_dcrn(toy_vec_env(2, True), learning_starts=20)
    before = state(model.policy)
    model.learn(20)
    assert same(model.policy, before)
    model.learn(2, reset_num_timesteps=False)
    assert not same(model.policy, before)


def test_imitation_holds_the_actor_near_the_pretrained_one(toy_env: Any, toy_vec_env: Any, new_dcrn: NewDCRN) -> None:
    observation = observe(toy_env(True), 4)
    tensors = {key: torch.from_numpy(value) for key, value in observation.items()}
    deviation = {}
    for weight in (0.0, 1e6):
        model = new_dcrn(toy_vec_env(2, True), critic_warmup=0, imitation_weight=weight, learning_rate=1e-3)
        model.learn(70)
        with torch.no_grad():
            difference = model.policy.actor(tensors) - model.policy.reference(tensors)
        deviation[weight] = 32 * difference[:, :136].abs().mean().item()
    assert deviation[0.0] > 3, "pixels; free, it goes where Q seems high"
    assert deviation[1e6] < 0.1 * deviation[0.0]


def test_preset_paper_is_algorithm_1_with_table_2(toy_env: Any, lrn: LRN) -> None:
    model = DCRN(env=toy_env(True), lrn=lrn, preset="paper", buffer_size=200, device="cpu")
    assert (model.gamma, model.tau, model.batch_size) == (0.9, 0.8, 128)
    assert (model.imitation_weight, model.critic_warmup, model.learning_starts) == (0.0, 0, 128)
    assert not model.policy.freeze_encoder
    assert model.noise == 1.0
    assert isinstance(model.policy.actor.optimizer, torch.optim.Adam)
    assert len(model.policy.critic(*_one(model))) == 1, "a single critic"


def _one(model: DCRN) -> tuple[dict[str, Tensor], Tensor]:
    obs = {"patches": torch.zeros(1, 68, 30, 30, 3, dtype=torch.uint8), "history": torch.zeros(1, 512)}
    return obs, torch.zeros(1, 648)


def test_keywords_win_over_the_preset(toy_env: Any, new_dcrn: NewDCRN) -> None:
    model = new_dcrn(toy_env(True), preset="stable", tau=0.1, imitation_weight=0.0, freeze_encoder=False, noise=0.0)
    assert (model.tau, model.imitation_weight, model.policy.freeze_encoder, model.noise) == (0.1, 0.0, False, 0.0)
    assert model.critic_warmup == PRESETS["stable"].critic_warmup


def test_a_frozen_encoder_is_shared_and_stays(toy_vec_env: Any, new_dcrn: NewDCRN, lrn: LRN, tmp_path: Path) -> None:
    model = new_dcrn(toy_vec_env(2, True), critic_warmup=0, freeze_encoder=True, learning_rate=1e-2)
    model.learn(20)
    model.save(tmp_path / "model.zip")
    for each in (model, DCRN.load(tmp_path / "model.zip", env=toy_vec_env(2, True), device="cpu")):
        policy = each.policy
        trunks = [policy.actor.lrn.trunk, policy.actor_target.lrn.trunk, policy.critic.trunk]
        trunks += [policy.critic_target.trunk, policy.reference.lrn.trunk]
        assert len({id(trunk.encoder) for trunk in trunks}) == 1
        assert same(policy.critic.trunk.encoder, state(lrn.trunk.encoder)), "exactly"
        encoder = {id(p) for p in policy.actor.lrn.trunk.encoder.parameters()}
        for network in (policy.actor, policy.critic):
            optimised = {id(p) for group in network.optimizer.param_groups for p in group["params"]}
            assert not optimised & encoder
            assert optimised
    assert not torch.equal(model.lrn.trunk.recurrent.weight, lrn.trunk.recurrent.weight)


def test_without_freezing_each_network_has_its_own_encoder(toy_vec_env: Any, new_dcrn: NewDCRN, lrn: LRN) -> None:
    model = new_dcrn(toy_vec_env(2, True), critic_warmup=0, freeze_encoder=False)
    model.learn(20)
    actor, critic = model.policy.actor.lrn.trunk.encoder, model.policy.critic.trunk.encoder
    assert not same(actor, state(lrn.trunk.encoder))
    assert not same(critic, state(actor))
    assert same(model.policy.reference.lrn, state(lrn)), "the reference is for ever the pretrained one"


def test_the_critic_sees_the_increment_only(toy_env: Any, new_dcrn: NewDCRN) -> None:
    env = toy_env(True)
    critic = new_dcrn(env).policy.critic
    obs = {key: torch.from_numpy(value) for key, value in observe(env, 2).items()}
    actions = torch.rand(2, 648) * 2 - 1
    q = critic.q1_forward(obs, actions)
    assert q.shape == (2, 1)
    other_history, other_increment = actions.clone(), actions.clone()
    other_history[:, 136:] *= -1
    other_increment[:, :136] *= -1
    assert torch.equal(critic.q1_forward(obs, other_history), q)
    assert critic.q1_forward(obs, other_increment).ne(q).all()


@pytest.mark.parametrize("preset", list(PRESETS))
def test_noise_touches_the_increment_only_from_the_first_step(toy_vec_env: Any, new_dcrn: NewDCRN, preset: str) -> None:
    envs = toy_vec_env(4, True)
    model = new_dcrn(envs, preset=preset, noise=1.5)
    model._setup_learn(100)
    assert model.num_timesteps < model.learning_starts, "the warm-up, too, acts with the policy"
    expected, _ = model.predict(model._last_obs, deterministic=True)  # type: ignore[arg-type]
    noise = []
    for _ in range(20):
        action, stored = model._sample_action(model.learning_starts, model.action_noise, 4)
        np.testing.assert_allclose(action[:, 136:], expected[:, 136:], atol=1e-6)
        np.testing.assert_allclose(model.policy.unscale_action(stored), action, atol=1e-5)
        noise.append(action[:, :136] - expected[:, :136])
    assert np.std(noise) == pytest.approx(1.5, rel=0.03), "pixels"
    assert np.mean(noise) == pytest.approx(0, abs=0.1)


def test_gain_noise_changes_the_length_of_the_increment_and_nothing_else(toy_vec_env: Any, new_dcrn: NewDCRN) -> None:
    model = new_dcrn(toy_vec_env(64, True), noise=0.0, gain_noise=0.2)
    model.learn(64)
    assert isinstance(model.replay_buffer, DictReplayBuffer)
    noisy = model.replay_buffer.actions[0]
    first = model.replay_buffer.observations
    obs = {key: torch.from_numpy(first[key][0].astype(np.float32)) for key in first}
    with torch.no_grad():
        plain = model.policy.actor(obs).numpy()[:, :136]
    gains = (noisy * plain).sum(1) / (plain * plain).sum(1)
    np.testing.assert_allclose(noisy, gains[:, None] * plain, atol=2e-4)
    assert 0.15 < np.log(gains).std() < 0.25


def test_nothing_is_bootstrapped_past_the_last_iteration(toy_vec_env: Any, new_dcrn: NewDCRN) -> None:
    envs = toy_vec_env(2, True, max_iterations=2, alpha_1=1e-9)  # every episode is truncated
    model = new_dcrn(envs, learning_starts=1000)
    model.learn(40)
    assert model.replay_buffer is not None
    data = model.replay_buffer.sample(60)
    cut_off = data.rewards == -10
    assert 10 < cut_off.sum() < 50
    assert torch.equal(data.dones == 1, cut_off)


def test_targets_are_those_of_algorithm_1(toy_vec_env: Any, new_dcrn: NewDCRN, monkeypatch: pytest.MonkeyPatch) -> None:
    """y = r + gamma Q'(s', mu'(s')), and no second term at the end."""
    model = new_dcrn(toy_vec_env(2, True, max_iterations=3), learning_starts=1000, critic_warmup=1000)
    model.learn(30)
    assert model.replay_buffer is not None
    data = model.replay_buffer.sample(16)
    obs, next_obs = (
        {key: value.float() for key, value in each.items()}  # type: ignore[union-attr]
        for each in (data.observations, data.next_observations)
    )
    assert 0 < data.dones.sum() < 16
    monkeypatch.setattr(model.replay_buffer, "sample", lambda batch_size: data)
    policy = model.policy
    with torch.no_grad():
        next_q = policy.critic_target.q1_forward(next_obs, policy.actor_target(next_obs))
        y = torch.where(data.dones == 1, data.rewards, data.rewards + 0.9 * next_q)
        q = policy.critic.q1_forward(obs, data.actions)
    model.train(1, 16)
    assert model.logger.name_to_value["train/critic_loss"] == pytest.approx(((q - y) ** 2).mean().item(), rel=1e-4)


def test_targets_follow_with_share_tau(toy_vec_env: Any, new_dcrn: NewDCRN) -> None:
    model = new_dcrn(toy_vec_env(2, True), learning_starts=8, critic_warmup=0, tau=0.25)
    target = state(model.policy.critic_target)
    model.learn(10)
    assert model._n_updates == 1
    for name, now in model.policy.critic_target.state_dict().items():
        expected = torch.lerp(target[name], model.policy.critic.state_dict()[name], 0.25)
        torch.testing.assert_close(now, expected)


def test_tensors_teach_what_arrays_teach(toy_vec_env: Any, new_dcrn: NewDCRN) -> None:
    """From terminal observations, too."""
    models = []
    for options in ({}, {"backend": "torch"}):
        model = new_dcrn(toy_vec_env(2, True, max_iterations=3, **options), critic_warmup=0)
        model.learn(40)
        models.append(model)
    buffers = [model.replay_buffer for model in models]
    for key in ("observations", "next_observations"):
        arrays, tensors = (getattr(buffer, key) for buffer in buffers)
        assert arrays.keys() == tensors.keys()
        for name, values in arrays.items():
            np.testing.assert_allclose(tensors[name], values, rtol=1e-3, atol=1e-4)
    for name, values in models[0].policy.state_dict().items():
        torch.testing.assert_close(models[1].policy.state_dict()[name], values, rtol=1e-3, atol=1e-5)


def test_updates_in_bfloat16_are_nearly_those_in_float32(toy_vec_env: Any, new_dcrn: NewDCRN) -> None:
    moved = []
    for precision in ("32-true", "bf16-mixed"):
        model = new_dcrn(toy_vec_env(2, True), precision=precision, critic_warmup=0, learning_starts=1000)
        model.learn(30)
        before = state(model.policy)
        model.train(1, 16)
        assert all(p.dtype == torch.float32 for p in model.policy.parameters())
        after = model.policy.state_dict()
        moved.append(torch.cat([(after[name] - before[name]).flatten() for name in before]))
    exact, rough = moved
    assert torch.nn.functional.cosine_similarity(exact, rough, dim=0) > 0.9
    assert not torch.equal(exact, rough)


def test_features_in_bfloat16_are_nearly_those_in_float32(toy_env: Any, new_dcrn: NewDCRN) -> None:
    env = toy_env(True)
    obs = observe(env, 3)
    exact, rough = (
        new_dcrn(env, precision=precision)._encoded(obs)["patch_features"] for precision in ("32-true", "bf16-mixed")
    )
    assert exact.dtype == rough.dtype == np.float32
    np.testing.assert_allclose(rough, exact, rtol=0.03, atol=0.03 * np.abs(exact).max())
    assert not np.array_equal(rough, exact)


def test_q_is_no_bfloat16(toy_env: Any, new_dcrn: NewDCRN) -> None:
    """Whose neighbours of 10 are 0.06 apart, more than most of what a policy can gain."""
    env = toy_env(True)
    model = new_dcrn(env)
    obs = {key: torch.from_numpy(value) for key, value in observe(env, 3).items()}
    actions = torch.rand(3, env.action_space.shape[0]) - 0.5
    with torch.autocast("cpu", torch.bfloat16):
        q = model.policy.critic.q1_forward(obs, actions)
    assert q.dtype == torch.float32
    assert not torch.equal(q, q.bfloat16().float())


@pytest.mark.parametrize(
    ("learned", "options", "message"),
    [
        (False, {}, r"action space is \(136,\).*LearnedHistory"),
        (True, {"action_limit": 16.0}, "Pass action_limit=32.0 to gym.make"),
        (True, {"patch_size": 24}, "the environment shows 68 of 24"),
    ],
)
def test_an_environment_that_does_not_fit_is_an_error(
    toy_env: Any, new_dcrn: NewDCRN, learned: bool, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        new_dcrn(toy_env(learned, **options))


def test_options_that_cannot_be_are_errors(toy_env: Any, new_dcrn: NewDCRN, new_lrn: NewLRN) -> None:
    with pytest.raises(ValueError, match=r"Unknown preset 'wild'.*paper, stable"):
        new_dcrn(toy_env(True), preset="wild")
    with pytest.raises(ValueError, match=r"precision must be one of"):
        new_dcrn(toy_env(True), precision="16-mixed")
    env = toy_env(True)
    with pytest.raises(ValueError, match=r"Fig. 2 has one critic"):
        DCRNPolicy(env.observation_space, env.action_space, lambda _: 1e-3, n_critics=2)
    with pytest.raises(ValueError, match="The policy was built for"):
        new_dcrn(env).policy.start_from(new_lrn(bottleneck=5))


def test_callbacks_logger_and_evaluate_policy_work(toy_env: Any, new_dcrn: NewDCRN, tmp_path: Path) -> None:
    model = new_dcrn(toy_env(True, max_iterations=3), critic_warmup=0)
    model.set_logger(configure(str(tmp_path / "log"), ["csv", "tensorboard"]))
    test_env = Monitor(toy_env(True, split="test", max_iterations=3))
    callbacks = [
        EvalCallback(test_env, n_eval_episodes=2, eval_freq=10, log_path=str(tmp_path / "eval"), verbose=0),
        CheckpointCallback(10, str(tmp_path / "checkpoints"), save_replay_buffer=True),
    ]
    model.learn(24, callbacks, log_interval=1)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} >= {"rl_model_10_steps.zip"}
    results = np.load(tmp_path / "eval" / "evaluations.npz")
    assert results["timesteps"].tolist() == [10, 20]
    header, *rows = (tmp_path / "log" / "progress.csv").read_text().splitlines()
    for column in ("rollout/ep_len_mean", "rollout/success_rate", "train/critic_loss", "train/imitation"):
        assert column in header
    assert len(rows) >= 8
    mean, _ = evaluate_policy(model, test_env, n_eval_episodes=3)
    assert -30 <= mean <= 30
    lengths = evaluate_policy(model, test_env, n_eval_episodes=3, return_episode_rewards=True)[1]
    assert max(lengths) <= 3  # type: ignore[type-var, arg-type]
