"""Fits the head that predicts what one more iteration gains: least squares on random views of training faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from face_align_env.aligner.aligner import FaceAligner
from face_align_env.augmentation import Augmentation
from face_align_env.mdp import MAX_ITERATIONS, nme
from face_align_env.networks.cascade import cascade
from face_align_env.networks.gain import GainHead, GainHeadConfig, increment_lengths
from face_align_env.pretrain.faces import DeviceFaces

FOLDS = 5
LEAST_FACES = 10
"""A fold has two of them, and there are four coefficients to fit on the others."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Paths:
    """How far T iterations go in N views of faces, and how large the errors are on the way.

    :param views: of each face; those of one view of all faces follow each other
    :param lengths: (T, N, 3) of a_0 .. a_{T-1}, see :func:`~face_align_env.networks.gain.increment_lengths`
    :param errors: (T + 1, N) NME of x_0 .. x_T, percent
    """

    views: int
    lengths: Floats
    errors: Floats


def see_paths(
    aligner: FaceAligner, faces: DeviceFaces, augmentation: Augmentation | None = None, views: int = 1, seed: int = 0
) -> Paths:
    """Iterate faces to the limit, plain or in random views, and measure on the way.

    :param aligner: with an LRN
    :param faces: whose crops are of full size, on the CPU
    :param augmentation: of the random views; None: plain
    :param views: of each face
    :param seed: of the views
    """
    lengths: list[Floats] = []
    errors: list[Floats] = []
    for _, batch in faces.looked_at(aligner.batch_size, augmentation, views, (seed, 3), "iterating faces"):
        shapes, gone = _path(aligner, batch.crops.to(aligner.device))
        measured = [nme(x, batch.landmarks, batch.d, batch.counted) for x in shapes]
        lengths.append(gone.double().numpy())
        errors.append(100 * torch.stack(measured).double().numpy())
    return Paths(views, np.concatenate(lengths, axis=1), np.concatenate(errors, axis=1))


@torch.inference_mode()
def _path(aligner: FaceAligner, crops: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """x_0 .. x_T, each (N, K, 2), and (T, N, 3) lengths."""
    assert aligner.lrn is not None
    x_0 = aligner.start(crops)
    steps = list(cascade(aligner.lrn, crops, x_0, MAX_ITERATIONS, patch_size=aligner.lrn.config.patch_size))
    shapes = [x_0, *(step.landmarks for step in steps)]
    return [x.float().cpu() for x in shapes], torch.stack([increment_lengths(step.actions) for step in steps]).cpu()


def fit_gain_head(paths: Paths, num_landmarks: int) -> tuple[GainHead, tuple[int, ...]]:
    """The head whose predictions fit best, where lengths tell anything.

    Gains are mostly noise. Lengths are believed after those iterations where, on faces that were left out, they lower
    the squared error by at least two standard errors; after the others, all faces are predicted the mean gain.

    :param paths: of views of training faces
    :param num_landmarks: K
    :return: the head, and the iterations after which lengths tell anything
    :raises ValueError: there are fewer faces than it takes
    """
    num_steps, num_views, _ = paths.lengths.shape
    num_faces = num_views // paths.views
    if num_faces < LEAST_FACES:
        raise ValueError(f"What an iteration gains is fitted on at least {LEAST_FACES} faces, got {num_faces}.")
    head = GainHead(GainHeadConfig(num_landmarks, num_steps))
    fold = np.tile(np.arange(num_faces) % FOLDS, paths.views)
    told = []
    gains = paths.errors[1:-1] - paths.errors[2:]
    for t, (lengths, gain) in enumerate(zip(paths.lengths[:-1], gains, strict=True)):
        known = np.column_stack([np.ones(num_views), lengths])
        better = np.empty(num_views)
        for part in range(FOLDS):
            inside, outside = fold != part, fold == part
            by_mean = gain[outside] - gain[inside].mean()
            by_length = gain[outside] - known[outside] @ _least_squares(known[inside], gain[inside])
            better[outside] = by_mean**2 - by_length**2
        of_faces = better.reshape(paths.views, num_faces).mean(axis=0)  # views of a face are no samples by themselves
        if of_faces.mean() > 2 * of_faces.std(ddof=1) / np.sqrt(num_faces):
            told.append(t + 1)
            offset, *slopes = _least_squares(known, gain).tolist()
            head.offset[t], head.slopes[t] = offset, torch.tensor(slopes)
        else:
            head.offset[t] = gain.mean()
    return head, tuple(told)


def _least_squares(known: Floats, wanted: Floats) -> Floats:
    """(C,) coefficients, from (N, C) and (N,)."""
    found: Floats = np.linalg.lstsq(known, wanted, rcond=None)[0].astype(np.float64)
    return found
