"""The patches p_t of section 3.2: K windows around each shape, for many faces at once.

The same lines serve NumPy arrays (the environment) and torch tensors (networks, on any device).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from face_align_env.threads import share

PATCH_SIZE = 30  # pixels; section 3.2
_CHUNK = 128  # windows
_WORTH_A_THREAD = 1 << 20  # bytes of windows


def _gather_in_numpy(images: Any, starts: Any, rows: int, row_bytes: int, stride: int, out: Any) -> None:
    """What ``_gather.c`` does, in two to three times the time."""
    # A row is one item of so many bytes, which NumPy moves at once; items overlap and begin at any byte.
    places = images.nbytes - (rows - 1) * stride - row_bytes + 1
    windows = np.ndarray((places, rows), f"V{row_bytes}", images, strides=(1, stride))
    filled = out.reshape(-1, rows * row_bytes).view(f"V{row_bytes}")
    for i in range(0, len(filled), _CHUNK):  # what is indexed is still in the cache when it is copied to its place
        filled[i : i + _CHUNK] = windows[starts[i : i + _CHUNK]]


def _pad_in_numpy(images: Any, count: int, height: int, width: int, channels: int, border: int) -> None:
    """What ``_gather.c`` does, in about four times the time; for tensors too."""
    bottom, right = border + height, border + width
    rows = images[:, border:bottom]
    rows[:, :, :border] = rows[:, :, border : border + 1]
    rows[:, :, right:] = rows[:, :, right - 1 : right]
    images[:, :border] = images[:, border : border + 1]
    images[:, bottom:] = images[:, bottom - 1 : bottom]


try:
    from face_align_env._gather import gather, pad
except ImportError:  # there was no compiler when the package was installed
    gather, pad = _gather_in_numpy, _pad_in_numpy


def pad_crops(crops: Any, patch_size: int = PATCH_SIZE) -> Any:
    """Repeat the border of crops so that each window that :func:`extract_patches` may take lies inside.

    :param crops: (N, H, W, 3) uint8 array or tensor
    :param patch_size: side of the windows, pixels
    :return: (N, H + 2 patch_size, W + 2 patch_size, 3), contiguous
    """
    n, height, width, channels = crops.shape
    shape = (n, height + 2 * patch_size, width + 2 * patch_size, channels)
    padded = np.empty(shape, crops.dtype) if isinstance(crops, np.ndarray) else crops.new_empty(shape)
    inner(padded, patch_size)[:] = crops
    return pad_in_place(padded, patch_size)


def inner(padded: Any, patch_size: int = PATCH_SIZE) -> Any:
    """The crops within padded ones: a view, (N, H, W, 3)."""
    return padded[:, patch_size : padded.shape[1] - patch_size, patch_size : padded.shape[2] - patch_size]


def pad_in_place(padded: Any, patch_size: int = PATCH_SIZE) -> Any:
    """Write the border of crops that are in their places already (:func:`inner`); see :func:`pad_crops`.

    :param padded: (N, H + 2 patch_size, W + 2 patch_size, 3) uint8 array or tensor, contiguous
    :return: the same
    """
    n, height, width, channels = padded.shape
    size = (height - 2 * patch_size, width - 2 * patch_size, channels, patch_size)
    if not isinstance(padded, np.ndarray) and padded.device.type != "cpu":
        _pad_in_numpy(padded, n, *size)
        return padded
    images = padded if isinstance(padded, np.ndarray) else padded.numpy()

    def part(some: slice) -> None:
        pad(images[some], some.stop - some.start, *size)

    share(part, n, images.nbytes // _WORTH_A_THREAD)
    return padded


def _gather_shared(padded: Any, starts: Any, patch_size: int, row_bytes: int, row: int, out: Any) -> None:
    """Fill ``out`` with windows; what takes longer than handing it to a thread is shared."""
    windows = out.reshape(len(starts), -1)

    def part(some: slice) -> None:
        gather(padded, starts[some], patch_size, row_bytes, row, windows[some])

    share(part, len(starts), out.nbytes // _WORTH_A_THREAD)


def extract_patches(padded: Any, shapes: Any, patch_size: int = PATCH_SIZE, faces: Any = None, out: Any = None) -> Any:
    """Patches around the landmarks of each face.

    A window is placed to the nearest pixel: its centre, which for an even size lies between pixels, is within
    half a pixel of the landmark in x and in y. A landmark outside the crop gets the window at the border.

    :param padded: (N, H + 2 patch_size, W + 2 patch_size, 3) uint8 array or tensor from :func:`pad_crops`, contiguous
    :param shapes: (M, K, 2) shapes in pixels of the unpadded crops, of the same kind and device
    :param patch_size: side of a patch, pixels
    :param faces: (M,) which face each shape is of; None: M is N, and they are in the same order
    :param out: NumPy only: the array to fill, contiguous; None: a new one
    :return: (M, K, patch_size, patch_size, 3) uint8, a copy
    :raises FloatingPointError: a shape is not finite (on a CPU; a GPU does not tell)
    """
    if not isinstance(padded, np.ndarray) and padded.device.type == "cpu":
        import torch

        # NumPy and C copy a window row by row, torch's indexing pixel by pixel: many times slower on a CPU.
        which = None if faces is None else faces.numpy()
        return torch.from_numpy(extract_patches(padded.numpy(), shapes.detach().numpy(), patch_size, which))
    _, padded_height, padded_width, channels = padded.shape
    height, width = padded_height - 2 * patch_size, padded_width - 2 * patch_size
    half = (patch_size - 1) / 2
    left = _floor(shapes[..., 0].clip(0, width - 1) - half + 0.5) + patch_size
    top = _floor(shapes[..., 1].clip(0, height - 1) - half + 0.5) + patch_size
    row = padded_width * channels
    if faces is None:
        # Counted on the device: numbers that come from the host make it wait.
        faces = np.arange(len(shapes)) if isinstance(padded, np.ndarray) else left.new_ones(len(shapes)).cumsum(0) - 1
    result = (*shapes.shape[:2], patch_size, patch_size, channels)
    if isinstance(padded, np.ndarray):
        starts = faces[:, None] * (padded_height * row) + top * row + left * channels
        if out is None:
            out = np.empty(result, dtype=np.uint8)
        try:
            _gather_shared(padded, starts.ravel(), patch_size, patch_size * channels, row, out)
        except (ValueError, IndexError) as error:
            if np.isfinite(shapes).all():
                raise
            raise FloatingPointError("There are no patches around landmarks that are not finite.") from error
        return out
    windows = padded.as_strided(
        (len(padded), padded_height - patch_size + 1, padded_width - patch_size + 1, patch_size, patch_size * channels),
        (padded_height * row, row, channels, row, 1),
    )
    return windows[faces[:, None], top, left].reshape(result)


def _floor(values: Any) -> Any:
    return np.floor(values).astype(np.int64) if isinstance(values, np.ndarray) else values.floor().long()
