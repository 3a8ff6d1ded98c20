"""Perturbed faces: what photos and detectors do to a face before its crop is cut.

A perturbation changes the photo or the face's box, and the ground truth moves along.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from face_align_env.crops import CONTEXT, CROP_SIZE, Image, Matrix, crop_transform, cut, transform_points
from face_align_env.datasets import Face


@dataclass(frozen=True, eq=False)
class View:
    """A photo and a box in which a face is to be found.

    :param image: (H, W, 3) uint8
    :param box: (4,) x0, y0, x1, y1 in pixels of ``image``
    :param transform: (2, 3) from pixels of the photo to those of ``image``; turns nothing, and scales x and y alike
    """

    image: Image
    box: npt.NDArray[np.float64]
    transform: Matrix


# Makes a view of (face, value, direction): a value of the perturbation, and the face's own random angle.
Perturb = Callable[[Face, float, float], View]


@dataclass(frozen=True, eq=False)
class Perturbation:
    """A panel of the figure, and a table.

    :param name: in the files
    :param title: what changes, and its unit
    :param values: what it is changed to, in the order of the columns
    :param neutral: the value that changes nothing
    :param perturb: changes it; None: another dataset gives the boxes, see :func:`measure`
    :param labels: of the values; None: the numbers
    """

    name: str
    title: str
    values: tuple[float, ...]
    neutral: float
    perturb: Perturb | None
    labels: tuple[str, ...] | None = None

    @property
    def headings(self) -> tuple[str, ...]:
        """Of the values."""
        return self.labels or tuple(f"{value:g}" for value in self.values)


IDENTITY: Matrix = np.eye(2, 3)


def _side(box: npt.NDArray[np.floating]) -> float:
    """The side of the squared box."""
    return float(max(box[2] - box[0], box[3] - box[1]))


def shifted(face: Face, value: float, direction: float) -> View:
    """The box moved by ``value`` of its side in a ``direction`` (radians)."""
    box = face.box.astype(np.float64)
    offset = value * _side(box) * np.array([math.cos(direction), math.sin(direction)])
    return View(face.image, box + np.tile(offset, 2), IDENTITY)


def scaled(face: Face, value: float, direction: float) -> View:
    """The box made ``value`` times as large around its centre."""
    box = face.box.astype(np.float64)
    centre, half = (box[:2] + box[2:]) / 2, value * (box[2:] - box[:2]) / 2
    return View(face.image, np.concatenate([centre - half, centre + half]), IDENTITY)


def _surroundings(face: Face) -> tuple[Image, npt.NDArray[np.int64]]:
    """A square of the photo that holds all that the crop may see, and its first pixel; beyond the photo its border
    is repeated, as in the crop.
    """
    box = face.box.astype(np.float64)
    half = math.ceil(0.75 * _side(box)) + 8  # 1.3 box sides are seen, and some pixels for the interpolation
    centre = np.rint((box[:2] + box[2:]) / 2).astype(np.int64)
    low = centre - half
    spans, borders = [], []
    for first, size in zip(low.tolist(), face.image.shape[1::-1], strict=True):
        start, stop = (min(max(edge, 0), size - 1) for edge in (first, first + 2 * half - 1))
        lacking = 2 * half - (stop + 1 - start)
        before = min(max(-first, 0), lacking)
        spans.append(slice(start, stop + 1))
        borders.append((before, lacking - before))
    square = cv2.copyMakeBorder(face.image[spans[1], spans[0]], *borders[1], *borders[0], cv2.BORDER_REPLICATE)
    return np.asarray(square, dtype=np.uint8), low


def _changed(face: Face, change: Callable[[Image], Image]) -> View:
    """A view in which the pixels around the face have been changed, by something that leaves the size of a square
    image as it is or gives a smaller square.
    """
    square, origin = _surroundings(face)
    image = change(square)
    zoom = len(square) / len(image)
    # pixel q of the new image lies at (q + 0.5) zoom - 0.5 + origin in the photo
    transform = np.column_stack([np.eye(2) / zoom, (0.5 - origin) / zoom - 0.5])
    corners = transform_points(transform, face.box.reshape(2, 2).astype(np.float64))
    return View(image, corners.reshape(4).astype(np.float64), transform)


def reduced(face: Face, value: float, direction: float) -> View:
    """The photo made smaller until the box measures ``value`` pixels; a face that is smaller stays as it is."""
    if _side(face.box) <= value:
        return View(face.image, face.box.astype(np.float64), IDENTITY)

    def change(image: Image) -> Image:
        size = max(1, round(len(image) * value / _side(face.box)))
        return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), dtype=np.uint8)

    return _changed(face, change)


def compressed(face: Face, value: float, direction: float) -> View:
    """The face, at the size that it has in the photo, stored as JPEG of quality ``value``."""

    def change(image: Image) -> Image:
        coded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(value)])[1]
        decoded = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        assert decoded is not None
        return np.ascontiguousarray(decoded[:, :, ::-1], dtype=np.uint8)

    return _changed(face, change)


def _by_table(face: Face, levels: npt.NDArray[np.float64]) -> View:
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return _changed(face, lambda image: table[image])


def multiplied(face: Face, value: float, direction: float) -> View:
    """Every level times ``value``, within 0 to 255."""
    return _by_table(face, value * np.arange(256.0))


def lightened(face: Face, value: float, direction: float) -> View:
    """Every level plus ``value``, within 0 to 255."""
    return _by_table(face, np.arange(256.0) + value)


BOXES = Perturbation("boxes", "boxes", (0, 1), 0, None)
PERTURBATIONS = (
    Perturbation("shift", "box shift, % of its side", (0, 0.05, 0.1, 0.15), 0, shifted, ("0", "5", "10", "15")),
    Perturbation("scale", "box size, times its own", (0.85, 0.92, 1, 1.1, 1.2), 1, scaled),
    Perturbation(
        "resolution",
        "size of the box in the photo, pixels",
        (math.inf, 200, 120, 80, 60, 40),
        math.inf,
        reduced,
        ("own", "200", "120", "80", "60", "40"),
    ),
    Perturbation(
        "jpeg",
        "JPEG quality",
        (math.inf, 90, 50, 30, 15, 8),
        math.inf,
        compressed,
        ("own", "90", "50", "30", "15", "8"),
    ),
    Perturbation("gain", "brightness, times its own", (0.3, 0.5, 0.75, 1, 1.5, 2), 1, multiplied),
    Perturbation("offset", "brightness, levels added", (-100, -50, 0, 50, 100), 0, lightened),
)


@dataclass(frozen=True, eq=False)
class Crop:
    """What a method is given, and what it should find.

    :param image: (256, 256, 3) uint8
    :param landmarks: (K, 2) ground truth, crop pixels
    :param d: the normalising distance of Eq. 2, crop pixels
    """

    image: Image
    landmarks: npt.NDArray[np.float32]
    d: float


def crop_of(view: View, face: Face, d: float, margin: float) -> Crop:
    """The crop that a view of a face leads to.

    :param view: photo and box
    :param face: with its landmarks, in pixels of the photo
    :param d: the normalising distance, pixels of the photo
    :param margin: around the box
    :raises ValueError: the box lies outside of the image
    """
    matrix = crop_transform(view.box, margin)
    # with its context, as prepared faces are cut, though only the middle is used: the same pixels to the bit
    image = cut(view.image, matrix, CONTEXT)[CONTEXT : CONTEXT + CROP_SIZE, CONTEXT : CONTEXT + CROP_SIZE]
    whole = np.column_stack(
        [matrix[:, :2] @ view.transform[:, :2], matrix[:, :2] @ view.transform[:, 2] + matrix[:, 2]]
    )
    return Crop(image, transform_points(whole, face.landmarks), d * float(whole[0, 0]))
