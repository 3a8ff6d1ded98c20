"""Every dataset keeps one contract, whoever wrote its reader."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from writers.every import WRITERS
from writers.support import real_root

from face_align_env.datasets import (
    REGISTRY,
    BadFaceError,
    DatasetNotFoundError,
    Face,
    FaceDataset,
    dataset_class,
    load_dataset,
)
from face_align_env.datasets.aflw import AFLW
from face_align_env.landmarks import to_19_points

pytestmark = pytest.mark.filterwarnings("ignore:(300w|cofw|aflw) .* of the protocol's:UserWarning")

JOINED = "300w+ytf"
REAL = ("300w", "ytf", "aflw")
SOURCES = ("synthetic", *WRITERS, JOINED, *(f"real {name}" for name in REAL))
every_written = pytest.mark.parametrize("name", WRITERS)


def test_every_copy_that_the_contract_writes_has_all_its_splits(data):
    for name in WRITERS:
        assert all(len(load_dataset(name, split, data / name)) > 0 for split in dataset_class(name).splits)


def test_every_registered_dataset_is_put_to_the_contract():
    assert {"synthetic", *WRITERS} == set(REGISTRY)


@pytest.fixture(scope="module", autouse=True)
def small_aflw():
    """As if AFLW's protocol had 5 faces to train on, so that 3 of the 8 that are written are left to test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AFLW, "_NUM_TRAIN", 5)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a small copy of each dataset, each under its registry name."""
    root = tmp_path_factory.mktemp("data")
    for name, write in WRITERS.items():
        write(root / name)
    return root


@pytest.fixture(scope="module", params=SOURCES)
def load_anew(request, data):
    """A function (split, landmarks) -> dataset, of every dataset in turn."""
    if request.param == "synthetic":
        return lambda split="train", landmarks=None: load_dataset("synthetic", split, landmarks=landmarks, size=8)
    kind, _, name = request.param.rpartition(" ")
    root = real_root(name) if kind else data / name
    if "+" in name:
        root = data
    return lambda split="train", landmarks=None: load_dataset(name, split, root, landmarks)


@pytest.fixture(scope="module")
def load(load_anew):
    """The same, opened once for all tests."""
    return functools.cache(load_anew)


@pytest.fixture(scope="module")
def splits(load):
    """The splits that this copy has: not every copy has all of them, but none is without training and test set."""
    dataset = load()
    found = []
    for split in dataset.splits:
        if any(split not in part.splits for part in dataset.parts):
            continue
        try:
            load(split)
        except DatasetNotFoundError:
            continue
        found.append(split)
    assert found[0] == dataset.splits[0] == "train"
    assert dataset.test_split in found
    return found


