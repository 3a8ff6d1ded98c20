"""YouTube Faces is split by person, and each wrong line of its files is named."""

from __future__ import annotations

import numpy as np
import pytest
from writers.images import cut_short, shape_of, write_image, write_noise
from writers.support import ids_of, real_root
from writers.ytf import TEST_PEOPLE, TRAIN_PEOPLE, write_csv, write_ytf

from face_align_env.datasets import BadFaceError, DatasetNotFoundError
from face_align_env.datasets.base import landmarks_box
from face_align_env.datasets.ytf import YouTubeFaces, yaw_asymmetry


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
    write_ytf(tmp_path, shapes | {"test/Paul_Dirac_99.jpg": turned(0.0)})
    # Frames 3 and 7 are turned equally: the earlier name is taken.
    assert ids_of(YouTubeFaces("challenging", tmp_path)) == [f"training/Paul_Dirac_{i:02}" for i in (1, 3)]
    common = ids_of(YouTubeFaces("common", tmp_path))
    assert common == ["test/Paul_Dirac_99", *(f"training/Paul_Dirac_{i:02}" for i in (0, 2, 4, 5, 6, 7, 8, 9))]
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
    with pytest.raises(BadFaceError, match=r"The image '.*Ada_Lovelace_00\.jpg' is missing\. Restore"):
        dataset[0]
    (tmp_path / "test_frames_keypoints.csv").write_bytes(b"a,b\n\xff\xfe\n")
    with pytest.raises(BadFaceError, match=r"test_frames_keypoints\.csv' is not a CSV file in UTF-8"):
        YouTubeFaces("train", tmp_path)


def test_ytf_names_an_image_that_is_cut_short(tmp_path):
    write_ytf(tmp_path)
    path = tmp_path / "test" / "Ada_Lovelace_00.jpg"
    write_noise(path)
    dataset = YouTubeFaces("train", tmp_path)
    assert dataset[0].image.std() > 0
    cut_short(path)
    with pytest.raises(BadFaceError, match=r"Cannot read the image '.*Ada_Lovelace_00\.jpg'"):
        dataset[0]


def test_ytf_tells_the_size_of_a_frame(tmp_path):
    write_ytf(tmp_path)
    write_image(tmp_path / "test" / "Ada_Lovelace_00.jpg", size=(20, 30))
    dataset = YouTubeFaces("train", tmp_path)
    assert (dataset.image_size(0), dataset.image_size(1)) == ((30, 20), (60, 48))


def test_ytf_has_no_published_number_of_frames(tmp_path, recwarn):
    assert YouTubeFaces("train", write_ytf(tmp_path)).missing() == []
    assert not recwarn.list


def _append(path):
    with path.open("ab") as file:
        file.write(b"\n")


@pytest.mark.parametrize("name", ["training/Ada_Lovelace_31.jpg", "test/Max_Born_00.jpg"])
def test_the_fingerprint_of_ytf_changes_with_a_frame_of_its_split_alone(name, tmp_path):
    write_ytf(tmp_path)
    before = {split: YouTubeFaces(split, tmp_path).fingerprint() for split in ("train", "full")}
    assert YouTubeFaces("train", tmp_path).fingerprint() == before["train"]
    _append(tmp_path / name)
    assert YouTubeFaces("train", tmp_path).fingerprint() != before["train"]
    assert YouTubeFaces("full", tmp_path).fingerprint() == before["full"]
    before = YouTubeFaces("train", tmp_path).fingerprint()
    (tmp_path / name).unlink()
    assert YouTubeFaces("train", tmp_path).fingerprint() != before


@pytest.mark.parametrize("name", ["training_frames_keypoints.csv", "test_frames_keypoints.csv"])
def test_the_fingerprint_of_ytf_changes_with_its_files_of_landmarks(name, tmp_path):
    write_ytf(tmp_path)
    before = YouTubeFaces("train", tmp_path).fingerprint()
    _append(tmp_path / name)
    assert YouTubeFaces("train", tmp_path).fingerprint() != before


@pytest.mark.parametrize("folder", [".", "data"])
def test_the_fingerprint_of_ytf_is_that_of_the_moved_folder_too(folder, tmp_path):
    root = tmp_path / "before"
    write_ytf(root / folder)
    before = YouTubeFaces("train", root).fingerprint()
    moved = root.rename(tmp_path / "da nach ü")
    assert YouTubeFaces("train", moved).fingerprint() == before


def test_the_real_ytf_has_its_known_counts_and_shares_no_person():
    root = real_root("ytf")
    splits = {split: ids_of(YouTubeFaces(split, root)) for split in YouTubeFaces.splits}
    counts = {split: len(ids) for split, ids in splits.items()}
    assert counts == {"train": 3370, "full": 557, "common": 446, "challenging": 111}
    assert sorted(splits["common"] + splits["challenging"]) == splits["full"]
    people = {split: {name.split("/")[1].rpartition("_")[0] for name in ids} for split, ids in splits.items()}
    assert not people["train"] & people["full"]
