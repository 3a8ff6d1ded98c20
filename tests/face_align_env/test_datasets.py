"""Every dataset keeps one contract, and reads point for point what its files hold."""

from __future__ import annotations

import csv
import hashlib
import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from face_align_env.datasets import (
    REGISTRY,
    BadFaceError,
    DatasetNotFoundError,
    Face,
    FaceDataset,
    dataset_class,
    load_dataset,
)
from face_align_env.datasets.base import Annotation, find_root, landmarks_box, read_image
from face_align_env.datasets.joined import JoinedDataset
from face_align_env.datasets.pts import PtsFolder, read_pts, write_pts
from face_align_env.datasets.w300 import W300
from face_align_env.datasets.ytf import YouTubeFaces, yaw_asymmetry
from face_align_env.landmarks import to_19_points

# The research data, where there is a copy of it beside the checkout.
REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

pytestmark = pytest.mark.filterwarnings("ignore:300w .* of the protocol's:UserWarning")

W300_FOLDERS = ("afw", "helen/trainset", "helen/testset", "lfpw/trainset", "lfpw/testset", "ibug")


def shape_of(name, k=68):
    """(k, 2) float32 points that depend on the name, with three decimals as in the official files."""
    rng = np.random.default_rng(int(hashlib.sha1(name.encode()).hexdigest()[:8], 16))
    return rng.uniform(5, 55, (k, 2)).round(3).astype(np.float32)


def write_image(path, colour=(200, 100, 50), size=(48, 60)):
    """An image file of one RGB colour; size is (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*size, 3), colour[::-1], dtype=np.uint8)
    suffix = ".jpg" if path.suffix.lower() == ".jpeg" else path.suffix
    path.write_bytes(cv2.imencode(suffix, image)[1].tobytes())


def write_pair(folder, stem, suffix=".jpg", k=68):
    """An image and its .pts file, both official in form; the points are ``shape_of(stem, k)``."""
    write_image(folder / f"{stem}{suffix}")
    lines = "".join(f"{x:.6f} {y:.6f}\n" for x, y in shape_of(stem, k).astype(np.float64) + 1)
    (folder / f"{stem}.pts").write_text(f"version: 1\nn_points:  {k}\n{{\n{lines}}}\n")


def write_300w(root, folders=W300_FOLDERS):
    for folder in folders:
        for stem in ("image_0002", "image_092 _01", "image_0001"):
            write_pair(root / folder, stem, ".png" if "lfpw" in folder.lower() else ".jpg")
    return root


def write_boxes(path, boxes):
    """``bounding_boxes_*.mat`` as published: a cell array of structs; boxes: image name -> (4,), from 1."""
    cells = np.empty((1, len(boxes)), dtype=object)
    for i, (name, box) in enumerate(boxes.items()):
        cells[0, i] = {
            "imgName": name,
            "bb_detector": np.asarray([box], dtype=np.float64),
            "bb_ground_truth": np.asarray([[1.0, 2.0, 3.0, 4.0]]),
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"bounding_boxes": cells})


TRAIN_PEOPLE, TEST_PEOPLE = ("Ada_Lovelace", "Max_Born"), ("Alan_Turing", "Paul_Dirac")


def write_csv(path, shapes):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", *range(136)])
        writer.writerows([name, *shape.ravel().tolist()] for name, shape in shapes.items())


def write_ytf(root, shapes=None):
    """Two folders with one frame of the same people in each; shapes: ``training/x.jpg`` -> (68, 2)."""
    if shapes is None:
        people = TRAIN_PEOPLE + TEST_PEOPLE
        names = [f"training/{p}_{n}.jpg" for p in people for n in ("02", "31")]
        names += [f"test/{p}_00.jpg" for p in people]
        shapes = {name: shape_of(name) for name in names}
    for folder in ("training", "test"):
        inside = {name.split("/")[1]: shape for name, shape in shapes.items() if name.startswith(folder + "/")}
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in inside:
            write_image(root / folder / name)
        write_csv(root / f"{folder}_frames_keypoints.csv", inside)
    return root


def write_pts_folder(root):
    for folder, stem in (("train", "b"), ("train", "a"), ("train/more", "c.d"), ("test", "a")):
        write_pair(root / folder, stem)
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a small dataset of each format, each under its registry name."""
    root = tmp_path_factory.mktemp("data")
    write_300w(root / "300w")
    write_ytf(root / "ytf")
    write_pts_folder(root / "pts")
    return root


