"""Which way a face looks: yaw, pitch and roll from its landmarks and a generic head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from face_align_env.landmarks import get_scheme

_HEADS = 64  # random heads whose mean is the generic one
_DISTANCE = 9.0  # of the camera, half face-widths: about 60 cm


@dataclass(frozen=True)
class Pose:
    """How a head is turned against the line from the camera to it, degrees.

    :param yaw: positive: the nose points to the right of the picture
    :param pitch: positive: the face looks up
    :param roll: positive: clockwise in the picture
    """

    yaw: float
    pitch: float
    roll: float


@cache
def generic_head(num_landmarks: int) -> npt.NDArray[np.float64]:
    """The mean of random heads: (K, 3), x to the right of the picture, y down, z out of the face, half face-widths.

    :raises ValueError: there is no scheme of so many landmarks
    """
    from face_align_env.datasets.synthetic.head import SCHEME_POINTS, features, model_points, sample_head

    get_scheme(num_landmarks)
    rng = np.random.default_rng(0)
    heads = [sample_head(rng) for _ in range(_HEADS)]
    mean = np.mean([model_points(head, features(head)) for head in heads], axis=0)
    mean = (mean + mean[_mirrored()] * [-1, 1, 1]) / 2
    return np.asarray(mean[SCHEME_POINTS[num_landmarks]], dtype=np.float64)


def estimate_pose(landmarks: npt.NDArray[np.floating]) -> Pose:
    """The pose in which a generic head's landmarks lie nearest to those of a face (perspective n points).

    The camera is unknown; a usual distance is assumed. Where annotations let the outline's points slide around a turned
    head, as those of 300W do, a large yaw comes out too small or too large by some degrees.

    :param landmarks: (K, 2) of one of the schemes, pixels
    :raises ValueError: there is no scheme of so many landmarks, or the points are all in one place
    """
    import cv2

    head = generic_head(len(landmarks)) * [1, 1, -1]  # OpenCV's z goes away from the camera
    points = np.asarray(landmarks, dtype=np.float64)
    size = float(np.linalg.norm(np.ptp(points, axis=0)))
    if not (np.isfinite(points).all() and size > 0):
        raise ValueError(f"There is no pose of landmarks that span {size:g} pixels.")
    # The picture is scaled to the head's unit, the camera looks at the face.
    flat = (points - points.mean(axis=0)) / size * float(np.linalg.norm(np.ptp(head[:, :2], axis=0)))
    camera = np.diag([_DISTANCE, _DISTANCE, 1.0])
    straight, before = np.zeros(3), np.array([0.0, 0.0, _DISTANCE])
    _, turned, _ = cv2.solvePnP(
        head - head.mean(axis=0), flat, camera, None, straight, before, True, cv2.SOLVEPNP_ITERATIVE
    )
    r = cv2.Rodrigues(turned)[0] * np.outer([1, 1, -1], [1, 1, -1])
    # First yaw, then pitch, then roll, as in face_align_env.datasets.synthetic.head.
    yaw = np.arctan2(-r[2, 0], r[2, 2])
    pitch = np.arcsin(np.clip(r[2, 1], -1, 1))
    roll = np.arctan2(-r[0, 1], r[1, 1])
    return Pose(*(float(angle) for angle in np.degrees([yaw, pitch, roll])))


def _mirrored() -> npt.NDArray[np.int64]:
    """(81,) which point of the model each is in a mirrored head."""
    rest = [70, 71, 68, 69, 74, 75, 72, 73, 77, 76, 78, 80, 79]
    return np.concatenate([get_scheme(68).mirror_permutation, rest])
