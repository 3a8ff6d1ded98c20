"""Alignment: what is known of one aligned face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.aligner.pose import Pose, estimate_pose
from face_align_env.landmarks import get_scheme

TEMPLATE_SIZE = 112
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
"""(5, 2) where networks that recognise faces expect eyes, nose and mouth corners, pixels of a 112-pixel crop (ArcFace;
J. Deng, J. Guo, N. Xue, S. Zafeiriou, CVPR 2019)."""

# Tip of the nose, and the corners of the mouth; the eyes' centres are a scheme's pupils.
_NOSE_AND_MOUTH = {68: (30, 48, 54), 29: (20, 22, 23), 19: (13, 15, 17)}

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Alignment:
    """One aligned face.

    :param landmarks: (K, 2) float32, pixels of the photo
    :param iterations: how many times LRN was applied
    :param trajectory: (iterations + 1, K, 2) float32, x_0 to x_T in pixels of the photo
    :param box: (4,) float64, x0, y0, x1, y1: where the face was said, or found, to be, pixels of the photo
    :param image: (H, W, 3) uint8 RGB, the photo, which stays in memory as long as this object
    :param confidence: predicted NME, percent, as the training data normalises it (300W: by the distance of the outer
        eye corners): the lower, the surer; None: the weights have no head that predicts it
    """

    landmarks: npt.NDArray[np.float32]
    iterations: int
    trajectory: npt.NDArray[np.float32]
    box: npt.NDArray[np.float64]
    image: Image = field(repr=False)
    confidence: float | None = None

    @cached_property
    def pose(self) -> Pose:
        """Yaw, pitch and roll in degrees; see :func:`~face_align_env.aligner.pose.estimate_pose`."""
        return estimate_pose(self.landmarks)

    @property
    def five_points(self) -> npt.NDArray[np.float32]:
        """(5, 2) left eye, right eye (in the picture), tip of the nose, left and right corner of the mouth, pixels."""
        return five_points(self.landmarks)

    def crop(self, size: int = TEMPLATE_SIZE) -> Image:
        """The upright face, (size, size, 3) uint8 RGB, with eyes, nose and mouth where :data:`TEMPLATE` has them.

        :param size: side, pixels
        :raises ValueError: the size is below 1
        """
        import cv2

        if size < 1:
            raise ValueError(f"A crop's size must be at least 1 pixel, got {size}.")
        target = (TEMPLATE + 0.5) * (size / TEMPLATE_SIZE) - 0.5
        matrix = similarity(self.five_points, target)
        image = self.image
        # warpAffine interpolates between four pixels: what is much larger is reduced first.
        factor = int(1 / np.linalg.norm(matrix[0, :2]))
        if factor >= 2:
            height, width = (-(-side // factor) for side in image.shape[:2])
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
            zoom = np.array([self.image.shape[1] / width, self.image.shape[0] / height])
            matrix = np.column_stack([matrix[:, :2] * zoom, matrix[:, :2] @ (0.5 * zoom - 0.5) + matrix[:, 2]])
        warped = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(warped, dtype=np.uint8)

    def draw(self) -> Image:
        """The photo with this face's landmarks and box, (H, W, 3) uint8 RGB, a copy."""
        return draw_alignments(self.image, [self])

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold of it: landmarks, box, five_points (lists), iterations, confidence, and pose (degrees)."""
        return {
            "landmarks": _rounded(self.landmarks),
            "box": _rounded(self.box),
            "iterations": self.iterations,
            "confidence": None if self.confidence is None else round(self.confidence, 2),
            "pose": {name: round(angle, 2) for name, angle in vars(self.pose).items()},
            "five_points": _rounded(self.five_points),
        }


def five_points(landmarks: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(5, 2) of (K, 2) landmarks: the eyes' centres (left in the picture first), the nose's tip, the mouth's corners.

    :raises ValueError: there is no scheme of so many landmarks
    """
    left, right = get_scheme(len(landmarks)).pupils
    eyes = [landmarks[list(left)].mean(axis=0), landmarks[list(right)].mean(axis=0)]
    return np.stack([*eyes, *landmarks[list(_NOSE_AND_MOUTH[len(landmarks)])]]).astype(np.float32)


def similarity(source: npt.NDArray[np.floating], target: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The (2, 3) matrix of rotation, scale and shift that brings (N, 2) points nearest to others.

    In the sense of least squares; as complex numbers, ``target = a source + b``.

    :raises ValueError: the source's points are all in one place
    """
    p, q = (points[:, 0] + 1j * points[:, 1] for points in (source.astype(np.float64), target.astype(np.float64)))
    centred = p - p.mean()
    spread = np.vdot(centred, centred).real
    if not spread > 0:
        raise ValueError("There is no similarity that takes points which are all in one place to others.")
    a = np.vdot(centred, q - q.mean()) / spread
    b = q.mean() - a * p.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def draw_alignments(image: Image, alignments: Sequence[Alignment]) -> Image:
    """The photo with the landmarks and boxes of its faces drawn on it; (H, W, 3) uint8, a copy."""
    import cv2

    from face_align_env.rendering import WINDOW, draw_shape

    picture = image.copy()
    for alignment in alignments:
        side = float((alignment.box[2:] - alignment.box[:2]).max())
        (x0, y0), (x1, y1) = alignment.box.reshape(2, 2).clip(-4096, 65536).round().astype(int).tolist()
        cv2.rectangle(picture, (x0, y0), (x1, y1), WINDOW, max(1, round(side / 250)))
        scheme = get_scheme(len(alignment.landmarks))
        picture = draw_shape(picture, alignment.landmarks, scheme, scale=1, radius=max(1, round(side / 120)))
    return picture


def _rounded(values: npt.NDArray[np.floating]) -> Any:
    """Nested lists with two decimals, which is more than landmarks are worth."""
    return values.astype(np.float64).round(2).tolist()
