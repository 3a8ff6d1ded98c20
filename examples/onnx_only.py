"""Landmarks with nothing but ONNX Runtime, NumPy and OpenCV: neither PyTorch nor this project is needed.

    face-align export 300w-68 --output 300w-68.onnx
    python examples/onnx_only.py 300w-68.onnx photo.jpg --box 180 90 268 190 --output aligned.png

A box goes from eyebrow to chin and from ear to ear; it may be repeated. Without one, a Haar cascade looks for faces.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np
import onnxruntime

# From the cascade's square to the landmarks' box: centre to the right and below, width, height, in sides of the square.
HAAR_BOX = np.array([0.0, 0.152, 0.86, 0.832])


def detect(photo: np.ndarray) -> np.ndarray:
    """(N, 4) boxes of the faces in a BGR photo."""
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    squares = cascade.detectMultiScale(cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY), 1.1, 5)
    squares = np.array(squares, dtype=np.float32).reshape(-1, 4)
    side = squares[:, 2:3]
    centre = squares[:, :2] + side / 2 + side * HAAR_BOX[:2]
    half = side * HAAR_BOX[2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def main() -> None:
    """Align the faces of a photo and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="file of face-align export")
    parser.add_argument("photo")
    parser.add_argument("--box", nargs=4, type=float, action="append", metavar=("X0", "Y0", "X1", "Y1"))
    parser.add_argument("--output", default="aligned.png", help="where the picture goes")
    args = parser.parse_args()
    photo = cv2.imread(args.photo)  # BGR
    if photo is None:
        parser.error(f"'{args.photo}' is missing or no photo")
    boxes = np.float32(args.box) if args.box else np.float32(detect(photo))
    session = onnxruntime.InferenceSession(args.model, providers=["CPUExecutionProvider"])
    landmarks, iterations = session.run(["landmarks", "iterations"], {"photo": photo[:, :, ::-1], "boxes": boxes})
    for number, (shape, steps) in enumerate(zip(landmarks, iterations, strict=True)):
        x, y = shape[0]
        print(f"face {number}: {len(shape)} landmarks, {steps} iterations, the first at ({x:.1f}, {y:.1f})")
        for x, y in shape.round().astype(int).tolist():
            cv2.circle(photo, (x, y), 1, (0, 255, 0), -1)
    if not cv2.imwrite(args.output, photo):
        parser.error(f"cannot write '{args.output}'")
    print(f"{len(landmarks)} faces: {args.output}")


if __name__ == "__main__":
    main()
