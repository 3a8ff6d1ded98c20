"""Tianshou's PPO, with the trunk of LRN as its features.

    pip install "face-align-env[libraries]"
    python examples/tianshou_ppo.py

Tianshou hands the dictionary over as a Batch of arrays; one small module makes features of it, for actor and critic.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

import face_align_env  # noqa: F401 - registers FaceAlign-v0
from face_align_env.agents.common.arguments import parse_arguments
from face_align_env.agents.common.rollout import play_held_out
from face_align_env.networks.lrn import LRN, preset
from face_align_env.wrappers import ShapeModes

try:
    from tianshou.algorithm import PPO
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.trainer import OnPolicyTrainerParams
    from tianshou.utils.net.common import ModuleWithVectorOutput
    from tianshou.utils.net.continuous import ContinuousActorProbabilistic
except ImportError as error:
    if "--help" in sys.argv:
        print(__doc__)
        sys.exit(0)
    sys.exit(f'This example needs Tianshou: pip install "face-align-env[libraries]" ({error})')


@dataclass
class Args:
    """Everything that can be changed from the command line."""

    timesteps: int = 2048
    """transitions to collect"""
    batch_size: int = 256
    """transitions between updates"""
    num_envs: int = 8
    """faces at once"""
    size: int = 200
    """number of training faces"""
    eval_faces: int = 50
    """number of held-out faces"""
    seed: int = 0
    """of everything random"""


class Features(ModuleWithVectorOutput):
    """d_{t+1} of a Batch with patches and history."""

    def __init__(self) -> None:
        super().__init__(512)
        self.trunk = LRN(preset("tiny", 19)).trunk

    def forward(self, obs: Any, state: Any = None, info: Any = None) -> tuple[torch.Tensor, Any]:
        return self.trunk(torch.as_tensor(obs["patches"]), torch.as_tensor(obs["history"])), state


class Critic(nn.Module):
    """A value from the features."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features
        self.value = nn.Linear(512, 1)

    def forward(self, obs: Any, **_: Any) -> torch.Tensor:
        return self.value(self.features(obs)[0])


def normal(loc_scale: tuple[torch.Tensor, torch.Tensor]) -> torch.distributions.Distribution:
    """The policy's distribution."""
    return torch.distributions.Independent(torch.distributions.Normal(*loc_scale), 1)


def main(args: Args) -> None:
    """Train, and measure before and after."""
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)
    faces: dict[str, Any] = {"landmarks": 19, "initializer": "mean", "dataset_options": {"size": args.size}}

    def make() -> ShapeModes:
        return ShapeModes(gym.make("FaceAlign-v0", reward="dense", **faces))

    example = make()
    envs = DummyVectorEnv([make for _ in range(args.num_envs)])
    envs.seed(args.seed)
    actor = ContinuousActorProbabilistic(
        preprocess_net=Features(), action_shape=example.action_space.shape, unbounded=True
    )
    nn.init.normal_(actor.mu.model[-1].weight, std=0.001)  # the first increments are small
    nn.init.constant_(actor.sigma_param, float(np.log(0.3)))
    algorithm = PPO(
        policy=ProbabilisticActorPolicy(
            actor=actor, dist_fn=normal, action_space=example.action_space, action_scaling=False
        ),
        critic=Critic(Features()),
        optim=AdamOptimizerFactory(lr=1e-3),
        gamma=0.5,
        gae_lambda=0.5,
        ent_coef=0.0,
    )

    @torch.no_grad()
    def policy(observations: dict[str, np.ndarray]) -> np.ndarray:
        return actor(observations)[0][0].clamp(-1, 1).numpy() @ example.directions

    def measure() -> str:
        held_out = {**faces, "initializer": example.unwrapped.task.initializer}
        return str(play_held_out(policy, args.eval_faces, **held_out))

    print(f"before: {measure()}")
    algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=Collector(algorithm, envs, VectorReplayBuffer(args.batch_size, args.num_envs)),
            max_epochs=1,
            epoch_num_steps=args.timesteps,
            collection_step_num_env_steps=args.batch_size,
            update_step_num_repetitions=4,
            batch_size=64,
            verbose=False,
            show_progress=False,
        )
    )
    print(f"after: {measure()}")


if __name__ == "__main__":
    main(parse_arguments(Args, __doc__))
