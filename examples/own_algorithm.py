"""An algorithm of one's own in a benchmark, without a change to this project: augmented random search in a single file.

    face-align benchmark --algos sac,examples.own_algorithm:RandomSearch,examples.handwritten_policy:policy \\
        --run runs/demo --option size=600 --seeds 2 --timesteps 4000 --start policy --name own-algorithm
    python examples/own_algorithm.py --run runs/demo

A benchmark asks for three methods: the constructor with an environment (a VecEnv of Stable-Baselines3) and a seed,
``learn`` and ``predict``. This one is Mania, Guy and Recht's (2018) V1-t: a linear policy, moved along random
directions by the difference of the returns that a step forth and a step back earn. Each face of the batch plays with
weights of its own, so that all directions are tried at once.

The second command trains it without a benchmark, on the faces of a run (``make demo`` makes runs/demo), from that run's
pretrained policy.

Measured: the first command (4 min 45 s on two cores that were busy with other work) brings the return on 100 held-out
faces from +5.63, the pretrained policy's, to +5.71 and +5.81 with its two seeds; SAC ends at +1.29 and +2.14 there. The
second, 20,000 transitions in 29 s of processor time, makes it worse: +4.74 before, +4.24 after, on 50 faces. It has
512 weights for each number of an action, and nobody has tuned it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from face_align_env.agents.common.arguments import parse_arguments
from face_align_env.agents.common.rollout import Rollout, play
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.agents.run_folder import RunFolder
from face_align_env.initialization import GENInitializer
from face_align_env.networks.lrn import LRN
from face_align_env.prepared import FaceSource
from face_align_env.wrappers import VectorPolicyCorrections, VectorPretrainedFeatures


class RandomSearch:
    """Augmented random search on the features of a pretrained LRN.

    :param env: an even number of environments whose observations are vectors (a benchmark's starts ``policy`` and
        ``features``)
    :param seed: of the directions
    :param step_size: length of an update
    :param noise: length of a step forth and back
    :param episodes: that each step is judged by
    :param best: share of the directions that count, those that made the largest difference
    :raises ValueError: the environment is not of that kind
    """

    def __init__(
        self,
        env: VecEnv,
        seed: int = 0,
        step_size: float = 0.02,
        noise: float = 0.03,
        episodes: int = 4,
        best: float = 0.5,
    ) -> None:
        if not isinstance(env.observation_space, spaces.Box) or env.num_envs % 2:
            raise ValueError("RandomSearch needs vectors as observations (--start policy) and an even number of faces.")
        self.env = env
        self.rng = np.random.default_rng(seed)
        self.step_size, self.noise, self.episodes, self.best = step_size, noise, episodes, best
        size: Any = (env.action_space.shape, env.observation_space.shape)
        self.weights = np.zeros((size[0][0], size[1][0]))

    def learn(self, total_timesteps: int) -> RandomSearch:
        """Updates until so many transitions have been played."""
        played = 0
        while played < total_timesteps:
            directions = self.rng.standard_normal((self.env.num_envs // 2, *self.weights.shape))
            steps = self.noise * np.stack([directions, -directions], axis=1).reshape(-1, *self.weights.shape)
            returns, transitions = self._returns(self.weights + steps)
            forth, back = returns.reshape(-1, 2).T
            count = max(1, round(self.best * len(directions)))
            chosen = np.argsort(np.maximum(forth, back))[-count:]
            spread = np.concatenate([forth[chosen], back[chosen]]).std() + 1e-8
            gains = (forth - back)[chosen, None, None] * directions[chosen]
            self.weights += self.step_size / spread * gains.mean(axis=0)
            played += transitions
        return self

    def predict(self, observation: np.ndarray, *, deterministic: bool = True) -> tuple[np.ndarray, None]:
        """Actions (N, A) for observations (N, D); there is no noise to leave out."""
        return np.clip(observation @ self.weights.T, -1, 1).astype(np.float32), None

    def _returns(self, weights: np.ndarray) -> tuple[np.ndarray, int]:
        """(N,) mean return of each face's weights (N, A, D) over some episodes, and the transitions that took."""
        totals, ended, played = np.zeros((3, self.env.num_envs))
        observations = self.env.reset()
        while (ended < self.episodes).any():
            actions = np.clip(np.einsum("nad,nd->na", weights, observations), -1, 1).astype(np.float32)
            observations, rewards, dones, _ = self.env.step(actions)
            going = ended < self.episodes
            totals += going * rewards
            ended += going & dones
            played += 1
        return totals / self.episodes, int(played.sum())


@dataclass
class Args:
    """Everything that can be changed from the command line."""

    run: Path
    """folder of a run, whose GEN and LRN are used"""
    timesteps: int = 20_000
    """transitions to collect"""
    num_envs: int = 16
    """faces at once"""
    eval_faces: int = 50
    """number of held-out faces"""
    seed: int = 0
    """of the directions and of the order of faces"""


def main(args: Args) -> None:
    """Train on a run's faces, and measure before and after."""
    run = RunFolder(args.run)
    config, lrn = run.config, LRN.load(run.policy)
    train, test = config.data.prepare("train", max_cached=2048), config.data.prepare()

    def environment(num_envs: int, faces: FaceSource) -> FaceAlignVecEnv:
        return FaceAlignVecEnv(
            num_envs,
            wrappers=[
                lambda env: VectorPretrainedFeatures(env, lrn),
                lambda env: VectorPolicyCorrections(env, modes=10, step=0.1, shapes=train.landmarks),
            ],
            dataset=faces,
            initializer=GENInitializer(run.gen),
            alpha_2=config.alpha_2,
            termination="oracle",
            learned_history=True,
            action_limit=lrn.config.action_limit,
            patch_size=lrn.config.patch_size,
        )

    held_out = environment(args.eval_faces, FaceSource(test))
    env = environment(args.num_envs, FaceSource(train))
    env.seed(args.seed)
    algorithm = RandomSearch(env, args.seed)

    def measure() -> Rollout:
        return play(lambda observation: algorithm.predict(observation)[0], held_out, range(args.eval_faces))

    print(f"before: {measure()}")
    algorithm.learn(args.timesteps)
    print(f"after: {measure()}")


if __name__ == "__main__":
    main(parse_arguments(Args, __doc__))
