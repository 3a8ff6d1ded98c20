"""From the photo to the crop and back."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from face_align_env.crops import CONTEXT, CROP_SIZE, crop_transform, cut, invert_transform, transform_points
from face_align_env.datasets import FaceDataset
from face_align_env.prepared import FaceSource, PreparedFaces


def blob(height: int, width: int, x: float, y: float, sigma: float) -> npt.NDArray[np.uint8]:
    """A bright spot around (x, y) on black."""
    rows, columns = np.mgrid[:height, :width]
    spot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return np.repeat(spot[..., None], 3, axis=2).astype(np.uint8)


def centroid(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    weights = image[..., 0].astype(np.float64)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()


def test_box_is_squared_around_its_centre() -> None:
    matrix = crop_transform([100, 50, 200, 90], margin=0.0)
    corners = transform_points(matrix, np.array([[100.0, 70.0], [200.0, 70.0], [150.0, 20.0], [150.0, 120.0]]))
    np.testing.assert_allclose(corners, [[-0.5, 127.5], [255.5, 127.5], [127.5, -0.5], [127.5, 255.5]], atol=1e-4)


def test_margin_is_a_fraction_of_the_side_on_each_side() -> None:
    matrix = crop_transform([0, 0, 100, 100], margin=0.14)
    np.testing.assert_allclose(matrix[0, 0], 256 / 128)


def test_points_come_back_to_the_photo() -> None:
    rng = np.random.default_rng(0)
    boxes = np.stack([crop_transform([x, y, x + s, y + s * 0.8]) for x, y, s in rng.uniform(10, 900, (5, 3))])
    points = rng.uniform(0, 1000, (5, 68, 2))
    there = transform_points(boxes, points)
    back = transform_points(invert_transform(boxes), there)
    np.testing.assert_allclose(back, points, atol=0.01)


@pytest.mark.parametrize("side", [60, 256, 333, 700, 1500], ids=lambda side: f"box of {side}")
def test_pixels_move_as_points_do(side: int) -> None:
    """A spot of the photo is where its coordinates say, enlarged or reduced by any factor."""
    x, y = 0.9 * side + 13.3, 0.8 * side + 7.7
    image = blob(int(1.6 * side), int(1.8 * side), x, y, sigma=max(side / 40, 2))
    matrix = crop_transform([0.4 * side, 0.3 * side, 1.4 * side, 1.3 * side])
    crop = cut(image, matrix)
    assert crop.shape == (CROP_SIZE, CROP_SIZE, 3)
    expected = transform_points(matrix, np.array([[x, y]]))[0]
    np.testing.assert_allclose(centroid(crop), expected, atol=0.1)


def test_context_surrounds_the_same_crop() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    matrix = crop_transform([50, 60, 210, 230])
    inner = cut(image, matrix, CONTEXT)[CONTEXT:-CONTEXT, CONTEXT:-CONTEXT]
    assert np.abs(inner.astype(int) - cut(image, matrix)).max() <= 1


def test_beyond_the_photo_its_border_is_repeated() -> None:
    image = np.full((100, 100, 3), 7, dtype=np.uint8)
    image[:, 0] = 200
    crop = cut(image, crop_transform([-60, 0, 60, 100]))
    assert (crop[:, :100] == 200).all()


def test_round_trip_of_an_image() -> None:
    """A photo, its crop of twice the size, and the photo again from that."""
    small = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = np.asarray(cv2.resize(small, (128, 128), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
    matrix = crop_transform([-0.5, -0.5, 127.5, 127.5], margin=0.0)
    back = cv2.warpAffine(cut(image, matrix), invert_transform(matrix), (128, 128), flags=cv2.INTER_LINEAR)
    assert np.abs(back.astype(int) - image)[2:-2, 2:-2].max() <= 6


@pytest.mark.parametrize("box", [[0, 0, 0, 10], [10, 0, 0, 10], [0, 0, np.nan, 10], [0, 10, 10, 10]], ids=str)
def test_wrong_boxes_are_refused(box: list[float]) -> None:
    with pytest.raises(ValueError, match="x0 < x1"):
        crop_transform(box)


def test_wrong_margins_are_refused() -> None:
    with pytest.raises(ValueError, match="margin"):
        crop_transform([0, 0, 10, 10], margin=-0.5)


def test_wrong_images_are_refused() -> None:
    matrix = crop_transform([0, 0, 10, 10])
    for image in (np.zeros((0, 5, 3), np.uint8), np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3), np.float32)):
        with pytest.raises(ValueError, match="uint8 RGB image"):
            cut(image, matrix)
    with pytest.raises(ValueError, match="outside the image"):
        cut(np.zeros((50, 50, 3), np.uint8), crop_transform([200, 200, 240, 240]))


# -- prepared faces ----------------------------------------------------------------------------------------------------


def test_prepared_landmarks_are_those_of_the_crop(toy_dataset: Callable[..., FaceDataset]) -> None:
    dataset = toy_dataset()
    prepared = PreparedFaces(dataset)
    for index in range(len(dataset)):
        annotation = dataset.annotation(index)
        matrix = crop_transform(annotation.box)
        np.testing.assert_array_equal(prepared.landmarks[index], transform_points(matrix, annotation.landmarks))
        np.testing.assert_array_equal(
            prepared.crop(index), cut(dataset.image(index), matrix, CONTEXT)[CONTEXT:-CONTEXT, CONTEXT:-CONTEXT]
        )


def test_cache_is_bounded_and_changes_nothing(toy_dataset: Callable[..., FaceDataset]) -> None:
    dataset = toy_dataset()
    cached, uncached = PreparedFaces(dataset, max_cached=2), PreparedFaces(dataset, max_cached=0)
    for index in (0, 1, 0, 2, 3, 0):
        np.testing.assert_array_equal(cached.context(index), uncached.context(index))
        assert len(cached._cache) <= 2
    assert not uncached._cache


def test_source_without_augmentation_ignores_the_seed(toy_dataset: Callable[..., FaceDataset]) -> None:
    source = FaceSource(PreparedFaces(toy_dataset()))
    indices, one, other = np.array([1, 2]), np.array([0, 1]), np.array([2, 3])
    np.testing.assert_array_equal(source.crops(indices, one), source.crops(indices, other))
    np.testing.assert_array_equal(source.annotations(indices, one)[0], source.annotations(indices, other)[0])
