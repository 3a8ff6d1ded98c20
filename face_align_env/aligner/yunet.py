"""YuNet, a face detector of 53,000 parameters, run by OpenCV.

W. Wu, H. Peng, S. Yu, "YuNet: A Tiny Millisecond-level Face Detector", Machine Intelligence Research 20 (2023). The
parameters in ``models/yunet.onnx`` are those of libfacedetection 3 (Shiqi Yu, 3-clause BSD licence, see
``models/LICENSE.yunet``); :mod:`face_align_env.aligner.make_yunet` made the file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from threading import local
from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.aligner.detection import (
    Boxes,
    DetectorNotFoundError,
    Image,
    brightened,
    checked,
    largest_first,
    overlaps,
)
from face_align_env.crops import CROP_SIZE, crop_transform, cut, invert_transform, transform_points

MODEL = Path(__file__).parent / "models" / "yunet.onnx"
SHA256 = "dff2f214232ed0da2f85b0a6ae76dcc9e4ab40dd96d726c8930e46306b55c9a0"

MIN_FACE = 20.0
"""Smallest face that is found reliably, pixels of what the network sees."""

MIN_SHARE = 0.01
"""In large photos faces smaller than this part of the longer side are not looked for."""

TILE = 1024
"""Larger photos are cut into squares of this side, pixels."""

OVERLAP = 160
"""Of neighbouring squares, pixels: smaller faces lie whole in one of them, larger ones are found at a smaller scale."""

REDUCTION = 3
"""From one scale to the next. The network finds faces of 20 to 500 pixels."""

WHOLE = 480
"""Scales end where the photo's shorter side is at most this, pixels."""

SCORE = 0.6
"""Faces have at least this score: of 0 to 1, the network's or, below CERTAIN, the mean of three looks."""

CANDIDATE, CERTAIN = 0.35, 0.85
LOOK, LOOK_FACE = 160, 48  # pixels: the second look's side, and the face's in it
_LOOK_MARGIN = (LOOK / LOOK_FACE - 1) / 2
_IN_LOOK = (LOOK - 1) / 2 + np.array([-1, -1, 1, 1]) * LOOK_FACE / 2
SMALLEST_VIEW = 64  # pixels: with sides of 32, OpenCV's convolutions read what was in memory before
_OVERLAP_OF_ONE = 0.3  # intersection over union of boxes that are of one face

# From the network's box (around the whole face, with the forehead) to the landmarks': left, top, right and bottom edge
# as parts of its width and height. Medians over 1,548 training faces of 300W and their mirror images.
TO_LANDMARKS = np.array([0.0, 0.245, 1.0, 1.0])


