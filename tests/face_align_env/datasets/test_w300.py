"""300W is found in every form in which it is about, and what is wrong with a copy is named."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.io
from writers.images import cut_short, shape_of, write_noise, write_pair
from writers.support import ids_of, real_root
from writers.w300 import FOLDERS, PRIVATE_FOLDERS, STEMS, write_300w, write_boxes

from face_align_env.datasets import BadFaceError, DatasetNotFoundError, w300
from face_align_env.datasets.base import landmarks_box
from face_align_env.datasets.w300 import W300
from face_align_env.prepared import PreparedFaces

pytestmark = pytest.mark.filterwarnings("ignore:300w .* of the protocol's:UserWarning")

# The folder in dlib's archive
ARCHIVE = "ibug_300W_large_face_landmark_dataset"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """All folders of 300W with three faces each."""
    return write_300w(tmp_path_factory.mktemp("300w"), (*FOLDERS, *PRIVATE_FOLDERS))


def test_300w_splits_are_those_of_the_protocol(data):
    folders = {
        "train": ("afw", "helen/trainset", "lfpw/trainset"),
        "common": ("helen/testset", "lfpw/testset"),
        "challenging": ("ibug",),
        "full": ("helen/testset", "lfpw/testset", "ibug"),
        "private": ("300W/01_Indoor", "300W/02_Outdoor"),
    }
    assert tuple(folders) == W300.splits
    for split, names in folders.items():
        dataset = W300(split, data)
        assert ids_of(dataset) == [f"{name}/{stem}" for name in names for stem in STEMS]
        for i in range(len(dataset)):
            expected = shape_of(STEMS[i % 3])
            face = dataset[i]
            np.testing.assert_allclose(face.landmarks, expected, atol=1e-6)
            np.testing.assert_allclose(face.box, landmarks_box(expected), atol=1e-6)
            assert face.visible.all()
            assert face.image.shape == (48, 60, 3)


@pytest.mark.parametrize(
    "folders",
    [
        ("AFW", "Helen/trainset", "Helen/testset", "LFPW/Trainset", "LFPW/testset", "IBUG"),
        ("afw", "HELEN/TRAINSET", "HELEN/TESTSET", "Lfpw/TrainSet", "Lfpw/TestSet", "Ibug"),
    ],
    ids=["as published", "anyhow"],
)
@pytest.mark.parametrize("inside", [".", ARCHIVE, ARCHIVE.lower()], ids=["root", "archive", "archive, lower case"])
def test_300w_folders_are_found_in_either_case_and_inside_the_archives_folder(inside, folders, tmp_path):
    write_300w(tmp_path / inside, folders)
    dataset = W300("train", tmp_path)
    assert ids_of(dataset)[::3] == ["afw/image_0001", "helen/trainset/image_0001", "lfpw/trainset/image_0001"]
    assert len(dataset) == 9
    assert dataset[8].id == "lfpw/trainset/image_092 _01"
    assert ids_of(W300("full", tmp_path))[::3] == [
        "helen/testset/image_0001",
        "lfpw/testset/image_0001",
        "ibug/image_0001",
    ]


def test_300w_is_read_from_dlibs_archive_with_all_that_is_in_it(tmp_path):
    archive = write_300w(tmp_path / ARCHIVE)
    for folder in FOLDERS:
        write_pair(archive / folder, "image_0001_mirror")
    for name in ("labels_ibug_300W.xml", "labels_ibug_300W_train.xml", "image_metadata_stylesheet.xsl"):
        (archive / name).write_text("<dataset/>")
    for root in (tmp_path, archive):
        for split, number in (("train", 9), ("common", 6), ("challenging", 3), ("full", 9)):
            assert len(W300(split, root)) == number
        with pytest.raises(DatasetNotFoundError, match=r"lacks 300W/01_Indoor, 300W/02_Outdoor of .*ibug\.doc\.ic"):
            W300("private", root)


@pytest.mark.parametrize("folder", ["300W", "300w", "."], ids=["300W", "300w", "without the outer folder"])
def test_the_private_split_is_the_indoor_and_outdoor_images_with_and_without_their_outer_folder(folder, tmp_path):
    for i in range(1, 3):
        write_pair(tmp_path / folder / "01_Indoor", f"indoor_00{i}", ".png")
        write_pair(tmp_path / folder / "02_Outdoor", f"outdoor_00{i}", ".png")
    with pytest.warns(
        UserWarning, match=r"300w private: 4 of the protocol's 600 faces \(300W/01_Indoor 2 of 300, 300W/02_"
    ):
        dataset = W300("private", tmp_path)
    assert ids_of(dataset) == [f"300W/0{n}" for n in ("1_Indoor/indoor_001", "1_Indoor/indoor_002")] + [
        f"300W/0{n}" for n in ("2_Outdoor/outdoor_001", "2_Outdoor/outdoor_002")
    ]
    np.testing.assert_allclose(dataset[2].landmarks, shape_of("outdoor_001"), atol=1e-6)
    assert not dataset.is_train
    with pytest.raises(DatasetNotFoundError, match="lacks afw, helen/trainset, lfpw/trainset of 300W's split 'train'"):
        W300("train", tmp_path)


def test_half_of_the_private_split_is_not_taken_for_the_whole(tmp_path):
    write_pair(tmp_path / "01_Indoor", "indoor_001", ".png")
    with pytest.raises(DatasetNotFoundError, match="lacks 300W/02_Outdoor of 300W's split 'private'"):
        W300("private", tmp_path)


@pytest.mark.parametrize("folder", ["mit Leerzeichen", "größe/脸", "%20 [x] $HOME"])
def test_300w_is_read_from_a_path_of_any_characters(folder, tmp_path):
    root = write_300w(tmp_path / folder, (*FOLDERS, *PRIVATE_FOLDERS))
    write_boxes(root / "Bounding Boxes" / "bounding_boxes_ibug.mat", {"image_0001.jpg": [1, 1, 10, 10]})
    for split, number in (("train", 9), ("full", 9), ("private", 6)):
        dataset = W300(split, str(root))
        assert len(dataset) == number
        for i, face in enumerate(dataset):
            np.testing.assert_allclose(face.landmarks, shape_of(STEMS[i % 3]), atol=1e-6)
            assert dataset.image_size(i) == (60, 48)
    np.testing.assert_array_equal(W300("challenging", root, boxes="detector").annotation(0).box, [0, 0, 9, 9])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".JPG", ".jpeg", ".bmp"])
def test_300w_takes_images_of_any_suffix(suffix, tmp_path):
    write_pair(tmp_path / "ibug", "image_092 _01", suffix)
    face = W300("challenging", tmp_path)[0]
    assert face.id == "ibug/image_092 _01"
    assert face.image.shape == (48, 60, 3)


def test_300w_leaves_out_the_mirrored_copies_of_dlibs_archive(tmp_path):
    for stem in ("image_1", "image_1_mirror", "only_mirror"):
        write_pair(tmp_path / "ibug", stem)
    assert ids_of(W300("challenging", tmp_path)) == ["ibug/image_1", "ibug/only_mirror"]


def test_300w_warns_once_when_the_count_is_not_the_protocols(data):
    with pytest.warns(UserWarning, match=r"300w full: 9 of the protocol's 689 faces \(.*published ones") as caught:
        W300("full", data)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_300w_names_each_incomplete_folder_with_what_it_has_and_should_have(data):
    counts = {
        "train": "9 of the protocol's 3,148 faces (afw 3 of 337, helen/trainset 3 of 2,000, lfpw/trainset 3 of 811)",
        "common": "6 of the protocol's 554 faces (helen/testset 3 of 330, lfpw/testset 3 of 224)",
        "challenging": "3 of the protocol's 135 faces (ibug 3 of 135)",
        "full": "9 of the protocol's 689 faces (helen/testset 3 of 330, lfpw/testset 3 of 224, ibug 3 of 135)",
        "private": "6 of the protocol's 600 faces (300W/01_Indoor 3 of 300, 300W/02_Outdoor 3 of 300)",
    }
    for split, line in counts.items():
        assert W300(split, data).missing() == [line]


@pytest.fixture
def protocol(monkeypatch):
    """A function that makes the protocol as small as the written copies: folder -> number of faces."""

    def set_protocol(numbers):
        monkeypatch.setattr(w300, "_FOLDERS", numbers)
        monkeypatch.setattr(W300, "protocol", {"common": sum(numbers.values())})

    return set_protocol


def test_300w_does_not_warn_of_a_whole_copy(data, protocol, recwarn):
    protocol({"helen/testset": 3, "lfpw/testset": 3})
    assert W300("common", data).missing() == []
    assert not recwarn.list


def test_300w_does_not_name_the_folders_that_are_whole(data, protocol):
    protocol({"helen/testset": 3, "lfpw/testset": 4})
    assert W300("common", data).missing() == ["6 of the protocol's 7 faces (lfpw/testset 3 of 4)"]


def test_300w_tells_faces_in_the_wrong_folder_though_their_sum_is_right(data, protocol):
    protocol({"helen/testset": 2, "lfpw/testset": 4})
    with pytest.warns(UserWarning, match="300w common: helen/testset 3 of 2; lfpw/testset 3 of 4"):
        dataset = W300("common", data)
    assert dataset.missing() == ["helen/testset 3 of 2", "lfpw/testset 3 of 4"]


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


def test_300w_lists_every_pts_file_without_an_image(tmp_path):
    for stem in STEMS:
        write_pair(tmp_path / "ibug", stem)
    for stem in STEMS[1:]:
        (tmp_path / "ibug" / f"{stem}.jpg").unlink()
    with pytest.raises(BadFaceError, match=r"image_0002\.pts' has no image beside it: .*\(1 more") as caught:
        W300("challenging", tmp_path)
    assert [problem.split("'")[1] for problem in caught.value.problems] == [
        str(tmp_path / "ibug" / f"{stem}.pts") for stem in STEMS[1:]
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("version: 1\nn_points: 68\n{\n" + "1 2\n" * 67 + "}\n", "says n_points: 68, and holds 67 points"),
        ("version: 1\nn_points: 68\n{\n" + "1 2\n" * 67 + "nan 2\n}\n", r"point 67 \(from 0\) is not a finite number"),
        ("version: 1\nn_points: 67\n{\n" + "1 2\n" * 67 + "}\n", "has 67 points, expected 68"),
    ],
    ids=["empty", "fewer points than it says", "NaN", "67 points"],
)
def test_300w_names_the_pts_file_that_cannot_be_used_and_reads_the_others(content, message, tmp_path):
    root = write_300w(tmp_path, ["ibug"])
    (root / "ibug" / "image_0002.pts").write_text(content)
    dataset = W300("challenging", root)
    with pytest.raises(BadFaceError, match=rf"image_0002\.pts'.*{message}.*Restore the file"):
        dataset[1]
    np.testing.assert_allclose(dataset[2].landmarks, shape_of("image_092 _01"), atol=1e-6)


def test_300w_names_the_image_that_is_cut_short(tmp_path):
    write_pair(tmp_path / "ibug", "a")
    write_noise(tmp_path / "ibug" / "a.jpg")
    dataset = W300("challenging", tmp_path)
    assert dataset[0].image.shape == (48, 60, 3)
    cut_short(tmp_path / "ibug" / "a.jpg")
    with pytest.raises(BadFaceError, match=r"Cannot read the image '.*a\.jpg': .*Get it again"):
        dataset[0]


def test_300w_names_the_image_that_went_missing_after_it_was_opened(tmp_path):
    write_pair(tmp_path / "ibug", "a")
    dataset = W300("challenging", tmp_path)
    (tmp_path / "ibug" / "a.jpg").unlink()
    for read in (dataset.__getitem__, dataset.image, dataset.image_size):
        with pytest.raises(BadFaceError, match=r"The image '.*a\.jpg' is missing\. Restore"):
            read(0)


def test_300w_names_the_pts_file_that_went_missing_after_it_was_opened(tmp_path):
    write_pair(tmp_path / "ibug", "a")
    dataset = W300("challenging", tmp_path)
    (tmp_path / "ibug" / "a.pts").unlink()
    with pytest.raises(BadFaceError, match=r"Cannot read '.*a\.pts': No such file"):
        dataset[0]


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
    with pytest.raises(BadFaceError, match=r"bounding_boxes_ibug\.mat' is no MATLAB file.*Or take boxes='landmarks'"):
        W300("challenging", tmp_path, boxes="detector")
    scipy.io.savemat(path, {"something": np.ones(3)})
    with pytest.raises(BadFaceError, match=r"bounding_boxes_ibug\.mat' lacks the variable 'bounding_boxes'"):
        W300("challenging", tmp_path, boxes="detector")
    for box in ([1, 2, 3], [1, 2, 3, np.nan], [[1, 2], [3, np.inf]]):
        write_boxes(path, {"a.png": [1, 2, 3, 4], "b.png": box})
        with pytest.raises(BadFaceError, match=r"bounding_boxes_ibug\.mat' is not a file of 300W boxes: its cell 2"):
            W300("challenging", tmp_path, boxes="detector")


def _touched(root):
    with (root / "ibug" / "image_0001.jpg").open("ab") as file:
        file.write(b"\n")


def _another_point(root):
    path = root / "ibug" / "image_0002.pts"
    text = path.read_text()
    path.write_text(text.replace("\n{\n", "\n{\n1", 1))


def _added(root):
    write_pair(root / "ibug", "image_0003")


def _removed(root):
    for suffix in (".jpg", ".pts"):
        (root / "ibug" / f"image_0001{suffix}").unlink()


@pytest.mark.parametrize("change", [_touched, _another_point, _added, _removed])
def test_the_fingerprint_of_300w_changes_with_the_faces_of_its_split_alone(change, tmp_path):
    root = write_300w(tmp_path)
    before = {split: W300(split, root).fingerprint() for split in ("challenging", "full", "common", "train")}
    assert {split: W300(split, root).fingerprint() for split in before} == before
    change(root)
    after = {split: W300(split, root).fingerprint() for split in before}
    assert [split for split in before if after[split] != before[split]] == ["challenging", "full"]


def test_the_fingerprint_of_300w_is_that_of_the_moved_folder_too(tmp_path):
    root = tmp_path / "before"
    write_300w(root)
    before = W300("train", root).fingerprint()
    root.rename(tmp_path / "danach ü")
    assert W300("train", tmp_path / "danach ü").fingerprint() == before


def test_300w_is_found_partly_in_the_archives_folder_and_partly_beside_it(tmp_path):
    write_300w(tmp_path / ARCHIVE)
    write_300w(tmp_path, PRIVATE_FOLDERS)
    write_boxes(tmp_path / "Bounding Boxes" / "bounding_boxes_ibug.mat", {"image_0001.jpg": [2, 3, 40, 50]})
    assert len(W300("private", tmp_path)) == 6
    assert len(W300("full", tmp_path)) == 9
    detected = W300("challenging", tmp_path, boxes="detector")
    np.testing.assert_array_equal(detected.annotation(0).box, [1, 2, 39, 49])


def test_an_image_that_vanishes_is_named_when_it_is_asked_for(tmp_path):
    challenging = W300("challenging", write_300w(tmp_path))
    (tmp_path / "ibug/image_0002.jpg").unlink()
    assert challenging.fingerprint() != W300("challenging", write_300w(tmp_path)).fingerprint()
    (tmp_path / "ibug/image_0002.jpg").unlink()
    prepared = PreparedFaces(challenging)
    prepared.context(0)
    with pytest.raises(BadFaceError, match=r"image_0002\.jpg' is missing"):
        prepared.context(1)


def test_the_fingerprint_of_300w_tells_the_detectors_boxes_apart(tmp_path):
    write_300w(tmp_path, ["ibug"])
    path = tmp_path / "Bounding Boxes" / "bounding_boxes_ibug.mat"
    write_boxes(path, {"image_0001.jpg": [1, 1, 10, 10]})
    landmarks = W300("challenging", tmp_path).fingerprint()
    detector = W300("challenging", tmp_path, boxes="detector").fingerprint()
    assert landmarks != detector
    write_boxes(path, {"image_0001.jpg": [1, 1, 10, 10], "image_0002.jpg": [1, 1, 20, 20]})
    assert W300("challenging", tmp_path, boxes="detector").fingerprint() != detector
    assert W300("challenging", tmp_path).fingerprint() == landmarks


# The real one ------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "common", "challenging", "full"])
def test_the_real_300w_is_read_with_its_boxes_and_says_what_it_lacks(split):
    root = real_root("300w")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = W300(split, root, boxes="detector")
    # not what other tests of this process have left behind, which is collected at any time
    caught = [each for each in caught if not issubclass(each.category, (ResourceWarning, pytest.PytestWarning))]
    protocol = W300.protocol[split]
    assert 0 < len(dataset) <= protocol
    lacks = [] if len(dataset) == protocol else [f"{len(dataset):,} of the protocol's {protocol:,} faces ("]
    assert len(caught) == len(dataset.missing()) == len(lacks)
    assert all(found.startswith(line) for found, line in zip(dataset.missing(), lacks, strict=True))
    detected = dataset.annotation(0).box
    around = landmarks_box(dataset.annotation(0).landmarks)
    assert 0 < np.abs(detected - around).max() < 0.3 * (around[2] - around[0])
    assert dataset.image_size(0) == dataset.image(0).shape[1::-1]
