"""The head that predicts the error of a face: what it learns from faces whose errors follow a rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from face_align_env.aligner.aligner import FaceAligner
from face_align_env.augmentation import Augmentation
from face_align_env.mdp import nme
from face_align_env.metrics import spearman
from face_align_env.networks.confidence import log_disagreement
from face_align_env.pretrain.confidence import (
    FOLDS,
    Seen,
    Stretch,
    fit_error_head,
    fit_stretch,
    predict,
    see,
    stretched,
)
from face_align_env.pretrain.faces import DeviceFaces


def seen_faces(noise: float, n: int = 4000, hidden: int = 8, seed: int = 0) -> Seen:
    """Errors of one look follow d_T, that of the mean the disagreement as well; two views of each face."""
    rng = np.random.default_rng(seed)
    histories, disagreement = rng.uniform(-1, 1, (2, n, hidden)), rng.normal(-4, 0.4, n)
    single = 1 + histories @ np.linspace(-0.5, 0.5, hidden)
    logs = np.concatenate([single, [0.6 * single.mean(axis=0) + 0.5 * disagreement + 2.5]])
    return Seen(np.arange(n) // 2, histories, disagreement, np.exp(logs + rng.normal(0, noise, logs.shape)))


def test_it_learns_a_rule_without_noise() -> None:
    head, fit = fit_error_head(seen_faces(0.0), 68)
    unseen = seen_faces(0.0, seed=1)
    for predicted, errors in zip(predict(head, unseen), unseen.errors[[0, 2]], strict=True):
        np.testing.assert_allclose(predicted, errors, rtol=0.1)
    assert fit.penalty == 1
    assert min(fit.spearman_one, fit.spearman_two) > 0.99


def test_predictions_are_right_on_average() -> None:
    """Of log-normal errors, the exponential of the mean logarithm would be a quarter too low."""
    head, fit = fit_error_head(seen_faces(0.75), 68)
    unseen = seen_faces(0.75, seed=1)
    one, two = predict(head, unseen)
    assert one.mean() == pytest.approx(unseen.errors[0].mean(), rel=0.05)
    assert two.mean() == pytest.approx(unseen.errors[2].mean(), rel=0.05)
    assert fit.spearman_one == pytest.approx(spearman(one, unseen.errors[0]), abs=0.05)


def test_what_means_nothing_is_not_believed() -> None:
    """More numbers than a few noisy faces can tell apart: a high penalty, and no correlation on faces left out."""
    rng = np.random.default_rng(0)
    errors = np.exp(rng.normal(1, 0.5, (3, 300)))
    seen = Seen(np.arange(300), rng.uniform(-1, 1, (2, 300, 200)), rng.normal(-4, 0.4, 300), errors)
    head, fit = fit_error_head(seen, 68)
    assert fit.penalty >= 1000
    assert abs(fit.spearman_one) < 0.15
    one, _ = predict(head, seen)
    assert one.std() < 0.2 * errors[0].std()


def test_a_stretched_head_is_right_on_faces_that_err_otherwise() -> None:
    """The rule of unseen faces: larger errors, and the more so the larger they are."""
    head, _ = fit_error_head(seen_faces(0.3), 68)
    unseen, others = (
        replace(seen, errors=1.2 * seen.errors**1.5) for seen in (seen_faces(0.3, seed=1), seen_faces(0.3, seed=2))
    )
    stretch = fit_stretch(head, unseen)
    assert stretch.one[1] == pytest.approx(1.5, abs=0.05)
    assert stretch.two[1] == pytest.approx(1.5, abs=0.05)
    corrected = stretched(head, stretch)
    for before, after, errors in zip(
        predict(head, others), predict(corrected, others), others.errors[[0, 2]], strict=True
    ):
        low, high = np.array_split(np.argsort(after), 2)
        for part in (low, high):
            assert after[part].mean() == pytest.approx(errors[part].mean(), rel=0.05)
        assert before.mean() < 0.8 * errors.mean()
    for (lift, slope), before, after in zip(
        (stretch.one, stretch.two), predict(head, others), predict(corrected, others), strict=True
    ):
        np.testing.assert_allclose(np.log(after), lift + slope * np.log(before), atol=1e-4)


def test_predictions_that_mislead_are_not_stretched() -> None:
    head, _ = fit_error_head(seen_faces(0.1), 68)
    seen = seen_faces(0.1, seed=1)
    with pytest.raises(ValueError, match="do not rise"):
        fit_stretch(head, replace(seen, errors=1 / seen.errors))


@pytest.mark.parametrize("document", [None, {}, {"one": [1, 2]}, {"one": [0, 1], "two": [0, -1]}, {"one": 1, "two": 2}])
def test_what_is_no_stretch_is_an_error(document: object) -> None:
    with pytest.raises(ValueError, match=r"Expected lift and slope|Slopes must be positive"):
        Stretch.from_document(document)


def test_too_few_faces_are_an_error() -> None:
    with pytest.raises(ValueError, match=f"at least {FOLDS} faces"):
        fit_error_head(seen_faces(0.1, n=4), 68)


@pytest.mark.parametrize("augmentation", [None, Augmentation()], ids=["plain", "views"])
def test_what_is_seen_is_what_the_aligner_does(
    device_faces: Callable[..., DeviceFaces],
    new_gen: Callable[..., Any],
    new_lrn: Callable[..., Any],
    augmentation: Any,
) -> None:
    faces = device_faces()
    aligner = FaceAligner(new_gen(faces), new_lrn(), None, max_iterations=2, mirror=True, batch_size=4)
    seen = see(aligner, faces, augmentation, views=2, seed=3)
    assert seen.faces.tolist() == [*range(6), *range(6)]
    assert seen.histories.shape == (2, 12, 512)
    if augmentation is None:
        batch = faces.batch(np.arange(6))
        both = aligner.align_crops(batch.crops.numpy())[0][:, -1]
        expected = 100 * nme(both, batch.landmarks.numpy(), batch.d.numpy(), batch.counted.numpy())
        np.testing.assert_allclose(seen.errors[2, :6], expected, rtol=1e-4)
        np.testing.assert_array_equal(seen.errors[:, :6], seen.errors[:, 6:])
        first, second = (look.trajectories[:, -1] for look in aligner.looks(batch.crops.numpy()))
        np.testing.assert_allclose(seen.disagreement[:6], log_disagreement(first, second), atol=1e-4)
    else:
        assert (seen.errors[:, :6] != seen.errors[:, 6:]).any()
