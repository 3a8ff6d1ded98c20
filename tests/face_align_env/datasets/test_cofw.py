"""COFW reads point for point what its files hold, in both of MATLAB's versions."""

from __future__ import annotations

import csv
import pickle
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
from writers.cofw import (
    cofw_box,
    cofw_image,
    cofw_landmarks,
    cofw_occluded,
    cofw_variables,
    write_cofw,
    write_mat,
)
from writers.images import cut_short
from writers.support import real_root

from face_align_env.datasets import BadFaceError, DatasetNotFoundError, load_dataset
from face_align_env.datasets.base import read_image
from face_align_env.datasets.cofw import COFW
from face_align_env.datasets.verification import verify
from face_align_env.landmarks import SCHEME_29
from face_align_env.metrics import normalizing_distance

pytestmark = pytest.mark.filterwarnings("ignore:cofw .* of the protocol's:UserWarning")

FLAVOURS = [("7.3", True), ("5", True), ("5", False)]


@pytest.fixture(params=FLAVOURS, ids=str)
def flavour(request):
    return request.param


@pytest.mark.parametrize("color", [True, False], ids=["colour", "grey"])
@pytest.mark.parametrize(("split", "count"), [("train", 4), ("test", 3)])
def test_every_face_is_read_point_for_point(split, count, color, flavour, tmp_path):
    dataset = load_dataset("cofw", split, write_cofw(tmp_path, 4, 3, color, *flavour))
    assert len(dataset) == count
    assert dataset.scheme is SCHEME_29
    for i in range(count):
        face = dataset[i]
        np.testing.assert_array_equal(face.landmarks, cofw_landmarks(split, i))
        np.testing.assert_array_equal(face.box, cofw_box(split, i))
        np.testing.assert_array_equal(face.visible, ~cofw_occluded(split, i))
        assert face.counted is None  # what is occluded is annotated, and counts
        assert face.id == f"{split}/{i + 1:04d}"
        picture = cofw_image(split, i, color)
        np.testing.assert_array_equal(face.image, picture if picture.ndim == 3 else np.dstack([picture] * 3))
        assert dataset.image_size(i) == (100 + 2 * i, 80 + i)


def test_the_faces_of_the_tests_look_like_faces():
    # Else nothing that is proved on them says anything of an environment.
    for split in ("train", "test"):
        for i in range(4):
            points, box = cofw_landmarks(split, i), cofw_box(split, i)
            height, width = cofw_image(split, i).shape[:2]
            assert 0 <= box[0] < box[2] < width
            assert 0 <= box[1] < box[3] < height
            assert normalizing_distance(points[None].astype(np.float32), "inter_ocular")[0] > 30
            centre = points[[8, 9]].mean(axis=0)
            mirrored = points[SCHEME_29.mirror_permutation] * [-1, 1] + [2 * centre[0], 0]
            np.testing.assert_allclose(mirrored, points)


def test_an_annotation_belongs_to_the_caller(tmp_path):
    dataset = COFW("train", write_cofw(tmp_path))
    annotation, image = dataset.annotation(0), dataset.image(0)
    annotation.landmarks[:] = annotation.box[:] = -1
    annotation.visible[:] = False
    image[:] = 0
    np.testing.assert_array_equal(dataset[0].landmarks, cofw_landmarks("train", 0))
    np.testing.assert_array_equal(dataset[0].box, cofw_box("train", 0))
    np.testing.assert_array_equal(dataset[0].visible, ~cofw_occluded("train", 0))
    np.testing.assert_array_equal(dataset[0].image, cofw_image("train", 0))


def test_a_dataset_can_be_pickled_before_and_after_an_image_was_read(flavour, tmp_path):
    dataset = COFW("test", write_cofw(tmp_path, 4, 3, True, *flavour))
    for _ in range(2):
        copy = pickle.loads(pickle.dumps(dataset))
        np.testing.assert_array_equal(copy[2].image, cofw_image("test", 2))
        np.testing.assert_array_equal(copy[2].landmarks, cofw_landmarks("test", 2))
        dataset.image(0)


