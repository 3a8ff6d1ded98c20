"""The cascades of Haar features that come with OpenCV: old, and the fallback where OpenCV has no ``dnn``.

They find faces that look about into the camera, and see faces where there are none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from itertools import product
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.aligner.detection import Boxes, DetectorNotFoundError, brightened, checked, largest_first, overlaps
from face_align_env.crops import invert_transform, transform_points

MAX_SIDE = 1280
"""Photos with a longer side are reduced to this before faces are looked for, pixels."""

MIN_FACE = 30
"""Smallest face that is looked for in the reduced photo, pixels; the cascades are trained on 20 and 24."""

SCALE_STEP = 1.1
"""Between two sizes of the sliding window."""

FRONTAL = "haarcascade_frontalface_default.xml"
FRONTAL_2 = "haarcascade_frontalface_alt2.xml"
PROFILE = "haarcascade_profileface.xml"


@dataclass(frozen=True)
class Search:
    """One way of looking for faces.

    :param cascade: file name
    :param neighbors: overlapping windows that make a face: more find fewer faces, and fewer that are none
    :param box: from the cascade's square to the box around the landmarks: how far the centre lies to the right and
        below, width and height, in sides of the square
    :param tilts: angles by which the photo is turned, degrees
    :param mirrored: search the mirrored photo too
    """

    cascade: str
    neighbors: int
    box: tuple[float, float, float, float]
    tilts: tuple[float, ...] = (0.0,)
    mirrored: bool = False


# Each is tried where those before it have found nothing. The boxes are medians over training faces of 300W (every third
# of 2,002) that a search has found where those before it had not (IoU of the square and the landmarks' box above 0.3):
# 154 (of every twelfth face), 18, 5 and 8 faces. Looking into the camera, left and right are the same: no shift.
SEARCHES = (
    Search(FRONTAL, 5, (0.0, 0.152, 0.86, 0.832)),
    Search(FRONTAL_2, 3, (0.0, 0.134, 0.829, 0.857)),
    Search(PROFILE, 3, (-0.073, 0.097, 0.744, 0.765), mirrored=True),
    Search(FRONTAL, 5, (0.0, 0.092, 0.795, 0.77), tilts=(-25.0, 25.0)),
)

Gray = npt.NDArray[np.uint8]


class HaarDetector:
    """A :class:`~face_align_env.aligner.detection.Detector`.

    :param min_face: smallest face, pixels of the photo after its longer side has been reduced to 1,280 pixels
    :raises DetectorNotFoundError: this OpenCV has no cascades
    """

    def __init__(self, min_face: int = MIN_FACE) -> None:
        self.min_face = min_face
        for search in SEARCHES:
            _classifier(search.cascade)

    def __call__(self, image: npt.NDArray[np.uint8], /) -> Boxes:
        """See :class:`~face_align_env.aligner.detection.Detector`."""
        import cv2

        gray = np.asarray(cv2.cvtColor(checked(image), cv2.COLOR_RGB2GRAY), dtype=np.uint8)
        reduction = max(gray.shape) / MAX_SIDE
        if reduction > 1:
            size = (max(1, round(gray.shape[1] / reduction)), max(1, round(gray.shape[0] / reduction)))
            gray = np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        # The cascades divide by the contrast of each window, but pass over windows that have hardly any.
        gray = brightened(gray)
        boxes = np.zeros((0, 4))
        for search in SEARCHES:
            boxes = look(gray, search, self.min_face)
            if len(boxes):
                break
        zoom = np.array([image.shape[1] / gray.shape[1], image.shape[0] / gray.shape[0]] * 2)
        in_photo: Boxes = (boxes + 0.5) * zoom - 0.5
        return in_photo


def look(gray: Gray, search: Search, min_face: int = MIN_FACE) -> Boxes:
    """The boxes of the faces that one search finds, the largest first.

    :param gray: (H, W) uint8
    :param search: how to look
    :param min_face: smallest square, pixels
    :return: (N, 4) float64: x0, y0, x1, y1
    """
    right, down, width, height = search.box
    found = []
    for mirrored, tilt in product((False, True) if search.mirrored else (False,), search.tilts):
        view, matrix = _view(gray, mirrored, tilt)
        squares = _squares(view, search.cascade, search.neighbors, min_face)
        side = squares[:, 2:] - squares[:, :2]
        centre = (squares[:, :2] + squares[:, 2:]) / 2 + side * [right, down]
        middle = transform_points(invert_transform(matrix), centre)
        half = side * [width, height] / 2
        found.append(np.concatenate([middle - half, middle + half], axis=1))
    boxes = np.concatenate(found)
    distinct = np.zeros((0, 4))
    for box in largest_first(boxes):
        # The same head is often found in two views.
        if not (overlaps(distinct, box) > 0.3).any():
            distinct = np.concatenate([distinct, box[None]])
    return distinct


def _view(gray: Gray, mirrored: bool, tilt: float) -> tuple[Gray, npt.NDArray[np.float64]]:
    """The photo, mirrored or turned, all of it, and the (2, 3) matrix from the photo's pixels to the view's."""
    import cv2

    height, width = gray.shape
    matrix = np.array([[1.0, 0, 0], [0, 1, 0]])
    if tilt:
        matrix = np.asarray(cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), tilt, 1), dtype=np.float64)
        corners = transform_points(matrix, np.array([[0, 0], [width, 0], [0, height], [width, height]]) - 0.5)
        matrix[:, 2] -= corners.min(axis=0) + 0.5
        new_width, new_height = np.ceil(np.ptp(corners, axis=0)).astype(int).tolist()
        gray = np.asarray(
            cv2.warpAffine(gray, matrix, (new_width, new_height), borderMode=cv2.BORDER_REPLICATE), dtype=np.uint8
        )
    if mirrored:
        gray = np.ascontiguousarray(gray[:, ::-1])
        matrix = np.array([[-1, 0], [0, 1]]) @ matrix + [[0, 0, gray.shape[1] - 1], [0, 0, 0]]
    return gray, matrix


_LOCK = Lock()  # a cascade keeps notes while it searches: one photo at a time


def _squares(gray: Gray, cascade: str, neighbors: int, min_face: int) -> Boxes:
    """(N, 4) x0, y0, x1, y1 of what a cascade finds; edges of pixels are at -0.5, 0.5, ..."""
    with _LOCK:
        found = _classifier(cascade).detectMultiScale(
            gray, scaleFactor=SCALE_STEP, minNeighbors=neighbors, minSize=(min_face, min_face)
        )
    squares = np.array(found, dtype=np.float64).reshape(-1, 4)
    squares[:, 2:] += squares[:, :2]
    return squares - 0.5


@cache
def _classifier(cascade: str) -> Any:
    import cv2

    # OpenCV 5 has no cascades any more, and some builds of version 4 come without their files.
    kind = getattr(cv2, "CascadeClassifier", None)
    folder = getattr(getattr(cv2, "data", None), "haarcascades", "")
    path = os.path.join(folder, cascade)
    if kind is None or not os.path.isfile(path):
        raise DetectorNotFoundError(
            f'This OpenCV ({cv2.__version__}) has no face detector ({cascade}). Either pip install "opencv-python<5", '
            "or pass the faces' boxes."
        )
    return kind(path)
