"""What an evaluation reports, against values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from face_align_env.metrics import (
    auc,
    bootstrap_interval,
    cumulative_error_distribution,
    failure_rate,
    normalizing_distance,
    reliability,
    spearman,
)

ERRORS = [0.02, 0.04, 0.1, 0.3]


def shape_68() -> np.ndarray:
    """Outer eye corners 5 apart (3-4-5), eye centres 13 apart (5-12-13), everything else at the origin."""
    shape = np.zeros((1, 68, 2), dtype=np.float32)
    shape[0, 36:42] = [[10, 10], [0, 0], [0, 0], [0, 0], [0, 0], [-10, -10]]  # mean (0, 0)
    shape[0, 42:48] = [[5, 12], [5, 12], [5, 12], [13, 14], [5, 12], [-3, 10]]  # mean (5, 12)
    shape[0, 45] = shape[0, 36] + [3, 4]
    shape[0, 47] = 6 * np.array([5, 12]) - shape[0, [42, 43, 44, 45, 46]].sum(0)
    return shape


@pytest.mark.parametrize(
    ("normalizer", "expected"), [("inter_ocular", 5.0), ("inter_pupil", 13.0), ("face_size", np.sqrt(8 * 18))]
)
def test_normalizing_distance_is_the_one_that_it_names(normalizer: str, expected: float) -> None:
    boxes = np.array([[1, 2, 9, 20]], dtype=np.float32)
    np.testing.assert_allclose(normalizing_distance(shape_68(), normalizer, boxes), [expected], rtol=1e-6)


def test_each_face_has_its_own_distance() -> None:
    shapes = np.concatenate([shape_68(), 2 * shape_68()])
    np.testing.assert_allclose(normalizing_distance(shapes, "inter_ocular"), [5, 10], rtol=1e-6)


@pytest.mark.parametrize(("num_landmarks", "corners", "pupils"), [(29, (8, 9), (16, 17)), (19, (6, 11), (7, 10))])
def test_other_schemes_have_their_own_eyes(
    num_landmarks: int, corners: tuple[int, int], pupils: tuple[int, int]
) -> None:
    shape = np.zeros((1, num_landmarks, 2), dtype=np.float32)
    shape[0, corners[0]], shape[0, pupils[0]] = (6, 8), (0, 7)
    assert normalizing_distance(shape, "inter_ocular") == pytest.approx([10])
    assert normalizing_distance(shape, "inter_pupil") == pytest.approx([7])


@pytest.mark.parametrize(
    ("shape", "normalizer", "message"),
    [
        (shape_68(), "inter-ocular", "Unknown normaliser 'inter-ocular'.*inter_ocular"),
        (shape_68(), "face_size", "needs the faces' boxes"),
        (np.concatenate([shape_68(), np.zeros((1, 68, 2), np.float32)]), "inter_pupil", "Face 1.*not positive"),
        (np.zeros((1, 67, 2), np.float32), "inter_ocular", "67"),
    ],
)
def test_a_distance_that_cannot_be_is_an_error(shape: np.ndarray, normalizer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalizing_distance(shape, normalizer)


@pytest.mark.parametrize(("threshold", "expected"), [(0.1, 0.25), (0.0999, 0.5), (0.01, 1.0), (0.3, 0.0)])
def test_failures_lie_above_the_threshold_not_on_it(threshold: float, expected: float) -> None:
    assert failure_rate(ERRORS, threshold) == expected


def test_ced_is_the_share_of_faces_up_to_each_threshold() -> None:
    thresholds = [0.0, 0.0199, 0.02, 0.05, 0.1, 0.2, 0.3]
    curve = cumulative_error_distribution(ERRORS[::-1], thresholds)
    np.testing.assert_array_equal(curve, [0, 0, 0.25, 0.5, 0.75, 0.75, 1])


def test_auc_is_the_exact_area_under_the_steps() -> None:
    # by hand: each error below 0.1 leaves 0.1 - e of the threshold: (0.08 + 0.06 + 0 + 0) / 4 / 0.1
    assert auc(ERRORS) == pytest.approx(0.35, abs=1e-12)
    errors = np.random.default_rng(0).uniform(0, 0.2, 50)
    middles = (np.arange(20_000) + 0.5) * 0.1 / 20_000
    assert auc(errors) == pytest.approx(cumulative_error_distribution(errors, middles).mean(), abs=1e-4)


@pytest.mark.parametrize(("errors", "expected"), [([0.0, 0.0], 1.0), ([0.5, 0.1], 0.0)])
def test_auc_goes_from_zero_to_one(errors: list[float], expected: float) -> None:
    assert auc(errors) == pytest.approx(expected)


def test_bootstrap_interval_contains_the_mean_and_is_reproducible() -> None:
    values = np.random.default_rng(1).exponential(2.0, 60)
    low, high = bootstrap_interval(values, seed=3)
    assert low < values.mean() < high
    assert (low, high) == bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    # the normal approximation is not far for 60 faces
    assert high - low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(60), rel=0.15)


def test_bootstrap_interval_widens_with_confidence_and_vanishes_without_spread() -> None:
    values = np.random.default_rng(1).normal(5, 1, 40)
    low, high = bootstrap_interval(values, confidence=0.5)
    wide_low, wide_high = bootstrap_interval(values, confidence=0.99)
    assert wide_low < low < high < wide_high
    assert bootstrap_interval([0.25] * 7, resamples=50) == (0.25, 0.25)


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: covariance 4.5, variances 4.5 and 5
    assert spearman([0.1, 0.2, 0.2, 0.9], [1, 5, 3, 8]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))


def test_reliability_puts_like_predictions_together() -> None:
    predicted, errors = np.array([3.0, 1.0, 2.0, 8.0]), np.array([4.0, 1.0, 3.0, 6.0])
    sure, unsure = reliability(predicted, errors, bins=2)
    assert (sure.faces, sure.predicted, sure.real) == (2, 1.5, 2.0)
    assert (unsure.faces, unsure.predicted, unsure.real) == (2, 5.5, 5.0)
    assert 1 <= sure.low <= sure.real <= sure.high <= 3
    assert len(reliability(predicted, errors)) == 4, "no empty bins"