def test_every_split_is_a_sequence_of_faces(load, splits):
    for split in splits:
        dataset = load(split)
        assert isinstance(dataset, FaceDataset)
        assert len(dataset) > 0
        assert dataset.split == split
        assert dataset.is_train == (split == "train")
        for i in {0, len(dataset) // 2, len(dataset) - 1}:
            face = dataset[i]
            k = dataset.scheme.num_landmarks
            assert isinstance(face, Face)
            assert face.image.ndim == 3
            assert face.image.dtype == np.uint8
            assert face.image.shape[2] == 3
            assert (face.landmarks.shape, face.landmarks.dtype) == ((k, 2), np.float32)
            assert (face.box.shape, face.box.dtype) == ((4,), np.float32)
            assert (face.visible.shape, face.visible.dtype) == ((k,), np.bool_)
            assert face.counted is None or (face.counted.shape, face.counted.dtype) == ((k,), np.bool_)


def test_an_annotation_is_that_of_the_face_and_of_nobody_else(load):
    dataset = load()
    for i in (0, len(dataset) - 1):
        face, annotation = dataset[i], dataset.annotation(i)
        assert face.id == annotation.id
        np.testing.assert_array_equal(face.landmarks, annotation.landmarks)
        np.testing.assert_array_equal(face.box, annotation.box)
        np.testing.assert_array_equal(face.visible, annotation.visible)
        np.testing.assert_array_equal(face.image, dataset.image(i))
        # What a caller does to its copy stays with the caller.
        annotation.landmarks[:] = annotation.box[:] = -1
        annotation.visible[:] = False
        if annotation.counted is not None:
            annotation.counted[:] = False
        again = dataset.annotation(i)
        np.testing.assert_array_equal(again.landmarks, face.landmarks)
        np.testing.assert_array_equal(again.box, face.box)
        np.testing.assert_array_equal(again.visible, face.visible)
        np.testing.assert_array_equal(again.counted, face.counted)


def test_what_a_caller_does_to_an_image_stays_with_the_caller(load):
    dataset = load()
    image = dataset.image(0)
    before = image.copy()
    image[:] = 255 - image
    np.testing.assert_array_equal(dataset.image(0), before)


def test_all_annotations_are_sound_and_their_ids_unique(load, splits):
    for split in splits:
        dataset = load(split)
        ids = [dataset.annotation(i).id for i in range(len(dataset))]  # Annotation checks itself
        assert len(set(ids)) == len(ids)


def test_train_and_test_share_no_face(load):
    train = load()
    test = load(train.test_split)
    ids = [{dataset.annotation(i).id for i in range(len(dataset))} for dataset in (train, test)]
    assert not ids[0] & ids[1]


def test_the_order_is_the_same_every_time(load_anew):
    first, second = load_anew(), load_anew()
    assert first is not second
    assert [first.annotation(i).id for i in range(len(first))] == [second.annotation(i).id for i in range(len(second))]


def test_a_negative_index_counts_from_the_end(load):
    dataset = load()
    assert dataset[-1].id == dataset[len(dataset) - 1].id
    assert dataset[-len(dataset)].id == dataset[0].id


def test_an_index_past_either_end_is_an_index_error(load):
    dataset = load()
    for i in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError, match=f"Face {i} of"):
            dataset[i]


def test_an_unknown_split_is_refused_with_the_names_of_the_others(load):
    with pytest.raises(ValueError, match="has no split 'dev'; it has train, "):
        load("dev")


def test_an_unknown_number_of_landmarks_is_refused_with_those_there_are(load):
    with pytest.raises(ValueError, match=f"has no annotation with 7 landmarks; it has {load().schemes[0]}"):
        load("train", 7)


@pytest.mark.parametrize(
    "load_anew", [name for name in SOURCES if name not in ("cofw", "aflw", "real aflw")], indirect=True
)
def test_19_landmarks_are_derived_from_68(load):
    full = load()
    assert full.scheme.num_landmarks == 68
    few = load("train", 19)
    assert few.scheme.num_landmarks == 19
    assert len(full) == len(few)
    a, b = full.annotation(1), few.annotation(1)
    np.testing.assert_array_equal(b.landmarks, to_19_points(a.landmarks))
    # The crop must not depend on how many of the points are asked for.
    np.testing.assert_array_equal(b.box, a.box)
    assert b.visible.shape == (19,)
    assert a.id == b.id


def test_the_size_of_an_image_is_told_as_width_and_height(load, splits):
    for split in splits:
        dataset = load(split)
        for i in (0, len(dataset) - 1):
            height, width = dataset.image(i).shape[:2]
            assert dataset.image_size(i) == (width, height)


def test_what_is_missing_is_told_in_lines(load, splits):
    for split in splits:
        missing = load(split).missing()
        assert isinstance(missing, list)
        assert all(isinstance(line, str) and line.strip() == line != "" and "\n" not in line for line in missing)


def test_the_parts_of_a_dataset_hold_its_faces_in_order(load):
    dataset = load()
    assert sum(map(len, dataset.parts)) == len(dataset)
    first, last = dataset.parts[0], dataset.parts[-1]
    np.testing.assert_array_equal(dataset.annotation(0).landmarks, first.annotation(0).landmarks)
    np.testing.assert_array_equal(
        dataset.annotation(len(dataset) - 1).landmarks, last.annotation(len(last) - 1).landmarks
    )
    assert all(part.parts == (part,) for part in dataset.parts)


def test_a_fingerprint_is_of_jsons_types_and_the_same_every_time(load_anew):
    fingerprint = load_anew().fingerprint()
    assert fingerprint
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    assert load_anew().fingerprint() == fingerprint


# What is read from disk --------------------------------------------------------------------------


