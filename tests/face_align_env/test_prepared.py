"""Prepared faces: the crop that everything else sees, and its identity (index, seed)."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from face_align_env.augmentation import Augmentation
from face_align_env.crops import CONTEXT, CROP_SIZE, crop_transform, cut, transform_points
from face_align_env.datasets import Annotation, FaceDataset
from face_align_env.metrics import normalizing_distance
from face_align_env.prepared import FaceSource, PreparedFaces

Toy = Callable[..., FaceDataset]
FIRST, SECOND = np.array([1, 3, 0]), np.array([7, 8, 9])  # faces and seeds


@pytest.fixture
def prepared(toy_dataset: Toy) -> PreparedFaces:
    return PreparedFaces(toy_dataset())


def count_reads(prepared: PreparedFaces, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The faces whose image is opened from here on."""
    reads: list[int] = []
    read = prepared.dataset.image

    def image(index: int) -> npt.NDArray[np.uint8]:
        reads.append(index)
        return read(index)

    monkeypatch.setattr(prepared.dataset, "image", image)
    return reads


@pytest.mark.parametrize("margin", [0.15, 0.4])
def test_a_crop_is_cut_by_the_face_box_and_its_margin(toy_dataset: Toy, margin: float) -> None:
    dataset = toy_dataset()
    prepared = PreparedFaces(dataset, margin=margin)
    face = dataset[2]
    matrix = crop_transform(face.box, margin)
    np.testing.assert_array_equal(prepared.crop(2), cut(face.image, matrix, CONTEXT)[48:-48, 48:-48])
    assert prepared.crop(2).shape == (CROP_SIZE, CROP_SIZE, 3)
    np.testing.assert_array_equal(prepared.landmarks[2], transform_points(matrix, face.landmarks))
    corners = transform_points(matrix, face.box.reshape(2, 2))
    assert (corners > 0).all()
    assert (corners < CROP_SIZE).all(), "the box lies within the crop"


def test_context_is_the_surroundings_of_the_crop(prepared: PreparedFaces) -> None:
    context = prepared.context(0)
    assert context.shape == (CROP_SIZE + 2 * CONTEXT, CROP_SIZE + 2 * CONTEXT, 3)
    plain = cut(prepared.dataset.image(0), prepared.transforms[0])
    difference = np.abs(prepared.crop(0).astype(int) - plain)
    assert difference.max() <= 2, "fixed-point interpolation may round differently, no more"


def test_distances_are_those_of_the_landmarks_in_the_crop(prepared: PreparedFaces) -> None:
    boxes = np.concatenate([prepared.landmarks.min(1), prepared.landmarks.max(1)], axis=1)  # the toy faces' boxes
    for normalizer in ("inter_ocular", "inter_pupil", "face_size"):
        expected = normalizing_distance(prepared.landmarks, normalizer, boxes)
        np.testing.assert_allclose(prepared.distances(normalizer), expected, rtol=1e-5)
    np.testing.assert_array_equal(prepared.d, prepared.distances("inter_ocular"))
    chosen = PreparedFaces(prepared.dataset, normalizer="face_size")
    np.testing.assert_array_equal(chosen.d, prepared.distances("face_size"))


def test_mean_shape_counts_only_what_is_annotated(toy_dataset: Any) -> None:
    class Partly(toy_dataset):  # type: ignore[misc]
        def annotation(self, index: int) -> Annotation:
            counted = np.ones(68, dtype=np.bool_)
            counted[5] = index == 0  # annotated in the first face alone
            counted[6] = False  # in none
            return replace(super().annotation(index), counted=counted)

    prepared = PreparedFaces(Partly(size=3))
    mean = prepared.mean_shape()
    np.testing.assert_allclose(mean[4], prepared.landmarks[:, 4].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(mean[5], prepared.landmarks[0, 5])
    np.testing.assert_array_equal(mean[6], [0, 0])


def test_images_are_read_when_needed_and_the_latest_kept(toy_dataset: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = PreparedFaces(toy_dataset(), max_cached=2)
    reads = count_reads(prepared, monkeypatch)
    assert reads == [], "annotations are enough to prepare"
    for index in (0, 1, 0, 2, 0, 1):
        prepared.crop(index)
    # 0 was used more recently than 1 when 2 came
    assert reads == [0, 1, 2, 1]


def test_nothing_is_kept_without_a_cache(toy_dataset: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = PreparedFaces(toy_dataset(), max_cached=0)
    reads = count_reads(prepared, monkeypatch)
    for _ in range(2):
        prepared.crop(1)
    assert reads == [1, 1]


def test_a_pickle_carries_no_images(prepared: PreparedFaces) -> None:
    for index in range(3):
        prepared.crop(index)
    data = pickle.dumps(prepared)
    assert len(data) < prepared.context(0).nbytes
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.crop(1), prepared.crop(1))
    np.testing.assert_array_equal(again.landmarks, prepared.landmarks)


def test_a_split_without_faces_is_an_error(toy_dataset: Toy) -> None:
    with pytest.raises(ValueError, match="'toy' has no faces in its split 'test'"):
        PreparedFaces(toy_dataset("test", size=0))


def test_a_bad_image_is_named(toy_dataset: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = PreparedFaces(toy_dataset())
    monkeypatch.setattr(prepared.dataset, "image", lambda index: np.zeros((9, 9), dtype=np.uint8))
    with pytest.raises(ValueError, match="train-4: expected a non-empty"):
        prepared.crop(4)


def test_plain_crops_do_not_depend_on_the_seed(prepared: PreparedFaces) -> None:
    source = FaceSource(prepared)
    crops = source.crops(FIRST, SECOND)
    np.testing.assert_array_equal(crops, source.crops(FIRST, SECOND + 1))
    np.testing.assert_array_equal(crops[1], prepared.crop(3))


def test_index_and_seed_identify_an_augmented_crop(prepared: PreparedFaces) -> None:
    source = FaceSource(prepared, Augmentation())
    crops = source.crops(FIRST, SECOND)
    np.testing.assert_array_equal(crops, FaceSource(prepared, Augmentation()).crops(FIRST, SECOND))
    for i in range(3):
        alone = source.crops(FIRST[i : i + 1], SECOND[i : i + 1])
        np.testing.assert_array_equal(alone[0], crops[i], err_msg="a crop depends on nothing else in the batch")
    assert (source.crops(FIRST, SECOND + 10) != crops).mean() > 0.5, "another seed, another view"


def test_annotations_are_those_of_the_view(prepared: PreparedFaces) -> None:
    plain, augmented = FaceSource(prepared), FaceSource(prepared, Augmentation(mirror=1.0))
    landmarks, d, counted = plain.annotations(FIRST, SECOND)
    np.testing.assert_array_equal(landmarks, prepared.landmarks[FIRST])
    np.testing.assert_array_equal(d, prepared.d[FIRST])
    np.testing.assert_array_equal(counted, prepared.counted[FIRST])
    landmarks, d, _ = augmented.annotations(FIRST, SECOND)
    assert (landmarks != prepared.landmarks[FIRST]).all()
    # the view moves the eyes' corners, and with them Eq. 2's d
    np.testing.assert_allclose(d, normalizing_distance(landmarks, "inter_ocular"), rtol=1e-5)
