"""Where the faces of a photo are: what every detector gives, and which one is taken.

A detector is called with a photo and answers with boxes as the landmarks' own box would be: from eyebrow to chin and
from ear to ear. Any callable of that kind serves :class:`~face_align_env.aligner.aligner.FaceAligner`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Boxes = npt.NDArray[np.float64]

DETECTORS = ("auto", "yunet", "haar")

DARK = 128
"""A photo whose 99th percentile is below this is made brighter, grey levels."""


class Detector(Protocol):
    """Finds the faces of a photo."""

    def __call__(self, image: Image, /) -> Boxes:
        """The faces' boxes.

        :param image: (H, W, 3) uint8 RGB
        :return: (N, 4) float64: x0, y0, x1, y1, pixels of the photo, the largest first. A box may reach beyond the
            photo
        :raises ValueError: the image is empty or of another type
        """
        ...


class DetectorNotFoundError(ModuleNotFoundError):
    """This OpenCV cannot run the detector, or its file is damaged; the message says what to do."""


def checked(image: Image) -> Image:
    """The image itself.

    :raises ValueError: it is empty or not (H, W, 3) uint8
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype != np.uint8:
        raise ValueError(f"Expected a non-empty (H, W, 3) uint8 RGB image, got {image.shape} {image.dtype}.")
    return image


def brightened(image: Image) -> Image:
    """A dark photo made brighter, (H, W) or (H, W, 3); any other as it is."""
    import cv2

    peak = float(np.percentile(image[::4, ::4], 99))
    if not 0 < peak < DARK:
        return image
    return np.asarray(cv2.convertScaleAbs(image, alpha=255 / peak), dtype=np.uint8)


def overlaps(boxes: Boxes, box: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(N,) intersection over union of (N, 4) boxes with another one, (4,)."""
    inner = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    shared = inner.clip(0).prod(axis=1)
    overlap: npt.NDArray[np.float64] = shared / (
        (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - shared
    )
    return overlap


def largest_first(boxes: Boxes) -> Boxes:
    """(N, 4) boxes, sorted by their width."""
    ordered: Boxes = boxes[np.argsort(boxes[:, 0] - boxes[:, 2], kind="stable")]
    return ordered