def test_the_files_may_lie_within_folders_of_any_name_and_case(tmp_path):
    root = tmp_path / "gesichter ü 脸"
    write_cofw(root / "Common" / "xpburgos" / "behavior" / "code" / "pose")
    for split in ("train", "test"):
        old = next(root.rglob(f"COFW_{split}_color.mat"))
        shutil.move(old, old.with_name(old.name.upper() if split == "train" else old.name.lower()))
        assert len(COFW(split, root)) == (4 if split == "train" else 3)
    # A hidden file that some archivers leave is not taken for it.
    (root / "._COFW_train_color.mat").write_bytes(b"junk")
    assert COFW("train", root)[0].image.shape == (80, 100, 3)


def test_colour_goes_before_grey_wherever_it_is(tmp_path):
    write_cofw(tmp_path, color=False)
    np.testing.assert_array_equal(COFW("train", tmp_path).image(0), np.dstack([cofw_image("train", 0, False)] * 3))
    write_cofw(tmp_path / "colour", color=True)
    np.testing.assert_array_equal(COFW("train", tmp_path).image(0), cofw_image("train", 0))


def test_no_file_says_what_was_looked_for_and_how_to_get_it(tmp_path):
    write_cofw(tmp_path)
    (tmp_path / "COFW_test_color.mat").unlink()
    assert len(COFW("train", tmp_path)) == 4
    with pytest.raises(DatasetNotFoundError) as caught:
        COFW("test", tmp_path)
    message = str(caught.value)
    assert f"'{tmp_path}' and the folders within it hold neither COFW_test_color.mat nor COFW_test.mat" in message
    assert "face-align data download cofw" in message


def test_fewer_faces_than_the_protocol_are_named(tmp_path, monkeypatch):
    write_cofw(tmp_path)
    with pytest.warns(UserWarning, match=r"cofw train: 4 of the protocol's 1,345 faces\."):
        assert COFW("train", tmp_path).missing() == ["4 of the protocol's 1,345 faces"]
    monkeypatch.setattr(COFW, "protocol", {"train": 4, "test": 3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert COFW("train", tmp_path).missing() == []


def test_the_fingerprint_is_that_of_the_file_and_moves_with_it(tmp_path):
    write_cofw(tmp_path / "a")
    train, test = COFW("train", tmp_path / "a").fingerprint(), COFW("test", tmp_path / "a").fingerprint()
    assert train != test
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert COFW("train", tmp_path / "b").fingerprint() == train
    write_cofw(tmp_path / "b", n_train=5)
    assert COFW("train", tmp_path / "b").fingerprint() != train
    assert COFW("train", tmp_path / "a").fingerprint() == train


# Files that cannot be used -----------------------------------------------------------------------


def damaged(**changes):
    """Variables of the training file, some of them changed by a function or, by None, left out."""
    variables = cofw_variables("train", 4)
    for name, change in changes.items():
        if change is None:
            del variables[name]
        else:
            variables[name] = change(variables[name])
    return variables


def set_to(value, *places):
    """A function that changes a matrix at (row, column) places."""

    def change(matrix):
        matrix = matrix.copy()
        for place in places:
            matrix[place] = value
        return matrix

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phisTr": None}, "lacks the variable 'phisTr'; it holds IsTr, bboxesTr"),
        ({"IsTr": None}, "lacks the variable 'IsTr'; it holds bboxesTr, phisTr"),
        ({"phisTr": lambda a: a[:, :58]}, "'phisTr' is 4 x 58, expected 4 x 87: .* 29 occlusion flags"),
        ({"phisTr": lambda a: a[:3]}, "'phisTr' is 3 x 87, expected 4 x 87: a row for each of the 4 images"),
        ({"phisTr": lambda a: a.T}, "'phisTr' is 87 x 4, expected 4 x 87"),
        ({"bboxesTr": lambda a: a[:, :3]}, "'bboxesTr' is 4 x 3, expected 4 x 4"),
        ({"IsTr": lambda a: a[:3]}, "'phisTr' is 4 x 87, expected 3 x 87: a row for each of the 3 images"),
        ({"IsTr": lambda a: np.ones((4, 1))}, "'IsTr' is not a cell array"),
        ({"phisTr": set_to(np.nan, (2, 5))}, r"row 3 \(from 1\) of 'phisTr' holds what is not a finite number"),
        ({"phisTr": set_to(np.inf, (0, 80))}, r"row 1 \(from 1\) of 'phisTr' holds what is not a finite number"),
        ({"bboxesTr": set_to(np.nan, (1, 0))}, r"row 2 \(from 1\) of 'bboxesTr' holds what is not a finite number"),
        ({"bboxesTr": set_to(0, (3, 2))}, r"row 4 \(from 1\) of 'bboxesTr' is an empty box"),
        ({"bboxesTr": set_to(-5, (3, 3))}, r"row 4 \(from 1\) of 'bboxesTr' is an empty box"),
    ],
)
def test_a_file_that_does_not_fit_together_is_refused(changes, message, flavour, tmp_path):
    write_mat(tmp_path / "COFW_train_color.mat", damaged(**changes), *flavour)
    with pytest.raises(BadFaceError, match=rf"COFW_train_color\.mat'.* {message}.*Get the "):
        COFW("train", tmp_path)


