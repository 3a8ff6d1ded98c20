"""What following a face costs: FaceAlign/Tracking68-v0 under policies that nobody trains.

    python examples/tracking.py

Zeros, chance, and a released LRN whose increments are taken whole or in part, with Eq. 3 deciding when a frame is
finished, or after a fixed number of iterations. Each plays the same held-out sequences. Printed are the return, its
standard error, and of the frames: how many were found, their iterations, and the NME where they were left.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import face_align_env  # noqa: F401 - registers the tasks
from face_align_env.agents.common.extractor import find_lrn

TASK = "FaceAlign/Tracking68-v0"

Policy = Callable[[dict[str, np.ndarray]], np.ndarray]


def play(policy: Policy, sequences: int, **options: Any) -> str:
    """Play each sequence once, and say how it went."""
    envs = gym.make_vec(TASK, sequences, split="test", autoreset_mode=gym.vector.AutoresetMode.SAME_STEP, **options)
    observations, infos = envs.reset(seed=0, options={"index": np.arange(sequences)})
    returns, going = np.zeros(sequences), np.ones(sequences, dtype=bool)
    number, errors, iterations, found = infos["frame"].copy(), [], [], 0
    while going.any():
        observations, rewards, terminated, truncated, infos = envs.step(policy(observations))
        returns += rewards * going
        over = terminated | truncated
        last = infos.get("final_info", infos)  # of the sequences that are over
        for ended, told in ((going & over, last), (going & ~over & (infos["frame"] != number), infos)):
            errors += told["frame_nme"][ended].tolist()
            iterations += told["frame_iterations"][ended].tolist()
        found += int(last["frames_found"][going & over].sum()) if over.any() else 0
        number, going = infos["frame"].copy(), going & ~over
    envs.close()
    error = returns.std() / np.sqrt(sequences)
    return (
        f"return {returns.mean():+.2f} +- {error:.2f}, found {100 * found / len(errors):.1f} %, "
        f"{np.mean(iterations):.2f} iterations a frame, NME {100 * np.mean(errors):.2f} % (median "
        f"{100 * np.median(errors):.2f})"
    )


def main() -> None:
    """Play all of them, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=200)
    parser.add_argument("--weights", default="synthetic-68", help="released LRN, or a file")
    args = parser.parse_args()
    lrn, n = find_lrn(args.weights).eval(), args.sequences
    size = gym.make(TASK, dataset_options={"size": 1}, initializer="mean").action_space.shape[0]
    rng = np.random.default_rng(0)

    def refine(share: float) -> Policy:
        """LRN, with a share of each increment."""

        @torch.inference_mode()
        def policy(seen: dict[str, np.ndarray]) -> np.ndarray:
            increments, history = lrn(torch.from_numpy(seen["patches"]), torch.from_numpy(seen["history"]))
            return np.concatenate([share * increments.numpy(), history.numpy()], axis=1)

        return policy

    print("zeros:", play(lambda _: np.zeros((n, size), np.float32), n))
    print("chance:", play(lambda _: rng.uniform(-32, 32, (n, size)).astype(np.float32), n))
    for share in (1.0, 0.7, 0.5):
        print(f"LRN, {share:g} of each increment:", play(refine(share), n, learned_history=True))
    for bound in (2.0, 5.0, 10.0):
        print(f"LRN, alpha_2 = {bound:g}:", play(refine(1.0), n, learned_history=True, alpha_2=bound))
    for count in (1, 2, 3):
        fixed: dict[str, Any] = {"learned_history": True, "termination": "limit", "max_iterations": count}
        print(f"LRN, {count} of each frame:", play(refine(1.0), n, **fixed, max_episode_steps=1000))


if __name__ == "__main__":
    main()
