"""Drawn faces: pure, exact, varied."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from face_align_env.datasets.synthetic import head as heads
from face_align_env.datasets.synthetic import portrait, skin
from face_align_env.datasets.synthetic.dataset import SyntheticFaces
from face_align_env.landmarks import get_scheme, to_19_points

# Where a point of another scheme is a point of the 68.
SAME_29 = {
    0: 17, 1: 26, 2: 21, 3: 22, 8: 36, 9: 45, 10: 39, 11: 42,
    20: 30, 21: 33, 22: 48, 23: 54, 24: 51, 27: 57, 28: 8,
}  # fmt: skip
SAME_19 = {0: 17, 2: 21, 3: 22, 5: 26, 6: 36, 8: 39, 9: 42, 11: 45, 13: 30, 15: 48, 17: 54, 18: 8}


@pytest.fixture(scope="module")
def shapes() -> dict[int, np.ndarray]:
    """(400, K, 2) landmarks of the same faces in each scheme, with the box's centre at 0 and its side 1."""
    faces = {}
    for k in (68, 29, 19):
        dataset = SyntheticFaces(landmarks=k, size=400)
        annotations = [dataset.annotation(i) for i in range(400)]
        boxes = np.array([a.box for a in annotations])
        centers, sides = 0.5 * (boxes[:, :2] + boxes[:, 2:]), (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
        landmarks = np.array([a.landmarks for a in annotations])
        faces[k] = (landmarks - centers[:, None]) / sides[:, None, None]
    return faces


def patch_mean(image: np.ndarray, point: np.ndarray, radius: int = 2) -> np.ndarray:
    x, y = np.round(point).astype(int)
    return image[y - radius : y + radius + 1, x - radius : x + radius + 1].reshape(-1, 3).mean(axis=0)


def test_a_face_depends_on_seed_split_and_index_alone() -> None:
    first, second = SyntheticFaces(size=10), SyntheticFaces(landmarks=19, size=2000)
    third = SyntheticFaces(root="anything", size=10)
    forwards = [first[i] for i in (3, 4)]
    _ = second[7]  # another order, another size, another scheme
    backwards = [second[i] for i in (4, 3)][::-1]
    for a, b, i in zip(forwards, backwards, (3, 4), strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.box, b.box)
        assert a.id == b.id == f"train/{i:06d}"
        c = third[i]
        np.testing.assert_array_equal(a.landmarks, c.landmarks)
        np.testing.assert_array_equal(a.visible, c.visible)


def test_an_image_can_be_asked_for_before_its_annotation() -> None:
    image = SyntheticFaces(size=10).image(6)
    np.testing.assert_array_equal(image, SyntheticFaces(size=10)[6].image)


@pytest.mark.parametrize("other", [{"seed": 1}, {"split": "test"}])
def test_another_seed_or_split_has_other_faces(other: dict) -> None:
    a, b = SyntheticFaces(), SyntheticFaces(**other)
    assert not np.array_equal(a.annotation(0).landmarks, b.annotation(0).landmarks)
    assert not np.array_equal(a.image(0), b.image(0))


def test_sizes_and_ids_of_the_splits() -> None:
    assert (len(SyntheticFaces()), len(SyntheticFaces("test")), len(SyntheticFaces(size=7))) == (2000, 500, 7)
    assert SyntheticFaces("test").annotation(123).id == "test/000123"
    assert SyntheticFaces(size=7)[-1].id == "train/000006"


@pytest.mark.parametrize("k", [68, 29, 19])
def test_shapes_and_types(k: int) -> None:
    face = SyntheticFaces("test", landmarks=k)[0]
    assert face.image.shape == (256, 256, 3)
    assert face.image.dtype == np.uint8
    assert face.image.flags.c_contiguous
    assert face.landmarks.shape == (k, 2)
    assert face.landmarks.dtype == face.box.dtype == np.float32
    assert face.visible.shape == (k,)
    assert face.visible.dtype == np.bool_
    assert face.counted is None


def test_landmarks_are_inside_the_image_and_in_the_box(shapes: dict[int, np.ndarray]) -> None:
    dataset = SyntheticFaces(size=400)
    for i in range(len(dataset)):
        a = dataset.annotation(i)
        assert a.landmarks.min() >= 0
        assert a.landmarks.max() <= 255
        np.testing.assert_array_equal(a.box, [*a.landmarks.min(axis=0), *a.landmarks.max(axis=0)])
        side = (a.box[2:] - a.box[:2]).max() / 256
        assert 0.46 < side < 0.63
    # Only the middle of a brow may lie over the box of the 68 (its upper edge).
    assert np.abs(shapes[29]).max() < 0.56
    assert np.abs(shapes[19]).max() <= 0.5001


def test_the_schemes_agree_where_their_points_coincide(shapes: dict[int, np.ndarray]) -> None:
    for k, same in ((29, SAME_29), (19, SAME_19)):
        np.testing.assert_allclose(shapes[k][:, list(same)], shapes[68][:, list(same.values())], atol=1e-6)
    np.testing.assert_allclose(shapes[19], to_19_points(shapes[68]), atol=1e-5)


@pytest.mark.parametrize("k", [68, 29, 19])
def test_the_mean_face_is_its_own_mirror_image(shapes: dict[int, np.ndarray], k: int) -> None:
    mean = shapes[k].mean(axis=0)
    mirrored = (mean * [-1.0, 1.0])[get_scheme(k).mirror_permutation]
    assert np.abs(mirrored - mean).max() < 0.03


def test_the_first_points_are_at_the_left_of_the_picture(shapes: dict[int, np.ndarray]) -> None:
    mean = shapes[68].mean(axis=0)
    for left, right in ((0, 16), (17, 26), (36, 45), (36, 39), (42, 45), (31, 35), (48, 54), (60, 64)):
        assert mean[left, 0] < mean[right, 0]
    for upper, lower in ((19, 37), (37, 41), (27, 30), (30, 33), (33, 51), (51, 62), (62, 66), (66, 57), (57, 8)):
        assert mean[upper, 1] <= mean[lower, 1]


def test_poses_and_expressions_vary(shapes: dict[int, np.ndarray]) -> None:
    s = shapes[68]
    eyes = np.linalg.norm(s[:, 36] - s[:, 45], axis=1)
    turn = (s[:, 30, 0] - 0.5 * (s[:, 0, 0] + s[:, 16, 0])) / np.linalg.norm(s[:, 0] - s[:, 16], axis=1)
    assert turn.std() > 0.15
    assert turn.min() < -0.3
    assert turn.max() > 0.3
    tilt = np.degrees(np.arctan2(*(s[:, 45] - s[:, 36]).T[::-1]))
    assert tilt.std() > 5
    assert 15 < np.abs(tilt).max() < 60
    gap = np.linalg.norm(s[:, 62] - s[:, 66], axis=1)
    assert 0.3 < (gap < 0.01).mean() < 0.8
    assert (gap > 0.1).mean() > 0.05
    lids = np.linalg.norm(s[:, 37] - s[:, 41], axis=1) / eyes
    assert (lids < 0.02).any()
    assert (lids > 0.08).mean() > 0.3


def test_some_landmarks_are_hidden_and_most_are_not() -> None:
    dataset = SyntheticFaces(size=300)
    visible = np.array([dataset.annotation(i).visible for i in range(300)])
    assert 0.7 < visible.mean() < 0.99
    assert 0.05 < visible.all(axis=1).mean() < 0.9
    assert visible.mean(axis=0).min() > 0.3  # no point is hidden as a rule


def test_pictures_show_something_and_differ() -> None:
    dataset = SyntheticFaces(size=24)
    images = np.array([dataset.image(i) for i in range(24)], dtype=np.float32)
    assert images.std(axis=(1, 2, 3)).min() > 8
    for i in range(23):
        assert np.abs(images[i] - images[i + 1]).mean() > 10


def test_features_are_drawn_where_the_landmarks_are() -> None:
    dataset = SyntheticFaces(size=150)
    lips, pupils = [], []
    for i in range(150):
        a = dataset.annotation(i)
        points = a.landmarks
        if not a.visible.all():
            continue
        image = dataset.image(i).astype(np.float32)
        cheek = patch_mean(image, 0.5 * (points[31] + points[3]))
        lip = patch_mean(image, 0.5 * (points[66] + points[57]), 1)
        eye = patch_mean(image, points[36:42].mean(axis=0), 1)
        lips.append(np.abs(lip - cheek).max())
        pupils.append(np.abs(eye - cheek).max())
    assert len(lips) > 10
    assert np.median(lips) > 12
    assert np.median(pupils) > 12


def test_the_normalizer_can_be_chosen() -> None:
    assert SyntheticFaces().normalizer == "inter_ocular"
    assert SyntheticFaces(normalizer="face_size").normalizer == "face_size"
    assert SyntheticFaces.normalizer == "inter_ocular"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "no split 'dev'"),
        ({"landmarks": 5}, "5 landmarks"),
        ({"size": 0}, "at least 1"),
        ({"seed": -1}, "at least 0"),
        ({"normalizer": "nose"}, "inter_pupil"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticFaces(**options)


def test_the_picture_shows_each_landmark_at_its_pixel() -> None:
    """Undo the drawing: the surface point seen at a landmark's pixel is the landmark's."""
    errors = []
    for i in range(40):
        rng = np.random.default_rng(i)
        head = heads.sample_head(rng)
        parts = heads.features(head)
        points = heads.model_points(head, parts)[17:68]  # without the jaw, which is at the silhouette
        view = heads.view_of(head, points)
        points = points[heads.faces_camera(head, view, points)]
        theta, y = portrait.GRID_THETA, skin.v_to_y(head, portrait.GRID_ROWS)
        flat, _ = view.unrolled(heads.surface_grid(head, theta, y))
        raster = portrait.rasterize(head, view, flat)
        at = view.unrolled(points.T)[0] - raster.origin[:, None]
        at_x, at_y = at.astype(np.float32)
        u, v = (cv2.remap(m, at_x, at_y, cv2.INTER_LINEAR)[:, 0] for m in (raster.u, raster.v))
        sine = points[:, 0] / heads.half_width(head, points[:, 1])
        error_u = np.interp(np.arcsin(sine), theta, np.arange(len(theta))) - u
        error_v = np.interp(points[:, 1], y, np.arange(len(y))) - v
        # Steps of the grid are about two pixels.
        errors.append(2.0 * np.hypot(error_u, error_v))
    assert np.median(np.concatenate(errors)) < 0.1
    assert np.percentile(np.concatenate(errors), 90) < 0.5
