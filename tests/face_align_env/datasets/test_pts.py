"""The .pts format, and datasets made of one's own images with .pts files."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
from writers.images import cut_short, shape_of, write_image, write_noise, write_pair
from writers.pts import write_pts_folder
from writers.support import ids_of

from face_align_env.datasets import BadFaceError, DatasetNotFoundError, load_dataset
from face_align_env.datasets.base import landmarks_box
from face_align_env.datasets.pts import PtsFolder, read_pts, write_pts

# .pts files --------------------------------------------------------------------------------------


def test_pts_files_count_from_1_and_landmarks_from_0(tmp_path):
    path = tmp_path / "a.pts"
    path.write_text("version: 1\nn_points: 2\n{\n1 1\n33.250000 7.125\n}\n")
    landmarks = read_pts(path)
    assert landmarks.dtype == np.float32
    np.testing.assert_array_equal(landmarks, [[0, 0], [32.25, 6.125]])


@pytest.mark.parametrize(
    "text",
    [
        "version: 1\r\nn_points: 2\r\n{\r\n2.5 3\r\n4 5\r\n}\r\n",
        "version:1\nn_points:2\n{\n2.5 3\n4 5\n}",
        "\ufeffversion: 1  \n\n  n_points :   2 \n {  \n\n  2.5\t 3  \n\n 4   5\n } \n\n\n",
    ],
    ids=["CRLF", "no blanks", "blanks everywhere and a byte order mark"],
)
def test_pts_files_are_read_in_every_form_that_is_about(text, tmp_path):
    (tmp_path / "a.pts").write_bytes(text.encode())
    np.testing.assert_array_equal(read_pts(tmp_path / "a.pts"), [[1.5, 2], [3, 4]])


def test_written_landmarks_are_read_back(tmp_path):
    path = tmp_path / "face ü.pts"
    path.write_text("what was there before")
    landmarks = np.random.default_rng(0).uniform(-20, 3000, (68, 2)).astype(np.float32)
    write_pts(path, landmarks)
    np.testing.assert_allclose(read_pts(path), landmarks, rtol=0, atol=1e-6)
    assert path.read_text().startswith("version: 1\nn_points: 68\n{\n")
    assert f"{float(landmarks[0, 0]) + 1:.6f} " in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (np.zeros((4, 3)), r"shape \(n, 2\) to write, got \(4, 3\)"),
        (np.zeros((0, 2)), r"shape \(n, 2\) to write, got \(0, 2\)"),
        (np.full((2, 2), np.inf), "not a finite number"),
    ],
)
def test_landmarks_that_cannot_be_written_leave_the_old_file_as_it_is(landmarks, message, tmp_path):
    path = tmp_path / "a.pts"
    path.write_text("old")
    with pytest.raises(BadFaceError, match=rf"a\.pts': .*{message}"):
        write_pts(path, landmarks)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_write_that_fails_half_way_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "a.pts"
    path.write_text("old")

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_pts(path, np.zeros((2, 2)))
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \r\n", "is empty"),
        (b"version: 1\nn_points: 1\n{\n\xff\xfe 2\n}\n", r"not a text file \(UTF-8\)"),
        (b"version: 1\nn_points: 3\n{\n1 2\n3 4\n}\n", "says n_points: 3, and holds 2 points"),
        (b"version: 1\nn_points: 1\n{\n1 2\n3 4\n}\n", "says n_points: 1, and holds 2 points"),
        (b"version: 1\nn_points: 0\n{\n}\n", "says n_points: 0, and holds 0 points"),
        (b"version: 1\nn_points: 3\n{\n1 2\n3 4\n", "says n_points: 3, and holds 2 points"),
        (b"version: 1\nn_points: 2\n{\n1 2\n3 4\n", "is cut short"),
        (b"version: 1\nn_points: 2\n1 2\n3 4\n", "says n_points: 2, and holds 0 points"),
        (
            b"version: 1\nn_points: many\n{\n1 2\n}\n",
            "line 2: expected 'n_points: 68' or so, got 'n_points: many'",
        ),
        (b"version: 1\n{\n1 2\n}\n", "has no line 'n_points"),
        (b"version: 1\nn_points: 2\n{\n1 2\nx 4\n}\n", "line 5: expected 'x y', got 'x 4'"),
        (b"version: 1\nn_points: 2\n{\n1 2\n3 4 5\n}\n", "line 5: expected 'x y', got '3 4 5'"),
        (b"version: 1\nn_points: 2\n{\n1 2\n3\n}\n", "line 5: expected 'x y', got '3'"),
        (b"version: 1\nn_points: 2\n{\n1 2\nNaN 4\n}\n", r"point 1 \(from 0\) is not a finite number"),
    ],
)
def test_a_pts_file_that_cannot_be_used_is_named_with_the_cure(content, message, tmp_path):
    (tmp_path / "bad.pts").write_bytes(content)
    with pytest.raises(BadFaceError, match=rf"bad\.pts'.*{message}.*Restore the file"):
        read_pts(tmp_path / "bad.pts")


def test_a_pts_file_that_is_not_there_is_named_with_the_cure(tmp_path):
    with pytest.raises(BadFaceError, match=r"Cannot read '.*gone\.pts': No such file.*Restore"):
        read_pts(tmp_path / "gone.pts")


# A folder of one's own ---------------------------------------------------------------------------


def test_sub_folders_train_and_test_are_the_splits(tmp_path):
    write_pair(tmp_path / "TRAIN", "a.b", ".JPG")
    write_pair(tmp_path / "TRAIN" / "deeper", "c d", ".bmp")
    write_pair(tmp_path / "Test", "e", ".jpeg")
    write_image(tmp_path / "Test" / "not annotated.png")
    write_pair(tmp_path, "in no split")
    (tmp_path / "Test" / "._e.pts").write_bytes(b"\x00\x05\x16\x07")  # macOS leaves these in archives
    train, test = PtsFolder("train", tmp_path), PtsFolder("test", tmp_path, test_fraction=0.0)
    assert ids_of(train) == ["TRAIN/a.b", "TRAIN/deeper/c d"]
    assert ids_of(test) == ["Test/e"]
    np.testing.assert_allclose(train.annotation(0).landmarks, shape_of("a.b"), atol=1e-6)
    np.testing.assert_allclose(train.annotation(0).box, landmarks_box(shape_of("a.b")), atol=1e-6)
    assert train[1].image.shape == (48, 60, 3)
    assert test[0].visible.all()


def test_a_tree_without_splits_is_divided_by_the_hash_of_each_path(tmp_path):
    for i in range(40):
        write_pair(tmp_path / f"person{i % 4}", f"face{i}")
    train, test = (ids_of(PtsFolder(split, tmp_path)) for split in ("train", "test"))
    assert sorted(train + test) == sorted(f"person{i % 4}/face{i}" for i in range(40))
    assert 2 <= len(test) <= 16
    for name in test:
        assert int(hashlib.sha1(name.encode()).hexdigest()[:8], 16) / 2**32 < 0.2
    # A new face moves no other.
    write_pair(tmp_path / "another", "face0")
    assert set(test) <= set(ids_of(PtsFolder("test", tmp_path)))
    assert set(train) <= set(ids_of(PtsFolder("train", tmp_path)))
    # A larger fraction only adds to the test split.
    assert set(test) < set(ids_of(PtsFolder("test", tmp_path, test_fraction=0.6)))
    assert len(PtsFolder("test", tmp_path, test_fraction=1.0)) == 41
    assert len(PtsFolder("train", tmp_path, test_fraction=0.0)) == 41
    with pytest.raises(DatasetNotFoundError, match=r"Split 'test' of .* has no faces \(test_fraction=0.0\)"):
        PtsFolder("test", tmp_path, test_fraction=0.0)
    for fraction in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="test_fraction is a fraction from 0 to 1"):
            PtsFolder("train", tmp_path, test_fraction=fraction)


@pytest.mark.parametrize("k", [68, 29, 19])
def test_the_number_of_landmarks_is_that_of_the_files(k, tmp_path):
    write_pair(tmp_path / "train", "a", k=k)
    dataset = load_dataset("pts", root=tmp_path)
    assert dataset.scheme.num_landmarks == k
    assert load_dataset("pts", root=tmp_path, landmarks=k).scheme.num_landmarks == k
    np.testing.assert_allclose(dataset[0].landmarks, shape_of("a", k), atol=1e-6)
    if k != 68:
        with pytest.raises(ValueError, match=rf"landmarks=68 cannot be had from .* its files hold {k} points"):
            load_dataset("pts", root=tmp_path, landmarks=68)


def test_files_of_another_number_of_points_are_an_error_that_names_them(tmp_path):
    write_pair(tmp_path / "train", "a")
    write_pair(tmp_path / "train", "b", k=29)
    dataset = PtsFolder("train", tmp_path)
    dataset.annotation(0)
    with pytest.raises(BadFaceError, match=r"b\.pts' has 29 points, expected 68 as in the rest"):
        dataset.annotation(1)
    write_pair(tmp_path / "train", "a", k=5)
    with pytest.raises(BadFaceError, match=r"a\.pts' has 5 points; there are schemes of \[19, 29, 68\]"):
        PtsFolder("train", tmp_path)


def test_a_pts_file_without_an_image_is_an_error_that_names_it(tmp_path):
    write_pair(tmp_path / "train", "a")
    write_pair(tmp_path / "train", "alone")
    (tmp_path / "train" / "alone.jpg").unlink()
    with pytest.raises(BadFaceError, match=r"alone\.pts' has no image beside it: .*Put the image there"):
        PtsFolder("train", tmp_path)


def test_a_split_that_is_not_there_is_an_error_that_says_so(tmp_path):
    write_pair(tmp_path / "train", "a")
    with pytest.raises(DatasetNotFoundError, match="has no sub-folder 'test' beside its other split"):
        PtsFolder("test", tmp_path)
    (tmp_path / "test").mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"Split 'test' of .* has no faces"):
        PtsFolder("test", tmp_path)


def test_every_pts_file_without_an_image_is_a_problem_of_its_own(tmp_path):
    folder = tmp_path / "train"
    write_pair(folder, "a")
    for stem in ("x", "y 2", "z"):
        write_pair(folder, stem)
        (folder / f"{stem}.jpg").unlink()
    with pytest.raises(BadFaceError, match=r"x\.pts' has no image beside it: .*\(2 more of the kind") as caught:
        PtsFolder("train", tmp_path)
    problems = caught.value.problems
    assert len(problems) == 3
    for problem, stem in zip(problems, ("x", "y 2", "z"), strict=True):
        assert problem.startswith(
            f"'{folder / stem}.pts' has no image beside it: expected '{stem}' with .png, .bmp, .jpg"
        )
        assert "more of the kind" not in problem


def test_a_single_problem_is_the_message_itself(tmp_path):
    (tmp_path / "bad.pts").touch()
    with pytest.raises(BadFaceError, match="is empty") as caught:
        read_pts(tmp_path / "bad.pts")
    assert caught.value.problems == (str(caught.value),)


def test_of_two_images_with_one_stem_the_one_without_losses_is_taken(tmp_path):
    write_pair(tmp_path / "train", "a")
    for suffix in (".jpg", ".jpeg", ".png", ".bmp"):
        write_image(tmp_path / "train" / f"a{suffix}", (10, 20, 30) if suffix == ".png" else (200, 200, 200))
    dataset = PtsFolder("train", tmp_path)
    assert len(dataset) == 1
    np.testing.assert_array_equal(dataset[0].image[5, 5], (10, 20, 30))


def test_hidden_folders_are_not_looked_into(tmp_path):
    write_pair(tmp_path / "train", "a")
    write_pair(tmp_path / "train" / ".thumbnails", "a")
    assert ids_of(PtsFolder("train", tmp_path)) == ["train/a"]


@pytest.mark.parametrize(
    ("content", "message"), [("", "is empty"), ("version: 1\nn_points: 1\n{\nnan 2\n}\n", "is not a finite number")]
)
def test_a_bad_pts_file_is_met_when_its_face_is_asked_for(content, message, tmp_path):
    write_pts_folder(tmp_path)
    dataset = PtsFolder("train", tmp_path)
    (tmp_path / "train" / "b.pts").write_text(content)
    assert dataset[0].id == "train/a"
    for read in (dataset.annotation, dataset.__getitem__):
        with pytest.raises(BadFaceError, match=rf"b\.pts'.*{message}"):
            read(1)


def test_an_image_that_is_cut_short_or_gone_is_named_when_its_face_is_asked_for(tmp_path):
    write_pts_folder(tmp_path)
    image = tmp_path / "train" / "a.jpg"
    write_noise(image)
    dataset = PtsFolder("train", tmp_path)
    cut_short(image)
    with pytest.raises(BadFaceError, match=r"Cannot read the image '.*a\.jpg'"):
        dataset[0]
    image.unlink()
    for read in (dataset.image, dataset.image_size):
        with pytest.raises(BadFaceError, match=r"The image '.*a\.jpg' is missing"):
            read(0)
    np.testing.assert_allclose(dataset.annotation(0).landmarks, shape_of("a"), atol=1e-6)  # needs no image


def test_a_number_of_faces_is_not_expected(tmp_path, recwarn):
    assert PtsFolder("train", write_pts_folder(tmp_path)).missing() == []
    assert not recwarn.list


@pytest.mark.parametrize("name", ["train/b.jpg", "train/b.pts", "train/more/c.d.jpg"])
def test_the_fingerprint_changes_with_every_file_of_the_split(name, tmp_path):
    write_pts_folder(tmp_path)
    before = {split: PtsFolder(split, tmp_path).fingerprint() for split in ("train", "test")}
    assert {split: PtsFolder(split, tmp_path).fingerprint() for split in before} == before
    with (tmp_path / name).open("ab") as file:
        file.write(b"\n")
    assert PtsFolder("train", tmp_path).fingerprint() != before["train"]
    assert PtsFolder("test", tmp_path).fingerprint() == before["test"]


def test_the_fingerprint_changes_with_a_new_face_and_not_with_what_is_not_read(tmp_path):
    write_pts_folder(tmp_path)
    before = PtsFolder("train", tmp_path).fingerprint()
    write_image(tmp_path / "train" / "not annotated.jpg")
    (tmp_path / "train" / "notes.txt").write_text("not read")
    assert PtsFolder("train", tmp_path).fingerprint() == before
    write_pair(tmp_path / "train", "z")
    assert PtsFolder("train", tmp_path).fingerprint() != before
