"""Random views of prepared faces, for training: rotation, scale, shift, mirror, light, blur, and what covers a face.

Parameters are drawn with NumPy (few numbers, the same on every device), and one matrix says where a view takes its
pixels from. Here OpenCV follows it, for images in main memory: environment, replay buffer and training on the CPU see
the same pixels. For a batch on an accelerator torch does (``face_align_env.pretrain.warping``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.crops import CONTEXT, CROP_SIZE, invert_transform, transform_points
from face_align_env.landmarks import LandmarkScheme
from face_align_env.threads import share

_WORTH_A_THREAD = 1 << 18  # pixels to make: four crops at full size
_LEAST_COVER = 0.25  # smallest side of what covers a face, a fraction of the largest
_LEAST_BLUR = 0.3  # standard deviation in pixels: less leaves nine tenths of a pixel's weight where it is


@dataclass(frozen=True)
class Views:
    """How N crops are changed.

    :param matrices: (N, 2, 3) float64, from pixels of the plain crop to pixels of the changed one
    :param mirrored: (N,) bool; the matrix contains the mirroring, the landmarks' order does not
    :param scales: (N,) float64, change of lengths
    :param gains: (N,) float64, factor of the contrast around mid-grey
    :param offsets: (N,) float64, added brightness in grey levels
    :param blurs: (N,) float64, standard deviation of the Gaussian that smoothes the crop, pixels of the full-size crop;
        0: none
    :param gammas: (N,) float64, exponents of the grey levels as fractions of 255, before contrast and brightness
    :param tints: (N, 3) float64, factors of red, green and blue, likewise
    :param covers: (N, 4) float64 x0, y0, x1, y1 of a rectangle of one colour that lies in front of the face, pixels of
        the full-size changed crop; empty: none
    :param colours: (N, 3) uint8, the rectangles' red, green and blue, before the light is changed
    """

    matrices: npt.NDArray[np.float64]
    mirrored: npt.NDArray[np.bool_]
    scales: npt.NDArray[np.float64]
    gains: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.float64]
    blurs: npt.NDArray[np.float64]
    gammas: npt.NDArray[np.float64]
    tints: npt.NDArray[np.float64]
    covers: npt.NDArray[np.float64]
    colours: npt.NDArray[np.uint8]

    @staticmethod
    def plain(matrices: npt.NDArray[np.float64], scales: npt.NDArray[np.float64]) -> Views:
        """Views that are moved, and whose pixels are otherwise left alone."""
        n = len(matrices)
        return Views(
            matrices=matrices,
            mirrored=np.zeros(n, dtype=np.bool_),
            scales=scales,
            gains=np.ones(n),
            offsets=np.zeros(n),
            blurs=np.zeros(n),
            gammas=np.ones(n),
            tints=np.ones((n, 3)),
            **_uncovered(n),
        )

    @staticmethod
    def concatenate(views: list[Views]) -> Views:
        """One batch out of several."""
        return Views(*(np.concatenate([getattr(view, f.name) for view in views]) for f in fields(Views)))

    def part(self, some: slice) -> Views:
        """Those of some of the crops."""
        return Views(*(getattr(self, f.name)[some] for f in fields(Views)))

    def landmarks(self, landmarks: npt.NDArray[np.float32], scheme: LandmarkScheme) -> npt.NDArray[np.float32]:
        """(N, K, 2) landmarks of the plain crops, where they are in the changed ones."""
        moved = transform_points(self.matrices, landmarks)
        return np.where(self.mirrored[:, None, None], moved[:, scheme.mirror_permutation], moved)

    def flags(self, flags: npt.NDArray[np.bool_], scheme: LandmarkScheme) -> npt.NDArray[np.bool_]:
        """(N, K) flags of the landmarks in the changed crops' order."""
        return np.where(self.mirrored[:, None], flags[:, scheme.mirror_permutation], flags)


def _uncovered(n: int) -> dict[str, Any]:
    """:attr:`Views.covers` and :attr:`Views.colours` of ``n`` faces that nothing covers."""
    return {"covers": np.zeros((n, 4)), "colours": np.zeros((n, 3), dtype=np.uint8)}


