"""Random views of prepared faces, for training: rotation, scale, shift, mirror, brightness, contrast.

Parameters are drawn with NumPy (few numbers, the same on every device); images are warped with torch on
whichever device they live, so the environment on a CPU and supervised training on a GPU share this code.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from face_align_env.crops import CONTEXT, CROP_SIZE, invert_transform, transform_points
from face_align_env.landmarks import LandmarkScheme


@dataclass(frozen=True)
class Views:
    """How N crops are changed.

    :param matrices: (N, 2, 3) float64, from pixels of the plain crop to pixels of the changed one
    :param mirrored: (N,) bool; the matrix contains the mirroring, the landmarks' order does not
    :param scales: (N,) float64, change of lengths
    :param gains: (N,) float64, factor of the contrast around mid-grey
    :param offsets: (N,) float64, added brightness in grey levels
    """

    matrices: npt.NDArray[np.float64]
    mirrored: npt.NDArray[np.bool_]
    scales: npt.NDArray[np.float64]
    gains: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.float64]

    @staticmethod
    def concatenate(views: list[Views]) -> Views:
        """One batch out of several."""
        return Views(*(np.concatenate([getattr(view, f.name) for view in views]) for f in fields(Views)))

    def landmarks(self, landmarks: npt.NDArray[np.float32], scheme: LandmarkScheme) -> npt.NDArray[np.float32]:
        """(N, K, 2) landmarks of the plain crops, where they are in the changed ones."""
        moved = transform_points(self.matrices, landmarks)
        return np.where(self.mirrored[:, None, None], moved[:, scheme.mirror_permutation], moved)

    def flags(self, flags: npt.NDArray[np.bool_], scheme: LandmarkScheme) -> npt.NDArray[np.bool_]:
        """(N, K) flags of the landmarks in the changed crops' order."""
        return np.where(self.mirrored[:, None], flags[:, scheme.mirror_permutation], flags)


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; each is drawn uniformly.

    :param rotation: largest rotation about the crop's centre, degrees
    :param scale: largest change of size, a fraction: sizes from 1 - scale to 1 + scale
    :param shift: largest shift in x and in y, a fraction of the crop
    :param mirror: probability of a left-right flip
    :param contrast: largest change of the contrast, a fraction
    :param brightness: largest change of the brightness, grey levels of 255
    :raises ValueError: when a range makes no sense
    """

    rotation: float = 20.0
    scale: float = 0.15
    shift: float = 0.06
    mirror: float = 0.5
    contrast: float = 0.25
    brightness: float = 32.0

    def __post_init__(self) -> None:
        if not 0 <= self.scale < 1 or not 0 <= self.mirror <= 1 or not 0 <= self.contrast < 1:
            raise ValueError(f"scale and contrast must lie in [0, 1), mirror in [0, 1]: got {self}.")
        if min(self.rotation, self.shift, self.brightness) < 0:
            raise ValueError(f"Ranges must not be negative: got {self}.")

    def sample(self, rng: np.random.Generator, n: int) -> Views:
        """Draw ``n`` views."""
        angle = np.deg2rad(rng.uniform(-self.rotation, self.rotation, n))
        scales = rng.uniform(1 - self.scale, 1 + self.scale, n)
        shift = rng.uniform(-self.shift, self.shift, (n, 2)) * CROP_SIZE
        mirrored = rng.random(n) < self.mirror
        cos, sin = scales * np.cos(angle), scales * np.sin(angle)
        linear = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
        linear[..., 0] *= np.where(mirrored, -1.0, 1.0)[:, None]
        middle = np.full(2, (CROP_SIZE - 1) / 2)
        return Views(
            matrices=np.concatenate([linear, (middle + shift - linear @ middle)[..., None]], axis=-1),
            mirrored=mirrored,
            scales=scales,
            gains=rng.uniform(1 - self.contrast, 1 + self.contrast, n),
            offsets=rng.uniform(-self.brightness, self.brightness, n),
        )

    def sample_seeded(self, seeds: npt.ArrayLike) -> Views:
        """One view for each seed, a function of the seed alone."""
        return Views.concatenate([self.sample(np.random.default_rng(int(seed)), 1) for seed in np.ravel(seeds)])


def warp(contexts: Tensor, views: Views, size: int = CROP_SIZE) -> Tensor:
    """Changed crops out of prepared faces.

    :param contexts: (N, S, S, 3) uint8: crops with their context (see :class:`~.prepared.PreparedFaces`), at any
        resolution
    :param views: N views
    :param size: side of the crops to make, pixels; S is this plus the context, at the same resolution
    :return: (N, size, size, 3) uint8 on the same device
    """
    side = contexts.shape[1]
    resolution = size / CROP_SIZE
    inverse = invert_transform(views.matrices)
    # Output pixel (i, j) of any resolution, in pixels of the full crop, and the sampled place in grid_sample's
    # coordinates, -1 to 1 over the context. Both are linear, so the grid is a sum of a row and a column: element by
    # element, for the result of a face must not depend on its batch.
    axis = (np.arange(size) + 0.5) / resolution - 0.5
    to_grid = 2 * resolution / (side - 1)
    rows = inverse[:, None, :, 0] * axis[:, None] * to_grid
    columns = inverse[:, None, :, 1] * axis[:, None] * to_grid
    columns += (inverse[:, None, :, 2] + CONTEXT + 0.5) * to_grid - 1 / (side - 1) - 1

    def device_tensor(values: npt.NDArray[np.float64]) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=contexts.device)

    grid = device_tensor(rows)[:, None, :] + device_tensor(columns)[:, :, None]
    images = contexts.permute(0, 3, 1, 2).float()
    sampled = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=True)
    gains = device_tensor(views.gains)[:, None, None, None]
    # (v - 127.5) gain + 127.5 + offset, and one half to round when the fraction is cut off
    shifts = device_tensor(127.5 * (1 - views.gains) + views.offsets + 0.5)[:, None, None, None]
    lit = sampled.mul_(gains).add_(shifts).clamp_(0, 255)
    return lit.permute(0, 2, 3, 1).to(torch.uint8, memory_format=torch.contiguous_format)
