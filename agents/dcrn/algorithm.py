"""DCRN: Algorithm 1 on Stable-Baselines3's DDPG."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DDPG
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, VectorizedActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import obs_as_tensor, update_learning_rate
from torch.nn import functional

from face_align_env.agents.common.extractor import load_lrn
from face_align_env.agents.common.replay_buffer import FaceReplayBuffer
from face_align_env.agents.dcrn.moved import moved_classes
from face_align_env.agents.dcrn.policy import DCRNPolicy
from face_align_env.checks import check_choice
from face_align_env.networks.lrn import LRN, LRNConfig, LRNTrunk


@dataclass(frozen=True)
class DCRNPreset:
    """What tames DDPG on a pretrained actor; each field is a keyword of :class:`DCRN`.

    :param learning_rate: Adam's, for the actor
    :param critic_learning_rate: Adam's, for the critic
    :param tau: share of the new weights in the targets' update, Table 2
    :param learning_starts: transitions collected (by the policy with noise) before the first update
    :param critic_warmup: updates in which the critic learns alone
    :param imitation_weight: weight of the squared distance to the pretrained actor's increments, pixels^2, against a
        Q that is scaled to size one (as TD3+BC does); 0: none, and Q is not scaled
    :param noise: standard deviation of the exploration noise on each number of a_t, pixels
    :param gain_noise: standard deviation of the logarithm of a factor on a_t, one number for all landmarks: it explores
        how far to go, which is what Eq. 3 asks. Independent noise on 136 numbers averages out in the NME
    :param freeze_encoder: leave the pretrained patch encoder as it is; the replay buffer then keeps its features
    :param averaged: the result is the target actor: the actor's average over its last 1 / tau updates, which wanders
        less
    """

    learning_rate: float
    critic_learning_rate: float
    tau: float
    learning_starts: int
    critic_warmup: int
    imitation_weight: float
    noise: float
    gain_noise: float
    freeze_encoder: bool
    averaged: bool


PRECISIONS = ("32-true", "bf16-mixed")

PRESETS = {
    # Algorithm 1 as it is written: updates from the first full minibatch on, nothing holds the actor. Only the critic
    # is not quite that of Fig. 2: it is told the length of a_t, too.
    "paper": DCRNPreset(1e-3, 1e-3, 0.8, 128, 0, 0.0, 1.0, 0.0, False, False),
    "stable": DCRNPreset(1e-4, 1e-3, 0.005, 1000, 500, 1.0, 0.5, 0.2, True, True),
}


class DCRN(DDPG):
    """Dynamic Cascaded Regression Network: DDPG (Algorithm 1) with LRN as actor.

    It learns on ``LearnedHistory(FaceAlign-v0)``, or on ``FaceAlignVecEnv(..., learned_history=True)``. Noise, critic
    and Eq. 3 see a_t; d_{t+1} travels through the action. The 10-iteration limit ends an episode with r = -10, so it
    is not bootstrapped there.

    :param policy: ``"DCRNPolicy"``
    :param env: the environment
    :param lrn: pretrained LRN, network or weights; None: fresh ``compact`` weights
    :param preset: ``"stable"`` or ``"paper"`` (see :data:`PRESETS`); gives the keywords that are None
    :param learning_rate: Adam's, for the actor; a number or a schedule
    :param critic_learning_rate: Adam's, for the critic
    :param tau: share of the new weights in the targets' update
    :param gamma: discount, Table 2
    :param learning_starts: transitions collected before the first update
    :param critic_warmup: updates in which the critic learns alone
    :param imitation_weight: see :class:`DCRNPreset`
    :param noise: exploration noise on each number of a_t, pixels
    :param gain_noise: exploration noise on the length of a_t, see :class:`DCRNPreset`
    :param freeze_encoder: leave the pretrained patch encoder as it is
    :param averaged: :attr:`lrn` is the target actor's, see :class:`DCRNPreset`
    :param buffer_size: transitions kept: where the encoder is frozen, the features of their patches and the pretrained
        actor's increments in Stable-Baselines3's own ``DictReplayBuffer`` (12 kB each with ``compact``), else shapes in
        a :class:`FaceReplayBuffer` (6 kB)
    :param batch_size: transitions an update, section 4.2
    :param precision: of the networks: ``"32-true"``; or ``"bf16-mixed"``, where a frozen encoder and, in updates, the
        layers of actor and critic calculate in bfloat16, and the last one, which gives Q, does not
    :param train_freq: steps of the environment (of all faces together: one) between updates
    :param gradient_steps: updates then; -1: as many as transitions were collected
    :param action_noise: replaces the Gaussian noise of ``noise`` pixels; in units of the scaled action
    :param replay_buffer_kwargs: further arguments of the replay buffer
    :param policy_kwargs: arguments of :class:`~face_align_env.agents.dcrn.policy.DCRNPolicy`
    :param tensorboard_log: folder of TensorBoard curves
    :param verbose: 0, 1 or 2
    :param seed: of everything random
    :param device: ``"auto"``, ``"cpu"``, ``"cuda"``
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"DCRNPolicy": DCRNPolicy}
    policy: DCRNPolicy

    def __init__(
        self,
        policy: str | type[DCRNPolicy] = "DCRNPolicy",
        env: GymEnv | str | None = None,
        lrn: LRN | str | os.PathLike[str] | None = None,
        preset: str = "stable",
        learning_rate: float | Schedule | None = None,
        critic_learning_rate: float | None = None,
        tau: float | None = None,
        gamma: float = 0.9,
        learning_starts: int | None = None,
        critic_warmup: int | None = None,
        imitation_weight: float | None = None,
        noise: float | None = None,
        gain_noise: float | None = None,
        freeze_encoder: bool | None = None,
        averaged: bool | None = None,
        buffer_size: int = 50_000,
        batch_size: int = 128,
        precision: str = "32-true",
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if preset not in PRESETS:
            raise ValueError(f"Unknown preset '{preset}' of DCRN; there are {', '.join(PRESETS)}.")
        check_choice("precision", precision, PRECISIONS)
        chosen = PRESETS[preset]

        def pick(value: Any, name: str) -> Any:
            return getattr(chosen, name) if value is None else value

        self.preset = preset
        self.precision = precision
        self.critic_learning_rate: float = pick(critic_learning_rate, "critic_learning_rate")
        self.critic_warmup: int = pick(critic_warmup, "critic_warmup")
        self.imitation_weight: float = pick(imitation_weight, "imitation_weight")
        self.noise: float = pick(noise, "noise")
        self.gain_noise: float = pick(gain_noise, "gain_noise")
        self.averaged: bool = pick(averaged, "averaged")
        frozen: bool = pick(freeze_encoder, "freeze_encoder")
        super().__init__(
            policy=policy,
            env=env,  # type: ignore[arg-type]
            learning_rate=pick(learning_rate, "learning_rate"),
            buffer_size=buffer_size,
            learning_starts=pick(learning_starts, "learning_starts"),
            batch_size=batch_size,
            tau=pick(tau, "tau"),
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            action_noise=action_noise,
            replay_buffer_class=DictReplayBuffer if frozen else FaceReplayBuffer,
            # y in Algorithm 1 has no bootstrap past the end of an episode, however it ends
            replay_buffer_kwargs={"handle_timeout_termination": False, **(replay_buffer_kwargs or {})},
            tensorboard_log=tensorboard_log,
            policy_kwargs={"freeze_encoder": frozen, **(policy_kwargs or {})},
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        if _init_setup_model:
            network = load_lrn(lrn, self.observation_space)
            self.policy_kwargs["lrn_config"] = network.config
            self._setup_model()
            self.policy.start_from(network)

    def _setup_model(self) -> None:
        if self.replay_buffer is None and self.policy_kwargs["freeze_encoder"]:
            self.replay_buffer = self._feature_buffer(self.policy_kwargs["lrn_config"])
        super()._setup_model()
        if isinstance(self.action_noise, VectorizedActionNoise):
            # A saved model has one for each of its environments; those it goes on with may be more or fewer.
            self.action_noise = self.action_noise.base_noise
        if self.action_noise is None:
            size = self.policy.critic.action_size
            assert self.action_space.shape is not None
            sigma = np.zeros(self.action_space.shape, dtype=np.float32)
            sigma[:size] = self.noise / self.policy.lrn_config.action_limit
            self.action_noise = NormalActionNoise(np.zeros_like(sigma), sigma)
        self._attach()

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        super().set_env(env, force_reset)
        self._attach()

    @classmethod
    def load(
        cls,
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: torch.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """As of any algorithm; models from before ``agents`` became ``face_align_env.agents`` load as well."""
        objects = {**moved_classes(path), **(custom_objects or {})}
        return super().load(path, env, device, objects, print_system_info, force_reset, **kwargs)

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """As of any algorithm.

        :raises ValueError: another version of this project has written the file
        """
        try:
            super().load_replay_buffer(path, truncate_last_traj)
        except (ModuleNotFoundError, AttributeError) as error:
            raise ValueError(
                f"'{path}' is a replay buffer of another version of this project ({error}). "
                "Delete it to go on with an empty one."
            ) from error
        self._attach()

    def _attach(self) -> None:
        """Give the replay buffer the environment's own faces to cut again."""
        if self.env is not None and isinstance(self.replay_buffer, FaceReplayBuffer):
            self.replay_buffer.faces = self.env.get_attr("faces")[0]

    def _feature_buffer(self, config: LRNConfig) -> DictReplayBuffer:
        """A replay buffer for encoded states and a_t alone; in float16."""
        num_features = LRNTrunk(config).recurrent.in_features - config.hidden
        observations: dict[str, spaces.Space[Any]] = {
            "patch_features": spaces.Box(-np.inf, np.inf, (num_features,), np.float16),
            "history": spaces.Box(-1.0, 1.0, (config.hidden,), np.float16),
            "pretrained": spaces.Box(-1.0, 1.0, (2 * config.num_landmarks,), np.float16),
        }
        return DictReplayBuffer(
            self.buffer_size,
            spaces.Dict(observations),
            spaces.Box(-1.0, 1.0, (2 * config.num_landmarks,), np.float32),
            device=self.device,
            n_envs=self.n_envs,
            **self.replay_buffer_kwargs,
        )

    def _mixed(self) -> torch.autocast:
        """Where networks calculate in bfloat16, if :attr:`precision` says so."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def _encoded(self, obs: dict[str, Any]) -> dict[str, Any]:
        """The features of the patches in place of the patches, where the encoder is frozen: it is asked once.

        So is the pretrained actor, whose a_t, scaled to [-1, 1], the imitation term compares with.

        :param obs: arrays or tensors
        :return: arrays
        """
        if not self.policy.freeze_encoder or "patch_features" in obs:
            return obs
        history = torch.as_tensor(obs["history"], device=self.device)
        with torch.inference_mode(), self._mixed():
            encoded = {"patch_features": self.policy.encode(torch.as_tensor(obs["patches"], device=self.device))}
            encoded["history"] = history
            encoded["pretrained"] = self.policy.reference(encoded)[:, : self.policy.critic.action_size]
        return {key: value.float().cpu().numpy() for key, value in encoded.items()}

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        # Uniform random increments would fill the buffer with faces that no policy ever sees: the warm-up, too,
        # acts with the pretrained policy and noise.
        assert isinstance(self._last_obs, dict)
        self._last_obs = self._encoded(self._last_obs)
        with torch.inference_mode():
            obs = cast(dict[str, torch.Tensor], obs_as_tensor(self._last_obs, self.device))
            scaled = self.policy.actor(obs).cpu().numpy()
        if action_noise is not None:
            scaled = np.clip(scaled + action_noise(), -1, 1)
            if self.gain_noise > 0:
                size = self.policy.critic.action_size
                gains = np.exp(self.gain_noise * np.random.standard_normal((len(scaled), 1))).astype(np.float32)
                scaled[:, :size] = np.clip(gains * scaled[:, :size], -1, 1)
        return self.policy.unscale_action(scaled), scaled

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        if self.policy.freeze_encoder:
            assert isinstance(new_obs, dict)
            new_obs = self._encoded(new_obs)
            buffer_action = buffer_action[:, : self.policy.critic.action_size]
            infos = [info.copy() for info in infos]
            for i in np.flatnonzero(dones).tolist():
                last = {key: value[None] for key, value in infos[i]["terminal_observation"].items()}
                infos[i]["terminal_observation"] = {key: value[0] for key, value in self._encoded(last).items()}
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def train(self, gradient_steps: int, batch_size: int = 128) -> None:
        """Updates of Algorithm 1, with the critic's warm-up and the imitation term."""
        policy, size = self.policy, self.policy.critic.action_size
        policy.set_training_mode(True)
        self._update_learning_rate(policy.actor.optimizer)
        update_learning_rate(policy.critic.optimizer, self.critic_learning_rate)
        losses: dict[str, list[float]] = {"critic_loss": [], "actor_loss": [], "imitation": [], "q": []}
        dtype = torch.bfloat16 if self.precision == "bf16-mixed" else torch.float32
        for _ in range(gradient_steps):
            self._n_updates += 1
            data = self.replay_buffer.sample(batch_size)  # type: ignore[union-attr]
            obs, next_obs = (_states(each, dtype) for each in (data.observations, data.next_observations))

            with torch.no_grad(), self._mixed():
                next_actions = policy.actor_target(next_obs)
                next_q = policy.critic_target.q1_forward(next_obs, next_actions)
                y = data.rewards + (1 - data.dones) * self.gamma * next_q
            with self._mixed():
                q = policy.critic.q1_forward(obs, data.actions)
            critic_loss = functional.mse_loss(q, y)
            policy.critic.optimizer.zero_grad()
            critic_loss.backward()  # type: ignore[no-untyped-call]
            policy.critic.optimizer.step()
            losses["critic_loss"].append(critic_loss.item())

            if self._n_updates > self.critic_warmup:
                with self._mixed():
                    actions = policy.actor(obs)
                    q = policy.critic.q1_forward(obs, actions)
                actor_loss = -q.mean()
                if self.imitation_weight > 0:
                    assert isinstance(data.observations, dict)
                    if "pretrained" in data.observations:
                        pretrained = data.observations["pretrained"]
                    else:  # the encoder learns, or a version has filled the buffer that kept no such a_t
                        with torch.no_grad(), self._mixed():
                            pretrained = policy.reference(obs)[:, :size]
                    deviation = policy.lrn_config.action_limit * (actions[:, :size] - pretrained)
                    imitation = deviation.square().mean()
                    actor_loss = actor_loss / q.detach().abs().mean() + self.imitation_weight * imitation
                    losses["imitation"].append(imitation.item())
                policy.actor.optimizer.zero_grad()
                # Only the actor's gradients are needed here.
                actor_loss.backward(inputs=[p for p in policy.actor.parameters() if p.requires_grad])  # type: ignore[no-untyped-call]
                policy.actor.optimizer.step()
                losses["actor_loss"].append(actor_loss.item())
            losses["q"].append(q.mean().item())

            for network, target in ((policy.critic, policy.critic_target), (policy.actor, policy.actor_target)):
                _follow(target, network, self.tau)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, values in losses.items():
            if values:
                self.logger.record(f"train/{name}", float(np.mean(values)))

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "DCRN",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> DCRN:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    @property
    def lrn(self) -> LRN:
        """The network to save or to align faces with: the actor's, or its average. ``predict`` acts with the actor."""
        return (self.policy.actor_target if self.averaged else self.policy.actor).lrn


@torch.no_grad()
def _follow(target: torch.nn.Module, network: torch.nn.Module, tau: float) -> None:
    """The targets' update of Algorithm 1: a share ``tau`` of the new weights, in one pass over them."""
    for old, new in zip(target.parameters(), network.parameters(), strict=True):
        if new.requires_grad:
            old.lerp_(new, tau)


def _states(obs: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """States of a replay buffer as the networks read them.

    :param obs: features and histories, which are joined once for all networks; or patches, which stay as they are
    :param dtype: that the networks' layers calculate in
    """
    if "patch_features" in obs:
        return {"joined": LRNTrunk.joined(obs["patch_features"].to(dtype), obs["history"])}
    return {key: value.float() if value.is_floating_point() else value for key, value in obs.items()}
