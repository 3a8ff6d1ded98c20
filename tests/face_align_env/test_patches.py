"""Patches against a naive loop."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from face_align_env.patches import extract_patches, pad_crops


def naive(crops: npt.NDArray[np.uint8], shapes: npt.NDArray[np.float32], p: int) -> npt.NDArray[np.uint8]:
    """Pixel by pixel, from the unpadded crop; outside of it the nearest pixel of the border."""
    n, size = len(crops), crops.shape[1]
    patches = np.zeros((n, shapes.shape[1], p, p, 3), dtype=np.uint8)
    for face in range(n):
        for k, (x, y) in enumerate(shapes[face].clip(0, size - 1)):
            left = int(np.floor(x - (p - 1) / 2 + 0.5))
            top = int(np.floor(y - (p - 1) / 2 + 0.5))
            for row in range(p):
                for column in range(p):
                    source = np.clip([top + row, left + column], 0, size - 1)
                    patches[face, k, row, column] = crops[face, source[0], source[1]]
    return patches


@pytest.fixture(scope="module")
def crops() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)


@pytest.mark.parametrize("p", [1, 6, 7, 30])
def test_equals_the_naive_loop(crops: npt.NDArray[np.uint8], p: int) -> None:
    shapes = np.random.default_rng(1).uniform(-15, 55, (3, 8, 2)).astype(np.float32)
    shapes[0, :6] = [[0, 0], [39, 39], [-0.4, 39.6], [7.5, 8.5], [1e6, -1e6], [20, 20.499]]
    padded = pad_crops(crops, p)
    expected = naive(crops, shapes, p)
    np.testing.assert_array_equal(extract_patches(padded, shapes, p), expected)
    of_tensors = extract_patches(pad_crops(torch.from_numpy(crops), p), torch.from_numpy(shapes), p)
    assert isinstance(of_tensors, torch.Tensor)
    np.testing.assert_array_equal(of_tensors.numpy(), expected)


def test_padding_repeats_the_border(crops: npt.NDArray[np.uint8]) -> None:
    expected = np.pad(crops, ((0, 0), (5, 5), (5, 5), (0, 0)), mode="edge")
    np.testing.assert_array_equal(pad_crops(crops, 5), expected)
    np.testing.assert_array_equal(pad_crops(torch.from_numpy(crops), 5).numpy(), expected)


def test_landmark_lies_within_half_a_pixel_of_the_middle() -> None:
    """A picture whose pixels say where they are."""
    y, x = np.mgrid[:64, :64]
    crop = np.stack([x, y, np.zeros_like(x)], -1)[None].astype(np.uint8)
    shapes = np.random.default_rng(0).uniform(20, 44, (1, 100, 2)).astype(np.float32)
    for p in (30, 31):
        patches = extract_patches(pad_crops(crop, p), shapes, p).astype(np.float64)
        middle = patches.mean(axis=(2, 3))[..., :2]
        assert np.abs(middle - shapes).max() <= 0.5 + 1e-4


def test_patches_are_a_copy(crops: npt.NDArray[np.uint8]) -> None:
    padded = pad_crops(crops, 6)
    before = padded.copy()
    patches = extract_patches(padded, np.full((3, 2, 2), 20, dtype=np.float32), 6)
    patches[:] = 0
    np.testing.assert_array_equal(padded, before)


def test_a_face_does_not_depend_on_its_batch(crops: npt.NDArray[np.uint8]) -> None:
    shapes = np.random.default_rng(2).uniform(0, 40, (3, 5, 2)).astype(np.float32)
    padded = pad_crops(crops)
    together = extract_patches(padded, shapes)
    for face in range(3):
        alone = extract_patches(padded[face : face + 1], shapes[face : face + 1])
        np.testing.assert_array_equal(alone[0], together[face])
