"""TorchRL's PPO, with the trunk of LRN as its features.

    pip install "face-align-env[libraries]"
    python examples/torchrl_ppo.py

TorchRL takes the dictionary of patches and history as it is: they are two entries of its TensorDicts.
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
    from tensordict.nn import TensorDictModule
    from torchrl.collectors import Collector
    from torchrl.envs import GymWrapper, TransformedEnv
    from torchrl.envs.transforms import StepCounter
    from torchrl.modules import ProbabilisticActor, TanhNormal, ValueOperator
    from torchrl.objectives import ClipPPOLoss
    from torchrl.objectives.value import GAE
except ImportError as error:
    if "--help" in sys.argv:
        print(__doc__)
        sys.exit(0)
    sys.exit(f'This example needs TorchRL: pip install "face-align-env[libraries]" ({error})')


@dataclass
class Args:
    """Everything that can be changed from the command line."""

    timesteps: int = 2048
    """transitions to collect"""
    batch_size: int = 256
    """transitions between updates"""
    minibatch_size: int = 64
    """transitions an update"""
    epochs: int = 4
    """passes over a batch"""
    size: int = 200
    """number of training faces"""
    eval_faces: int = 50
    """number of held-out faces"""
    seed: int = 0
    """of everything random"""


class Actor(nn.Module):
    """Mean and standard deviation over shape modes, from the features."""

    def __init__(self, num_modes: int) -> None:
        super().__init__()
        self.trunk = LRN(preset("tiny", 19)).trunk
        self.mean = nn.Linear(512, num_modes)
        nn.init.normal_(self.mean.weight, std=0.001)
        self.log_std = nn.Parameter(torch.full((num_modes,), float(np.log(0.3))))

    def forward(self, patches: torch.Tensor, history: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = self.mean(batched(self.trunk, patches, history))
        return mean, self.log_std.exp().expand_as(mean)


class Value(nn.Module):
    """A trunk of its own, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = LRN(preset("tiny", 19)).trunk
        self.value = nn.Linear(512, 1)

    def forward(self, patches: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        return self.value(batched(self.trunk, patches, history))


def batched(trunk: nn.Module, patches: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
    """The features of states with any number of batch dimensions; TorchRL asks for single states, too."""
    batch = history.shape[:-1]
    return trunk(patches.reshape(-1, *patches.shape[-4:]), history.reshape(-1, 512)).reshape(*batch, 512)


def main(args: Args) -> None:
    """Train, and measure before and after."""
    torch.manual_seed(args.seed)
    faces: dict[str, Any] = {"landmarks": 19, "initializer": "mean", "dataset_options": {"size": args.size}}
    wrapped = ShapeModes(gym.make("FaceAlign-v0", reward="dense", **faces))
    initializer = wrapped.unwrapped.task.initializer
    env = TransformedEnv(GymWrapper(wrapped), StepCounter())
    env.set_seed(args.seed)
    network = Actor(len(wrapped.directions))
    actor = ProbabilisticActor(
        TensorDictModule(network, in_keys=["patches", "history"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
        return_log_prob=True,
    )
    critic = ValueOperator(Value(), in_keys=["patches", "history"])
    advantage = GAE(gamma=0.5, lmbda=0.5, value_network=critic)
    loss_module = ClipPPOLoss(actor, critic, entropy_coeff=0.0)
    optimizer = torch.optim.Adam(loss_module.parameters(), lr=1e-3)

    @torch.no_grad()
    def policy(observations: dict[str, np.ndarray]) -> np.ndarray:
        mean, _ = network(*(torch.from_numpy(observations[key]) for key in ("patches", "history")))
        return mean.tanh().numpy() @ wrapped.directions

    def measure() -> str:
        return str(play_held_out(policy, args.eval_faces, **{**faces, "initializer": initializer}))

    print(f"before: {measure()}")
    collector = Collector(env, actor, frames_per_batch=args.batch_size, total_frames=args.timesteps)
    for data in collector:
        for _ in range(args.epochs):
            with torch.no_grad():
                advantage(data)
            for chosen in torch.randperm(len(data)).split(args.minibatch_size):
                losses = loss_module(data[chosen])
                loss = losses["loss_objective"] + losses["loss_critic"]
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(loss_module.parameters(), 0.5)
                optimizer.step()
    collector.shutdown()
    print(f"after: {measure()}")


if __name__ == "__main__":
    main(parse_arguments(Args, __doc__))
