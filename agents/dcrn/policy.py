"""The networks of Fig. 2 as a Stable-Baselines3 policy."""

from __future__ import annotations

import copy
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

from face_align_env.agents.common.extractor import load_lrn
from face_align_env.networks.lrn import LRN, LRNConfig, LRNTrunk

# The critic sees increments in units of this many pixels: corrections are a few pixels of a limit of 32, and
# inputs of a few hundredths next to features of size one would teach it nothing.
_CRITIC_ACTION_UNIT = 4.0


def next_hidden_of(obs: dict[str, Tensor], trunk: LRNTrunk) -> Tensor:
    """(N, 512) d_{t+1} of states.

    :param obs: with ``patches``; or, where these are encoded already, with ``patch_features``; or with ``joined``,
        which is both of a state's parts as one
    """
    if "joined" in obs:
        return trunk.advance(obs["joined"])
    features = obs["patch_features"] if "patch_features" in obs else trunk.encode(obs["patches"])
    return trunk.remember(features, obs["history"])


class DCRNActor(BasePolicy):
    """LRN as actor: [a_t, d_{t+1}], each scaled to [-1, 1] as Stable-Baselines3 wants it.

    :param observation_space: of FaceAlign-v0
    :param action_space: of LearnedHistory, R^{2K+512}
    :param lrn: the network
    """

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Box, lrn: LRN) -> None:
        super().__init__(observation_space, action_space, squash_output=True)
        self.lrn = lrn

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """(N, 2K + 512) in [-1, 1]."""
        next_hidden = next_hidden_of(obs, self.lrn.trunk)
        increment = self.lrn.increment(next_hidden) / self.lrn.config.action_limit
        return torch.cat([increment, next_hidden.float()], dim=1)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        assert isinstance(observation, dict)
        action: Tensor = self(observation)
        return action


class DCRNCritic(BaseModel):
    """Q(s_t, a_t), right half of Fig. 2: its own LRN trunk, features and a_t (with its length) concatenated, Q out.

    :param observation_space: of FaceAlign-v0
    :param action_space: of LearnedHistory; the critic looks at a_t only
    :param trunk: where the features come from
    :param action_limit: bound of a_t, pixels
    :param net_arch: hidden layers after the concatenation
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        trunk: LRNTrunk,
        action_limit: float,
        net_arch: list[int],
    ) -> None:
        super().__init__(observation_space, action_space)
        self.trunk = trunk
        self.action_size = 2 * trunk.config.num_landmarks
        self._unit = action_limit / _CRITIC_ACTION_UNIT
        self.q_net = nn.Sequential(*create_mlp(trunk.config.hidden + self.action_size + 1, 1, net_arch))

    def forward(self, obs: dict[str, Tensor], actions: Tensor) -> tuple[Tensor, ...]:
        """One (N, 1) tensor of values, in the tuple of Stable-Baselines3's critics."""
        features = next_hidden_of(obs, self.trunk)
        increments = self._unit * actions[:, : self.action_size]
        # What Eq. 3 compares with alpha_2, in the same unit: Q has a step there, which would be hard to find
        # among 2K numbers.
        length = 2 * increments.abs().mean(dim=1, keepdim=True)
        inputs = [features, increments.to(features.dtype), length.to(features.dtype)]
        hidden = self.q_net[:-1](torch.cat(inputs, dim=1))
        with torch.autocast(features.device.type, enabled=False):  # in bfloat16, 10 and 10.03 are the same value
            return (self.q_net[-1](hidden.float()),)

    def q1_forward(self, obs: dict[str, Tensor], actions: Tensor) -> Tensor:
        """(N, 1) value of the only critic."""
        value: Tensor = self(obs, actions)[0]
        return value


