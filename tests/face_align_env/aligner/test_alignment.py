"""What an alignment tells of a face: pose, five points, crop, dictionary, picture."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from face_align_env.aligner.alignment import TEMPLATE, Alignment, draw_alignments, five_points, similarity
from face_align_env.aligner.pose import estimate_pose, generic_head
from face_align_env.datasets import load_dataset
from face_align_env.datasets.synthetic.head import SCHEME_POINTS, features, model_points, sample_head, view_of
from face_align_env.landmarks import SCHEMES, get_scheme


@pytest.fixture(scope="module")
def alignment() -> Alignment:
    face = load_dataset("synthetic", "test", size=1)[0]
    trajectory = np.stack([face.landmarks + 2, face.landmarks])
    return Alignment(face.landmarks, 1, trajectory, face.box.astype(np.float64), face.image)


def heads(count: int, scheme: int, **changes: float) -> tuple[np.ndarray, np.ndarray]:
    """(N, K, 2) landmarks of synthetic heads, and their (N, 3) yaw, pitch and roll in degrees."""
    rng, shapes, angles = np.random.default_rng(3), [], []
    for _ in range(count):
        head = replace(sample_head(rng), **changes)
        points = model_points(head, features(head))
        shapes.append(view_of(head, points[:68]).project(points)[SCHEME_POINTS[scheme]])
        angles.append(np.degrees([head.yaw, head.pitch, head.roll]))
    return np.array(shapes, dtype=np.float32), np.array(angles)


@pytest.mark.parametrize(("scheme", "bound"), [(68, 3), (29, 5), (19, 5)])
def test_the_pose_is_that_of_the_head(scheme: int, bound: float) -> None:
    shapes, angles = heads(150, scheme)
    found = np.array([[pose.yaw, pose.pitch, pose.roll] for pose in map(estimate_pose, shapes)])
    errors = np.abs(found - angles).mean(axis=0)
    assert (errors < [bound, bound, 1]).all(), errors
    for angle in range(3):
        assert np.corrcoef(found[:, angle], angles[:, angle])[0, 1] > 0.9


@pytest.mark.parametrize(
    ("turned", "sign"),
    [({"yaw": 0.6}, (1, 0, 0)), ({"pitch": 0.4}, (0, 1, 0)), ({"roll": 0.5}, (0, 0, 1)), ({"roll": -2.5}, (0, 0, -1))],
)
def test_signs_are_as_they_are_said_to_be(turned: dict[str, float], sign: tuple[int, int, int]) -> None:
    shapes, _ = heads(20, 68, **{"yaw": 0.0, "pitch": 0.0, "roll": 0.0, **turned})
    mean = np.mean([[pose.yaw, pose.pitch, pose.roll] for pose in map(estimate_pose, shapes)], axis=0)
    (name, value), *_ = turned.items()
    expected = np.array(sign) * abs(np.degrees(value))
    np.testing.assert_allclose(mean, expected, atol=5)
    # from the definition: the nose of a face with positive yaw is to the right of the middle of its eyes
    if name == "yaw":
        assert (shapes[:, 30, 0] > shapes[:, [36, 45], 0].mean(axis=1)).all()


def test_the_pose_does_not_depend_on_where_the_face_is_and_how_large() -> None:
    (shape,), _ = heads(1, 68)
    one, other = estimate_pose(shape), estimate_pose(7 * shape + 3000)
    np.testing.assert_allclose([one.yaw, one.pitch, one.roll], [other.yaw, other.pitch, other.roll], atol=0.05)


@pytest.mark.parametrize("shape", [np.zeros((68, 2)), np.full((68, 2), np.nan)], ids=["one place", "nan"])
def test_there_is_no_pose_without_a_shape(shape: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no pose"):
        estimate_pose(shape)
    with pytest.raises(ValueError, match="No landmark scheme has 5 points"):
        estimate_pose(shape[:5])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_generic_head_is_symmetric(scheme: int) -> None:
    head = generic_head(scheme)
    np.testing.assert_allclose(head[get_scheme(scheme).mirror_permutation], head * [-1, 1, 1], atol=1e-9)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_five_points_are_eyes_nose_and_mouth(scheme: int) -> None:
    shapes, _ = heads(1, scheme, yaw=0.0, pitch=0.0, roll=0.0)
    left_eye, right_eye, nose, left_mouth, right_mouth = five_points(shapes[0])
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < nose[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])


def test_a_similarity_is_found_again() -> None:
    points = np.random.default_rng(0).normal(size=(5, 2))
    matrix = np.array([[3 * np.cos(2), -3 * np.sin(2), 7], [3 * np.sin(2), 3 * np.cos(2), -4]])
    np.testing.assert_allclose(similarity(points, points @ matrix[:, :2].T + matrix[:, 2]), matrix, atol=1e-9)
    with pytest.raises(ValueError, match="all in one place"):
        similarity(np.ones((5, 2)), points)


@pytest.mark.parametrize(("zoom", "size"), [(1, 112), (1, 200), (6, 64)], ids=["usual", "large", "from a large photo"])
def test_a_crop_has_the_face_on_the_template(alignment: Alignment, zoom: int, size: int) -> None:
    """Eyes and mouth of a photo that is turned and shifted are where the template has them."""
    side = 256 * zoom
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), 35, 1.0)
    photo = cv2.resize(alignment.image, (side, side), interpolation=cv2.INTER_CUBIC)
    photo = cv2.warpAffine(photo, turn, (side, side))
    landmarks = ((alignment.landmarks + 0.5) * zoom - 0.5) @ turn[:, :2].T + turn[:, 2]
    turned = replace(alignment, landmarks=landmarks.astype(np.float32), image=photo)
    crop, straight = turned.crop(size), alignment.crop(size)
    assert (crop.shape, crop.dtype) == ((size, size, 3), np.uint8)
    middle = slice(size // 4, -size // 4)
    difference = np.abs(crop[middle, middle].astype(int) - straight[middle, middle])
    assert difference.mean() < 8
    scale = size / 112
    moved = alignment.five_points @ similarity(alignment.five_points, (TEMPLATE + 0.5) * scale - 0.5)[:, :2].T
    assert np.ptp(moved[:2, 0]) == pytest.approx(35 * scale, rel=0.25)


def test_a_crop_without_pixels_is_an_error(alignment: Alignment) -> None:
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        alignment.crop(0)


def test_the_dictionary_is_of_json_s_types(alignment: Alignment) -> None:
    told = json.loads(json.dumps(alignment.to_dict()))
    assert list(told) == ["landmarks", "box", "iterations", "confidence", "pose", "five_points"]
    np.testing.assert_allclose(told["landmarks"], alignment.landmarks, atol=0.006)
    np.testing.assert_allclose(told["five_points"], alignment.five_points, atol=0.006)
    assert told["pose"]["yaw"] == pytest.approx(alignment.pose.yaw, abs=0.006)
    assert told["iterations"] == 1


def test_drawing_marks_landmarks_and_box_on_a_copy(alignment: Alignment) -> None:
    before = alignment.image.copy()
    picture = alignment.draw()
    np.testing.assert_array_equal(alignment.image, before)
    np.testing.assert_array_equal(picture, draw_alignments(before, [alignment]))
    rows, columns = np.nonzero((picture != before).any(-1))
    drawn = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
    np.testing.assert_allclose(drawn, alignment.box, atol=5)
    inside = picture[60:-60, 60:-60] != before[60:-60, 60:-60]
    assert inside.any(), "landmarks as well"