# The contract ------------------------------------------------------------------------------------

WRITTEN = ("300w", "ytf", "pts", "300w+ytf")
REAL = ("300w", "ytf")


@pytest.fixture(params=["synthetic", *WRITTEN, *(f"real {name}" for name in REAL)])
def load(request, data):
    """A function (split, landmarks) -> dataset, of every dataset in turn."""
    if request.param == "synthetic":
        return lambda split="train", landmarks=None: load_dataset("synthetic", split, landmarks=landmarks, size=8)
    kind, _, name = request.param.rpartition(" ")
    root = REAL_DATA / name if kind else data / name
    if kind and not root.is_dir():
        pytest.skip(f"no copy of the research dataset {name} beside the checkout")
    if "+" in name:
        root = data
    return lambda split="train", landmarks=None: load_dataset(name, split, root, landmarks)


@pytest.fixture
def splits(load):
    return load().splits


def test_every_split_is_a_sequence_of_faces(load, splits):
    assert splits[0] == "train"
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
        np.testing.assert_array_equal(dataset.annotation(i).landmarks, face.landmarks)
        np.testing.assert_array_equal(dataset.annotation(i).box, face.box)
        np.testing.assert_array_equal(dataset.annotation(i).visible, face.visible)


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


def test_the_order_is_the_same_every_time(load):
    first, second = load(), load()
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
    with pytest.raises(ValueError, match="has no annotation with 7 landmarks; it has 68"):
        load("train", 7)


def test_19_landmarks_are_derived_from_68(load):
    if 19 not in load().schemes and not isinstance(load(), JoinedDataset):
        pytest.skip("this dataset offers no 19 landmarks")
    full, few = load(), load("train", 19)
    assert (full.scheme.num_landmarks, few.scheme.num_landmarks) == (68, 19)
    assert len(full) == len(few)
    a, b = full.annotation(1), few.annotation(1)
    np.testing.assert_array_equal(b.landmarks, to_19_points(a.landmarks))
    # The crop must not depend on how many of the points are asked for.
    np.testing.assert_array_equal(b.box, a.box)
    assert b.visible.shape == (19,)
    assert a.id == b.id


@pytest.mark.parametrize("name", REGISTRY)
def test_every_registered_dataset_describes_itself(name):
    cls = dataset_class(name)
    assert cls.name == name
    assert cls.description
    assert cls.licence
    assert cls.test_split in cls.splits
    assert cls.splits[0] == "train"
    assert cls.alpha_2 == {68: 3.0, 29: 2.0, 19: 1.5}[cls.schemes[0]]  # Table 2
    assert name == "synthetic" or cls.how_to_get


def test_an_unknown_dataset_is_refused_with_the_names_of_the_others():
    with pytest.raises(ValueError, match=r"Unknown dataset 'w300'. There are: synthetic, 300w"):
        load_dataset("w300")


# Where data is looked for ------------------------------------------------------------------------


def test_the_data_is_found_at_root_then_the_variable_then_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setenv("FACE_ALIGN_DATA", str(tmp_path / "variable"))
    cache = tmp_path / "home" / ".cache" / "face-align" / "ytf"
    for place in (cache, tmp_path / "variable" / "ytf", tmp_path / "root"):
        place.mkdir(parents=True)
    assert find_root(YouTubeFaces, str(tmp_path / "root")) == tmp_path / "root"
    assert find_root(YouTubeFaces, None) == tmp_path / "variable" / "ytf"
    monkeypatch.setenv("FACE_ALIGN_DATA", str(tmp_path / "elsewhere"))
    assert find_root(YouTubeFaces, None) == cache
    monkeypatch.delenv("FACE_ALIGN_DATA")
    assert find_root(YouTubeFaces, None) == cache


@pytest.mark.parametrize("name", ["300w", "ytf", "pts"])
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


# Images, faces -----------------------------------------------------------------------------------


