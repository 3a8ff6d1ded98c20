"""Where data is looked for, how images are read, and what a face has to be."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from writers.images import cut_short, write_image, write_noise

from face_align_env.datasets import Annotation, BadFaceError, DatasetNotFoundError, Face, FaceDataset
from face_align_env.datasets.base import candidate_roots, files_digest, find_root, read_image, read_image_size


class Plain(FaceDataset):
    """A dataset that says no more than it must: three faces on images of 4 x 6 px."""

    name = "plain"
    description = licence = "of no consequence"
    how_to_get = "Ask the neighbours."
    splits = ("train", "test")

    def __init__(self, split="train"):
        super().__init__(split)
        self.warn_if_incomplete()

    def __len__(self):
        return 3

    def annotation(self, index):
        box = np.asarray([0, 0, 4, 4], np.float32)
        return Annotation(np.ones((68, 2), np.float32), box, np.ones(68, np.bool_), f"face {index}")

    def image(self, index):
        return np.full((4, 6, 3), index, np.uint8)


# Where data is looked for ------------------------------------------------------------------------


def test_the_data_is_found_at_root_then_the_variable_then_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setenv("FACE_ALIGN_DATA", str(tmp_path / "variable"))
    cache = tmp_path / "home" / ".cache" / "face-align" / "plain"
    for place in (cache, tmp_path / "variable" / "plain", tmp_path / "root"):
        place.mkdir(parents=True)
    assert find_root(Plain, str(tmp_path / "root")) == tmp_path / "root"
    assert find_root(Plain, None) == tmp_path / "variable" / "plain"
    monkeypatch.setenv("FACE_ALIGN_DATA", str(tmp_path / "elsewhere"))
    assert find_root(Plain, None) == cache
    monkeypatch.delenv("FACE_ALIGN_DATA")
    assert find_root(Plain, None) == cache


def test_the_places_to_look_are_told_in_their_order_whether_they_exist_or_not(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    cache = tmp_path / ".cache" / "face-align" / "plain"
    monkeypatch.setenv("FACE_ALIGN_DATA", str(tmp_path / "variable"))
    assert candidate_roots(Plain) == [tmp_path / "variable" / "plain", cache]
    assert candidate_roots(Plain, str(tmp_path / "root")) == [tmp_path / "root"]
    monkeypatch.setenv("FACE_ALIGN_DATA", "")
    assert candidate_roots(Plain) == [cache]
    monkeypatch.delenv("FACE_ALIGN_DATA")
    assert candidate_roots(Plain) == [cache]


def test_a_file_in_the_place_of_the_folder_is_no_dataset(tmp_path):
    (tmp_path / "plain").touch()
    with pytest.raises(DatasetNotFoundError, match=r"'.*plain', and there is no such folder\. Ask the neighbours"):
        find_root(Plain, tmp_path / "plain")


# Images ------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_an_image_of_any_kind_is_read_as_uint8_rgb_that_may_be_written_to(mode, tmp_path):
    path = tmp_path / "a.png"
    if mode == "I;16":
        Image.fromarray(np.full((4, 6), 65535, np.uint16)).save(path)
    else:
        Image.new("RGB", (6, 4), "white").convert(mode).save(path)
    with Image.open(path) as image:
        assert image.mode == mode
    pixels = read_image(path)
    assert (pixels.shape, pixels.dtype) == ((4, 6, 3), np.uint8)
    assert (pixels == 255).all()
    pixels[0, 0] = 7  # a view of read-only memory would raise


def test_a_cmyk_jpeg_is_read_as_rgb(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.jpg")
    np.testing.assert_allclose(read_image(tmp_path / "red.jpg")[8, 8], (254, 0, 0), atol=3)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_keeps_its_upper_8_bits(suffix, tmp_path):
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16) * 256 + 200
    path = tmp_path / f"deep{suffix}"
    path.write_bytes(cv2.imencode(suffix, grey)[1].tobytes())
    expected = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(read_image(path), np.stack([expected] * 3, axis=-1))


# What the EXIF orientation asks for, as numpy says it.
ORIENTATIONS = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image.transpose(1, 0, 2)[:, ::-1],
    7: lambda image: image.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda image: image.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_exif_orientation_turns_photos_and_leaves_datasets_as_they_were_annotated(orientation, tmp_path):
    stored = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), stored)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", upright=True), ORIENTATIONS[orientation](stored))
    assert read_image_size(tmp_path / "a.png") == (6, 4)  # of the pixels as they are stored


def test_a_photo_without_an_orientation_is_upright_as_it_is(tmp_path):
    write_noise(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", upright=True), read_image(tmp_path / "a.png"))


@pytest.mark.parametrize("read", [read_image, lambda path: read_image(path, upright=True), read_image_size])
def test_an_image_that_cannot_be_read_is_named(read, tmp_path):
    with pytest.raises(BadFaceError, match=r"The image '.*gone\.jpg' is missing\. Restore it"):
        read(tmp_path / "gone.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(BadFaceError, match=r"empty\.jpg' is no image \(0 bytes; JPEG, .* are read\)\. Get it again"):
        read(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(BadFaceError, match=r"text\.jpg' is no image \(12 bytes; JPEG, .* are read\)\. Get it again"):
        read(tmp_path / "text.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(BadFaceError, match=r"Cannot read the image '.*folder\.jpg': "):
        read(tmp_path / "folder.jpg")


@pytest.mark.parametrize("part", [0.2, 0.5, 0.95])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_an_image_that_is_cut_short_is_an_error_and_not_half_a_picture(suffix, part, tmp_path):
    path = tmp_path / f"cut{suffix}"
    write_noise(path)
    assert read_image(path).shape == (48, 60, 3)
    cut_short(path, part)
    for upright in (False, True):
        with pytest.raises(BadFaceError, match=rf"Cannot read the image '.*cut\{suffix}': .*Get it again"):
            read_image(path, upright)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_the_size_of_an_image_is_told_by_its_header_alone(suffix, tmp_path):
    path = tmp_path / f"größe 脸{suffix}"
    write_noise(path)
    assert read_image_size(path) == (60, 48)
    cut_short(path, 0.7)  # JPEG's tables of 600 bytes come first
    assert read_image_size(path) == (60, 48)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp"])
def test_a_damaged_image_is_read_or_a_bad_face_and_no_other_error(suffix, tmp_path):
    """Pillow's decoders raise all kinds of errors for damaged files; none but BadFaceError gets out."""
    rng = np.random.default_rng(0)
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(path, exif=exif)
    whole = path.read_bytes()
    messages = []
    for i in range(0, len(whole), 3 if suffix == ".jpg" else 1):  # a damaged size of a JPEG is slow to find out
        damaged = bytearray(whole)
        damaged[i] ^= 0x55
        path.write_bytes(damaged)
        try:
            assert read_image(path, upright=True).dtype == np.uint8
        except BadFaceError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(path.name in message for message in messages)


