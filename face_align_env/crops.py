"""From a photo and a box to the 256x256 crop that everything else sees, and back.

A point ``p`` of the photo is at ``M p`` in the crop, ``M`` being a (2, 3) matrix; coordinates are (x, y),
pixel centres at integers. The crop is the box, squared around its centre, with a margin on each side.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CROP_SIZE = 256  # pixels; section 4.2
MARGIN = 0.15  # of the box's larger side, added on each side
CONTEXT = 48  # pixels kept around a prepared crop, so that augmentation finds image there

Image = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]


def crop_transform(box: npt.ArrayLike, margin: float = MARGIN) -> Matrix:
    """The float64 matrices from photo pixels to crop pixels.

    :param box: (..., 4) x0, y0, x1, y1 in photo pixels
    :param margin: added on each side of the squared box, as a fraction of its side
    :return: (..., 2, 3)
    :raises ValueError: when a box is not four finite numbers with x0 < x1 and y0 < y1, or ``margin`` leaves
        nothing of it
    """
    boxes = np.asarray(box, dtype=np.float64)
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"Expected boxes x0, y0, x1, y1, got an array of shape {boxes.shape}.")
    size = boxes[..., 2:] - boxes[..., :2]
    wrong = ~(np.isfinite(boxes).all(-1) & (size > 0).all(-1))
    if wrong.any():
        raise ValueError(f"Expected a box x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {boxes[wrong][0].tolist()}.")
    if 1 + 2 * margin <= 0:
        raise ValueError(f"A margin of {margin} leaves nothing of the box; it must be above -0.5.")
    scale = CROP_SIZE / (size.max(-1) * (1 + 2 * margin))
    matrix = np.zeros((*boxes.shape[:-1], 2, 3))
    matrix[..., 0, 0] = matrix[..., 1, 1] = scale
    matrix[..., 2] = (CROP_SIZE - 1) / 2 - scale[..., None] * (boxes[..., :2] + boxes[..., 2:]) / 2
    return matrix


def invert_transform(matrix: Matrix) -> Matrix:
    """Inverse of (..., 2, 3) affine matrices."""
    linear = np.linalg.inv(matrix[..., :2])
    return np.concatenate([linear, -linear @ matrix[..., 2:]], axis=-1)


def transform_points(matrix: Matrix, points: npt.NDArray[np.floating]) -> Points:
    """Map (..., K, 2) points by (..., 2, 3) matrices; float32."""
    moved = points @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]
    return moved.astype(np.float32)


def cut(image: Image, matrix: Matrix, context: int = 0) -> Image:
    """Cut a crop out of a photo.

    :param image: (H, W, 3) uint8, RGB
    :param matrix: (2, 3) from photo to crop pixels, see :func:`crop_transform`
    :param context: pixels to keep around the crop on each side
    :return: (S, S, 3) uint8 with S = 256 + 2 ``context``; beyond the photo its border is repeated
    :raises ValueError: when the image is empty or the crop lies outside of it
    """
    import cv2

    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype != np.uint8:
        raise ValueError(f"Expected a non-empty (H, W, 3) uint8 RGB image, got {image.shape} {image.dtype}.")
    size = CROP_SIZE + 2 * context
    matrix = matrix + np.array([[0, 0, context], [0, 0, context]])
    height, width = image.shape[:2]
    corners = transform_points(invert_transform(matrix), np.array([[-0.5, -0.5], [size - 0.5, size - 0.5]]))
    (left, top), (right, bottom) = corners
    if right < 0 or bottom < 0 or left > width - 1 or top > height - 1:
        raise ValueError(
            f"The face's box lies outside the image: the crop covers x {left:.0f}..{right:.0f}, "
            f"y {top:.0f}..{bottom:.0f}, the image has {width} x {height} pixels. Check the box's units."
        )
    # warpAffine interpolates between four pixels; where the photo is much larger than the crop it is
    # first reduced by an integer factor, or fine texture would turn into noise.
    factor = int(1 / matrix[0, 0])
    if factor >= 2:
        x0, y0 = max(0, int(left) - factor), max(0, int(top) - factor)
        region = image[y0 : max(int(bottom) + 2 * factor, y0 + 1), x0 : max(int(right) + 2 * factor, x0 + 1)]
        new_width, new_height = -(-region.shape[1] // factor), -(-region.shape[0] // factor)
        reduced = cv2.resize(region, (new_width, new_height), interpolation=cv2.INTER_AREA)
        image = np.asarray(reduced, dtype=np.uint8)
        zoom = np.array([region.shape[1] / new_width, region.shape[0] / new_height])
        # pixel q of the reduced region lies at (q + 0.5) zoom - 0.5 + (x0, y0) in the photo
        offset = matrix[:, :2] @ (0.5 * zoom - 0.5 + np.array([x0, y0])) + matrix[:, 2]
        matrix = np.column_stack([matrix[:, :2] * zoom, offset])
    warped = cv2.warpAffine(
        np.ascontiguousarray(image), matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(warped, dtype=np.uint8)
