"""Landmarks for the faces of a photo, by the DCRN that `make demo` has trained into runs/demo, or by a released one.

    python examples/align_photo.py
    python examples/align_photo.py photo.jpg --pretrained 300w-68
    python examples/align_photo.py photo.jpg --box 80 60 260 240 --box 300 70 470 240 --run runs/300w-compact

Without a photo one is drawn: a synthetic face of the test split. Without boxes, faces are detected.
A face's box goes from eyebrow to chin and from ear to ear, as the landmarks' own bounding box has it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from face_align_env import FaceAligner
from face_align_env.agents.run_folder import RunFolder
from face_align_env.datasets import load_dataset
from face_align_env.datasets.base import read_image
from face_align_env.landmarks import get_scheme
from face_align_env.rendering import SCALE, draw_trajectory, enlarge


def synthetic_photo(index: int, folder: Path) -> tuple[Path, np.ndarray]:
    """Draw face ``index`` of the synthetic test split into a file.

    :return: the file, and the face's box (4,) x0, y0, x1, y1
    """
    face = load_dataset("synthetic", "test", size=index + 1)[index]
    path = folder / "photo.png"
    cv2.imwrite(str(path), face.image[:, :, ::-1])  # OpenCV writes BGR
    return path, face.box


def main() -> None:
    """Align the faces and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", type=Path, nargs="?", help="an image file (default: a synthetic face is drawn)")
    parser.add_argument(
        "--box", type=float, nargs=4, action="append", metavar=("X0", "Y0", "X1", "Y1"), help="of a face; repeat"
    )
    networks = parser.add_mutually_exclusive_group()
    networks.add_argument("--run", default="runs/demo", help="folder of a run of face-align (default: %(default)s)")
    networks.add_argument("--pretrained", metavar="NAME", help="released weights instead of a run's: 300w-68, ...")
    parser.add_argument("--timesteps", type=int, default=10, help="iterations at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which synthetic face (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("runs/examples"), help="folder (default: %(default)s)")
    args = parser.parse_args()
    if args.photo is None and args.box is not None:
        parser.error("A box needs a photo.")

    try:
        aligner = FaceAligner.from_pretrained(args.pretrained) if args.pretrained else RunFolder(args.run).aligner()
    except FileNotFoundError as error:
        parser.error(f"{error} 'make demo' trains one in about ten minutes.")
    except ValueError as error:
        parser.error(str(error))
    aligner.max_iterations = args.timesteps
    args.output.mkdir(parents=True, exist_ok=True)
    photo, boxes = (args.photo, args.box) if args.photo else synthetic_photo(args.seed, args.output)
    alignments = aligner(photo, boxes)
    if not alignments:
        print("No face was found. Say where it is: --box X0 Y0 X1 Y1")

    picture = enlarge(read_image(photo))
    for number, alignment in enumerate(alignments):
        scheme = get_scheme(len(alignment.landmarks))
        picture = draw_trajectory(picture, alignment.trajectory, scheme)
        moved = np.linalg.norm(alignment.landmarks - alignment.trajectory[0], axis=1).mean()
        nose = alignment.landmarks.mean(axis=0).round(1).tolist()
        print(
            f"face {number}: {scheme.num_landmarks} landmarks around {nose}, {alignment.iterations} iterations, "
            f"which moved them by {moved:.1f} px from where GEN had put them"
        )
    path = args.output / "aligned.png"
    cv2.imwrite(str(path), picture[:, :, ::-1])
    print(
        f"The photo, {SCALE} times as large, with landmarks (blue) and their way from GEN's estimate (orange): {path}"
    )


if __name__ == "__main__":
    main()
