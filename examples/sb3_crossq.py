"""sb3-contrib's CrossQ on the features of released weights.

    python examples/sb3_crossq.py

CrossQ joins observations and next observations in one minibatch, which it cannot do with dictionaries.
FaceAlign/Policy19-v0 shows it a box of 513 numbers: what the trunk of a pretrained LRN makes of patches and history,
and the time left. An action of zeros is the pretrained policy, and CrossQ learns what to add to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from stable_baselines3.common.vec_env import VecMonitor

from face_align_env.agents.common.arguments import parse_arguments
from face_align_env.agents.common.rollout import Rollout, play
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.extras import needs


@dataclass
class Args:
    """Everything that can be changed from the command line."""

    lrn: str = "synthetic-19"
    """released weights, or a file, for 19 landmarks"""
    timesteps: int = 4000
    """transitions to collect"""
    num_envs: int = 16
    """faces at once"""
    learning_starts: int = 400
    """transitions before the first update"""
    size: int = 200
    """number of drawn faces, of training and of test"""
    eval_faces: int = 50
    """number of held-out faces"""
    modes: int = 10
    """shape modes that the policy moves"""
    step: float = 0.1
    """of a correction of 1, in standard deviations of the training shapes"""
    seed: int = 0
    """of everything random"""


def main(args: Args) -> None:
    """Train, and measure before and after."""
    with needs("benchmark", "CrossQ"):
        from sb3_contrib import CrossQ

    task = {"lrn": args.lrn, "modes": args.modes, "step": args.step, "dataset_options": {"size": args.size}}
    env = VecMonitor(FaceAlignVecEnv(args.num_envs, "FaceAlign/Policy19-v0", **task))
    test = FaceAlignVecEnv(args.eval_faces, "FaceAlign/Policy19-v0", split="test", **task)
    model = CrossQ(
        "MlpPolicy",
        env,
        gamma=0.9,
        learning_starts=args.learning_starts,
        batch_size=128,
        gradient_steps=2,
        policy_kwargs={"net_arch": {"pi": [64, 64], "qf": [256, 256]}},
        seed=args.seed,
        device="cpu",
    )

    def measure() -> Rollout:
        return play(lambda seen: model.predict(seen, deterministic=True)[0], test, range(args.eval_faces))

    print(f"before: {measure()}")
    model.learn(args.timesteps)
    print(f"after: {measure()}")


if __name__ == "__main__":
    main(parse_arguments(Args, __doc__))