def test_every_row_that_cannot_be_used_is_a_problem(tmp_path):
    variables = damaged(bboxesTr=set_to(0, (1, 2), (3, 3)))
    write_mat(tmp_path / "COFW_train_color.mat", variables)
    with pytest.raises(BadFaceError, match=r"row 2 .* is an empty box.* \(1 more rows of the kind\)") as caught:
        COFW("train", tmp_path)
    assert [("row 2" in line, "row 4" in line) for line in caught.value.problems] == [(True, False), (False, True)]


def test_an_image_without_pixels_is_named_when_it_is_asked_for(flavour, tmp_path):
    images = [*cofw_variables("train", 4)["IsTr"][:3], np.zeros((0, 0), np.uint8)]
    write_mat(tmp_path / "COFW_train_color.mat", damaged(IsTr=lambda _: images), *flavour)
    dataset = COFW("train", tmp_path)
    assert dataset[0].image.size
    with pytest.raises(BadFaceError, match=r"COFW_train_color\.mat': cell 4 \(from 1\) of 'IsTr' has no pixels"):
        dataset[3]


def test_an_empty_or_broken_off_file_is_named(flavour, tmp_path):
    path = write_cofw(tmp_path, 4, 3, True, *flavour) / "COFW_train_color.mat"
    cut_short(path, 0.6)
    with pytest.raises(BadFaceError, match=r"COFW_train_color\.mat' is cut short or damaged"):
        COFW("train", tmp_path)
    path.write_bytes(b"")
    with pytest.raises(BadFaceError, match=r"COFW_train_color\.mat' is empty"):
        COFW("train", tmp_path)


# Real faces in the published form ----------------------------------------------------------------


def test_real_faces_in_cofws_form_are_read(tmp_path):
    """A few of LFPW's faces with 29 points, written by the script that comes with them."""
    source = real_root("lfpw29")
    shutil.copy(source / "make_cofw.py", tmp_path)
    (tmp_path / "images").symlink_to(source / "images")
    header, *rows = (source / "lfpw29.csv").read_text().splitlines()
    kept = [*rows[:6], *[row for row in rows if ",test," in row][:3]]
    (tmp_path / "lfpw29.csv").write_text("\n".join([header, *kept, ""]))
    out = tmp_path / "cofw"
    subprocess.run([sys.executable, tmp_path / "make_cofw.py", out], check=True)
    reports = {report.split: report for report in verify("cofw", str(out), decode=True, progress=False)}
    assert {split: report.num_faces for split, report in reports.items()} == {"train": 6, "test": 3}
    assert not any(report.problems for report in reports.values())
    faces = COFW("train", out)
    for face, row in zip(faces, csv.DictReader([header, *kept]), strict=False):
        expected = [[float(row[f"x{k}"]) - 1, float(row[f"y{k}"]) - 1] for k in range(29)]
        np.testing.assert_allclose(face.landmarks, expected, atol=1e-4)
        np.testing.assert_array_equal(face.visible, [float(row[f"occ{k}"]) == 0 for k in range(29)])
        left, right = face.landmarks[[8, 16]], face.landmarks[[9, 17]]
        assert (left[:, 0] < right[:, 0]).all()
    picture = read_image(source / "images" / kept[0].split(",")[0])
    np.testing.assert_array_equal(faces[0].image, picture)
