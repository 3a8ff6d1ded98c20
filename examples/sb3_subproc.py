"""Stable-Baselines3 with an environment in each process: SubprocVecEnv.

    python examples/sb3_subproc.py

The id names its module, ``face_align_env:FaceAlign-v0``, so each process registers the environment by itself. On a
laptop one process with a batch of faces (``FaceAlignVecEnv``) is faster.
"""

from __future__ import annotations

from dataclasses import dataclass

from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

from face_align_env.agents.common.arguments import parse_arguments
from face_align_env.agents.common.callbacks import EpisodeMetrics
from face_align_env.agents.common.extractor import LRNExtractor
from face_align_env.agents.common.rollout import play_held_out


@dataclass
class Args:
    """Everything that can be changed from the command line."""

    timesteps: int = 2048
    """transitions to collect"""
    num_envs: int = 4
    """processes"""
    num_steps: int = 64
    """steps of each environment between updates"""
    size: int = 200
    """number of training faces"""
    eval_faces: int = 50
    """number of held-out faces"""
    seed: int = 0
    """of everything random"""


def main(args: Args) -> None:
    """Train, and measure before and after."""
    faces = {"landmarks": 19, "initializer": "mean", "dataset_options": {"size": args.size}}
    env = make_vec_env(
        "face_align_env:FaceAlign-v0",
        args.num_envs,
        seed=args.seed,
        env_kwargs={**faces, "reward": "dense"},
        vec_env_cls=SubprocVecEnv,
        monitor_kwargs={"info_keywords": ("nme", "iterations")},
    )
    model = PPO(
        "MultiInputPolicy",
        env,
        n_steps=args.num_steps,
        batch_size=min(64, args.num_envs * args.num_steps),
        gamma=0.5,
        # The actions are pixels: noise of one pixel on each coordinate.
        policy_kwargs={"features_extractor_class": LRNExtractor, "net_arch": [], "log_std_init": 0},
        seed=args.seed,
        device="cpu",
    )

    def measure() -> str:
        return str(play_held_out(lambda seen: model.predict(seen, deterministic=True)[0], args.eval_faces, **faces))

    print(f"before: {measure()}")
    model.learn(args.timesteps, EpisodeMetrics())
    print(f"after: {measure()}")
    env.close()


if __name__ == "__main__":
    main(parse_arguments(Args, __doc__))
