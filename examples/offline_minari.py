"""Offline reinforcement learning in a single file: TD3+BC on a Minari dataset of FaceAlign-v0, in plain torch.

    python examples/offline_minari.py

Measured with that command, without noise, on 100 held-out faces: mean return -9.80 before, +0.21 after 1,000 updates on
300 episodes; their NME, 30.5 % at the start, ends at 30.5 % before and at 19.1 % after; 36 % of the episodes end in a
terminal state, 1 % before. The policy that was recorded has +0.20 and 20.5 % on such faces without its noise. What the
critic adds is little, one seed of each: behaviour cloning (``--alpha 0``) came to -0.41 and 19.7 %, ``--alpha 0.5`` to
-2.51 and 21.5 %, on the same faces. 101 s of processor time (``time``: user + sys) with OMP_NUM_THREADS=1, collecting
included; the wall-clock, 7 min 47 s, is that of a machine that was busy with other work.

TD3+BC (Fujimoto and Gu, "A minimalist approach to offline reinforcement learning", NeurIPS 2021) is TD3 on a fixed
dataset with one term more: the actor also imitates the dataset's actions. ``--alpha 0`` leaves the imitation alone,
behaviour cloning. Any dataset of ``face-align collect`` will do, but those of a run, whose policies write the history:

    face-align collect --policy module:function --noise 1 --landmarks 19 --id face-align/mine-v0
    python examples/offline_minari.py --dataset face-align/mine-v0

Where there is no dataset of that id, a small one is collected from the policy of handwritten_policy.py.
"""

from __future__ import annotations

import copy
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import face_align_env  # noqa: F401 - registers FaceAlign-v0
from face_align_env.agents.common.arguments import parse_arguments
from face_align_env.agents.common.extractor import find_lrn
from face_align_env.agents.common.rollout import play_held_out
from face_align_env.networks.lrn import LRN, preset


@dataclass
class Args:
    """Everything that can be changed from the command line."""

    dataset: str = "face-align/synthetic-19-handwritten-v0"
    """id of the Minari dataset; collected where it is absent"""
    episodes: int = 300
    """episodes to collect where the dataset is absent"""
    noise: float = 1.0
    """on the actions that are collected, pixels"""
    policy: str = "examples.handwritten_policy:policy"
    """whose episodes are collected; the working directory is the repository's root"""
    size: int = 400
    """number of training faces to collect on"""
    landmarks: int = 19
    """19, 29 or 68, to collect on; few are fast"""
    eval_faces: int = 100
    """number of held-out faces that the policy is measured on, before and after"""
    updates: int = 1_000
    """gradient steps"""
    batch_size: int = 64
    """transitions an update"""
    learning_rate: float = 5e-4
    """Adam's, of actor and critic; it falls to zero"""
    alpha: float = 0.1
    """weight of the critic's opinion against imitation; 0: behaviour cloning; 2.5 in the paper of TD3+BC"""
    gamma: float = 0.9
    """discount, Table 2 of DCRN's paper"""
    tau: float = 0.01
    """share of a network that its target takes over in an update"""
    target_noise: float = 0.2
    """smoothing of the target policy, in standard deviations of the actions"""
    policy_delay: int = 1
    """updates of the critic for each of the actor; 2 in TD3"""
    seed: int = 0
    """of everything random"""
    lrn: str = ""
    """a pretrained LRN to start from: released weights (300w-68) or a file; default: a fresh tiny one"""
    output: str = "runs/examples/offline"
    """folder for the actor's weights"""


class Critic(nn.Module):
    """TD3's two values Q(s, a): one trunk of an LRN, for the patches cost most, and two heads that see the action.

    :param lrn: whose trunk is copied
    """

    def __init__(self, lrn: LRN) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(lrn.trunk)
        inputs = 512 + 2 * lrn.num_landmarks
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 1)) for _ in range(2)
        )

    def forward(self, state: tuple[Tensor, Tensor], actions: Tensor) -> Tensor:
        """(N, 2) values.

        :param state: (N, K, P, P, 3) patches and (N, 512) history
        :param actions: (N, 2K), in standard deviations
        """
        seen = torch.cat([self.trunk(*state), actions], dim=1)
        return torch.cat([head(seen) for head in self.heads], dim=1)


