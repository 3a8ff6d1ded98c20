"""Fits the head that predicts the error of a face: ridge regression on random views of training faces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch

from face_align_env.aligner.aligner import FaceAligner
from face_align_env.augmentation import Augmentation
from face_align_env.mdp import nme
from face_align_env.metrics import spearman
from face_align_env.networks.confidence import ErrorHead, ErrorHeadConfig, log_disagreement
from face_align_env.pretrain.faces import Batch, DeviceFaces

PENALTIES = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)
"""Ridge penalties that are tried."""

FOLDS = 5
"""Parts of the training faces for cross-validation; all views of a face are in the same part."""

_LEAST_ERROR = 1e-2  # percent: there are logarithms of nothing less

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Seen:
    """What two looks at N faces show, and how large their errors are.

    :param faces: (N,) int64 which face it is
    :param histories: (2, N, 512) d_T of both looks
    :param disagreement: (N,) see :func:`~face_align_env.networks.confidence.log_disagreement`
    :param errors: (3, N) NME of each look and of their mean, percent
    """

    faces: npt.NDArray[np.int64]
    histories: Floats
    disagreement: Floats
    errors: Floats

    def of(self, faces: npt.NDArray[np.int64]) -> Seen:
        """What is seen of some faces."""
        some = np.isin(self.faces, faces)
        return Seen(self.faces[some], self.histories[:, some], self.disagreement[some], self.errors[:, some])

    @staticmethod
    def concatenate(parts: Sequence[Seen]) -> Seen:
        """One out of several."""
        axes = {"histories": 1}  # of the faces; else the last
        names = [part.name for part in fields(Seen)]
        return Seen(*(np.concatenate([getattr(p, name) for p in parts], axis=axes.get(name, -1)) for name in names))


@dataclass(frozen=True)
class Fit:
    """How a head was fitted.

    :param penalty: that of :data:`PENALTIES` with the lowest cross-validated squared error of log NME
    :param spearman_one: rank correlation of prediction and error of one look, on faces that were left out
    :param spearman_two: with the mirrored look
    """

    penalty: float
    spearman_one: float
    spearman_two: float


@dataclass(frozen=True)
class Stretch:
    """How errors of faces that the networks have not seen follow from what their training faces would let expect.

    Networks err less on the faces that they have learnt from, so a head that is fitted on these is too sure of others.
    The logarithm of the error is ``lift + slope`` times the logarithm of the prediction.

    :param one: lift and slope of one look
    :param two: of both looks
    """

    one: tuple[float, float]
    two: tuple[float, float]

    @classmethod
    def from_document(cls, document: object) -> Stretch:
        """Out of a JSON document.

        :raises ValueError: it is none
        """
        try:
            pairs = document["one"], document["two"]  # type: ignore[index]
            one, two = ((float(lift), float(slope)) for lift, slope in pairs)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"Expected lift and slope for 'one' and 'two' looks, got {document!r:.80}.") from error
        if min(one[1], two[1]) <= 0:
            raise ValueError(f"Slopes must be positive, got {one[1]} and {two[1]}.")
        return cls(one, two)


def see(
    aligner: FaceAligner, faces: DeviceFaces, augmentation: Augmentation | None = None, views: int = 1, seed: int = 0
) -> Seen:
    """Align faces, plain or in random views, and measure.

    :param aligner: with ``mirror``
    :param faces: whose crops are of full size, on the CPU
    :param augmentation: of the random views; None: plain
    :param views: of each face
    :param seed: of the views
    """
    batches = faces.looked_at(aligner.batch_size, augmentation, views, (seed, 2), "looking at faces")
    return Seen.concatenate([_see_batch(aligner, chosen, batch) for chosen, batch in batches])


def _see_batch(aligner: FaceAligner, chosen: npt.NDArray[np.int64], batch: Batch) -> Seen:
    looks = aligner.looks(batch.crops.numpy())
    first, second = (look.trajectories[:, -1].cpu() for look in looks)
    errors = [nme(x, batch.landmarks, batch.d, batch.counted) for x in (first, second, (first + second) / 2)]
    return Seen(
        chosen,
        torch.stack([look.history.cpu() for look in looks]).double().numpy(),
        log_disagreement(first, second).double().numpy(),
        100 * torch.stack(errors).double().numpy(),
    )


def fit_error_head(seen: Seen, num_landmarks: int) -> tuple[ErrorHead, Fit]:
    """The head whose predictions fit best, and are right in the mean; both by faces that were left out.

    :param seen: views of training faces
    :param num_landmarks: K
    :raises ValueError: there are fewer faces than folds
    """
    names = np.unique(seen.faces)
    if len(names) < FOLDS:
        raise ValueError(f"The confidence needs at least {FOLDS} faces to be fitted on, got {len(names)}.")
    fold = np.searchsorted(names, seen.faces) % FOLDS
    target = np.log(seen.errors.clip(_LEAST_ERROR))
    # Both looks are samples of their own.
    left_out = np.empty((len(PENALTIES), 2, len(fold)))
    for part in range(FOLDS):
        inside, outside = fold != part, fold == part
        states, offsets = _ridge(np.concatenate(seen.histories[:, inside]), target[:2, inside].ravel())
        left_out[:, :, outside] = np.einsum("lnh,ph->pln", seen.histories[:, outside], states) + offsets[:, None, None]
    best = int(np.argmin(((left_out - target[:2]) ** 2).mean(axis=(1, 2))))
    states, offsets = _ridge(np.concatenate(seen.histories), target[:2].ravel())
    single = left_out[best]
    pair, both = _pair(single.mean(axis=0), seen.disagreement, target[2])
    # The mean of a logarithm is not the logarithm of the mean: predictions are to be right on average.
    lift, pair_lift = _lift(single, seen.errors[:2]), _lift(both, seen.errors[2])
    head = ErrorHead(ErrorHeadConfig(num_landmarks, seen.histories.shape[-1]))
    head.state.copy_(torch.from_numpy(states[best]))
    head.offset.fill_(offsets[best] + lift)
    pair[0] += pair_lift - pair[1] * lift
    head.pair.copy_(torch.from_numpy(pair))
    return head, Fit(PENALTIES[best], spearman(single[0], seen.errors[0]), spearman(both, seen.errors[2]))


def predict(head: ErrorHead, seen: Seen) -> tuple[Floats, Floats]:
    """(N,) predicted NME of one look, and of both; percent."""
    first, second = torch.from_numpy(seen.histories.astype(np.float32))
    both = head.two_looks(first, second, torch.from_numpy(seen.disagreement.astype(np.float32)))
    return head.one_look(first).double().numpy(), both.double().numpy()


def fit_stretch(head: ErrorHead, unseen: Seen) -> Stretch:
    """How the errors of faces that the networks have not seen follow from a head's predictions.

    :param head: fitted on faces that they have seen
    :param unseen: faces that neither of them has seen
    :raises ValueError: on these faces, the predictions do not rise with the errors
    """
    found = []
    for predicted, errors in zip(predict(head, unseen), unseen.errors[[0, 2]], strict=True):
        logs, target = np.log(predicted), np.log(errors.clip(_LEAST_ERROR))
        slope, lift = np.polyfit(logs, target, 1)
        if not slope > 0:
            raise ValueError("On the faces held out, predicted errors do not rise with the real ones: hold out more.")
        found.append((float(lift + _lift(lift + slope * logs, errors)), float(slope)))
    return Stretch(*found)


def stretched(head: ErrorHead, stretch: Stretch) -> ErrorHead:
    """A head whose predictions are stretched."""
    (lift, slope), (both_lift, both_slope) = stretch.one, stretch.two
    constant, single, apart = (both_slope * value for value in head.pair.double().tolist())
    made = ErrorHead(head.config)
    made.state.copy_(slope * head.state)
    made.offset.copy_(slope * head.offset + lift)
    # The prediction of one look, which that of both builds on, is stretched already.
    made.pair.copy_(torch.tensor([constant - single * lift / slope + both_lift, single / slope, apart]))
    return made


def _ridge(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """(P, H) coefficients and (P,) constants for each of :data:`PENALTIES`, from (N, H) and (N,)."""
    middle, level = x.mean(axis=0), y.mean()
    centred = x - middle
    values, vectors = np.linalg.eigh(centred.T @ centred)
    along = vectors.T @ (centred.T @ (y - level))
    coefficients = np.stack([vectors @ (along / (values.clip(0) + penalty)) for penalty in PENALTIES])
    return coefficients, level - coefficients @ middle


def _pair(single: Floats, disagreement: Floats, target: Floats) -> tuple[Floats, Floats]:
    """(3,) least-squares coefficients of constant, prediction and disagreement, and (N,) what they predict."""
    x = np.stack([np.ones_like(single), single, disagreement], axis=1)
    coefficients: Floats = np.linalg.lstsq(x, target, rcond=None)[0].astype(np.float64)
    return coefficients, x @ coefficients


def _lift(predicted: Floats, errors: Floats) -> float:
    """What has to be added to the predicted logarithms for the predicted errors to be right on average."""
    return float(np.log(errors.mean() / np.exp(predicted).mean()))
