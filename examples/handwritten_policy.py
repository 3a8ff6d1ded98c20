"""A policy written by hand: no network and no reinforcement learning, a function from observation to action.

    python examples/handwritten_policy.py

Measured with that command on 100 held-out faces, from the mean shape: mean return -10.00 for doing nothing ("before"),
+1.16 for this policy ("after"); their NME, 30.1 % at the start, ends at 15.7 %, and 44 % of the episodes end in a
terminal state. With ``--landmarks 19``: -10.00 and +0.20, 30.6 % and 20.5 %. 11 s of processor time (``time``: user +
sys) with OMP_NUM_THREADS=1.

It is the Supervised Descent Method (SDM, Xiong and De la Torre, CVPR 2013) as a policy: in each iteration the increment
is a linear function of what the patches show, fitted by ridge regression. A function like :func:`policy` is all that
``face-align collect --policy examples.handwritten_policy:policy`` and ``face-align benchmark --algos
examples.handwritten_policy:policy`` ask for; there it is fitted on its first call.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np

import face_align_env  # noqa: F401 - registers FaceAlign-v0
from face_align_env.agents.common.arguments import parse_arguments
from face_align_env.agents.common.rollout import play_held_out

Observation = dict[str, np.ndarray]

STAGES = 4  # regressions, one an iteration; with 68 landmarks the history holds three actions and cannot count further
CELLS = 6  # a patch is seen as 6 x 6 grey cells
RIDGE = 100.0  # on 600 faces; 30, 100, 300 and 1000 were compared on other held-out faces than those measured above


def features(patches: np.ndarray) -> np.ndarray:
    """(N, 36 K + 1) float64: the grey cells of each patch without their mean, so that light and skin do not count.

    :param patches: (N, K, P, P, 3) uint8
    """
    n, k, side = patches.shape[:3]
    grey = patches.mean(axis=4, dtype=np.float32) / 255
    edge = side // CELLS
    grey = grey[:, :, : edge * CELLS, : edge * CELLS]
    cells = grey.reshape(n, k, CELLS, edge, CELLS, edge).mean(axis=(3, 5)).reshape(n, k, -1)
    cells -= cells.mean(axis=2, keepdims=True)
    return np.concatenate([cells.reshape(n, -1), np.ones((n, 1))], axis=1)


class SupervisedDescent:
    """A cascade of linear regressions.

    :param regressions: S of them, (36 K + 1, 2 K) each, from features to pixels of the crop
    """

    def __init__(self, regressions: list[np.ndarray]) -> None:
        self.regressions = regressions

    @classmethod
    def fit(cls, num_faces: int = 600, ridge: float = RIDGE, **options: Any) -> SupervisedDescent:
        """Fit each regression where the ones before it leave the training faces.

        :param num_faces: training faces
        :param ridge: weight of the squared coefficients
        :param options: keywords of FaceAlign-v0; the training split is played from the mean shape
        """
        options = {"dataset": "synthetic", "initializer": "mean", "dataset_options": {"size": num_faces}, **options}
        # No episode of these ends: alpha_1 lets no error be small enough.
        envs = gym.make_vec("FaceAlign-v0", num_envs=num_faces, termination="oracle", alpha_1=1e-9, **options)
        observations, infos = envs.reset(seed=0, options={"index": np.arange(num_faces)})
        truth = envs.unwrapped.episodes.ground_truth
        regressions = []
        for _ in range(STAGES):
            seen = features(observations["patches"])
            wanted = (truth - infos["landmarks"]).reshape(num_faces, -1)
            # In the dual form, (F F^T + r I)^-1: there are fewer faces than features.
            inverse = np.linalg.inv(seen @ seen.T + ridge * np.eye(num_faces))
            weights = inverse @ wanted
            regressions.append(seen.T @ weights)
            # What each face would be told by a regression that has not seen it (leave-one-out, in closed form): told
            # by its own, it would be nearer to the truth than a new face, and the next regression learn too little.
            left_out = wanted - weights / np.diag(inverse)[:, None]
            observations, _, _, _, infos = envs.step(left_out.astype(np.float32))
        envs.close()
        return cls(regressions)

    def __call__(self, observation: Observation) -> np.ndarray:
        """The increment, (2K,) or, for a batch, (N, 2K), in pixels.

        :param observation: of FaceAlign-v0, or a batch of them
        """
        batched = observation["history"].ndim == 2
        patches, history = (observation[key] if batched else observation[key][None] for key in ("patches", "history"))
        width = 2 * patches.shape[1]
        # The history is what tells the iteration: it holds a row of numbers for each action so far.
        rows = history[:, : history.shape[1] // width * width].reshape(len(history), -1, width)
        stages = np.minimum(rows.any(axis=2).sum(axis=1), len(self.regressions) - 1)
        seen = features(patches)
        actions = np.stack([row @ self.regressions[stage] for row, stage in zip(seen, stages, strict=True)])
        actions = actions.astype(np.float32)
        return actions if batched else actions[0]


@cache
def fitted(num_landmarks: int) -> SupervisedDescent:
    """The policy for K landmarks, fitted on synthetic faces when it is first asked for."""
    return SupervisedDescent.fit(landmarks=num_landmarks)


def policy(observation: Observation) -> np.ndarray:
    """FaceAlign-v0's increment for an observation, (2K,), or for a batch of them, (N, 2K), in pixels."""
    return fitted(observation["patches"].shape[-4])(observation)


policy.vectorized = True  # type: ignore[attr-defined]  # who asks may hand over a batch


@dataclass
class Args:
    """Everything that can be changed from the command line."""

    landmarks: int = 68
    """19, 29 or 68"""
    size: int = 600
    """number of training faces"""
    eval_faces: int = 100
    """number of held-out faces"""
    ridge: float = RIDGE
    """weight of the squared coefficients"""


def main(args: Args) -> None:
    """Fit, and measure beside doing nothing."""
    faces = {"landmarks": args.landmarks, "dataset_options": {"size": args.eval_faces}, "initializer": "mean"}

    def still(observations: Observation) -> np.ndarray:
        return np.zeros((len(observations["history"]), 2 * args.landmarks), np.float32)

    print(f"before: {play_held_out(still, args.eval_faces, **faces)}")
    began = time.perf_counter()
    descent = SupervisedDescent.fit(args.size, args.ridge, landmarks=args.landmarks)
    print(f"{STAGES} regressions fitted on {args.size} faces in {time.perf_counter() - began:.1f} s")
    print(f"after: {play_held_out(descent, args.eval_faces, **faces)}")


if __name__ == "__main__":
    main(parse_arguments(Args, __doc__))
