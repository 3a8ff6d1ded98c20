"""Pictures: shapes on a face, the windows of its patches, the patches themselves, an episode.

Every function takes arrays and returns a new picture, (H, W, 3) uint8 RGB. Shapes are in pixels of the crop; a
picture shows the crop ``SCALE`` times as large.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from face_align_env.datasets import Face
from face_align_env.landmarks import LandmarkScheme
from face_align_env.patches import PATCH_SIZE

Picture = npt.NDArray[np.uint8]
Shape = npt.NDArray[np.float32]
Color = tuple[int, int, int]

SCALE = 2
# The Okabe-Ito colours can be told apart by the colour-blind too.
CURRENT: Color = (86, 180, 233)
INITIAL: Color = (230, 159, 0)
GROUND_TRUTH: Color = (255, 255, 255)
WINDOW: Color = (240, 228, 66)
INK: Color = (255, 255, 255)

_SHIFT = 4  # fractional bits of OpenCV's coordinates


def enlarge(crop: Picture, scale: int = SCALE) -> Picture:
    """The crop, ``scale`` times as large: the picture that the other functions draw on."""
    size = (crop.shape[1] * scale, crop.shape[0] * scale)
    return np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def draw_shape(
    picture: Picture,
    shape: Shape,
    scheme: LandmarkScheme,
    color: Color = CURRENT,
    scale: int = SCALE,
    radius: int = 3,
    drawn: npt.NDArray[np.bool_] | None = None,
) -> Picture:
    """A shape as its scheme's contours, and its landmarks as dots.

    :param picture: see :func:`enlarge`
    :param shape: (K, 2) in pixels of the crop
    :param scheme: says which landmarks a line joins
    :param radius: of the dots, pixels of the picture; 0: none
    :param drawn: (K,), the landmarks to draw (those that are annotated); None: all
    """
    picture = picture.copy()
    points = _pixels(shape, scale)
    shown = np.ones(len(points), dtype=np.bool_) if drawn is None else drawn
    for contour, closed in scheme.contours:
        curve = [point for point in contour if shown[point]]
        if curve:
            cv2.polylines(picture, [points[curve]], closed, color, 1, cv2.LINE_AA, _SHIFT)
    if radius:
        for x, y in points[shown].tolist():
            cv2.circle(picture, (x, y), radius << _SHIFT, color, -1, cv2.LINE_AA, _SHIFT)
    return picture


def draw_windows(
    picture: Picture, shape: Shape, patch_size: int = PATCH_SIZE, scale: int = SCALE, count: int = 6
) -> Picture:
    """The windows from which the patches of ``count`` landmarks, spread over the shape, are taken."""
    picture = picture.copy()
    chosen = np.linspace(0, len(shape) - 1, min(count, len(shape))).round().astype(int)
    half = np.float32(patch_size / 2)
    for (x0, y0), (x1, y1) in zip(
        _pixels(shape[chosen] - half, scale).tolist(), _pixels(shape[chosen] + half, scale).tolist(), strict=True
    ):
        cv2.rectangle(picture, (x0, y0), (x1, y1), WINDOW, 1, cv2.LINE_AA, _SHIFT)
    return picture


def draw_trajectory(picture: Picture, shapes: Sequence[Shape], scheme: LandmarkScheme, scale: int = SCALE) -> Picture:
    """The way of each landmark from the first shape to the last, and the last shape.

    :param shapes: T shapes (K, 2), x_0 first
    """
    picture = picture.copy()
    paths = np.stack([_pixels(shape, scale) for shape in shapes], axis=1)
    cv2.polylines(picture, list(paths), False, INITIAL, 1, cv2.LINE_AA, _SHIFT)
    for x, y in paths[:, 0].tolist():
        cv2.circle(picture, (x, y), 1 << _SHIFT, INITIAL, -1, cv2.LINE_AA, _SHIFT)
    return draw_shape(picture, shapes[-1], scheme, CURRENT, scale)


def draw_caption(picture: Picture, caption: str) -> Picture:
    """One line of text on a darkened band at the upper edge."""
    picture = picture.copy()
    band = picture[:24]
    band[:] = band // 3
    cv2.putText(picture, caption, (8, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, INK, 1, cv2.LINE_AA)
    return picture


def draw_state(
    crop: Picture,
    scheme: LandmarkScheme,
    x_t: Shape,
    x_0: Shape,
    ground_truth: Shape,
    patch_size: int = PATCH_SIZE,
    caption: str = "",
    annotated: npt.NDArray[np.bool_] | None = None,
) -> Picture:
    """What the environment renders: x_0 (orange, thin), the ground truth (white), x_t (blue), some patch windows.

    :param crop: (256, 256, 3) uint8
    :param x_t, x_0, ground_truth: (K, 2) in pixels of the crop
    :param annotated: (K,), the landmarks of the ground truth to draw; None: all
    :return: (512, 512, 3) uint8
    """
    picture = draw_shape(enlarge(crop), x_0, scheme, INITIAL, radius=0)
    picture = draw_shape(picture, ground_truth, scheme, GROUND_TRUTH, radius=0, drawn=annotated)
    picture = draw_windows(draw_shape(picture, x_t, scheme, CURRENT), x_t, patch_size)
    return draw_caption(picture, caption) if caption else picture


def draw_annotation(face: Face, scheme: LandmarkScheme, size: int = 900) -> Picture:
    """A face of a dataset with what its annotation says, to look at and to count points.

    Landmarks with their numbers (from 0): white where visible, orange where not; those that do not count are left out.
    The box is yellow.

    :param face: with its image
    :param size: of the picture's longer side, pixels
    :return: (H, W, 3) uint8: the surroundings of the face, half its size on each side
    """
    counted = np.ones(len(face.landmarks), dtype=np.bool_) if face.counted is None else face.counted
    corners = np.concatenate([face.landmarks[counted], face.box.reshape(2, 2)])
    reach = 0.5 * (face.box[2:] - face.box[:2]).max()
    height, width = face.image.shape[:2]
    x0, y0 = np.floor((corners.min(0) - reach).clip(0)).astype(int).tolist()
    x1, y1 = np.ceil((corners.max(0) + reach).clip(1, (width, height))).astype(int).tolist()
    region = face.image[y0:y1, x0:x1]
    scale = size / max(region.shape[:2])
    resized = cv2.resize(region, (max(1, round(region.shape[1] * scale)), max(1, round(region.shape[0] * scale))))
    picture = np.asarray(resized, dtype=np.uint8)
    points = (face.landmarks - (x0, y0) + 0.5) * scale - 0.5
    (left, top), (right, bottom) = ((face.box.reshape(2, 2) - (x0, y0) + 0.5) * scale - 0.5).round().astype(int)
    cv2.rectangle(picture, (left, top), (right, bottom), WINDOW, 1)
    picture = draw_shape(picture, points, scheme, CURRENT, scale=1, radius=0, drawn=counted)
    for number in np.flatnonzero(counted).tolist():
        x, y = points[number].round().astype(int).tolist()
        color = GROUND_TRUTH if face.visible[number] else INITIAL
        cv2.circle(picture, (x, y), 3, color, -1, cv2.LINE_AA)
        for ink, thickness in (((0, 0, 0), 3), (color, 1)):  # a dark rim, to be read on any skin
            place = (x + 4, y - 4)
            cv2.putText(picture, str(number), place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, ink, thickness, cv2.LINE_AA)
    return draw_caption(picture, f"{face.id}   {width} x {height}   {int(face.visible.sum())} visible")


def patch_grid(patches: npt.NDArray[np.uint8], columns: int | None = None) -> Picture:
    """The patches of one face side by side, with a gap of one pixel.

    :param patches: (K, p, p, 3) uint8, the observation's ``patches``
    :param columns: number of patches in a row; None: about as many as rows
    """
    count, p = patches.shape[:2]
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    grid = np.zeros((rows, columns, p + 1, p + 1, 3), dtype=np.uint8)
    grid.reshape(-1, p + 1, p + 1, 3)[:count, :p, :p] = patches
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * (p + 1), columns * (p + 1), 3)[:-1, :-1]


def side_by_side(pictures: Sequence[Picture], columns: int | None = None, gap: int = 8) -> Picture:
    """Pictures in rows on white, such as those of an episode.

    :param pictures: each in the upper left corner of a cell that the largest fits in
    :param columns: number of pictures in a row; None: all in one row
    """
    columns = columns or len(pictures)
    rows = -(-len(pictures) // columns)
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def _pixels(shape: Shape, scale: int) -> npt.NDArray[np.int32]:
    """(K, 2) fixed-point pixels of the picture; a pixel's centre stays its centre."""
    position = (shape.astype(np.float64) + 0.5) * scale - 0.5
    # Shapes may wander far out of the picture, and OpenCV's integers are small.
    return np.asarray((position.clip(-4096, 4096) * (1 << _SHIFT)).round(), dtype=np.int32)