@every_written
def test_a_copy_that_is_moved_anywhere_is_the_same_dataset(name, tmp_path):
    root = tmp_path / "here"
    WRITERS[name](root)
    before = load_dataset(name, root=root)
    fingerprint, faces = before.fingerprint(), list(before)
    del before  # an open file cannot be moved everywhere
    elsewhere = tmp_path / "über all" / "脸 [1]"
    elsewhere.parent.mkdir()
    root.rename(elsewhere)
    moved = load_dataset(name, root=elsewhere)
    assert moved.fingerprint() == fingerprint
    assert len(moved) == len(faces)
    for face, there in zip(moved, faces, strict=True):
        assert face.id == there.id
        np.testing.assert_array_equal(face.landmarks, there.landmarks)
        np.testing.assert_array_equal(face.box, there.box)
        np.testing.assert_array_equal(face.image, there.image)


@every_written
def test_a_copy_whose_files_were_written_again_has_another_fingerprint(name, tmp_path):
    WRITERS[name](tmp_path)
    before = load_dataset(name, root=tmp_path).fingerprint()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(0, path.stat().st_mtime_ns + 10_000_000))
    assert load_dataset(name, root=tmp_path).fingerprint() != before


@every_written
def test_an_empty_folder_is_an_error_that_says_how_to_get_the_data(name, tmp_path):
    with pytest.raises(DatasetNotFoundError) as caught:
        load_dataset(name, root=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert dataset_class(name).how_to_get in str(caught.value)


@every_written
def test_every_file_that_is_emptied_is_noticed_and_named(name, tmp_path):
    """Whatever file of a split is bad: no face, no crash, and no error that does not say which file it is."""
    WRITERS[name](tmp_path)
    messages = {}
    for path in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        path.write_bytes(b"")
        try:
            list(load_dataset(name, root=tmp_path))
        except (BadFaceError, DatasetNotFoundError) as error:
            messages[path.name] = str(error)
        path.write_bytes(whole)
    assert messages
    assert all(file in message for file, message in messages.items())


@every_written
def test_missing_data_says_where_it_was_looked_for_and_how_to_get_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("FACE_ALIGN_DATA", str(tmp_path / "variable"))
    with pytest.raises(DatasetNotFoundError) as caught:
        load_dataset(name)
    message = str(caught.value)
    assert f"'{tmp_path / 'variable' / name}'" in message
    assert f"'{tmp_path / '.cache' / 'face-align' / name}'" in message
    assert dataset_class(name).how_to_get in message
    assert "dataset='synthetic' works" in message
    # A root that was given is the only place: data found elsewhere would be a surprise.
    (tmp_path / "variable" / name).mkdir(parents=True)
    with pytest.raises(DatasetNotFoundError, match="not_here"):
        load_dataset(name, root=tmp_path / "not_here")


# What a dataset says of itself -------------------------------------------------------------------


@pytest.mark.parametrize("name", REGISTRY)
def test_every_registered_dataset_describes_itself(name):
    cls = dataset_class(name)
    assert cls.name == name
    assert cls.description
    assert cls.licence
    assert cls.test_split in cls.splits
    assert cls.splits[0] == "train"
    assert cls.alpha_2 == {68: 3.0, 29: 2.0, 19: 1.5}[cls.schemes[0]]  # Table 2
    assert cls.generated or cls.how_to_get
    assert cls.generated == (name == "synthetic")


@pytest.mark.parametrize("name", REGISTRY)
def test_a_protocol_is_of_every_split_or_of_none(name):
    cls = dataset_class(name)
    assert set(cls.protocol) in (set(), set(cls.splits))


def test_the_protocols_are_the_published_ones():
    protocols = {name: dict(dataset_class(name).protocol) for name in REGISTRY}
    expected = {
        "300w": {"train": 3148, "common": 554, "challenging": 135, "full": 689, "private": 600},
        "cofw": {"train": 1345, "test": 507},
        "aflw": {"train": 20_000, "full": 4_386, "frontal": 1_314},
    }
    assert protocols == {name: expected.get(name, {}) for name in REGISTRY}


def test_an_unknown_dataset_is_refused_with_the_names_of_the_others():
    with pytest.raises(ValueError, match=r"Unknown dataset 'w300'. There are: synthetic, 300w"):
        load_dataset("w300")
