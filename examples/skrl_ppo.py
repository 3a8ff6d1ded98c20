"""skrl's PPO, with the trunk of LRN as its features.

    pip install "face-align-env[libraries]"
    python examples/skrl_ppo.py

skrl flattens observations of dictionaries; ``unflatten_tensorized_space`` gives the model patches and history back.
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
    from skrl.agents.torch.ppo import PPO, PPO_CFG
    from skrl.envs.wrappers.torch import wrap_env
    from skrl.memories.torch import RandomMemory
    from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
    from skrl.trainers.torch import SequentialTrainer
    from skrl.utils import set_seed
    from skrl.utils.spaces.torch import unflatten_tensorized_space
except ImportError as error:
    if "--help" in sys.argv:
        print(__doc__)
        sys.exit(0)
    sys.exit(f'This example needs skrl: pip install "face-align-env[libraries]" ({error})')


@dataclass
class Args:
    """Everything that can be changed from the command line."""

    timesteps: int = 2048
    """transitions to collect"""
    num_envs: int = 8
    """faces at once"""
    rollout: int = 32
    """steps of each environment between updates"""
    size: int = 200
    """number of training faces"""
    eval_faces: int = 50
    """number of held-out faces"""
    seed: int = 0
    """of everything random"""


class Policy(GaussianMixin, Model):
    """The trunk of LRN, and a Gaussian over shape modes."""

    def __init__(self, observation_space: gym.Space, action_space: gym.spaces.Box, device: str) -> None:
        Model.__init__(self, observation_space=observation_space, action_space=action_space, device=device)
        GaussianMixin.__init__(self, clip_actions=True)
        self.trunk = LRN(preset("tiny", 19)).trunk
        self.mean = nn.Linear(512, self.num_actions)
        nn.init.normal_(self.mean.weight, std=0.001)
        self.log_std = nn.Parameter(torch.full((self.num_actions,), float(np.log(0.3))))

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[torch.Tensor, dict[str, Any]]:
        seen = unflatten_tensorized_space(self.observation_space, inputs["observations"])
        return self.mean(self.trunk(seen["patches"], seen["history"])), {"log_std": self.log_std}


class Value(DeterministicMixin, Model):
    """A trunk of its own, and a number."""

    def __init__(self, observation_space: gym.Space, action_space: gym.spaces.Box, device: str) -> None:
        Model.__init__(self, observation_space=observation_space, action_space=action_space, device=device)
        DeterministicMixin.__init__(self)
        self.trunk = LRN(preset("tiny", 19)).trunk
        self.value = nn.Linear(512, 1)

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[torch.Tensor, dict[str, Any]]:
        seen = unflatten_tensorized_space(self.observation_space, inputs["observations"])
        return self.value(self.trunk(seen["patches"], seen["history"])), {}


def main(args: Args) -> None:
    """Train, and measure before and after."""
    set_seed(args.seed)
    faces: dict[str, Any] = {"landmarks": 19, "initializer": "mean", "dataset_options": {"size": args.size}}
    envs = gym.make_vec("FaceAlign-v0", args.num_envs, "sync", wrappers=[ShapeModes], reward="dense", **faces)
    directions = envs.unwrapped.envs[0].get_wrapper_attr("directions")
    initializer = envs.unwrapped.envs[0].unwrapped.task.initializer
    env = wrap_env(envs, verbose=False)
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space, "device": "cpu"}
    models = {"policy": Policy(**spaces), "value": Value(**spaces)}
    agent = PPO(
        models=models,
        memory=RandomMemory(memory_size=args.rollout, num_envs=args.num_envs, device="cpu"),
        cfg=PPO_CFG(rollouts=args.rollout, learning_epochs=4, mini_batches=4, discount_factor=0.5, gae_lambda=0.5),
        observation_space=env.observation_space,
        action_space=env.action_space,
        device="cpu",
    )

    @torch.no_grad()
    def policy(observations: dict[str, np.ndarray]) -> np.ndarray:
        patches, history = (torch.from_numpy(observations[key]) for key in ("patches", "history"))
        mean = models["policy"].mean(models["policy"].trunk(patches, history))
        return mean.clamp(-1, 1).numpy() @ directions

    def measure() -> str:
        return str(play_held_out(policy, args.eval_faces, **{**faces, "initializer": initializer}))

    print(f"before: {measure()}")
    trainer = {
        "timesteps": args.timesteps // args.num_envs,
        "headless": True,
        "disable_progressbar": True,
        "close_environment_at_exit": False,
    }
    SequentialTrainer(cfg=trainer, env=env, agents=agent).train()
    print(f"after: {measure()}")


if __name__ == "__main__":
    main(parse_arguments(Args, __doc__))