def moves(
    angles: npt.NDArray[np.float64],
    scales: npt.NDArray[np.float64],
    shifts: npt.NDArray[np.float64],
    mirrored: npt.NDArray[np.bool_] | bool = False,
) -> npt.NDArray[np.float64]:
    """(N, 2, 3) :attr:`Views.matrices` that mirror, turn and scale about the crop's centre, and shift.

    :param angles: (N,) radians
    :param scales: (N,)
    :param shifts: (N, 2) pixels
    :param mirrored: (N,), or of all
    """
    cos, sin = scales * np.cos(angles), scales * np.sin(angles)
    linear = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    linear[..., 0] *= np.where(mirrored, -1.0, 1.0)[..., None]
    middle = np.full(2, (CROP_SIZE - 1) / 2)
    return np.concatenate([linear, (middle + shifts - linear @ middle)[..., None]], axis=-1)


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; each is drawn uniformly.

    :param rotation: largest rotation about the crop's centre, degrees
    :param scale: largest change of size, a fraction: sizes from 1 - scale to 1 + scale
    :param shift: largest shift in x and in y, a fraction of the crop
    :param mirror: probability of a left-right flip
    :param contrast: largest change of the contrast, a fraction
    :param brightness: largest change of the brightness, grey levels of 255
    :param blur: largest standard deviation of a Gaussian blur, pixels of the full-size crop: what small or moving
        faces look like when they are enlarged
    :param blurred: probability that a view is blurred at all
    :param gamma: largest change of the logarithm of gamma, the exponent of the grey levels: darker and brighter photos
    :param tint: largest change of red, green and blue, each by itself, a fraction
    :param occlusion: largest side of a rectangle of one random colour that covers a part of the face, a fraction of the
        crop; 0: nothing is covered
    :param occluded: probability that there is such a rectangle
    :raises ValueError: when a range makes no sense
    """

    rotation: float = 25.0
    scale: float = 0.2
    shift: float = 0.08
    mirror: float = 0.5
    contrast: float = 0.25
    brightness: float = 32.0
    blur: float = 3.0
    blurred: float = 0.3
    gamma: float = 0.0
    tint: float = 0.0
    occlusion: float = 0.0
    occluded: float = 0.5

    def __post_init__(self) -> None:
        if not all(0 <= share < 1 for share in (self.scale, self.contrast, self.tint)):
            raise ValueError(f"scale, contrast and tint must lie in [0, 1): got {self}.")
        if not all(0 <= share <= 1 for share in (self.mirror, self.blurred, self.occlusion, self.occluded)):
            raise ValueError(f"mirror, blurred, occlusion and occluded must lie in [0, 1]: got {self}.")
        if min(self.rotation, self.shift, self.brightness, self.blur, self.gamma) < 0:
            raise ValueError(f"Ranges must not be negative: got {self}.")

    def sample(self, rng: np.random.Generator, n: int) -> Views:
        """Draw ``n`` views."""
        angle = np.deg2rad(rng.uniform(-self.rotation, self.rotation, n))
        scales = rng.uniform(1 - self.scale, 1 + self.scale, n)
        shift = rng.uniform(-self.shift, self.shift, (n, 2)) * CROP_SIZE
        mirrored = rng.random(n) < self.mirror
        return Views(
            matrices=moves(angle, scales, shift, mirrored),
            mirrored=mirrored,
            scales=scales,
            gains=rng.uniform(1 - self.contrast, 1 + self.contrast, n),
            offsets=rng.uniform(-self.brightness, self.brightness, n),
            blurs=np.where(rng.random(n) < self.blurred, rng.uniform(0, self.blur, n), 0.0),
            # Drawn last, and only if they are wanted: the views of a seed without them stay as they were before.
            gammas=np.exp(rng.uniform(-self.gamma, self.gamma, n)) if self.gamma else np.ones(n),
            tints=rng.uniform(1 - self.tint, 1 + self.tint, (n, 3)) if self.tint else np.ones((n, 3)),
            **self._covers(rng, n),
        )

    def _covers(self, rng: np.random.Generator, n: int) -> dict[str, Any]:
        """What lies in front of ``n`` faces: ``covers`` and ``colours`` of :class:`Views`."""
        if not self.occlusion:
            return _uncovered(n)
        covered = rng.random((n, 1)) < self.occluded
        half = rng.uniform(_LEAST_COVER * self.occlusion, self.occlusion, (n, 2)) * (CROP_SIZE / 2)
        middle = rng.uniform(0, CROP_SIZE, (n, 2))
        return {
            "covers": np.where(covered, np.concatenate([middle - half, middle + half], axis=1), 0.0),
            "colours": rng.integers(0, 256, (n, 3), dtype=np.uint8),
        }

    def sample_seeded(self, seeds: npt.ArrayLike) -> Views:
        """One view for each seed, a function of the seed alone."""
        return Views.concatenate([self.sample(np.random.default_rng(int(seed)), 1) for seed in np.ravel(seeds)])


def sampling_matrices(views: Views, size: int) -> npt.NDArray[np.float64]:
    """(N, 2, 3) from pixels of the changed crop to pixels of the context that they show.

    :param views: N views
    :param size: side of the crops, pixels; the contexts have the same resolution
    """
    resolution = size / CROP_SIZE
    inverse = invert_transform(views.matrices)
    linear, shift = inverse[..., :2], inverse[..., 2]
    # Pixel q of any resolution lies at (q + 0.5) / resolution - 0.5 in the full crop.
    first = np.full(2, 0.5 / resolution - 0.5)
    offset = resolution * (linear @ first + shift + CONTEXT + 0.5) - 0.5
    return np.concatenate([linear, offset[..., None]], axis=-1)


def blur_sigmas(views: Views, size: int) -> npt.NDArray[np.float64]:
    """(N,) standard deviations in pixels of crops of ``size`` pixels; 0 where it would not be seen."""
    sigmas = views.blurs * (size / CROP_SIZE)
    return np.where(sigmas < _LEAST_BLUR, 0.0, sigmas)


def covered_pixels(views: Views, size: int) -> npt.NDArray[np.int64]:
    """(N, 4) columns and rows x0, y0, x1, y1 of crops of ``size`` pixels that are covered, x1 and y1 not included."""
    return np.rint(views.covers * (size / CROP_SIZE)).astype(np.int64).clip(0, size)


def light_tables(views: Views) -> npt.NDArray[np.uint8]:
    """(N, 256, C) what becomes of a grey level; C is 1 where all colours change alike, else 3."""
    levels = np.arange(256.0)
    bent = np.where(views.gammas[:, None] == 1, levels, 255 * (levels / 255) ** views.gammas[:, None])
    tints = views.tints if (views.tints != 1).any() else views.tints[:, :1]
    gains, lifts = views.gains[:, None, None], 127.5 + 0.5 + views.offsets[:, None, None]
    lit = (bent[..., None] * tints[:, None] - 127.5) * gains + lifts
    return lit.clip(0, 255).astype(np.uint8)


def warp_images(
    contexts: Sequence[npt.NDArray[np.uint8]],
    views: Views,
    size: int = CROP_SIZE,
    out: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    """Changed crops out of prepared faces in main memory.

    The pixels of a face depend on its context and its view alone.

    :param contexts: N arrays (S, S, 3), which are read where they are: nothing is gathered before
    :param views: N views
    :param size: side of the crops to make, pixels
    :param out: the array to fill, whose rows may lie apart; None: a new one
    :return: (N, size, size, 3) uint8
    """
    import cv2

    matrices, sigmas = sampling_matrices(views, size), blur_sigmas(views, size)
    tables, covers = light_tables(views), covered_pixels(views, size)
    crops = np.empty((len(contexts), size, size, 3), dtype=np.uint8) if out is None else out

    def make(some: slice) -> None:
        for i in range(len(contexts))[some]:
            cv2.warpAffine(
                contexts[i],
                matrices[i],
                (size, size),
                dst=crops[i],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            x0, y0, x1, y1 = covers[i]
            crops[i, y0:y1, x0:x1] = views.colours[i]
            if sigmas[i]:
                cv2.GaussianBlur(crops[i], (0, 0), sigmas[i], dst=crops[i], borderType=cv2.BORDER_REPLICATE)
            cv2.LUT(crops[i], tables[i, :, None], dst=crops[i])

    share(make, len(contexts), crops.size // 3 // _WORTH_A_THREAD)
    return crops
