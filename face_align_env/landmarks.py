"""Landmark schemes: which point is what, for the 68-, 29- and 19-point annotations.

A scheme knows everything that depends on the order of the points and on nothing else: the eye
corners and pupils that normalise an error (Eq. 2), the pairs that swap when a face is mirrored, and
the contours that join the points in a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Contour = tuple[tuple[int, ...], bool]
"""Indices of the points along a curve, and whether the curve is closed."""


@dataclass(frozen=True)
class LandmarkScheme:
    """The meaning of K landmarks, counted from 0.

    :param name: name of the annotation that defined the order
    :param num_landmarks: K
    :param outer_eye_corners: the two points whose distance is "inter-ocular"
    :param pupils: for each eye, the points whose mean is its centre ("inter-pupil")
    :param mirror_pairs: pairs that swap in a mirrored face; a point in no pair maps to itself
    :param contours: curves that draw the face
    """

    name: str
    num_landmarks: int
    outer_eye_corners: tuple[int, int]
    pupils: tuple[tuple[int, ...], tuple[int, ...]]
    mirror_pairs: tuple[tuple[int, int], ...]
    contours: tuple[Contour, ...]

    @property
    def mirror_permutation(self) -> npt.NDArray[np.int64]:
        """(K,) int64: point ``i`` of a mirrored face is point ``mirror_permutation[i]`` of the face."""
        permutation = np.arange(self.num_landmarks)
        for left, right in self.mirror_pairs:
            permutation[left], permutation[right] = right, left
        return permutation


def _run(first: int, last: int, closed: bool = False) -> Contour:
    return tuple(range(first, last + 1)), closed


SCHEME_68 = LandmarkScheme(
    name="300W",
    num_landmarks=68,
    outer_eye_corners=(36, 45),
    pupils=(tuple(range(36, 42)), tuple(range(42, 48))),
    mirror_pairs=(
        *((i, 16 - i) for i in range(8)),
        *((17 + i, 26 - i) for i in range(5)),
        *((31 + i, 35 - i) for i in range(2)),
        (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46),
        *((48 + i, 54 - i) for i in range(3)),
        (55, 59), (56, 58), (60, 64), (61, 63), (65, 67),
    ),
    contours=(
        _run(0, 16), _run(17, 21), _run(22, 26), _run(27, 30), _run(31, 35),
        _run(36, 41, True), _run(42, 47, True), _run(48, 59, True), _run(60, 67, True),
    ),
)  # fmt: skip

SCHEME_29 = LandmarkScheme(
    name="COFW",
    num_landmarks=29,
    outer_eye_corners=(8, 9),
    pupils=((16,), (17,)),
    mirror_pairs=(
        (0, 1), (2, 3), (4, 6), (5, 7), (8, 9), (10, 11), (12, 14), (13, 15), (16, 17), (18, 19), (22, 23),
    ),
    contours=(
        ((0, 4, 2, 5), True), ((1, 6, 3, 7), True), ((8, 12, 10, 13), True), ((9, 14, 11, 15), True),
        ((18, 21, 19, 20), True), ((22, 24, 23, 25), True), ((22, 26, 23, 27), True),
    ),
)  # fmt: skip

SCHEME_19 = LandmarkScheme(
    name="AFLW",
    num_landmarks=19,
    outer_eye_corners=(6, 11),
    pupils=((7,), (10,)),
    mirror_pairs=((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9), (12, 14), (15, 17)),
    contours=(_run(0, 2), _run(3, 5), _run(6, 8), _run(9, 11), _run(12, 14), _run(15, 17)),
)

SCHEMES = {scheme.num_landmarks: scheme for scheme in (SCHEME_68, SCHEME_29, SCHEME_19)}

# The 19-point shape that a 68-point one contains, as means of its points (eye and mouth centres are not
# annotated in the 68-point order).
_POINTS_19_FROM_68: tuple[Sequence[int], ...] = (
    (17,), (19,), (21,), (22,), (24,), (26,),
    (36,), range(36, 42), (39,), (42,), range(42, 48), (45,),
    (31,), (30,), (35,), (48,), range(48, 68), (54,), (8,),
)  # fmt: skip


def get_scheme(num_landmarks: int) -> LandmarkScheme:
    """The scheme of K landmarks.

    :raises ValueError: when there is no scheme of that many points
    """
    if num_landmarks not in SCHEMES:
        raise ValueError(f"No landmark scheme has {num_landmarks} points; there are {sorted(SCHEMES)}.")
    return SCHEMES[num_landmarks]


def to_19_points(landmarks: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The approximate 19-point (AFLW) shape of 68-point shapes.

    :param landmarks: (..., 68, 2) coordinates in any unit
    :return: (..., 19, 2) in the same unit
    :raises ValueError: when the shapes do not have 68 points
    """
    if landmarks.shape[-2:] != (68, 2):
        raise ValueError(f"Expected (..., 68, 2) landmarks, got {landmarks.shape}.")
    points = [landmarks[..., list(group), :].mean(axis=-2) for group in _POINTS_19_FROM_68]
    return np.stack(points, axis=-2).astype(landmarks.dtype)


def means_of_points(source: int, target: int) -> npt.NDArray[np.float32]:
    """How the points of one scheme are means of another's: the weights W in x_target = W x_source.

    :param source: number of landmarks there are
    :param target: number of landmarks wanted
    :return: (target, source) float32, rows that sum to 1
    :raises ValueError: the one scheme does not contain the other
    """
    if source == target:
        return np.eye(get_scheme(source).num_landmarks, dtype=np.float32)
    if (source, target) != (68, 19):
        raise ValueError(f"{target} landmarks cannot be had from {source}, only 19 from 68.")
    weights = np.zeros((target, source), dtype=np.float32)
    for row, group in zip(weights, _POINTS_19_FROM_68, strict=True):
        row[list(group)] = 1 / len(group)
    return weights
