"""An episode of a trained agent as a picture: x_0, then one frame an iteration.

    python examples/watch_episode.py runs/demo --index 3 --output docs/episode.png

Takes a folder that ``make demo`` or ``face-align run`` has made.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import gymnasium as gym
import torch

import face_align_env
from agents.runs import RunConfig
from face_align_env.networks.lrn import LRN
from face_align_env.rendering import side_by_side


def main() -> None:
    """Play one face of the test split with the policy of a run, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--index", type=int, default=0, help="face of the test split (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/examples/watched.png"), help="(default: %(default)s)")
    args = parser.parse_args()

    data = RunConfig.read(args.run).data
    policy = LRN.load(args.run / "dcrn" / "weights.safetensors").eval()
    env = face_align_env.LearnedHistory(
        gym.make(
            "FaceAlign-v0",
            dataset=data.dataset,
            split=face_align_env.load_dataset(data.dataset, root=data.root).test_split,
            root=data.root,
            landmarks=data.landmarks,
            dataset_options=data.options,
            initializer=args.run / "gen" / "weights.safetensors",
            action_limit=policy.config.action_limit,
            render_mode="rgb_array",
        )
    )
    observation, info = env.reset(options={"index": args.index})
    frames, ended = [env.render()], False
    while not ended:
        with torch.inference_mode():
            state = (torch.from_numpy(observation[key])[None] for key in ("patches", "history"))
            action = torch.cat(policy(*state), dim=1)[0].numpy()
        observation, _, terminated, truncated, info = env.step(action)
        frames.append(env.render())
        ended = terminated or truncated

    args.output.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.output), side_by_side(frames)[:, :, ::-1])  # OpenCV writes BGR
    print(
        f"Face {args.index}: NME {100 * info['initial_nme']:.2f} % -> {100 * info['nme']:.2f} % in "
        f"{info['iterations']} iterations: {args.output}"
    )


if __name__ == "__main__":
    main()