def test_an_image_is_read_as_rgb_whatever_its_name_says(tmp_path):
    path = tmp_path / "gesicht ü 脸.png"
    write_image(path, (250, 120, 10))
    image = read_image(path)
    assert image.shape == (48, 60, 3)
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image[7, 9], (250, 120, 10))
    # The public YouTube Faces frames: PNG with alpha under the name .jpg
    rgba = np.full((5, 6, 4), (10, 120, 250, 128), dtype=np.uint8)
    (tmp_path / "alpha.jpg").write_bytes(cv2.imencode(".png", rgba)[1].tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.jpg")[2, 2], (250, 120, 10))
    # A grey image has three equal channels.
    (tmp_path / "grey.png").write_bytes(cv2.imencode(".png", np.full((5, 6), 77, np.uint8))[1].tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png")[2, 2], (77, 77, 77))


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(BadFaceError, match=r"Cannot read the image '.*gone\.jpg': No such file"):
        read_image(tmp_path / "gone.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(BadFaceError, match=r"empty\.jpg' is empty, truncated or not an image \(0 bytes\)"):
        read_image(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(BadFaceError, match=r"text\.jpg' is empty, truncated or not an image \(12 bytes\)"):
        read_image(tmp_path / "text.jpg")


GOOD = {
    "landmarks": np.ones((3, 2), np.float32),
    "box": np.asarray([0, 0, 4, 4], np.float32),
    "visible": np.ones(3, np.bool_),
}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"landmarks": np.ones((3, 3), np.float32)}, "expected landmarks"),
        ({"visible": np.ones(2, np.bool_)}, "expected landmarks"),
        ({"box": np.ones(3, np.float32)}, "expected landmarks"),
        ({"landmarks": np.full((3, 2), np.nan, np.float32)}, "not a finite number"),
        ({"box": np.asarray([0, 0, np.inf, 1], np.float32)}, "not a finite number"),
        ({"box": np.asarray([4, 0, 4, 4], np.float32)}, "is empty"),
    ],
)
def test_an_annotation_that_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(BadFaceError, match=f"somebody.*{message}"):
        Annotation(**(GOOD | wrong), id="somebody")


@pytest.mark.parametrize(
    "image",
    [None, np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3), np.float32)],
)
def test_a_face_without_a_uint8_rgb_image_is_refused(image):
    with pytest.raises(BadFaceError, match="somebody: expected a"):
        Face(**GOOD, id="somebody", image=image)


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


def ids_of(dataset):
    return [dataset.annotation(i).id for i in range(len(dataset))]


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


# 300W --------------------------------------------------------------------------------------------


def test_300w_splits_are_those_of_the_protocol(data):
    stems = ("image_0001", "image_0002", "image_092 _01")
    folders = {
        "train": ("afw", "helen/trainset", "lfpw/trainset"),
        "common": ("helen/testset", "lfpw/testset"),
        "challenging": ("ibug",),
        "full": ("helen/testset", "lfpw/testset", "ibug"),
    }
    for split, names in folders.items():
        dataset = W300(split, data / "300w")
        assert ids_of(dataset) == [f"{name}/{stem}" for name in names for stem in stems]
        for i in range(len(dataset)):
            expected = shape_of(stems[i % 3])
            face = dataset[i]
            np.testing.assert_allclose(face.landmarks, expected, atol=1e-6)
            np.testing.assert_allclose(face.box, landmarks_box(expected), atol=1e-6)
            assert face.visible.all()
            assert face.image.shape == (48, 60, 3)


def test_300w_folders_are_found_in_either_case_and_inside_the_archives_folder(tmp_path):
    upper = ("AFW", "HELEN/trainset", "Helen/testset", "LFPW/Trainset", "LFPW/testset", "IBUG")
    upper = [name.replace("Helen", "HELEN") for name in upper]
    write_300w(tmp_path / "ibug_300W_large_face_landmark_dataset", upper)
    dataset = W300("train", tmp_path)
    assert dataset.annotation(0).id == "afw/image_0001"
    assert len(dataset) == 9
    assert len(W300("full", tmp_path)) == 9


def test_300w_leaves_out_the_mirrored_copies_of_dlibs_archive(tmp_path):
    for stem in ("image_1", "image_1_mirror", "only_mirror"):
        write_pair(tmp_path / "ibug", stem)
    assert ids_of(W300("challenging", tmp_path)) == ["ibug/image_1", "ibug/only_mirror"]


