"""FaceAlign-v0 without learning: three policies play at least 200 steps each, and one episode is drawn.

    python examples/quickstart.py

Measured with that command (2 s of processor time):

       still: mean return -10.00, 10.0 iterations, NME 36.4 % -> 36.4 %, 20 episodes
      random: mean return -18.10, 10.0 iterations, NME 36.4 % -> 81.3 %, 20 episodes
    cheating: mean return +12.64,  3.6 iterations, NME 33.1 % -> 1.1 %, 55 episodes

- still: answers with zeros. Only -10 after ten iterations awaits it, unless x_0 is good already.
- random: leaps of up to 32 pixels; the error grows, which costs 1 each time.
- cheating: knows the ground truth and removes 60 % of the error in each step, until the last step is small (Eq. 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import gymnasium as gym
import numpy as np

import face_align_env  # noqa: F401 - registers FaceAlign-v0
from face_align_env.agents.common.arguments import parse_arguments
from face_align_env.rendering import side_by_side


@dataclass
class Args:
    """Everything that can be changed from the command line."""

    timesteps: int = 200
    """of each policy, at least"""
    seed: int = 0
    """of faces and actions"""
    size: int = 100
    """number of faces"""
    output: Path = Path("runs/examples/episode.png")
    """the picture of an episode"""


def main(args: Args) -> None:
    """Play, print and draw."""
    env = gym.make("FaceAlign-v0", dataset_options={"size": args.size}, initializer="mean", render_mode="rgb_array")
    truth = env.unwrapped.faces.prepared.landmarks  # (N, K, 2); only a cheat looks here
    env.action_space.seed(args.seed)
    policies = {
        "still": lambda info: np.zeros(env.action_space.shape, dtype=np.float32),
        "random": lambda info: env.action_space.sample(),
        "cheating": lambda info: 0.6 * (truth[info["image_index"]] - info["landmarks"]).flatten(),
    }
    for name, policy in policies.items():
        returns, lengths, errors, frames = [], [], [], []
        _, info = env.reset(seed=args.seed)
        while sum(lengths) < args.timesteps:
            frames, rewards, ended = [env.render()], [], False
            while not ended:
                _, reward, terminated, truncated, info = env.step(policy(info))
                rewards.append(reward)
                frames.append(env.render())
                ended = terminated or truncated
            returns.append(sum(rewards))
            lengths.append(len(rewards))
            errors.append((info["initial_nme"], info["nme"]))
            _, info = env.reset()
        start, end = 100 * np.mean(errors, axis=0)
        print(
            f"{name:>8}: mean return {np.mean(returns):+6.2f}, {np.mean(lengths):4.1f} iterations, "
            f"NME {start:.1f} % -> {end:.1f} %, {len(returns)} episodes"
        )

    args.output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.output), side_by_side(frames, columns=3)[:, :, ::-1])  # OpenCV writes BGR
    print(f"The last episode of the cheating policy: {args.output}")


if __name__ == "__main__":
    main(parse_arguments(Args, __doc__))
