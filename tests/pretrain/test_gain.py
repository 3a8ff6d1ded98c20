"""The head that predicts what an iteration gains, fitted on paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from face_align_env.aligner.aligner import FaceAligner
from face_align_env.augmentation import Augmentation
from face_align_env.mdp import MAX_ITERATIONS, nme
from face_align_env.networks.cascade import cascade
from face_align_env.networks.gain import increment_lengths
from face_align_env.pretrain.faces import DeviceFaces
from face_align_env.pretrain.gain import LEAST_FACES, Paths, fit_gain_head, see_paths


def paths(noise: float, faces: int = 400, views: int = 2, steps: int = 3) -> Paths:
    """After the first iteration the gain follows from the lengths, after the second it is chance."""
    rng = np.random.default_rng(0)
    lengths = rng.uniform(0.5, 3, (steps, views * faces, 3))
    gains = rng.normal(0.1, noise, (steps, views * faces))
    gains[1] += 0.5 * lengths[0, :, 0] - 0.2 * lengths[0, :, 2]
    return Paths(views, lengths, 9 - np.concatenate([np.zeros((1, views * faces)), gains.cumsum(axis=0)]))


def test_lengths_are_believed_where_they_tell_something() -> None:
    head, told = fit_gain_head(paths(noise=0.3), 68)
    assert told == (1,)
    np.testing.assert_allclose(head.slopes[0], [0.5, 0.0, -0.2], atol=0.05)
    assert head.offset[0].item() == pytest.approx(0.1, abs=0.1)
    assert head.slopes[1].abs().max() == 0
    gains = paths(noise=0.3).errors[2] - paths(noise=0.3).errors[3]
    assert head.offset[1].item() == pytest.approx(gains.mean(), rel=1e-5), "the mean of all"


def test_views_of_a_face_are_no_faces_of_their_own() -> None:
    """Twenty faces that gain by chance, seen a hundred times, tell nothing of others."""
    rng = np.random.default_rng(1)
    believed = 0
    for _ in range(20):
        lengths, gains = (np.tile(rng.normal(size=(3, 20, n)), (1, 100, 1)) for n in (3, 1))
        errors = 9 - np.concatenate([np.zeros((1, 2000)), gains[..., 0].cumsum(axis=0)])
        believed += len(fit_gain_head(Paths(100, lengths, errors), 68)[1])
    assert believed <= 4, "of 40"


def test_few_faces_are_an_error() -> None:
    with pytest.raises(ValueError, match=f"at least {LEAST_FACES} faces, got {LEAST_FACES - 1}"):
        fit_gain_head(paths(0.1, faces=LEAST_FACES - 1), 68)


@pytest.mark.parametrize("augmentation", [None, Augmentation()], ids=["plain", "views"])
def test_what_is_seen_is_what_the_cascade_does(
    device_faces: Callable[..., DeviceFaces],
    new_gen: Callable[..., Any],
    new_lrn: Callable[..., Any],
    augmentation: Augmentation | None,
) -> None:
    faces = device_faces()
    aligner = FaceAligner(new_gen(faces), new_lrn(gain=20), batch_size=4)
    seen = see_paths(aligner, faces, augmentation, views=2, seed=3)
    assert (seen.views, seen.lengths.shape) == (2, (MAX_ITERATIONS, 12, 3))
    assert seen.errors.shape == (MAX_ITERATIONS + 1, 12)
    if augmentation is not None:
        assert (seen.errors[:, :6] != seen.errors[:, 6:]).any(axis=0).all()
        return
    batch = faces.batch(np.arange(6))
    with torch.inference_mode():
        x_0 = aligner.start(batch.crops)
        np.testing.assert_allclose(
            seen.errors[0, :6], 100 * nme(x_0, batch.landmarks, batch.d, batch.counted), rtol=1e-4
        )
        assert aligner.lrn is not None
        for step in cascade(aligner.lrn, batch.crops, x_0, MAX_ITERATIONS):
            errors = 100 * nme(step.landmarks, batch.landmarks, batch.d, batch.counted)
            np.testing.assert_allclose(seen.errors[step.iteration, :6], errors, rtol=1e-3)
            lengths = increment_lengths(step.actions)
            np.testing.assert_allclose(seen.lengths[step.iteration - 1, :6], lengths, rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(seen.errors[:, :6], seen.errors[:, 6:], rtol=1e-5)