class DCRNPolicy(TD3Policy):
    """Actor and critic of Fig. 2, their targets, and the pretrained actor that an imitation term looks at.

    :param observation_space: of FaceAlign-v0
    :param action_space: of ``LearnedHistory(FaceAlign-v0)``
    :param lr_schedule: learning rate of the optimizers when they are made
    :param lrn_config: sizes of the actor and of the critic's trunk; the weights come with :meth:`start_from`.
        None: the ``compact`` preset
    :param freeze_encoder: actor and critic share the pretrained patch encoder and leave it as it is
    :param net_arch: hidden layers of the critic after features and action are concatenated
    :param optimizer_class: ``Adam`` (section 4.2)
    :param optimizer_kwargs: further arguments of it
    :param n_critics: must be 1; Stable-Baselines3's own policies have more
    :raises ValueError: the action space is not that of ``LearnedHistory``
    """

    actor: DCRNActor  # type: ignore[assignment]
    actor_target: DCRNActor  # type: ignore[assignment]
    critic: DCRNCritic  # type: ignore[assignment]
    critic_target: DCRNCritic  # type: ignore[assignment]

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        lr_schedule: Schedule,
        lrn_config: LRNConfig | None = None,
        freeze_encoder: bool = False,
        net_arch: list[int] | None = None,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 1,
    ) -> None:
        if n_critics != 1:
            raise ValueError(f"Fig. 2 has one critic, got n_critics={n_critics}.")
        lrn = load_lrn(None if lrn_config is None else LRN(lrn_config), observation_space)
        expected = 2 * lrn.num_landmarks + lrn.config.hidden
        if action_space.shape != (expected,):
            raise ValueError(
                f"DCRN acts with [a_t, d_(t+1)] in R^{expected}, the action space is {action_space.shape}. "
                "Wrap the environment: face_align_env.LearnedHistory(env)."
            )
        limit = float(action_space.high[0])
        if abs(limit - lrn.config.action_limit) > 1e-6:
            raise ValueError(
                f"LRN was trained with action_limit={lrn.config.action_limit}, the environment has {limit}. "
                f"Pass action_limit={lrn.config.action_limit} to gym.make."
            )
        self.lrn_config = lrn.config
        self.freeze_encoder = freeze_encoder
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[256, 256] if net_arch is None else net_arch,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            normalize_images=False,
            n_critics=n_critics,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        self.reference = self.make_actor()
        self.reference.requires_grad_(False)
        self.actor, self.actor_target, self.critic, self.critic_target = (
            self.make_actor(), self.make_actor(), self.make_critic(), self.make_critic(),
        )  # fmt: skip
        self.start_from(self.reference.lrn)
        rate = lr_schedule(1)
        keywords = dict(self.optimizer_kwargs)
        if issubclass(self.optimizer_class, torch.optim.Adam) and self.device.type in ("cpu", "cuda"):
            keywords.setdefault("fused", True)  # one pass over the parameters instead of ten
        for network in (self.actor, self.critic):
            parameters = [p for p in network.parameters() if p.requires_grad]
            network.optimizer = self.optimizer_class(parameters, lr=rate, **keywords)  # type: ignore[call-arg]
        self.actor_target.set_training_mode(False)
        self.critic_target.set_training_mode(False)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> DCRNActor:  # type: ignore[override]
        return DCRNActor(self.observation_space, self.action_space, LRN(self.lrn_config)).to(self.device)  # type: ignore[arg-type]

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> DCRNCritic:  # type: ignore[override]
        return DCRNCritic(
            self.observation_space,
            self.action_space,  # type: ignore[arg-type]
            LRNTrunk(self.lrn_config),
            self.lrn_config.action_limit,
            self.net_args["net_arch"],  # type: ignore[arg-type]
        ).to(self.device)

    def start_from(self, lrn: LRN) -> None:
        """Give actor, critic's trunk, both targets and the reference the weights of a pretrained LRN.

        :raises ValueError: when its sizes differ from the policy's
        """
        if lrn.config != self.lrn_config:
            raise ValueError(f"The policy was built for {self.lrn_config}, the pretrained LRN is {lrn.config}.")
        state = copy.deepcopy(lrn.state_dict())
        for actor in (self.reference, self.actor, self.actor_target):
            actor.lrn.load_state_dict(state)
        self.critic.trunk.load_state_dict(self.reference.lrn.trunk.state_dict())
        self.critic_target.load_state_dict(self.critic.state_dict())
        if self.freeze_encoder:
            # One encoder serves all: a state is encoded once, when it comes from the environment.
            encoder = self.reference.lrn.trunk.encoder
            for trunk in (
                self.actor.lrn.trunk,
                self.actor_target.lrn.trunk,
                self.critic.trunk,
                self.critic_target.trunk,
            ):
                trunk.encoder = encoder

    def encode(self, patches: Tensor) -> Tensor:
        """(N, C) features of (N, K, P, P, 3) patches, by the pretrained encoder."""
        return self.reference.lrn.trunk.encode(patches)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        for inherited in (
            "activation_fn", "features_extractor_class", "features_extractor_kwargs",
            "share_features_extractor", "normalize_images",
        ):  # fmt: skip
            data.pop(inherited, None)
        return {**data, "lrn_config": self.lrn_config, "freeze_encoder": self.freeze_encoder}
