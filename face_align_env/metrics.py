"""What an evaluation reports: NME with each normaliser, failure rate, CED curve, AUC.

Errors are fractions here (0.04, not 4 %). The NME itself is Eq. 2, in :mod:`face_align_env.mdp`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from face_align_env.landmarks import get_scheme
from face_align_env.mdp import euclidean

NORMALIZERS = ("inter_ocular", "inter_pupil", "face_size")
FAILURE_THRESHOLD = 0.1  # section 4.2

Floats = npt.NDArray[np.float64]


def normalizing_distance(
    landmarks: npt.NDArray[np.float32],
    normalizer: str,
    boxes: npt.NDArray[np.float32] | None = None,
    counted: npt.NDArray[np.bool_] | None = None,
) -> Floats:
    """Eq. 2's ``d`` of annotated shapes (section 4.2).

    :param landmarks: (N, K, 2) ground truth, pixels
    :param normalizer: ``"inter_ocular"``, the distance of the outer eye corners; ``"inter_pupil"``, of the eye
        centres; ``"face_size"``, sqrt(w h) of the annotated box
    :param boxes: (N, 4) x0, y0, x1, y1 in the same pixels; needed for ``"face_size"``
    :param counted: (N, K), the landmarks that are annotated; None: all
    :return: (N,) float64, pixels; NaN for a face in which a landmark that the distance is made of is not annotated
    :raises ValueError: unknown normaliser, no boxes for ``"face_size"``, or a distance that is not positive
    """
    scheme = get_scheme(landmarks.shape[-2])
    shapes = landmarks.astype(np.float64)
    used: list[int] = []
    if normalizer == "inter_ocular":
        used = list(scheme.outer_eye_corners)
        d = euclidean(shapes[:, used[0]] - shapes[:, used[1]])
    elif normalizer == "inter_pupil":
        used = [point for points in scheme.pupils for point in points]
        left, right = (shapes[:, list(points)].mean(axis=1) for points in scheme.pupils)
        d = euclidean(left - right)
    elif normalizer == "face_size":
        if boxes is None:
            raise ValueError("The normaliser 'face_size' needs the faces' boxes.")
        extent = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
        d = np.sqrt(extent[:, 0] * extent[:, 1])
    else:
        raise ValueError(f"Unknown normaliser '{normalizer}'; there are {', '.join(NORMALIZERS)}.")
    if counted is not None:
        d = np.where(counted[:, used].all(axis=1), d, np.nan)
    if (d <= 0).any():
        raise ValueError(f"Face {int(np.nanargmin(d))}: its '{normalizer}' distance is not positive; take another one.")
    distances: Floats = d
    return distances


def landmark_errors(
    shapes: npt.NDArray[np.float32],
    landmarks: npt.NDArray[np.float32],
    d: Floats,
    counted: npt.NDArray[np.bool_] | None = None,
) -> Floats:
    """The terms of Eq. 2 before their mean: the mean over a face's landmarks is its NME.

    :param shapes: (N, K, 2), pixels
    :param landmarks: (N, K, 2) ground truth, pixels
    :param d: (N,) normalising distances, pixels
    :param counted: (N, K), the landmarks that Eq. 2 counts; None: all
    :return: (N, K) float64, fractions; NaN where a landmark does not count
    """
    errors = euclidean(shapes - landmarks) / np.asarray(d, dtype=np.float64)[:, None]
    return errors if counted is None else np.where(counted, errors, np.nan)


def mean_over_faces(errors: Floats) -> Floats:
    """(K,) mean error of each landmark over the faces in which it counts; NaN where it counts in none.

    :param errors: (N, K), see :func:`landmark_errors`
    """
    known = ~np.isnan(errors)
    total = np.where(known, errors, 0).sum(axis=0)
    means: Floats = np.divide(total, known.sum(axis=0), out=np.full(errors.shape[1], np.nan), where=known.any(axis=0))
    return means


def asymmetry(landmarks: npt.NDArray[np.float32], counted: npt.NDArray[np.bool_] | None = None) -> Floats:
    """How far faces are turned to a side, from their shapes alone; for every landmark scheme.

    The points on a face's mid-line stand out from the eyes towards the camera, so they move to one side when the head
    turns. This is how far their mean lies from the middle of the outer eye corners, along the line through these two,
    in halves of their distance: 0 from the front, about 1 where the mid-line passes one of the corners. Rolling the
    head, size and mirroring change nothing.

    :param landmarks: (N, K, 2), any unit
    :param counted: (N, K), the landmarks that are annotated; None: all
    :return: (N,) float64; NaN for a face in which an outer eye corner, or the whole mid-line, is not annotated
    """
    scheme = get_scheme(landmarks.shape[-2])
    points = landmarks.astype(np.float64)
    known = np.ones(points.shape[:2], dtype=np.bool_) if counted is None else counted
    middle = np.flatnonzero(scheme.mirror_permutation == np.arange(scheme.num_landmarks))
    right, left = (points[:, corner] for corner in scheme.outer_eye_corners)
    weights = known[:, middle, None].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mid_line = (points[:, middle] * weights).sum(axis=1) / weights.sum(axis=1)
        half = (left - right) / 2
        offset = ((mid_line - (left + right) / 2) * half).sum(axis=1) / (half * half).sum(axis=1)
    return np.where(known[:, list(scheme.outer_eye_corners)].all(axis=1), np.abs(offset), np.nan)


def failure_rate(errors: npt.ArrayLike, threshold: float = FAILURE_THRESHOLD) -> float:
    """Fraction of faces whose NME exceeds ``threshold``.

    :param errors: (N,) NME, fractions
    """
    return float((np.asarray(errors) > threshold).mean())


def cumulative_error_distribution(errors: npt.ArrayLike, thresholds: npt.ArrayLike) -> Floats:
    """CED curve: for each threshold the fraction of faces with an NME up to it.

    :param errors: (N,) NME, fractions
    :param thresholds: (T,) fractions
    :return: (T,) fractions of faces
    """
    ordered = np.sort(np.asarray(errors, dtype=np.float64))
    return np.searchsorted(ordered, np.asarray(thresholds), side="right") / len(ordered)


def auc(errors: npt.ArrayLike, threshold: float = FAILURE_THRESHOLD) -> float:
    """Area under the CED curve from 0 to ``threshold``, divided by ``threshold``: 1 is perfect.

    The curve is a step function, so the area is exact: the mean of what each error leaves of the threshold.

    :param errors: (N,) NME, fractions
    """
    return float(np.clip(1 - np.asarray(errors, dtype=np.float64) / threshold, 0, None).mean())


def bootstrap_interval(
    values: npt.ArrayLike, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over faces.

    :param values: (N,) one number a face
    :param confidence: coverage of the interval
    :param resamples: number of bootstrap samples
    :param seed: of the resampling
    :return: lower and upper end, in the unit of ``values``
    """
    sample = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = np.array([sample[rng.integers(0, len(sample), len(sample))].mean() for _ in range(resamples)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def against_fixed_lengths(
    errors: npt.NDArray[np.float64], lengths: npt.NDArray[np.int64], resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """What choosing the faces is worth: NME minus that of a mixture of fixed lengths with the same mean.

    The mixture is of the two whole numbers next to the mean, each face taking part in both with their shares. A
    resampled set of faces is compared with the mixture of its own mean.

    :param errors: (T + 1, N) NME after 0 .. T iterations
    :param lengths: (N,) iterations of each face, at most T
    :param resamples: of the faces
    :param seed: of them
    :return: the mean difference, and the ends of its 95 % bootstrap interval; in the unit of the errors
    """
    faces = np.arange(errors.shape[1])
    chosen = errors[lengths, faces]

    def difference(some: npt.NDArray[np.int64]) -> float:
        mean = lengths[some].mean()
        below = min(int(mean), len(errors) - 2)
        share = mean - below
        mixture = (1 - share) * errors[below, some] + share * errors[below + 1, some]
        return float((chosen[some] - mixture).mean())

    rng = np.random.default_rng(seed)
    drawn = [difference(rng.integers(len(faces), size=len(faces))) for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return difference(faces), float(low), float(high)


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Rank correlation of two sets of N values, from -1 to 1; ties have their mean rank."""
    ranks = []
    for values in (np.asarray(first), np.asarray(second)):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((counts.cumsum() - (counts + 1) / 2)[place])
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


@dataclass(frozen=True)
class ReliabilityBin:
    """Faces of like predicted error.

    :param faces: their number
    :param predicted: mean predicted error
    :param real: mean real error
    :param low: lower end of its 95 % bootstrap interval
    :param high: upper end
    """

    faces: int
    predicted: float
    real: float
    low: float
    high: float


def reliability(
    predicted: npt.NDArray[np.floating], errors: npt.NDArray[np.floating], bins: int = 10, seed: int = 0
) -> list[ReliabilityBin]:
    """Predicted beside real errors, in bins of equally many faces, the surest first.

    :param predicted: (N,) errors, in any unit
    :param errors: (N,) in the same unit
    :param bins: their number
    :param seed: of the bootstrap intervals
    """
    parts = np.array_split(np.argsort(predicted, kind="stable"), min(bins, len(predicted)))
    rows = []
    for part in parts:
        low, high = bootstrap_interval(errors[part], seed=seed)
        rows.append(ReliabilityBin(len(part), float(predicted[part].mean()), float(errors[part].mean()), low, high))
    return rows
