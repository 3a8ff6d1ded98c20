"""Random views of prepared faces on any device: :mod:`face_align_env.augmentation` for tensors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from face_align_env.augmentation import Views, blur_sigmas, covered_pixels, sampling_matrices, warp_images
from face_align_env.crops import CROP_SIZE


def warp_tensors(contexts: Tensor, views: Views, size: int = CROP_SIZE) -> Tensor:
    """Changed crops out of prepared faces on any device: :func:`warp` as torch does it.

    :param contexts: (N, S, S, 3) uint8
    :param views: N views
    :param size: side of the crops to make, pixels
    :return: (N, size, size, 3) uint8 on the same device
    """
    # grid_sample's coordinates go from -1 to 1 over the context.
    matrices = 2 / (contexts.shape[1] - 1) * sampling_matrices(views, size)
    matrices[..., 2] -= 1
    # (v - 127.5) gain + 127.5 + offset, and one half to round when the fraction is cut off
    lifts = 127.5 * (1 - views.gains) + views.offsets + 0.5
    parameters = np.column_stack([matrices.reshape(-1, 6), views.gains, lifts]).astype(np.float32)
    on_device = to_device(parameters, contexts.device)
    to_grid, light = on_device[:, :6].view(-1, 1, 1, 2, 3), on_device[:, 6:].view(-1, 1, 1, 1, 2)
    # Element by element, for the result of a face must not depend on its batch.
    axis = torch.arange(size, dtype=torch.float32, device=contexts.device)[:, None]
    grid = to_grid[..., 0] * axis + (to_grid[..., 1] * axis[:, None] + to_grid[..., 2])
    images = contexts.permute(0, 3, 1, 2).float()
    sampled = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=True)
    covers = covered_pixels(views, size)
    covered = np.flatnonzero((covers[:, 2:] > covers[:, :2]).all(axis=1))
    if len(covered):
        rows = to_device(covered, contexts.device)
        sampled[rows] = _cover(sampled[rows], covers[covered], views.colours[covered])
    sigmas = blur_sigmas(views, size)
    if sigmas.any():
        blurred = np.flatnonzero(sigmas)
        rows = to_device(blurred, contexts.device)
        sampled[rows] = _smooth(sampled[rows], sigmas[blurred])
    bent = np.flatnonzero((views.gammas != 1) | (views.tints != 1).any(axis=1))
    if len(bent):
        rows = to_device(bent, contexts.device)
        sampled[rows] = _bend(sampled[rows], views.gammas[bent], views.tints[bent])
    lit = sampled.mul_(light[..., 0]).add_(light[..., 1]).clamp_(0, 255)
    return lit.permute(0, 2, 3, 1).to(torch.uint8, memory_format=torch.contiguous_format)


def _cover(images: Tensor, covers: npt.NDArray[np.int64], colours: npt.NDArray[np.uint8]) -> Tensor:
    """(N, 3, S, S) images, each with a rectangle of one colour in front."""
    places = np.arange(images.shape[-1])
    columns, rows = ((places >= covers[:, i, None]) & (places < covers[:, i + 2, None]) for i in (0, 1))
    mask = to_device(rows, images.device)[:, None, :, None] & to_device(columns, images.device)[:, None, None]
    return torch.where(mask, to_device(colours, images.device).to(images.dtype)[..., None, None], images)


def _bend(images: Tensor, gammas: npt.NDArray[np.float64], tints: npt.NDArray[np.float64]) -> Tensor:
    """(N, 3, S, S) images after each one's gamma and tint, from whole grey levels, where black is steep."""
    exponents, factors = (to_device(v.astype(np.float32), images.device)[..., None, None] for v in (gammas, tints))
    return 255 * (images.round() / 255) ** exponents[:, None] * factors


def _smooth(images: Tensor, sigmas: npt.NDArray[np.float64]) -> Tensor:
    """(N, 3, S, S) images, each smoothed by its own Gaussian; one convolution along each axis for all of them."""
    n, channels, side, _ = images.shape
    # Each kernel ends where OpenCV's does, so that a face does not depend on its batch.
    radii = np.round(6 * sigmas + 1).astype(np.int64) // 2
    radius = int(radii.max())
    places = np.arange(-radius, radius + 1)
    taps = np.exp(-0.5 * (places / sigmas[:, None]) ** 2) * (np.abs(places) <= radii[:, None])
    taps = (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32).repeat(channels, axis=0)
    kernels = to_device(taps, images.device)[:, None]
    flat = images.reshape(1, n * channels, side, side)
    for kernel, border in ((kernels[:, :, None], (radius, radius, 0, 0)), (kernels[..., None], (0, 0, radius, radius))):
        padded = torch.nn.functional.pad(flat, border, mode="replicate")
        flat = torch.nn.functional.conv2d(padded, kernel, groups=n * channels)
    return flat.view_as(images)


def warp(contexts: Tensor, views: Views, size: int = CROP_SIZE, faces: npt.NDArray[np.int64] | None = None) -> Tensor:
    """Changed crops out of prepared faces.

    :func:`~face_align_env.augmentation.warp_images` makes them on the CPU, :func:`warp_tensors` elsewhere. The former
    rounds the sampled places to 1/32 of a pixel, and grey levels twice, after the interpolation and after the change of
    the light. On faces the two differ by less than half a grey level in the mean, and in less than a thousandth by more
    than two; between black and white pixels side by side the difference can reach twelve.

    :param contexts: (M, S, S, 3) uint8: crops with their context, at any resolution; see
        :class:`~face_align_env.prepared.PreparedFaces`
    :param views: N views
    :param size: side of the crops to make, pixels; S is this plus the context, at the same resolution
    :param faces: (N,) which of the M faces; None: all of them
    :return: (N, size, size, 3) uint8 on the same device
    """
    if contexts.device.type == "cpu":
        images = contexts.numpy()
        chosen = [images[i] for i in (range(len(images)) if faces is None else faces)]
        return torch.from_numpy(warp_images(chosen, views, size))
    if faces is not None:
        contexts = contexts[to_device(faces, contexts.device)]
    return warp_tensors(contexts, views, size)


def to_device(values: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """A small array on a device; to a GPU the copy is queued, so that nobody waits for what was queued before."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
