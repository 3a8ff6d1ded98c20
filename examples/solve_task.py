"""A named task learnt from scratch with Stable-Baselines3: PPO or SAC, nothing of this project but the environment.

Measured (100,000 transitions, seed 0, the first 200 held-out faces, without noise) in `docs/environment.md`:

    python examples/solve_task.py FaceAlign/State19-v0
    python examples/solve_task.py FaceAlign/Features19-v0
"""

from __future__ import annotations

import argparse

import gymnasium as gym
import numpy as np
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecMonitor

from face_align_env.agents.common.extractor import LRNExtractor
from face_align_env.agents.common.replay_buffer import FaceReplayBuffer
from face_align_env.agents.common.rollout import Rollout, play
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.networks.lrn import LRN, preset


def evaluate(model: BaseAlgorithm, env: FaceAlignVecEnv, num_faces: int) -> Rollout:
    """Play held-out faces without noise."""
    return play(
        lambda observations: np.asarray(model.predict(observations, deterministic=True)[0]), env, range(num_faces)
    )


def main() -> None:
    """Train, and measure before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", default="FaceAlign/State19-v0", help="id (%(default)s)")
    parser.add_argument("--algo", choices=("ppo", "sac"), default="ppo", help="algorithm (%(default)s)")
    parser.add_argument("--timesteps", type=int, default=100_000, help="transitions (%(default)s)")
    parser.add_argument("--num-envs", type=int, default=16, help="faces at once (%(default)s)")
    parser.add_argument("--eval-faces", type=int, default=200, help="held-out faces (%(default)s)")
    parser.add_argument("--size", type=int, help="faces to learn from; default: all")
    parser.add_argument("--seed", type=int, default=0, help="seed (%(default)s)")
    parser.add_argument("--output", help="file for the model; default: none")
    args = parser.parse_args()

    set_random_seed(args.seed)  # of a fresh LRN, too
    options = {} if args.size is None else {"dataset_options": {"size": args.size}}
    env = VecMonitor(FaceAlignVecEnv(args.num_envs, args.task, copy=False, **options))
    held_out = FaceAlignVecEnv(min(50, args.eval_faces), args.task, split="test")
    policy, network, replay = "MlpPolicy", {}, {}
    if isinstance(env.observation_space, gym.spaces.Dict):
        # Patches are bytes, which Stable-Baselines3 would take as they are: LRN's first layer scales them.
        faces = env.get_attr("faces")[0]
        lrn = LRN(preset("tiny", faces.prepared.scheme.num_landmarks))
        policy = "MultiInputPolicy"
        network = {"features_extractor_class": LRNExtractor, "features_extractor_kwargs": {"lrn": lrn}}
        replay = {"replay_buffer_class": FaceReplayBuffer, "replay_buffer_kwargs": {"faces": faces}}
    if args.algo == "ppo":
        model: BaseAlgorithm = PPO(
            policy,
            env,
            n_steps=64,
            batch_size=128,
            learning_rate=5e-4,
            gamma=0.9,  # Table 2's
            policy_kwargs={"log_std_init": -1, **network},
            seed=args.seed,
            device="cpu",
        )
    else:
        model = SAC(
            policy,
            env,
            learning_rate=7e-4,
            learning_starts=1000,
            gradient_steps=4,
            batch_size=128,
            gamma=0.9,
            policy_kwargs={"net_arch": [128, 128], **network},
            buffer_size=min(args.timesteps, 100_000),
            **replay,
            seed=args.seed,
            device="cpu",
        )
    print(f"before: {evaluate(model, held_out, args.eval_faces)}")
    model.learn(args.timesteps)
    print(f"after: {evaluate(model, held_out, args.eval_faces)}")
    print(f"a strong policy returns {gym.spec(args.task).reward_threshold}")
    if args.output:
        model.save(args.output)


if __name__ == "__main__":
    main()
