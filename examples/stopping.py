"""When to stop: PPO learns it on FaceAlign/Stop19-v0, beside what fixed numbers of iterations reach.

    python examples/stopping.py
    python examples/stopping.py --dataset 300w --root DATA/300w --landmarks 68 --lrn 300w-68 --cost 0.02 0.05 0.1

The pretrained policy moves the landmarks; all that is learnt is for which faces a further iteration is worth its cost.
A mean number of iterations that is not whole can be had without looking at the faces: by tossing a coin between the two
whole numbers next to it. What is learnt is worth something where its NME is below that mixture's, face by face on the
same held-out faces. The interval is the bootstrap's, over faces: each resample has its own mean number of iterations,
and its own mixture.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from face_align_env.agents.common.rollout import play
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.metrics import against_fixed_lengths

TASK = "FaceAlign/Stop19-v0"
AT_ONCE = 50  # held-out faces


def learn(cost: float, timesteps: int, num_envs: int, seed: int, **options: Any) -> PPO:
    """PPO on the training split, where an iteration costs so much, percent of NME."""
    env = VecMonitor(FaceAlignVecEnv(num_envs, TASK, iteration_cost=cost, **options))
    env.seed(seed)
    # The first iteration of a drawn face removes 17 % of NME, the last ones 0.1 %: rewards are scaled by their spread,
    # rollouts are long and minibatches large, so that what decides is not lost in the noise of the first iterations.
    model = PPO(
        "MlpPolicy",
        VecNormalize(env, norm_obs=False, gamma=1.0),
        n_steps=max(min(4096, timesteps) // num_envs, 2),
        batch_size=512,
        gamma=1.0,
        gae_lambda=0.8,
        seed=seed,
        device="cpu",
    )
    model.learn(timesteps)
    env.close()
    return model


def main() -> None:
    """Roll the pretrained policy to the limit once; learn and compare for each cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="synthetic", help="name (%(default)s)")
    parser.add_argument("--root", help="where the data is")
    parser.add_argument("--landmarks", type=int, default=19, help="of the dataset and the networks (%(default)s)")
    parser.add_argument("--lrn", default="synthetic-19", help="released weights (%(default)s)")
    parser.add_argument("--initializer", help="x_0; default: mean for drawn faces, else the GEN of --lrn")
    parser.add_argument("--cost", type=float, nargs="+", default=[0.25, 0.5, 1.0], help="of an iteration, %% of NME")
    parser.add_argument("--timesteps", type=int, default=100_000, help="transitions for each cost (%(default)s)")
    parser.add_argument("--num-envs", type=int, default=16, help="faces at once (%(default)s)")
    parser.add_argument("--faces", type=int, default=500, help="held-out faces, at most (%(default)s)")
    parser.add_argument("--size", type=int, help="drawn faces, to learn from and held out; default: all")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    args = parser.parse_args()

    options: dict[str, Any] = {"dataset": args.dataset, "landmarks": args.landmarks, "lrn": args.lrn}
    options["initializer"] = args.initializer or ("mean" if args.dataset == "synthetic" else args.lrn)
    options |= {} if args.root is None else {"root": args.root}
    options |= {} if args.size is None else {"dataset_options": {"size": args.size}}
    held_out = FaceAlignVecEnv(min(AT_ONCE, args.faces), TASK, split="test", **options)
    faces = range(min(args.faces, held_out.get_attr("task")[0].num_faces))
    errors = play(lambda seen: np.full((len(seen), 1), -1, np.float32), held_out, faces).errors
    fixed = ", ".join(f"{100 * error:.2f}" for error in errors.mean(axis=1))
    print(f"{len(faces)} held-out faces, NME %, after 0, 1, ... {len(errors) - 1} iterations: {fixed}")
    print("cost | iterations, standard deviation | NME % | mixture | difference, 95 % interval | return | best fixed")
    for cost in args.cost:
        model = learn(cost, args.timesteps, args.num_envs, args.seed, **options)
        learnt = play(lambda seen, model=model: model.predict(seen, deterministic=True)[0], held_out, faces)
        lengths = learnt.lengths
        difference, low, high = (100 * each for each in against_fixed_lengths(errors, lengths, seed=args.seed))
        returns = 100 * (errors[0] - learnt.nme).mean() - cost * lengths.mean()
        of_fixed = 100 * (errors[0] - errors).mean(axis=1)[1:] - cost * np.arange(1, len(errors))
        print(
            f"{cost:g} | {lengths.mean():.2f}, {lengths.std():.2f} | {100 * learnt.nme.mean():.3f} | "
            f"{100 * learnt.nme.mean() - difference:.3f} | {difference:+.3f}, {low:+.3f} .. {high:+.3f} | "
            f"{returns:.2f} | {of_fixed.max():.2f} ({of_fixed.argmax() + 1})"
        )
    held_out.close()


if __name__ == "__main__":
    main()
