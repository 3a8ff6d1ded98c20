"""What goes into an aligner and what comes out of it: faces cut out of a photo, and what the cascade made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
import torch

from face_align_env.aligner.alignment import Alignment
from face_align_env.crops import invert_transform, transform_points


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo with its faces cut out.

    :param image: (H, W, 3) uint8 RGB
    :param boxes: (N, 4) float64 x0, y0, x1, y1, pixels of the photo
    :param transforms: (N, 2, 3) from the photo's pixels to the crops'
    :param crops: (N, 256, 256, 3) uint8
    """

    image: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float64]
    transforms: npt.NDArray[np.float64]
    crops: npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Refined:
    """What the cascade made of N crops.

    :param trajectories: (N, max_iterations + 1, K, 2) float32, crop pixels; they stand still after a face's last
        iteration. With a mirrored look: means of both looks
    :param iterations: (N,) int64; with a mirrored look: the longer one's
    :param confidences: (N,) float32 predicted NME, percent; None: there is no head that predicts it
    :param history: (looks, N, 512) float32 d_T of each look
    """

    trajectories: npt.NDArray[np.float32]
    iterations: npt.NDArray[np.int64]
    confidences: npt.NDArray[np.float32] | None
    history: npt.NDArray[np.float32]

    def __getitem__(self, some: slice) -> Refined:
        """Some of the crops."""
        known = self.confidences
        return Refined(
            self.trajectories[some],
            self.iterations[some],
            None if known is None else known[some],
            self.history[:, some],
        )

    def damped(self, share: float) -> Refined:
        """With this share of each way from x_0, as where x_0 is known well."""
        start = self.trajectories[:, :1]
        return replace(self, trajectories=start + np.float32(share) * (self.trajectories - start))

    def alignments(self, photo: Photo) -> list[Alignment]:
        """The faces whose crops these are, in the photo that they were cut out of."""
        shapes = transform_points(invert_transform(photo.transforms)[:, None], self.trajectories)
        known = [None] * len(shapes) if self.confidences is None else self.confidences.tolist()
        return [
            Alignment(shapes[i, steps], steps, shapes[i, : steps + 1], photo.boxes[i], photo.image, known[i])
            for i, steps in enumerate(self.iterations.tolist())
        ]


@dataclass(frozen=True, eq=False)
class Look:
    """One look at N crops, tensors on the device.

    :param trajectories: (N, max_iterations + 1, K, 2) float32, crop pixels
    :param iterations: (N,) int64
    :param history: (N, 512) float32 d_T, LRN's state after a face's last iteration
    """

    trajectories: torch.Tensor
    iterations: torch.Tensor
    history: torch.Tensor

    @staticmethod
    def concatenate(looks: Sequence[Look]) -> Look:
        """One look at many crops out of several."""
        return Look(*(torch.cat([getattr(look, part.name) for look in looks]) for part in fields(Look)))