def test_300w_warns_once_when_the_count_is_not_the_protocols(data):
    with pytest.warns(UserWarning, match=r"300w full: 9 of the protocol's 689 images") as caught:
        W300("full", data / "300w")
    assert len(caught) == 1


def test_300w_names_the_folder_that_is_missing(tmp_path):
    write_300w(tmp_path, ("afw", "helen/trainset", "helen/testset"))
    with pytest.raises(DatasetNotFoundError, match=r"lacks lfpw/trainset of 300W's split 'train'.*dlib\.net"):
        W300("train", tmp_path)
    with pytest.raises(DatasetNotFoundError, match=r"lacks lfpw/testset, ibug of 300W's split 'full'"):
        W300("full", tmp_path)
    (tmp_path / "ibug").mkdir()
    with pytest.raises(DatasetNotFoundError, match="Split 'challenging' of '300w' has no faces"):
        W300("challenging", tmp_path)


def test_300w_names_the_file_that_is_wrong(tmp_path):
    write_pair(tmp_path / "ibug", "a", k=29)
    with pytest.raises(BadFaceError, match=r"a\.pts' has 29 points, expected 68"):
        W300("challenging", tmp_path)[0]
    (tmp_path / "ibug" / "a.jpg").unlink()
    with pytest.raises(BadFaceError, match=r"a\.pts' has no image beside it"):
        W300("challenging", tmp_path)


def test_300w_opens_no_file_before_a_face_is_asked_for(tmp_path):
    for name in ("a.jpg", "a.pts", "b.jpg", "b.pts"):
        (tmp_path / "ibug").mkdir(exist_ok=True)
        (tmp_path / "ibug" / name).write_bytes(b"")
    assert len(W300("challenging", tmp_path)) == 2


@pytest.mark.parametrize("folder", ["Bounding Boxes", "Bounding_Boxes", "bounding_boxes"])
def test_300w_reads_the_detectors_boxes(folder, tmp_path):
    write_300w(tmp_path)
    box_folder = tmp_path / folder
    # lfpw is .png here and .jpg in its file of boxes, as in some copies of the dataset.
    write_boxes(
        box_folder / "bounding_boxes_lfpw_testset.mat",
        {"image_0001.jpg": [3.5, 4.5, 33.5, 44.5], "image_092 _01.jpg": [2, 3, 20, 30]},
    )
    write_boxes(box_folder / "bounding_boxes_helen_testset.mat", {"image_0001.jpg": [1, 1, 10, 10]})
    dataset = W300("common", tmp_path, boxes="detector")
    boxes = {dataset.annotation(i).id: dataset.annotation(i).box for i in range(len(dataset))}
    np.testing.assert_array_equal(boxes["lfpw/testset/image_0001"], [2.5, 3.5, 32.5, 43.5])
    np.testing.assert_array_equal(boxes["lfpw/testset/image_092 _01"], [1, 2, 19, 29])
    np.testing.assert_array_equal(boxes["helen/testset/image_0001"], [0, 0, 9, 9])
    # An image that has no entry has the box of its landmarks.
    without = landmarks_box(dataset.annotation(1).landmarks)
    np.testing.assert_array_equal(boxes["helen/testset/image_0002"], without)
    # The landmarks' boxes need no file of boxes.
    np.testing.assert_array_equal(W300("common", tmp_path).annotation(1).box, without)
    few = W300("common", tmp_path, landmarks=19, boxes="detector")
    np.testing.assert_array_equal(few.annotation(0).box, [0, 0, 9, 9])


def test_300w_says_what_is_wrong_with_the_detectors_boxes(tmp_path):
    write_pair(tmp_path / "ibug", "a")
    with pytest.raises(ValueError, match="boxes is 'landmarks' or 'detector', got 'best'"):
        W300("challenging", tmp_path, boxes="best")
    with pytest.raises(DatasetNotFoundError, match="needs the folder 'Bounding Boxes'"):
        W300("challenging", tmp_path, boxes="detector")
    (tmp_path / "Bounding Boxes").mkdir()
    with pytest.raises(DatasetNotFoundError, match=r"needs '.*bounding_boxes_ibug\.mat'"):
        W300("challenging", tmp_path, boxes="detector")
    path = tmp_path / "Bounding Boxes" / "bounding_boxes_ibug.mat"
    path.write_bytes(b"not a mat file")
    with pytest.raises(BadFaceError, match=r"bounding_boxes_ibug\.mat' is not a file of 300W boxes"):
        W300("challenging", tmp_path, boxes="detector")
    scipy.io.savemat(path, {"something": np.ones(3)})
    with pytest.raises(BadFaceError, match=r"bounding_boxes_ibug\.mat' is not a file of 300W boxes"):
        W300("challenging", tmp_path, boxes="detector")