@dataclass
class Transitions:
    """All transitions of a dataset, as tensors.

    ``patches`` (M + E, K, P, P, 3) uint8 and ``history`` (M + E, 512) of all states of E episodes; ``states`` (M,) says
    where s_t is, s_{t+1} is the one after it; ``actions`` (M, 2K) pixels, ``rewards`` (M,) and ``ends`` (M,).
    """

    patches: Tensor
    history: Tensor
    states: Tensor
    actions: Tensor
    rewards: Tensor
    ends: Tensor

    @classmethod
    def read(cls, dataset: Any) -> Transitions:
        """From a Minari dataset. The tenth iteration is an end, as in Algorithm 1: no bootstrap past it."""
        episodes = list(dataset.iterate_episodes())
        lengths = [len(episode.rewards) for episode in episodes]
        begins = np.cumsum([0, *(length + 1 for length in lengths[:-1])])

        def joined(arrays: list[np.ndarray]) -> Tensor:
            return torch.from_numpy(np.concatenate(arrays))

        return cls(
            joined([episode.observations["patches"] for episode in episodes]),
            joined([episode.observations["history"] for episode in episodes]),
            joined([begin + np.arange(length) for begin, length in zip(begins, lengths, strict=True)]),
            joined([episode.actions for episode in episodes]),
            joined([episode.rewards for episode in episodes]).float(),
            joined([episode.terminations | episode.truncations for episode in episodes]).float(),
        )

    def state(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """What LRN reads."""
        return self.patches[at], self.history[at]


def load(args: Args) -> Any:
    """The Minari dataset, which is collected first where there is none."""
    try:
        import minari
    except ImportError:
        sys.exit('This example needs Minari: pip install "face-align-env[minari]"')
    from face_align_env.agents.collect import collect

    try:
        return minari.load_dataset(args.dataset)
    except FileNotFoundError:
        faces = {"landmarks": args.landmarks, "dataset_options": {"size": args.size}}
        made = collect(
            args.policy,
            None,
            args.dataset,
            args.episodes,
            noise=args.noise,
            seed=args.seed,
            dataset="synthetic",
            **faces,
        )
        print(
            f"collected {made.dataset_id}: {made.episodes} episodes, {made.steps} steps, mean return "
            f"{made.mean_return:+.2f}, NME {made.initial_nme:.1f} % -> {made.nme:.1f} %, {made.size / 1e6:.0f} MB"
        )
    return minari.load_dataset(args.dataset)


def main(args: Args) -> None:
    """Train, and measure before and after."""
    began = time.perf_counter()
    dataset = load(args)
    held_out = dataset.recover_environment(eval_env=True)
    if held_out.unwrapped.task.learned_history:
        sys.exit(f"In '{args.dataset}' the policy writes the history; take a dataset of another policy than a run's.")
    num_faces = min(args.eval_faces, held_out.unwrapped.task.num_faces)
    data = Transitions.read(dataset)
    spread = data.actions.std()  # the unit of actions, so that imitation and TD3 weigh what they do elsewhere

    torch.manual_seed(args.seed)
    actor = find_lrn(args.lrn) if args.lrn else LRN(preset("tiny", data.patches.shape[1]))
    critic = Critic(actor)
    actor_target, critic_target = copy.deepcopy(actor), copy.deepcopy(critic)
    optimizers = [torch.optim.Adam(network.parameters(), lr=args.learning_rate) for network in (critic, actor)]

    @torch.no_grad()
    def policy(observations: dict[str, np.ndarray]) -> np.ndarray:
        return actor(torch.from_numpy(observations["patches"]), torch.from_numpy(observations["history"]))[0].numpy()

    print(f"before: {play_held_out(policy, num_faces, **held_out.spec.kwargs)}")

    def act(network: LRN, state: tuple[Tensor, Tensor]) -> Tensor:
        return network(*state)[0] / spread  # d_{t+1} goes nowhere: the environment writes the history

    for update in range(1, args.updates + 1):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = args.learning_rate * (1 - (update - 1) / args.updates)
        batch = torch.randint(len(data.states), (args.batch_size,))
        at = data.states[batch]
        state, next_state = data.state(at), data.state(at + 1)
        actions = data.actions[batch] / spread

        # TD3: the smaller of two values, at an action near the target policy's.
        critic_loss = torch.zeros(())
        if args.alpha:
            with torch.no_grad():
                smoothing = (args.target_noise * torch.randn_like(actions)).clamp(-0.5, 0.5)
                value = critic_target(next_state, act(actor_target, next_state) + smoothing).min(dim=1).values
                wanted = data.rewards[batch] + args.gamma * (1 - data.ends[batch]) * value
            critic_loss = (critic(state, actions) - wanted[:, None]).square().mean()
            optimizers[0].zero_grad()
            critic_loss.backward()
            optimizers[0].step()

        if update % args.policy_delay == 0:
            chosen = act(actor, state)
            imitation = functional.mse_loss(chosen, actions)
            actor_loss = imitation
            if args.alpha:
                q = critic(state, chosen)[:, 0]
                # The critic's scale is that of the rewards; divided by it, alpha means the same on any task.
                actor_loss = imitation - args.alpha * q.mean() / q.abs().mean().detach()
            optimizers[1].zero_grad()
            actor_loss.backward()
            optimizers[1].step()
            for network, target in ((actor, actor_target), (critic, critic_target)):
                for theirs, ours in zip(target.parameters(), network.parameters(), strict=True):
                    theirs.data.lerp_(ours.data, args.tau)
        if update % max(args.policy_delay, args.updates // 10) == 0:
            print(
                f"{update:6d} updates  imitation {imitation.item():.3f}  critic {critic_loss.item():7.3f}  "
                f"{time.perf_counter() - began:4.0f} s"
            )

    print(f"after: {play_held_out(policy, num_faces, **held_out.spec.kwargs)}")
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    actor.save(output / "actor.safetensors")
    print(f"The actor, an LRN: {output / 'actor.safetensors'}")


if __name__ == "__main__":
    main(parse_arguments(Args, __doc__))
