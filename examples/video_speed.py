"""How fast, how accurate and how steady a face is followed through a video of 640 x 480 pixels.

    python examples/video_speed.py
    python examples/video_speed.py --photo photo.jpg --weights 300w-68 --dlib runs/peers

A drawn face moves, turns in the picture and comes nearer, so the truth is known. Of a photo the largest face moves, and
the truth is what FaceAligner says of the photo itself. The tracker is put beside FaceAligner frame by frame, and with
--dlib beside the speed of dlib's detector and shape predictor, which first learns some drawn faces into that folder.
Processor time is that of all threads together, and depends less than frames a second on what else runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np

from face_align_env import FaceAligner
from face_align_env.aligner.tracking import FaceTracker
from face_align_env.crops import transform_points
from face_align_env.datasets import load_dataset
from face_align_env.landmarks import get_scheme
from face_align_env.prepared import PreparedFaces

WIDTH, HEIGHT, FPS = 640, 480, 30.0
FACE = 190.0  # pixels of the face in the middle of its motion

Result = tuple[np.ndarray | None, int]  # landmarks (68, 2), pixels; iterations
Follow = Callable[[np.ndarray], Result]


def moving_face(
    image: np.ndarray, landmarks: np.ndarray, num_frames: int, seed: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames (480, 640, 3) of a face in smooth motion, with a camera's noise, and its landmarks (num_frames, 68, 2)."""
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    middle, size = (low + high) / 2, float((high - low).max())
    rng = np.random.default_rng(seed)
    speed, phase = rng.uniform(0.3, 0.8, 4), rng.uniform(0, 2 * np.pi, 4)
    frames, truth = [], []
    for number in range(num_frames):
        right, down, roll, near = np.sin(2 * np.pi * speed * number / FPS + phase)
        matrix = cv2.getRotationMatrix2D(middle.tolist(), 12 * roll, FACE / size * 1.2**near)
        matrix[:, 2] += np.array([WIDTH / 2 + 80 * right, HEIGHT / 2 + 40 * down]) - middle
        frame = cv2.warpAffine(image, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE)
        noise = rng.normal(0, 3, frame.shape)
        frames.append((frame + noise).round().clip(0, 255).astype(np.uint8))
        truth.append(transform_points(matrix, landmarks))
    return frames, np.stack(truth)


def dlib_follower(folder: str) -> Follow:
    """dlib's detector of frontal faces, and its shape predictor with its defaults of 10 x 500 trees."""
    from face_align_env.agents.studies.peers import PREDICTOR, import_dlib, train_dlib

    dlib = import_dlib()
    train_dlib(PreparedFaces(load_dataset("synthetic", "train", size=40)), folder, oversampling_amount=5)
    detect, predict = dlib.get_frontal_face_detector(), dlib.shape_predictor(f"{folder}/{PREDICTOR}")

    def follow(frame: np.ndarray) -> Result:
        found = detect(frame, 0)
        if not found:
            return None, 0
        parts = predict(frame, max(found, key=lambda box: box.area())).parts()
        return np.array([(part.x, part.y) for part in parts], dtype=np.float32), 0

    return follow


def main() -> None:
    """Follow the face in each way, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0, help="which face, and how it moves")
    parser.add_argument("--photo", help="the face that moves; default: a drawn one")
    parser.add_argument("--weights", default="synthetic-68")
    parser.add_argument("--dlib", metavar="FOLDER", help="put dlib beside it")
    args = parser.parse_args()
    aligner = FaceAligner.from_pretrained(args.weights)
    if args.photo is None:
        face = load_dataset("synthetic", "test", size=args.seed + 1)[args.seed]
        frames, truth = moving_face(face.image, face.landmarks, args.frames, args.seed)
    else:
        faces = aligner(args.photo)
        if not faces:
            parser.error(f"no face was found in '{args.photo}'")
        frames, truth = moving_face(faces[0].image, faces[0].landmarks, args.frames, args.seed)
    tracker, smooth = FaceTracker(aligner, fps=FPS), FaceTracker(aligner, smooth=True, fps=FPS)

    def tracked(follower: FaceTracker) -> Follow:
        def follow(frame: np.ndarray) -> Result:
            faces = follower(frame)
            return (faces[0].alignment.landmarks, faces[0].alignment.iterations) if faces else (None, 0)

        return follow

    def alone(frame: np.ndarray) -> Result:
        faces = aligner(frame)
        return (faces[0].landmarks, faces[0].iterations) if faces else (None, 0)

    ways = {"tracker": tracked(tracker), "tracker, smooth": tracked(smooth), "frame by frame": alone}
    if args.dlib:
        ways["dlib"] = dlib_follower(args.dlib)
    left, right = get_scheme(68).outer_eye_corners
    eyes = np.linalg.norm(truth[:, left] - truth[:, right], axis=1)
    for name, follow in ways.items():
        follow(frames[0])
        wall, cpu = time.perf_counter(), time.process_time()
        results = [follow(frame) for frame in frames]
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        told = f"{name}: {len(frames) / wall:.1f} frames/s, {1000 * cpu / len(frames):.1f} ms of processor time"
        seen = [number for number, (shape, _) in enumerate(results) if shape is not None]
        told += f", found in {len(seen)} of {len(frames)} frames"
        if len(seen) == len(frames) and name != "dlib":
            apart = np.stack([shape for shape, _ in results if shape is not None]) - truth
            error = np.linalg.norm(apart, axis=2).mean(axis=1) / eyes
            jitter = np.linalg.norm(np.diff(apart, 2, axis=0), axis=2).mean(axis=1) / eyes[1:-1]
            steps = np.mean([taken for _, taken in results])
            told += f", NME {100 * error.mean():.2f} %, jitter {100 * jitter.mean():.3f} %, {steps:.2f} iterations"
        print(told)


if __name__ == "__main__":
    main()