@pytest.mark.parametrize(("split", "protocol"), [("train", 3148), ("common", 554), ("challenging", 135)])
def test_the_real_300w_is_read_whole_with_its_boxes(split, protocol):
    if not (REAL_DATA / "300w").is_dir():
        pytest.skip("no copy of the research dataset 300w beside the checkout")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = W300(split, REAL_DATA / "300w", boxes="detector")
    # The copy that this was built with has 2,002 images to train on, and the whole of the test splits.
    assert len(dataset) in ((2002, protocol) if split == "train" else (protocol,))
    assert len(caught) == (len(dataset) != protocol)
    detected = dataset.annotation(0).box
    around = landmarks_box(dataset.annotation(0).landmarks)
    assert 0 < np.abs(detected - around).max() < 0.3 * (around[2] - around[0])


# YouTube Faces -----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [".", "data"])
def test_ytf_is_split_by_person_whatever_the_folder(folder, tmp_path):
    write_ytf(tmp_path / folder)
    for split, people in (("train", TRAIN_PEOPLE), ("full", TEST_PEOPLE)):
        dataset = YouTubeFaces(split, tmp_path)
        frames = [f"test/{p}_00" for p in people] + [f"training/{p}_{n}" for p in people for n in ("02", "31")]
        assert ids_of(dataset) == sorted(frames)
        for i, frame in enumerate(sorted(frames)):
            face = dataset[i]
            np.testing.assert_array_equal(face.landmarks, shape_of(f"{frame}.jpg"))
            np.testing.assert_array_equal(face.box, landmarks_box(shape_of(f"{frame}.jpg")))
            assert face.visible.all()
            assert face.image.shape == (48, 60, 3)


def turned(yaw, scale=20.0):
    """A face whose :func:`yaw_asymmetry` is ``abs(yaw)``."""
    shape = shape_of("turned").astype(np.float64)
    shape[[0, 30, 16]] = [[0, 9], [scale * (1 + yaw), 9], [2 * scale, 9]]
    return shape.astype(np.float32)


def test_yaw_asymmetry_compares_the_nose_with_the_two_ends_of_the_jaw():
    shapes = np.stack([turned(0), turned(0.5), turned(-0.5), turned(1.0), np.zeros((68, 2), np.float32)])
    np.testing.assert_allclose(yaw_asymmetry(shapes), [0, 0.5, 0.5, 1, 0], atol=1e-6)


def test_ytf_challenging_is_the_most_turned_fifth(tmp_path):
    yaws = (0.0, -0.75, 0.25, 0.5, -0.25, 0.0, 0.25, -0.5, 0.0, 0.125)
    shapes = {f"training/Paul_Dirac_{i:02}.jpg": turned(yaw) for i, yaw in enumerate(yaws)}
    write_ytf(tmp_path, shapes)
    # Frames 3 and 7 are turned equally: the earlier name is taken.
    assert ids_of(YouTubeFaces("challenging", tmp_path)) == [f"training/Paul_Dirac_{i:02}" for i in (1, 3)]
    common = ids_of(YouTubeFaces("common", tmp_path))
    assert common == [f"training/Paul_Dirac_{i:02}" for i in (0, 2, 4, 5, 6, 7, 8, 9)]
    with pytest.raises(DatasetNotFoundError, match=r"has no frames in split 'train'.*git clone"):
        YouTubeFaces("train", tmp_path)


