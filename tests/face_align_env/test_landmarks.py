"""Landmark schemes agree with themselves, and 19 points are the right ones of 68."""

from __future__ import annotations

import numpy as np
import pytest

from face_align_env.landmarks import SCHEMES, get_scheme, means_of_points, to_19_points

every_scheme = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)


@every_scheme
def test_mirroring_twice_changes_nothing(scheme):
    permutation = scheme.mirror_permutation
    assert permutation.shape == (scheme.num_landmarks,)
    np.testing.assert_array_equal(permutation[permutation], np.arange(scheme.num_landmarks))


@every_scheme
def test_a_point_is_in_at_most_one_mirror_pair(scheme):
    points = [point for pair in scheme.mirror_pairs for point in pair]
    assert len(points) == len(set(points))


@every_scheme
def test_eye_corners_and_pupils_are_mirror_partners(scheme):
    permutation = scheme.mirror_permutation
    first, second = scheme.outer_eye_corners
    assert permutation[first] == second != first
    assert set(permutation[list(scheme.pupils[0])]) == set(scheme.pupils[1])
    assert not set(scheme.pupils[0]) & set(scheme.pupils[1])


@every_scheme
def test_contours_name_points_that_exist(scheme):
    for points, closed in scheme.contours:
        assert isinstance(closed, bool)
        assert len(points) >= 2
        assert all(0 <= point < scheme.num_landmarks for point in points)


@every_scheme
def test_contours_mirror_onto_contours(scheme):
    """A mirrored curve joins the same points: a wrong mirror pair or contour would break this."""

    def edges(permutation):
        joined = set()
        for points, closed in scheme.contours:
            following = points[1:] + points[:1] if closed else points[1:]
            joined |= {frozenset((permutation[a], permutation[b])) for a, b in zip(points, following, strict=False)}
        return joined

    assert edges(scheme.mirror_permutation) == edges(np.arange(scheme.num_landmarks))


def test_a_scheme_is_found_by_its_number_of_points():
    assert [get_scheme(k).name for k in (68, 29, 19)] == ["300W", "COFW", "AFLW"]
    with pytest.raises(ValueError, match=r"No landmark scheme has 5 points; there are \[19, 29, 68\]"):
        get_scheme(5)


def test_19_points_are_the_means_of_the_right_68():
    points = np.stack([np.arange(68.0), 100 + 2 * np.arange(68.0)], axis=1).astype(np.float32)
    # Point i lies at (i, 100 + 2 i), so that a mean of points 36..41 is (38.5, 177), of 48..67 (57.5, 215).
    x = [17, 19, 21, 22, 24, 26, 36, 38.5, 39, 42, 44.5, 45, 31, 30, 35, 48, 57.5, 54, 8]
    derived = to_19_points(points)
    assert derived.shape == (19, 2)
    assert derived.dtype == np.float32
    np.testing.assert_array_equal(derived, np.stack([x, 100 + 2 * np.asarray(x)], axis=1))


def test_19_points_of_a_batch_are_those_of_each_shape():
    shapes = np.random.default_rng(0).normal(size=(2, 3, 68, 2))
    derived = to_19_points(shapes)
    assert derived.shape == (2, 3, 19, 2)
    assert derived.dtype == np.float64
    np.testing.assert_array_equal(derived[1, 2], to_19_points(shapes[1, 2]))


def test_19_points_of_a_mirrored_face_are_the_mirrored_19_points():
    face = np.random.default_rng(1).normal(size=(68, 2))
    mirrored = (face * (-1, 1))[get_scheme(68).mirror_permutation]
    np.testing.assert_allclose(
        to_19_points(mirrored), (to_19_points(face) * (-1, 1))[get_scheme(19).mirror_permutation]
    )


def test_19_points_need_68():
    with pytest.raises(ValueError, match=r"Expected \(\.\.\., 68, 2\) landmarks, got \(29, 2\)"):
        to_19_points(np.zeros((29, 2), dtype=np.float32))


def test_the_weights_of_those_means():
    shapes = np.random.default_rng(2).normal(size=(5, 68, 2)).astype(np.float32)
    np.testing.assert_allclose(means_of_points(68, 19) @ shapes, to_19_points(shapes), atol=1e-6)
    np.testing.assert_array_equal(means_of_points(29, 29), np.eye(29))
    for source, target in ((19, 68), (68, 29), (29, 19)):
        with pytest.raises(ValueError, match=f"{target} landmarks cannot be had from {source}, only 19 from 68"):
            means_of_points(source, target)
