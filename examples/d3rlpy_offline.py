"""d3rlpy's TD3+BC on a Minari dataset of FaceAlign-v0, seen through a released LRN.

    pip install "face-align-env[d3rlpy]"
    python examples/d3rlpy_offline.py

d3rlpy wants one array of observations, and actions in [-1, 1]: the states become the 512 numbers that the trunk of a
pretrained LRN makes of them, and the actions fractions of ``action_limit``. Where there is no dataset of that id, a
small one is collected from the policy of handwritten_policy.py.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import face_align_env  # noqa: F401 - registers FaceAlign-v0
from face_align_env.agents.collect import collect
from face_align_env.agents.common.arguments import parse_arguments
from face_align_env.agents.common.extractor import find_lrn
from face_align_env.agents.common.rollout import play_held_out

try:
    import d3rlpy
    import minari
except ImportError as error:
    if "--help" in sys.argv:
        print(__doc__)
        sys.exit(0)
    sys.exit(f'This example needs d3rlpy and Minari: pip install "face-align-env[d3rlpy]" ({error})')


@dataclass
class Args:
    """Everything that can be changed from the command line."""

    dataset: str = "face-align/synthetic-19-handwritten-v0"
    """id of the Minari dataset; collected where it is absent"""
    episodes: int = 300
    """episodes to collect where the dataset is absent"""
    policy: str = "examples.handwritten_policy:policy"
    """whose episodes are collected; the working directory is the repository's root"""
    lrn: str = "synthetic-19"
    """whose features the algorithm sees: released weights or a file, for the landmarks of the dataset"""
    updates: int = 2000
    """gradient steps"""
    batch_size: int = 128
    """transitions an update"""
    size: int = 400
    """number of training faces to collect on"""
    eval_faces: int = 50
    """number of held-out faces"""
    seed: int = 0
    """of everything random"""
    output: Path = Path("runs/examples/d3rlpy")
    """folder of the model"""


def main(args: Args) -> None:
    """Train, and measure before and after."""
    d3rlpy.seed(args.seed)
    try:
        dataset = minari.load_dataset(args.dataset)
    except FileNotFoundError:
        faces = {"landmarks": 19, "dataset_options": {"size": args.size}}
        collect(args.policy, None, args.dataset, args.episodes, seed=args.seed, dataset="synthetic", **faces)
        dataset = minari.load_dataset(args.dataset)
    trunk = find_lrn(args.lrn).trunk
    held_out = dataset.recover_environment(eval_env=True)
    limit = held_out.unwrapped.task.action_limit

    @torch.no_grad()
    def features(observations: dict[str, np.ndarray]) -> np.ndarray:
        patches, history = (torch.from_numpy(observations[key]) for key in ("patches", "history"))
        return trunk(patches, history).numpy()

    episodes = list(dataset.iterate_episodes())
    data = d3rlpy.dataset.MDPDataset(
        # An episode of Minari has one observation more than actions.
        observations=np.concatenate([features(episode.observations)[:-1] for episode in episodes]),
        actions=np.concatenate([episode.actions for episode in episodes]) / limit,
        rewards=np.concatenate([episode.rewards for episode in episodes]),
        terminals=np.concatenate([episode.terminations for episode in episodes]),
        timeouts=np.concatenate([episode.truncations for episode in episodes]),
    )
    algorithm = d3rlpy.algos.TD3PlusBCConfig(batch_size=args.batch_size, gamma=0.9, alpha=0.1).create(device="cpu:0")
    algorithm.build_with_dataset(data)

    def measure() -> str:
        def policy(observations: dict[str, np.ndarray]) -> np.ndarray:
            return limit * algorithm.predict(features(observations))

        num_faces = min(args.eval_faces, held_out.unwrapped.task.num_faces)
        return str(play_held_out(policy, num_faces, **held_out.spec.kwargs))

    print(f"before: {measure()}")
    algorithm.fit(
        data,
        n_steps=args.updates,
        n_steps_per_epoch=args.updates,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        show_progress=False,
    )
    print(f"after: {measure()}")
    args.output.mkdir(parents=True, exist_ok=True)
    algorithm.save(str(args.output / "model.d3"))
    print(f"The model: {args.output / 'model.d3'}")


if __name__ == "__main__":
    main(parse_arguments(Args, __doc__))
