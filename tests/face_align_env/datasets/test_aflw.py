"""AFLW reads point for point what its file holds, and counts no point that is not annotated."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import warnings

import numpy as np
import pytest
from writers.aflw import (
    IMAGE_SIZE,
    aflw_box,
    aflw_colour,
    aflw_hidden,
    aflw_landmarks,
    aflw_name,
    aflw_occluded,
    aflw_variables,
    write_aflw,
)
from writers.images import cut_short, write_image
from writers.support import real_root

from face_align_env.datasets import BadFaceError, DatasetNotFoundError, load_dataset
from face_align_env.datasets.aflw import AFLW
from face_align_env.datasets.matlab import read_mat
from face_align_env.datasets.verification import verify
from face_align_env.landmarks import SCHEME_19

# The rows (from 0) of each split, as ra has them: 5, 6, 7, 0, 1 | 2, 3, 4. Row 3 has a point that is not annotated,
# row 4 one outside the box.
ROWS = {"train": [5, 6, 7, 0, 1], "full": [2, 3, 4], "frontal": [2, 4]}
MAT = "AFLWinfo_release.mat"

pytestmark = pytest.mark.filterwarnings("ignore:aflw .* of the protocol's:UserWarning")


@pytest.fixture(autouse=True)
def small_protocol(monkeypatch):
    monkeypatch.setattr(AFLW, "_NUM_TRAIN", 5)


def face_id(row):
    return f"{aflw_name(row).removesuffix('.jpg')}#{row + 1}"


def ids_of(dataset):
    return [dataset.annotation(i).id for i in range(len(dataset))]


@pytest.mark.parametrize("version", ["5", "7.3"])
@pytest.mark.parametrize("split", ROWS)
def test_every_face_is_read_point_for_point(split, version, tmp_path):
    dataset = load_dataset("aflw", split, write_aflw(tmp_path, version=version))
    assert dataset.scheme is SCHEME_19
    assert ids_of(dataset) == [face_id(row) for row in ROWS[split]]
    for i, row in enumerate(ROWS[split]):
        face = dataset[i]
        counted = ~np.isin(np.arange(19), aflw_hidden(row))
        np.testing.assert_array_equal(face.counted, counted)
        np.testing.assert_array_equal(face.visible, counted & ~np.isin(np.arange(19), aflw_occluded(row)))
        np.testing.assert_array_equal(face.landmarks[counted], aflw_landmarks(row)[counted])
        np.testing.assert_array_equal(face.box, aflw_box(row))
        assert face.image.shape == (*IMAGE_SIZE, 3)
        assert dataset.image_size(i) == IMAGE_SIZE[::-1]
        np.testing.assert_allclose(face.image[9, 30], aflw_colour(aflw_name(row)), atol=3)


def test_the_faces_of_the_tests_look_like_faces():
    height, width = IMAGE_SIZE
    for i in range(8):
        points, box = aflw_landmarks(i), aflw_box(i)
        assert 0 <= box[0] < box[2] < width
        assert 0 <= box[1] < box[3] < height
        assert np.linalg.norm(points[6] - points[11]) > 30
        mirrored = points[SCHEME_19.mirror_permutation] * [-1, 1] + [points[[6, 11], 0].sum(), 0]
        np.testing.assert_allclose(mirrored, points)


def test_two_faces_of_one_photo_are_two_faces(tmp_path):
    train = AFLW("train", write_aflw(tmp_path))
    first, second = train[3], train[4]
    assert (first.id, second.id) == ("2/image00001#1", "2/image00001#2")
    np.testing.assert_array_equal(first.image, second.image)
    assert (first.landmarks[1:] != second.landmarks[1:]).any(axis=1).all()


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ((0.0, 0.0), (0.0, 0.0)),
        ((np.nan, 30.0), (0.0, 30.0)),
        ((30.0, np.inf), (30.0, 0.0)),
        ((1e300, 5.0), (0.0, 5.0)),  # infinite in float32
        ((-0.5, 30.0), (-0.5, 30.0)),
        ((30.0, -2.0), (30.0, -2.0)),
    ],
)
def test_a_point_that_is_not_annotated_never_counts_whatever_the_mask_says(value, read, tmp_path):
    data = aflw_variables()["data"]
    data[4, 7], data[4, 19 + 7] = value
    face = AFLW("full", write_aflw(tmp_path, data=data))[2]
    assert face.id == face_id(4)
    np.testing.assert_array_equal(face.counted, np.arange(19) != 7)
    np.testing.assert_array_equal(face.landmarks[7], read)


@pytest.mark.parametrize(("axis", "edge"), [(0, IMAGE_SIZE[1] - 1), (1, IMAGE_SIZE[0] - 1), (0, 0), (1, 0)])
def test_a_point_on_the_edge_of_the_image_counts_and_one_beyond_does_not(axis, edge, tmp_path):
    for step, counts in ((0, True), (0.25 if edge else -0.25, False)):
        data = aflw_variables()["data"]
        data[4, 19 * axis + 7] = edge + step
        face = AFLW("full", write_aflw(tmp_path / str(step), data=data))[2]
        assert face.counted[7] == face.visible[7] == counts
        assert np.delete(face.counted, 7).all()


def test_a_point_counts_by_its_place_in_its_own_image(tmp_path):
    root = write_aflw(tmp_path)
    write_image(root / "aflw/data/flickr" / aflw_name(4), size=(80, 60))  # half of the face is cut off
    face = AFLW("full", root)[2]
    np.testing.assert_array_equal(face.counted, face.landmarks[:, 0] <= 59)
    assert 0 < face.counted.sum() < 19


def test_the_mask_says_what_is_visible_and_what_is_hidden_counts_unless_asked_otherwise(tmp_path):
    mask = np.ones((8, 19))
    mask[2, 11], mask[4, 0] = 0, np.nan
    root = write_aflw(tmp_path, mask_new=mask)
    full, visible = AFLW("full", root), AFLW("full", root, count="visible")
    for i, hidden in ((0, 11), (2, 0)):
        assert full[i].counted.all()
        np.testing.assert_array_equal(full[i].visible, np.arange(19) != hidden)
        np.testing.assert_array_equal(visible[i].visible, full[i].visible)
        np.testing.assert_array_equal(visible[i].counted, visible[i].visible)
    np.testing.assert_array_equal(visible[0].landmarks, aflw_landmarks(2))
    assert full.fingerprint() != visible.fingerprint()
    with pytest.raises(ValueError, match="count is 'annotated' or 'visible', got 'all'"):
        AFLW("full", root, count="all")


def test_frontal_has_the_test_faces_whose_points_are_all_marked_as_visible(tmp_path):
    # Neither the box nor a coordinate decides, as in the protocol's 1,314 faces.
    data = np.stack([aflw_landmarks(i).T.ravel() for i in range(8)])
    data[4, 0] = -0.5  # outside of the image
    mask = np.ones((8, 19), np.uint8)
    frontal = AFLW("frontal", write_aflw(tmp_path / "all", data=data, mask_new=mask))
    assert ids_of(frontal) == [face_id(i) for i in (2, 3, 4)]
    mask[3, 18] = 0
    frontal = AFLW("frontal", write_aflw(tmp_path / "mask", data=data, mask_new=mask))
    assert ids_of(frontal) == [face_id(i) for i in (2, 4)]


def test_an_annotation_belongs_to_the_caller(tmp_path):
    dataset = AFLW("full", write_aflw(tmp_path))
    annotation = dataset.annotation(0)
    annotation.landmarks[:] = annotation.box[:] = -1
    annotation.visible[:] = False
    assert annotation.counted.all()  # not the same array
    annotation.counted[:] = False
    np.testing.assert_array_equal(dataset.annotation(0).landmarks, aflw_landmarks(2))
    np.testing.assert_array_equal(dataset.annotation(0).box, aflw_box(2))
    assert dataset.annotation(0).visible.all()
    assert dataset.annotation(0).counted.all()


def test_a_dataset_can_be_pickled(tmp_path):
    dataset = AFLW("full", write_aflw(tmp_path))
    copy = pickle.loads(pickle.dumps(dataset))
    assert ids_of(copy) == ids_of(dataset)
    np.testing.assert_array_equal(copy[1].image, dataset[1].image)
    assert copy.missing() == dataset.missing()


# Where the files are -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folder", ["aflw/data/flickr", "AFLW/Data/FLICKR", "data/flickr", "flickr", "."], ids=lambda folder: folder
)
def test_root_may_be_any_folder_of_the_tree(folder, tmp_path):
    root = write_aflw(tmp_path / "wo ü 脸", folder=folder)
    assert len(AFLW("full", root)) == 3
    (root / "annotation").mkdir()
    shutil.move(root / MAT, root / "annotation" / MAT.lower())
    assert AFLW("full", root)[0].image.shape == (*IMAGE_SIZE, 3)


def test_the_suffix_may_differ_in_case_on_either_side(tmp_path):
    names = aflw_variables()["nameList"]
    names[2], names[4] = names[2].replace(".jpg", ".JPG"), names[4].replace(".jpg", ".Jpg")
    root = write_aflw(tmp_path, nameList=names)
    for row in (3, 4):
        path = root / "aflw/data/flickr" / aflw_name(row)
        path.rename(path.with_suffix(".JPG"))
    full = AFLW("full", root)
    for i, row in enumerate(ROWS["full"]):
        np.testing.assert_allclose(full[i].image[9, 30], aflw_colour(aflw_name(row)), atol=3)


def test_each_folder_is_listed_once_and_no_image_looked_for_by_itself(tmp_path, monkeypatch):
    root = write_aflw(tmp_path, n=40)
    listed, scandir, stat = [], os.scandir, os.stat

    def refuse_images(path, *args, **kwargs):
        assert not str(path).lower().endswith(".jpg")
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "scandir", lambda path: listed.append(os.fspath(path)) or scandir(path))
    monkeypatch.setattr(os, "stat", refuse_images)
    assert len(AFLW("full", root)) == 35
    folders = [path for path in listed if os.path.basename(path) in ("0", "2", "3")]
    assert sorted(os.path.basename(path) for path in folders) == ["0", "2", "3"]


def test_a_missing_file_or_folder_says_how_to_get_it(tmp_path):
    root = write_aflw(tmp_path)
    shutil.move(root / "aflw", root / "elsewhere")
    with pytest.raises(DatasetNotFoundError, match=r"holds none of aflw/data/flickr, .*TU Graz.*AFLWinfo_release"):
        AFLW("full", root)
    shutil.move(root / "elsewhere", root / "aflw")
    (root / MAT).unlink()
    with pytest.raises(DatasetNotFoundError, match=r"do not hold AFLWinfo_release\.mat\. .*TU Graz"):
        AFLW("full", root)


# What is left out --------------------------------------------------------------------------------


def test_what_was_left_out_is_named_once(tmp_path, monkeypatch):
    monkeypatch.setattr(AFLW, "protocol", {"train": 5, "full": 3, "frontal": 2})
    root = write_aflw(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert AFLW("train", root).missing() == []
    data = aflw_variables()["data"]
    data[6] = 0
    write_aflw(root, data=data)
    images = root / "aflw/data/flickr"
    for row in (0, 5):
        (images / aflw_name(row)).unlink()
    expected = (
        f"1 of the protocol's 5 faces (2 images are not in 'aflw/data/flickr': {aflw_name(1)}, {aflw_name(5)}; "
        f"1 face has no landmark that counts: {face_id(6)})"
    )
    with pytest.warns(UserWarning, match="aflw train") as caught:
        train = AFLW("train", root)
    assert len(caught) == 1
    assert str(caught[0].message).startswith(f"aflw train: {expected}. ")
    assert caught[0].filename == __file__
    assert train.missing() == [expected]
    assert ids_of(train) == [face_id(7)]
    np.testing.assert_array_equal(train[0].landmarks, aflw_landmarks(7))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what the other splits lack is not this one's
        assert AFLW("full", root).missing() == []


def test_no_more_than_three_names_are_given(tmp_path):
    root = write_aflw(tmp_path, n=40)
    names = sorted({aflw_name(i) for i in range(2, 37)})
    for name in names[1:]:
        (root / "aflw/data/flickr" / name).unlink()
    line = AFLW("full", root).missing()[0]
    assert line.endswith(f"': {names[1]}, {names[2]}, {names[3]}, ...)")
    assert "1 of the protocol's 4,386 faces (34 images are not in '" in line


def test_a_split_without_any_image_is_not_found(tmp_path):
    root = write_aflw(tmp_path)
    for row in ROWS["full"]:
        (root / "aflw/data/flickr" / aflw_name(row)).unlink()
    with pytest.raises(
        DatasetNotFoundError,
        match=rf"'full' of 'aflw' in '{re.escape(str(root))}' has no images: 3 images are not in .*TU Graz",
    ):
        AFLW("full", root)
    assert len(AFLW("train", root)) == 5


def test_a_split_without_any_landmark_is_not_found(tmp_path):
    data = aflw_variables()["data"]
    data[2:5] = 0
    with pytest.raises(DatasetNotFoundError, match=r"'full' of 'aflw' has no faces: 3 faces have no landmark that"):
        AFLW("full", write_aflw(tmp_path, data=data))


def test_the_fingerprint_is_that_of_the_files_of_the_split(tmp_path):
    root = write_aflw(tmp_path)
    before = {split: AFLW(split, root).fingerprint() for split in ROWS}
    assert len({str(value) for value in before.values()}) == 3
    image = root / "aflw/data/flickr" / aflw_name(3)
    image.write_bytes(image.read_bytes() + b" ")
    after = {split: AFLW(split, root).fingerprint() for split in ROWS}
    assert {split for split in ROWS if before[split] != after[split]} == {"full"}
    os.utime(root / MAT, (1, 1))
    moved = shutil.copytree(root, tmp_path.with_name(tmp_path.name + " moved"))
    assert AFLW("full", moved).fingerprint() == AFLW("full", root).fingerprint() != after["full"]


# Files that cannot be used -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ra", lambda a: a - 1, "'ra' is no permutation of 1 to 8"),
        ("ra", lambda a: a[:, :7], r"'ra' is no permutation of 1 to 8 \(7 numbers\)"),
        ("ra", lambda a: np.where(a == 4, 5, a), "'ra' is no permutation of 1 to 8"),
        ("ra", lambda a: a + 0.5, "'ra' is no permutation"),
        ("ra", lambda a: np.where(a == 4, np.nan, a), "'ra' is no permutation"),
        ("ra", lambda a: None, "lacks the variable 'ra'; it holds bbox, data, mask_new, nameList"),
        ("data", lambda a: a[:, :36], "'data' is 8 x 36, expected 8 x 38: a row for each of the 8 names"),
        ("data", lambda a: a[:7], "'data' is 7 x 38, expected 8 x 38"),
        ("mask_new", lambda a: a[:, :18], "'mask_new' is 8 x 18, expected 8 x 19"),
        ("bbox", lambda a: a[:, :3], "'bbox' is 8 x 3, expected 8 x 4"),
        ("nameList", lambda a: a[:5], "'data' is 8 x 38, expected 5 x 38"),
        ("nameList", lambda a: np.ones((8, 1)), "'nameList' is not a cell array"),
        ("nameList", lambda a: [np.ones((2, 2))] * 8, "'nameList' is not a cell array of strings"),
    ],
)
def test_a_file_that_does_not_fit_together_is_refused(name, change, message, tmp_path):
    root = write_aflw(tmp_path, **{name: change(aflw_variables()[name])})
    with pytest.raises(BadFaceError, match=rf"{MAT}'.* {message}.*Get the "):
        AFLW("full", root)


def test_a_row_permutation_is_read_like_a_column(tmp_path):
    root = write_aflw(tmp_path, ra=aflw_variables()["ra"].T)
    assert ids_of(AFLW("full", root)) == [face_id(row) for row in ROWS["full"]]


def test_an_empty_box_names_its_row_in_the_splits_that_have_it(tmp_path):
    boxes = aflw_variables()["bbox"]
    boxes[4, 0], boxes[2, 3] = boxes[4, 1], np.nan
    root = write_aflw(tmp_path, bbox=boxes)
    assert len(AFLW("train", root)) == 5
    with pytest.raises(BadFaceError, match=rf"{MAT}': row 3 \(from 1\) of 'bbox' is an empty box") as caught:
        AFLW("full", root)
    rows = [line.split(" (from 1)")[0].rpartition("row ")[2] for line in caught.value.problems]
    assert rows == ["3", "5"]


def test_a_file_of_too_few_faces_for_the_protocol_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(AFLW, "_NUM_TRAIN", 20_000)
    root = write_aflw(tmp_path)
    assert len(AFLW("train", root)) == 8
    with pytest.raises(BadFaceError, match="holds 8 faces, and none of split 'full'; the protocol has 24,386"):
        AFLW("full", root)


def test_an_empty_or_broken_off_file_is_named(tmp_path):
    root = write_aflw(tmp_path)
    cut_short(root / MAT, 0.6)
    with pytest.raises(BadFaceError, match=rf"{MAT}' is cut short or damaged"):
        AFLW("full", root)
    (root / MAT).write_bytes(b"")
    with pytest.raises(BadFaceError, match=rf"{MAT}' is empty"):
        AFLW("full", root)


def test_an_image_that_is_broken_off_is_named_when_it_is_asked_for(tmp_path):
    root = write_aflw(tmp_path)
    cut_short(root / "aflw/data/flickr" / aflw_name(2))
    full = AFLW("full", root)
    assert full[1].image.size
    with pytest.raises(BadFaceError, match=r"Cannot read the image '.*image00002\.jpg'"):
        full[0]


# The real one ------------------------------------------------------------------------------------


@pytest.fixture
def real_protocol(monkeypatch):
    monkeypatch.setattr(AFLW, "_NUM_TRAIN", 20_000)


def test_the_official_annotation_has_the_protocols_counts(tmp_path, real_protocol):
    """All of its faces, over images that are there by name only: an annotation does not need them."""
    info = real_root("aflw") / MAT
    (tmp_path / MAT).symlink_to(info)
    for name in read_mat(info, {"nameList": "strings"})["nameList"]:
        path = tmp_path / "aflw/data/flickr" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert {split: len(AFLW(split, tmp_path)) for split in AFLW.splits} == AFLW.protocol


def test_the_official_samples_are_read_as_others_read_them(tmp_path, real_protocol):
    samples = real_root("samples") / "tests/data/aflw"
    (tmp_path / MAT).symlink_to(real_root("aflw") / MAT)
    folder = tmp_path / "aflw/data/flickr/2"
    folder.mkdir(parents=True)
    for path in samples.glob("*.jpg"):
        shutil.copy(path, folder)
    dataset = AFLW("full", tmp_path)
    document = json.loads((samples / "test_aflw.json").read_text())
    files = {image["id"]: image["file_name"] for image in document["images"]}
    expected = {files[face["image_id"]]: face for face in document["annotations"]}
    assert len(dataset) == len(expected) == 2
    for face in dataset:
        other = expected[face.id.split("/")[1].split("#")[0] + ".jpg"]
        points = np.reshape(other["keypoints"], (19, 3))[:, :2]
        assert face.counted is not None
        assert face.counted.sum() >= 18
        np.testing.assert_allclose(face.landmarks[face.counted], points[face.counted], atol=0.006)  # hundredths
        x0, y0, x1, y1 = face.box
        assert np.sqrt((x1 - x0) * (y1 - y0)) == pytest.approx(other["box_size"])


def test_the_real_aflw_is_whole_as_far_as_it_is_there(real_protocol):
    for report in verify("aflw", str(real_root("aflw")), progress=False):
        assert 0 < report.num_faces <= report.expected
        assert bool(report.missing) == (report.num_faces < report.expected)
        assert not report.problems