def test_ytf_names_what_is_missing(tmp_path):
    with pytest.raises(DatasetNotFoundError, match=r"lacks training, test, training_frames_keypoints\.csv, test_"):
        YouTubeFaces("train", tmp_path)
    write_ytf(tmp_path)
    (tmp_path / "test_frames_keypoints.csv").unlink()
    with pytest.raises(DatasetNotFoundError, match=r"lacks test_frames_keypoints\.csv\. .*git clone"):
        YouTubeFaces("train", tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x_00.jpg,1,2", "line 3: expected 137 columns .*, got 3. Get the file again"),
        ("x_00.jpg" + ",1" * 137, "line 3: expected 137 columns .*, got 138"),
        ("x_00.jpg" + ",1" * 135 + ",nan", "line 3: a landmark of 'x_00.jpg' is not a finite number"),
        ("x_00.jpg" + ",1" * 135 + ",", "line 3: could not convert string to float: ''. Mend or remove"),
        ("x_00.jpg" + ",1" * 135 + ",y", "line 3: could not convert string to float: 'y'"),
        ("Max_Born_00.jpg" + ",1" * 136, "line 3: 'Max_Born_00.jpg' is in line 2 too"),
    ],
)
def test_ytf_names_the_line_that_is_wrong(line, message, tmp_path):
    write_ytf(tmp_path)
    path = tmp_path / "test_frames_keypoints.csv"
    write_csv(path, {"Max_Born_00.jpg": shape_of("Max_Born_00.jpg")})
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(BadFaceError, match=rf"test_frames_keypoints\.csv', {message}"):
        YouTubeFaces("train", tmp_path)


def test_ytf_names_a_file_that_is_no_text_and_an_image_that_is_gone(tmp_path):
    write_ytf(tmp_path)
    dataset = YouTubeFaces("train", tmp_path)
    (tmp_path / "test" / "Ada_Lovelace_00.jpg").unlink()
    dataset.annotation(0)
    with pytest.raises(BadFaceError, match=r"Cannot read the image '.*Ada_Lovelace_00\.jpg': No such file"):
        dataset[0]
    (tmp_path / "test_frames_keypoints.csv").write_bytes(b"a,b\n\xff\xfe\n")
    with pytest.raises(BadFaceError, match=r"test_frames_keypoints\.csv' is not a CSV file in UTF-8"):
        YouTubeFaces("train", tmp_path)


def test_the_real_ytf_has_its_known_counts_and_shares_no_person():
    if not (REAL_DATA / "ytf").is_dir():
        pytest.skip("no copy of the research dataset ytf beside the checkout")
    splits = {split: ids_of(YouTubeFaces(split, REAL_DATA / "ytf")) for split in YouTubeFaces.splits}
    counts = {split: len(ids) for split, ids in splits.items()}
    assert counts == {"train": 3370, "full": 557, "common": 446, "challenging": 111}
    assert sorted(splits["common"] + splits["challenging"]) == splits["full"]
    people = {split: {name.split("/")[1].rpartition("_")[0] for name in ids} for split, ids in splits.items()}
    assert not people["train"] & people["full"]


# Several at once ---------------------------------------------------------------------------------


def test_joined_datasets_follow_one_another(data):
    joined = load_dataset("300w+ytf", "full", data)
    first, second = load_dataset("300w", "full", data / "300w"), load_dataset("ytf", "full", data / "ytf")
    assert joined.name == "300w+ytf"
    assert len(joined) == len(first) + len(second)
    assert ids_of(joined) == [f"300w/{name}" for name in ids_of(first)] + [f"ytf/{name}" for name in ids_of(second)]
    for i, face in ((len(first) - 1, first[-1]), (len(first), second[0])):
        np.testing.assert_array_equal(joined[i].landmarks, face.landmarks)
        np.testing.assert_array_equal(joined[i].image, face.image)


def test_datasets_that_do_not_fit_together_are_refused(data, tmp_path):
    write_pair(tmp_path / "train", "a", k=29)
    parts = [load_dataset("pts", root=tmp_path), load_dataset("ytf", root=data / "ytf")]
    with pytest.raises(ValueError, match=r"'pts\+ytf' cannot be joined: their numbers of landmarks differ"):
        JoinedDataset(parts)
    with pytest.raises(ValueError, match="at least one dataset"):
        JoinedDataset([])
    with pytest.raises(ValueError, match="Dataset 'pts' has no split 'full'"):
        load_dataset("ytf+pts", "full", data)