class YuNetDetector:
    """A :class:`~face_align_env.aligner.detection.Detector`; may be used by several threads.

    The photo is seen at several scales, and in tiles where it is large. What the network is not certain of is looked at
    again, enlarged or reduced to one size, as it is and mirrored: that tells textures from faces.

    :param min_face: smallest face, pixels of the photo, larger side of the landmarks' box; None: 20, or a hundredth of
        the photo's longer side where that is more. A photo is enlarged up to twice for smaller ones
    :param score: the least score of a face, 0 to 1: lower values find more faces and more false positives
    :raises DetectorNotFoundError: this OpenCV has no ``FaceDetectorYN``, or the network's file is damaged
    :raises ValueError: a parameter is out of its range
    """

    def __init__(self, min_face: float | None = None, score: float = SCORE) -> None:
        if min_face is not None and not min_face >= MIN_FACE / 2:
            raise ValueError(f"min_face must be at least {MIN_FACE / 2:g} pixels, got {min_face}.")
        if not 0 < score < 1:
            raise ValueError(f"score must be between 0 and 1, got {score}.")
        self.min_face, self.score = min_face, score
        self._model = _read_model()
        self._networks = local()  # a network keeps its buffers: one for each thread

    def __call__(self, image: Image, /) -> Boxes:
        """See :class:`~face_align_env.aligner.detection.Detector`."""
        photo = np.ascontiguousarray(brightened(checked(image))[:, :, ::-1])  # the network wants BGR
        height, width = photo.shape[:2]
        smallest = self.min_face or max(MIN_FACE, MIN_SHARE * max(height, width))
        scale, found = min(2.0, MIN_FACE / smallest), []
        while True:
            found.append(self._at_scale(photo, scale))
            if min(height, width) * scale <= WHOLE:
                break
            scale /= REDUCTION
        faces = np.concatenate(found)
        faces = distinct(faces[np.argsort(-faces[:, 4], kind="stable")])
        scores = np.array([self._considered(photo, face) for face in faces])
        boxes = faces[scores >= self.score, :4] if len(faces) else faces[:, :4]
        return largest_first(_to_landmarks(boxes))

    def _at_scale(self, photo: Image, scale: float) -> Boxes:
        """(N, 5) boxes in pixels of the photo, and scores, of the faces seen in the photo when it is resized."""
        import cv2

        height, width = (max(1, round(side * scale)) for side in photo.shape[:2])
        if (height, width) != photo.shape[:2]:
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            resized = np.asarray(cv2.resize(photo, (width, height), interpolation=how), dtype=np.uint8)
        else:
            resized = photo
        found = []
        for top in _starts(height):
            for left in _starts(width):
                tile = resized[top : top + TILE, left : left + TILE]
                boxes = self._detect(np.ascontiguousarray(tile))
                boxes[:, :4] += [left, top, left, top]
                found.append(boxes)
        boxes = np.concatenate(found)
        zoom = np.array([photo.shape[1] / width, photo.shape[0] / height] * 2)
        boxes[:, :4] = (boxes[:, :4] + 0.5) * zoom - 0.5
        return boxes

    def look(self, image: Image, box: npt.NDArray[np.floating]) -> tuple[npt.NDArray[np.float64], float]:
        """Look for one face where one is expected, which takes a fraction of the time of a search.

        :param image: (H, W, 3) uint8 RGB
        :param box: (4,) about where the landmarks are, pixels
        :return: (4,) the box of the face there, and its score from 0 to 1; the box that was given, and 0, where none is
        """
        around = _from_landmarks(np.asarray(box, dtype=np.float64)[None])[0]
        try:
            matrix = crop_transform(around, _LOOK_MARGIN)
            view = self._view(checked(image), matrix)[:, :, ::-1]
        except ValueError:  # the box is empty or has left the picture
            return np.asarray(box, dtype=np.float64), 0.0
        found = self._detect(np.ascontiguousarray(view))
        overlap = overlaps(found[:, :4], _IN_LOOK)
        found = found[overlap > _OVERLAP_OF_ONE / 2]
        if not len(found):
            return np.asarray(box, dtype=np.float64), 0.0
        best = found[found[:, 4].argmax()]
        zoom = CROP_SIZE / LOOK
        corners = (best[:4].reshape(2, 2) + 0.5) * zoom - 0.5
        in_image = transform_points(invert_transform(matrix), corners).astype(np.float64).reshape(4)
        return _to_landmarks(in_image[None])[0], float(best[4])

    def _considered(self, photo: Image, face: npt.NDArray[np.float64]) -> float:
        """The score of a face after a second look, if the first was not enough."""
        score = float(face[4])
        if score >= CERTAIN:
            return score
        view = self._view(photo, crop_transform(face[:4], _LOOK_MARGIN))
        scores = [score]
        for seen in (view, np.ascontiguousarray(view[:, ::-1])):
            boxes = self._detect(seen)
            scores.append(float(boxes[overlaps(boxes[:, :4], _IN_LOOK) > _OVERLAP_OF_ONE, 4].max(initial=0)))
        return sum(scores) / len(scores)

    def _view(self, photo: Image, matrix: npt.NDArray[np.float64]) -> Image:
        """The crop of a face, (LOOK, LOOK, 3)."""
        import cv2

        crop = cut(photo, matrix)
        return np.asarray(cv2.resize(crop, (LOOK, LOOK), interpolation=cv2.INTER_AREA), dtype=np.uint8)

    def _detect(self, view: Image) -> Boxes:
        """(N, 5) boxes and scores of the candidates in a BGR picture, edges of pixels at -0.5, 0.5, ..."""
        import cv2

        network = self._network()
        missing = [max(0, SMALLEST_VIEW - side) for side in view.shape[:2]]
        if any(missing):
            border = cv2.copyMakeBorder(view, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT)
            view = np.asarray(border, dtype=np.uint8)
        network.setInputSize((view.shape[1], view.shape[0]))
        found = network.detect(view)[1]
        if found is None:
            return np.zeros((0, 5))
        boxes: Boxes = found[:, [0, 1, 0, 1, 14]].astype(np.float64)
        boxes[:, 2:4] += found[:, 2:4]
        boxes[:, :4] -= 0.5
        return boxes

    def _network(self) -> Any:
        if not hasattr(self._networks, "network"):
            import cv2

            model, empty = np.frombuffer(self._model, dtype=np.uint8), np.zeros(0, dtype=np.uint8)
            self._networks.network = cv2.FaceDetectorYN.create(
                "onnx", model, empty, (LOOK, LOOK), CANDIDATE, _OVERLAP_OF_ONE
            )
        return self._networks.network


