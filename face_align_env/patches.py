"""The patches p_t of section 3.2: K windows around each shape, for many faces at once.

The same lines serve NumPy arrays (the environment) and torch tensors (networks, on any device).
"""

from __future__ import annotations

from typing import Any

import numpy as np

PATCH_SIZE = 30  # pixels; section 3.2


def pad_crops(crops: Any, patch_size: int = PATCH_SIZE) -> Any:
    """Repeat the border of crops so that each window that :func:`extract_patches` may take lies inside.

    :param crops: (N, H, W, 3) uint8 array or tensor
    :return: (N, H + 2 patch_size, W + 2 patch_size, 3), contiguous
    """
    n, height, width, channels = crops.shape
    shape = (n, height + 2 * patch_size, width + 2 * patch_size, channels)
    padded = np.empty(shape, crops.dtype) if isinstance(crops, np.ndarray) else crops.new_empty(shape)
    p, bottom, right = patch_size, patch_size + height, patch_size + width
    padded[:, p:bottom, p:right] = crops
    padded[:, p:bottom, :p] = crops[:, :, :1]
    padded[:, p:bottom, right:] = crops[:, :, -1:]
    padded[:, :p] = padded[:, p : p + 1]
    padded[:, bottom:] = padded[:, bottom - 1 : bottom]
    return padded


def extract_patches(padded: Any, shapes: Any, patch_size: int = PATCH_SIZE) -> Any:
    """Patches around the landmarks of each face.

    A window is placed to the nearest pixel: its centre, which for an even size lies between pixels, is within
    half a pixel of the landmark in x and in y. A landmark outside the crop gets the window at the border.

    :param padded: (N, H + 2 patch_size, W + 2 patch_size, 3) uint8 array or tensor from :func:`pad_crops`
    :param shapes: (N, K, 2) shapes in pixels of the unpadded crops, of the same kind and device
    :return: (N, K, patch_size, patch_size, 3) uint8, a copy
    """
    if not isinstance(padded, np.ndarray) and padded.device.type == "cpu":
        import torch

        # NumPy copies a window row by row, torch's indexing pixel by pixel: five times slower on a CPU.
        patches = extract_patches(padded.numpy(), shapes.detach().numpy(), patch_size)
        return torch.from_numpy(patches)
    n, padded_height, padded_width, channels = padded.shape
    height, width = padded_height - 2 * patch_size, padded_width - 2 * patch_size
    half = (patch_size - 1) / 2
    left = _whole((shapes[..., 0].clip(0, width - 1) - half + 0.5) // 1) + patch_size
    top = _whole((shapes[..., 1].clip(0, height - 1) - half + 0.5) // 1) + patch_size
    row = padded_width * channels
    windows = _strided(
        padded,
        (n, padded_height - patch_size + 1, padded_width - patch_size + 1, patch_size, patch_size * channels),
        (padded_height * row, row, channels, row, 1),
    )
    face = np.arange(n)[:, None] if isinstance(padded, np.ndarray) else left.new_tensor(range(n))[:, None]
    return windows[face, top, left].reshape(n, -1, patch_size, patch_size, channels)


def _whole(values: Any) -> Any:
    return values.astype(np.int64) if isinstance(values, np.ndarray) else values.long()


def _strided(array: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    """A view with overlapping windows; strides in bytes (the pixels are uint8)."""
    if isinstance(array, np.ndarray):
        return np.lib.stride_tricks.as_strided(array, shape, strides, writeable=False)
    return array.as_strided(shape, strides)
