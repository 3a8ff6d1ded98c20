"""Sequences: a face that moves, frame by frame, as views of one crop.

A view is identified by a seed, as an augmented one is: its upper bits choose how the face moves, its lower bits are the
number of the frame. So all that makes a crop again from (face, seed) makes frames again, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from face_align_env.augmentation import Views, moves
from face_align_env.checks import check_number
from face_align_env.crops import CROP_SIZE

MAX_FRAMES = 1024
"""Of a sequence; a frame's number takes the lowest bits of its view's seed."""


def first_frame(seeds: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """(N,) seeds of the first frames of the sequences that any seeds belong to; the frame after has the seed after."""
    some = np.asarray(seeds, dtype=np.int64)
    first: npt.NDArray[np.int64] = some - some % MAX_FRAMES
    return first


@dataclass(frozen=True)
class Motion:
    """How the face of a sequence moves: there and back, in each way with a frequency and phase of its own.

    :param shift: amplitude of the way in x and in y, a fraction of the crop; the crops of a dataset have 0.19 of their
        side around them, and repeat their border beyond
    :param rotation: amplitude of the roll, degrees
    :param scale: amplitude of the size, a fraction
    :param slowest: lowest frequency, a fraction of the frame rate
    :param fastest: highest frequency, a fraction of the frame rate
    :raises ValueError: a value makes no sense
    """

    shift: float = 0.12
    rotation: float = 12.0
    scale: float = 0.15
    slowest: float = 0.02
    fastest: float = 0.05

    def __post_init__(self) -> None:
        check_number("shift", self.shift, least=0, most=1)
        check_number("rotation", self.rotation, least=0, most=180)
        check_number("scale", self.scale, least=0, most=1)
        check_number("slowest", self.slowest, above=0)
        check_number("fastest", self.fastest, least=self.slowest, most=0.5)

    def sample_seeded(self, seeds: npt.ArrayLike) -> Views:
        """The frame of each seed, a function of the seed alone."""
        each = np.ravel(np.asarray(seeds, dtype=np.int64))
        first = first_frame(each)
        drawn = np.stack([np.random.default_rng(int(sequence)).random((2, 4)) for sequence in first])
        frequencies = self.slowest + (self.fastest - self.slowest) * drawn[:, 0]
        turns = frequencies * (each - first)[:, None] + drawn[:, 1]
        right, down, roll, near = np.sin(2 * np.pi * turns).T
        scales = (1 + self.scale) ** near
        shifts = self.shift * CROP_SIZE * np.stack([right, down], -1)
        return Views.plain(moves(np.deg2rad(self.rotation) * roll, scales, shifts), scales)
