"""Measuring methods on a split: the rows of Table 6, with intervals."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from face_align_env.agents.common.crop_rollout import CropAligner, roll_out
from face_align_env.agents.common.rollout import Rollout
from face_align_env.mdp import MDPParameters, nme
from face_align_env.metrics import auc, bootstrap_interval, failure_rate, landmark_errors
from face_align_env.prepared import PreparedFaces

OCCLUDED = 0.3  # of a face's points: our line between a face that is hardly occluded and one that is heavily


@dataclass(frozen=True)
class Row:
    """One method on one split.

    :param method: ``GEN``, ``LRN-2``, ..., ``DCRN``
    :param nme: mean NME (Eq. 2) under the dataset's normaliser, percent
    :param nme_low: lower end of its 95 % bootstrap interval over faces, percent
    :param nme_high: upper end, percent
    :param nme_inter_pupil: mean NME under the inter-pupil distance, percent; None where a face has no such distance,
        because a point of its eyes is not annotated
    :param failure_rate: faces with an NME above 0.1, percent
    :param auc: area under the CED curve up to 0.1, a fraction
    :param iterations: mean number of iterations of LRN
    :param ms_per_face: median over batches of the time from crop to shape, milliseconds a face
    :param mean_return: mean return of an episode under Eq. 3's oracle termination and Eq. 4, not discounted; None
        where the method has no episodes
    :param success_rate: share of those episodes that end in a terminal state, percent
    """

    method: str
    nme: float
    nme_low: float
    nme_high: float
    nme_inter_pupil: float | None
    failure_rate: float
    auc: float
    iterations: float
    ms_per_face: float
    mean_return: float | None = None
    success_rate: float | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method did to each face.

    :param row: the summary
    :param errors: (N,) final NME, fractions
    :param iterations: (N,) int64
    :param error_path: (T + 1, N) NME of x_t; it stands still after a face's last iteration
    :param shapes: (N, K, 2) float32 final shapes, crop pixels
    :param landmark_errors: (N, K) error of each landmark in the final shape, fractions; NaN where it does not count
    :param inter_pupil_errors: (N,) final NME under the inter-pupil distance, fractions; None: see ``Row``
    :param episodes: of each face under oracle termination; None: the method has none
    """

    row: Row
    errors: npt.NDArray[np.float64]
    iterations: npt.NDArray[np.int64]
    error_path: npt.NDArray[np.float64]
    shapes: npt.NDArray[np.float32] | None = None
    landmark_errors: npt.NDArray[np.float64] | None = None
    inter_pupil_errors: npt.NDArray[np.float64] | None = None
    episodes: Rollout | None = None

    @property
    def returns(self) -> npt.NDArray[np.float64] | None:
        """(N,) return of each face's episode, not discounted; None: no episodes."""
        return None if self.episodes is None else self.episodes.returns

    def with_episodes(self, episodes: Rollout) -> Outcome:
        """The same with an episode of each face."""
        success_rate = 100 * float(episodes.successes.mean())
        row = replace(self.row, mean_return=float(episodes.returns.mean()), success_rate=success_rate)
        return replace(self, row=row, episodes=episodes)


def evaluate_method(
    method: str, aligner: CropAligner, prepared: PreparedFaces, seed: int = 0, parameters: MDPParameters | None = None
) -> Outcome:
    """Run a method once on every face of a split.

    :param method: its name in the table
    :param aligner: the method
    :param prepared: the faces
    :param seed: of the bootstrap interval
    :param parameters: of Eq. 3 and 4; given, the outcome has the episodes as well: the same play under oracle
        termination
    """
    if parameters is None:
        return outcome_of(method, roll_out(aligner, prepared), prepared, seed)
    episodes = roll_out(aligner, prepared, "oracle", parameters)
    return outcome_of(method, episodes.under("blind", parameters), prepared, seed).with_episodes(episodes)


def outcome_of(method: str, rollout: Rollout, prepared: PreparedFaces, seed: int = 0) -> Outcome:
    """What a rollout did to each face, and in the mean.

    :param method: its name in the table
    :param rollout: on all faces of the split, with shapes and times
    :param prepared: the faces
    :param seed: of the bootstrap interval
    """
    assert rollout.shapes is not None
    final, errors, iterations = rollout.shapes[-1].copy(), rollout.nme, rollout.lengths
    pupils = prepared.distances("inter_pupil")
    # A mean over some of the faces would be a figure of another set of faces: all of them, or none.
    known = not np.isnan(pupils).any()
    inter_pupil = nme(final, prepared.landmarks, pupils, prepared.counted) if known else None
    low, high = bootstrap_interval(errors, seed=seed)
    row = Row(
        method=method,
        nme=100 * float(errors.mean()),
        nme_low=100 * low,
        nme_high=100 * high,
        nme_inter_pupil=None if inter_pupil is None else 100 * float(inter_pupil.mean()),
        failure_rate=100 * failure_rate(errors),
        auc=auc(errors),
        iterations=float(iterations.mean()),
        ms_per_face=1000 * float(np.median(rollout.seconds)),
    )
    by_landmark = landmark_errors(final, prepared.landmarks, prepared.d, prepared.counted)
    return Outcome(row, errors, iterations, rollout.errors, final, by_landmark, inter_pupil)


def paired_differences(outcome: Outcome, baseline: Outcome, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """What a method changes on the same faces, with 95 % bootstrap intervals.

    :param outcome: the method
    :param baseline: what it is compared with
    :param seed: of the bootstrap
    :return: mean difference (method minus baseline), lower and upper end, for ``"NME"`` in percent, ``"iterations"``
        and, where both have played episodes, ``"return"``
    """
    differences = {
        "NME": 100 * (outcome.errors - baseline.errors),
        "iterations": (outcome.iterations - baseline.iterations).astype(np.float64),
    }
    if outcome.returns is not None and baseline.returns is not None:
        differences["return"] = outcome.returns - baseline.returns
    return {
        name: (float(values.mean()), *bootstrap_interval(values, seed=seed)) for name, values in differences.items()
    }


@dataclass(frozen=True)
class Group:
    """Some of a split's faces under one method.

    :param faces: how many
    :param nme: their mean NME, percent; None: there are no faces
    :param failure_rate: share of them with an NME above 0.1, percent; None: there are no faces
    """

    faces: int
    nme: float | None
    failure_rate: float | None


def nme_by_occlusion(outcome: Outcome, prepared: PreparedFaces, threshold: float = OCCLUDED) -> tuple[Group, Group]:
    """A method's errors on the faces that are hardly, and on those that are heavily occluded.

    :param outcome: the method on a split
    :param prepared: the faces of that split
    :param threshold: share of a face's points that are not visible, from which on the face counts as heavily occluded
    :return: the faces below the threshold, and the others
    """
    heavily = (~prepared.visible).mean(axis=1) >= threshold

    def group(errors: npt.NDArray[np.float64]) -> Group:
        if not len(errors):
            return Group(0, None, None)
        return Group(len(errors), 100 * float(errors.mean()), 100 * failure_rate(errors))

    return group(outcome.errors[~heavily]), group(outcome.errors[heavily])