# The digest of files -----------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """A folder with the files a, b and sub/c of a few bytes, and their paths."""
    root = tmp_path / "files"
    paths = [root / "a", root / "b", root / "sub" / "c"]
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * i)
    return root, paths


def test_the_digest_of_files_is_that_of_the_moved_folder_too(files, tmp_path):
    root, paths = files
    before = files_digest(paths, root)
    assert files_digest(paths, root) == before
    other = tmp_path / "anders wo ü"
    root.rename(other)
    assert files_digest([other / path.relative_to(root) for path in paths], other) == before


def _add(root, paths):
    (root / "d").touch()
    paths.append(root / "d")


def _remove(root, paths):
    paths.pop()


def _rename(root, paths):
    paths[0] = paths[0].rename(root / "z")


def _change_the_size_only(root, paths):
    stat = paths[1].stat()
    paths[1].write_bytes(b"xx")
    os.utime(paths[1], ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _change_the_time_only(root, paths):
    stat = paths[1].stat()
    os.utime(paths[1], ns=(stat.st_atime_ns, stat.st_mtime_ns + 10_000_000))


@pytest.mark.parametrize("change", [_add, _remove, _rename, _change_the_size_only, _change_the_time_only])
def test_the_digest_of_files_changes_with_any_of_them(change, files):
    root, paths = files
    before = files_digest(paths, root)
    change(root, paths)
    assert files_digest(paths, root) != before


def test_no_files_have_a_digest(tmp_path):
    assert files_digest([], tmp_path) == files_digest(iter(()), tmp_path / "other")


# Faces -------------------------------------------------------------------------------------------

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
        ({"box": np.asarray([0, 5, 4, 4], np.float32)}, "is empty"),
        ({"counted": np.zeros(3, np.bool_)}, "none of its landmarks counts"),
        ({"counted": np.ones(2, np.bool_)}, "expected landmarks"),
    ],
)
def test_an_annotation_that_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(BadFaceError, match=f"somebody.*{message}"):
        Annotation(**(GOOD | wrong), id="somebody")


def test_an_annotation_counts_every_landmark_unless_it_says_otherwise():
    assert Annotation(**GOOD, id="somebody").counted is None


@pytest.mark.parametrize(
    "image",
    [None, np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3), np.float32)],
)
def test_a_face_without_a_uint8_rgb_image_is_refused(image):
    with pytest.raises(BadFaceError, match="somebody: expected a"):
        Face(**GOOD, id="somebody", image=image)


def test_a_bad_face_error_lists_one_problem_or_several():
    assert BadFaceError("a is bad").problems == ("a is bad",)
    several = BadFaceError("a is bad (1 more)", ["a is bad", "b is bad"])
    assert str(several) == "a is bad (1 more)"
    assert several.problems == ("a is bad", "b is bad")
    assert isinstance(several, ValueError)


# What a dataset has without saying so ------------------------------------------------------------


def test_a_dataset_that_says_no_more_has_the_defaults():
    dataset = Plain()
    assert dataset.image_size(1) == (6, 4)  # width, height
    assert dataset.parts == (dataset,)
    assert dataset.fingerprint() is None
    assert dataset.archive is None
    assert len(dataset.protocol) == 0


def test_a_dataset_without_a_protocol_misses_nothing_and_does_not_warn(recwarn):
    assert Plain().missing() == []
    assert not recwarn.list


@pytest.mark.parametrize(
    ("expected", "line"), [(1234, "3 of the protocol's 1,234 faces"), (2, "3 of the protocol's 2 ")]
)
def test_too_few_and_too_many_faces_are_told_where_the_dataset_is_made(expected, line, monkeypatch):
    monkeypatch.setattr(Plain, "protocol", {"train": expected})
    with pytest.warns(UserWarning, match=f"^plain train: {line}.*Compare figures with published ones") as caught:
        dataset = Plain()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    (missing,) = dataset.missing()
    assert missing.startswith(line)


@pytest.mark.parametrize("protocol", [{"train": 3}, {"test": 500}])
def test_the_protocols_number_of_faces_and_that_of_other_splits_make_no_warning(protocol, monkeypatch, recwarn):
    monkeypatch.setattr(Plain, "protocol", protocol)
    assert Plain("train").missing() == []
    assert not recwarn.list