def _to_landmarks(boxes: Boxes) -> Boxes:
    """From (N, 4) boxes of the network to those around the landmarks."""
    corner, size = np.tile(boxes[:, :2], 2), np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return np.asarray(corner + size * TO_LANDMARKS, dtype=np.float64)


def _from_landmarks(boxes: Boxes) -> Boxes:
    """The inverse of :func:`_to_landmarks`."""
    size = (boxes[:, 2:] - boxes[:, :2]) / (TO_LANDMARKS[2:] - TO_LANDMARKS[:2])
    corner = boxes[:, :2] - size * TO_LANDMARKS[:2]
    return np.concatenate([corner, corner + size], axis=1)


def distinct(faces: Boxes) -> Boxes:
    """Of several boxes around one face, found at several scales or in several tiles, the first.

    :param faces: (N, 5) boxes and scores, the best first
    """
    kept: list[npt.NDArray[np.float64]] = []
    for face in faces:
        others = np.array(kept).reshape(-1, 5)
        inner = (np.minimum(others[:, 2:4], face[2:4]) - np.maximum(others[:, :2], face[:2])).clip(0).prod(axis=1)
        areas = (others[:, 2:4] - others[:, :2]).prod(axis=1)
        # A face cut by the edge of a tile lies within the whole one.
        within = inner / np.minimum(areas, (face[2:4] - face[:2]).prod())
        if not ((overlaps(others[:, :4], face[:4]) > _OVERLAP_OF_ONE) | (within > 0.7)).any():
            kept.append(face)
    return np.array(kept).reshape(-1, 5)


def _starts(length: int) -> list[int]:
    """Where the tiles along a side begin."""
    if length <= TILE:
        return [0]
    count = -(-(length - OVERLAP) // (TILE - OVERLAP))
    return [round(i * (length - TILE) / (count - 1)) for i in range(count)]


def _read_model() -> bytes:
    import cv2

    if not hasattr(cv2, "FaceDetectorYN"):
        raise DetectorNotFoundError(
            f'This OpenCV ({cv2.__version__}) cannot run YuNet. Either pip install "opencv-python>=4.10,<5", take the '
            "detector 'haar', or pass the faces' boxes."
        )
    try:
        model = MODEL.read_bytes()
    except OSError as error:
        raise DetectorNotFoundError(f"Cannot read '{MODEL}' ({error}). Install face-align-env again.") from error
    if hashlib.sha256(model).hexdigest() != SHA256:
        raise DetectorNotFoundError(f"'{MODEL}' is not the file of this release. Install face-align-env again.")
    return model
