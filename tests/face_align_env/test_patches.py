"""Patches against a naive loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from face_align_env import patches as module
from face_align_env import threads
from face_align_env.patches import extract_patches, inner, pad_crops, pad_in_place


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


@pytest.fixture(params=["compiled", "numpy"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled inner loops, where there are some, and with those in NumPy."""
    if request.param == "numpy":
        monkeypatch.setattr(module, "gather", module._gather_in_numpy)
        monkeypatch.setattr(module, "pad", module._pad_in_numpy)
    elif module.gather is module._gather_in_numpy:
        pytest.skip("the package was installed without a compiler")


@pytest.mark.usefixtures("either_way")
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


@pytest.mark.usefixtures("either_way")
def test_padding_repeats_the_border(crops: npt.NDArray[np.uint8]) -> None:
    expected = np.pad(crops, ((0, 0), (5, 5), (5, 5), (0, 0)), mode="edge")
    np.testing.assert_array_equal(pad_crops(crops, 5), expected)
    np.testing.assert_array_equal(pad_crops(torch.from_numpy(crops), 5).numpy(), expected)
    np.testing.assert_array_equal(pad_crops(crops[:, ::-1], 5), expected[:, ::-1], "a view is no obstacle")
    placed = np.zeros_like(expected)
    inner(placed, 5)[:] = crops
    assert pad_in_place(placed, 5) is placed
    np.testing.assert_array_equal(placed, expected)


def test_landmark_lies_within_half_a_pixel_of_the_middle() -> None:
    """A picture whose pixels say where they are."""
    y, x = np.mgrid[:64, :64]
    crop = np.stack([x, y, np.zeros_like(x)], -1)[None].astype(np.uint8)
    shapes = np.random.default_rng(0).uniform(20, 44, (1, 100, 2)).astype(np.float32)
    for p in (30, 31):
        patches = extract_patches(pad_crops(crop, p), shapes, p).astype(np.float64)
        middle = patches.mean(axis=(2, 3))[..., :2]
        assert np.abs(middle - shapes).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("gather", [module.gather, module._gather_in_numpy], ids=["as installed", "in NumPy"])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_shapes_that_are_not_finite_have_none(gather: Any, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "gather", gather)
    shapes = np.full((1, 3, 2), 50, dtype=np.float32)
    shapes[0, 1, 0] = np.nan
    padded = pad_crops(kind(np.zeros((1, 256, 256, 3), np.uint8)))
    with np.errstate(invalid="ignore"), pytest.raises(FloatingPointError, match="not finite"):
        extract_patches(padded, kind(shapes))


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


@pytest.mark.usefixtures("either_way")
def test_each_shape_may_be_of_any_face(crops: npt.NDArray[np.uint8]) -> None:
    shapes = np.random.default_rng(3).uniform(0, 40, (4, 5, 2)).astype(np.float32)
    padded, faces = pad_crops(crops), np.array([2, 0, 2, 1])
    expected = extract_patches(padded[faces], shapes)
    np.testing.assert_array_equal(extract_patches(padded, shapes, faces=faces), expected)
    of_tensors = extract_patches(torch.from_numpy(padded), torch.from_numpy(shapes), faces=torch.from_numpy(faces))
    np.testing.assert_array_equal(of_tensors.numpy(), expected)
    out = np.zeros_like(expected)
    assert extract_patches(padded, shapes, faces=faces, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_tensors_of_other_devices_are_cut_by_torch_alone(
    crops: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such device is needed to see that: a subclass says that it is on one."""

    class Elsewhere(torch.Tensor):
        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return torch.device("meta")

    shapes = np.random.default_rng(4).uniform(-5, 45, (3, 5, 2)).astype(np.float32)
    expected = extract_patches(pad_crops(crops), shapes)
    monkeypatch.setattr(module, "gather", None)
    monkeypatch.setattr(module, "pad", None)
    there = torch.from_numpy(crops).as_subclass(Elsewhere)
    patches = extract_patches(pad_crops(there), torch.from_numpy(shapes).as_subclass(Elsewhere))
    np.testing.assert_array_equal(patches.as_subclass(torch.Tensor).numpy(), expected)


@pytest.mark.usefixtures("either_way")
def test_threads_change_nothing(crops: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = np.random.default_rng(5).uniform(0, 40, (3, 7, 2)).astype(np.float32)
    padded = pad_crops(crops)
    expected = extract_patches(padded, shapes)
    monkeypatch.setattr(module, "_WORTH_A_THREAD", 5000)
    for cores in (1, 2, 3, 50):
        monkeypatch.setattr(threads, "CORES", cores)
        np.testing.assert_array_equal(extract_patches(padded, shapes), expected)


def test_a_fault_in_a_thread_is_not_lost(crops: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("face_align_env._gather")
    monkeypatch.setattr(module, "_WORTH_A_THREAD", 5000)
    monkeypatch.setattr(threads, "CORES", 2)
    shapes = np.full((3, 7, 2), 20, dtype=np.float32)
    shapes[2, 6] = np.nan
    with pytest.warns(RuntimeWarning, match="invalid value"), pytest.raises(FloatingPointError):
        extract_patches(pad_crops(crops), shapes)


def test_the_compiled_loops_refuse_what_would_leave_the_memory() -> None:
    native = pytest.importorskip("face_align_env._gather")
    images, out = np.zeros(1000, np.uint8), np.zeros((2, 3, 30), np.uint8)
    native.gather(images, np.array([0, 1000 - 2 * 90 - 30]), 3, 30, 90, out)
    for start in (-1, 1000 - 2 * 90 - 30 + 1, 2**62):
        with pytest.raises(ValueError, match="outside of the images"):
            native.gather(images, np.array([0, start]), 3, 30, 90, out)
    for rows, row_bytes, stride in ((2, 30, 90), (3, 29, 90), (0, 30, 90), (3, 30, -90), (3, 30, 2**62)):
        with pytest.raises(ValueError, match=r"do not fill|outside"):
            native.gather(images, np.array([0, 0]), rows, row_bytes, stride, out)
    with pytest.raises(ValueError, match="not of that size"):
        native.pad(images, 2, 10, 10, 3, 2)
    out.flags.writeable = False
    with pytest.raises(TypeError, match="read-write"):
        native.gather(images, np.array([0, 1]), 3, 30, 90, out)
