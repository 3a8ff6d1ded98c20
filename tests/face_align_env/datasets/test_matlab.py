"""Both versions of MATLAB's files give the same, one image at a time."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import struct
import tempfile
import tracemalloc

import h5py
import numpy as np
import pytest
import scipy.io
from writers.cofw import write_mat
from writers.images import cut_short

from face_align_env.datasets import BadFaceError
from face_align_env.datasets.matlab import find_file, read_mat

KINDS = {"cells": "images", "numbers": "matrix", "flags": "matrix", "names": "strings"}
FLAVOURS = [("7.3", True), ("7.3", False), ("5", True), ("5", False)]
COMPRESSED = [("7.3", True), ("5", True)]

# Asymmetric in every way: a transposed or mirrored picture, or swapped channels, are another picture.
COLOUR = np.arange(4 * 7 * 3, dtype=np.uint8).reshape(4, 7, 3)
GREY = np.arange(100, 100 + 5 * 3, dtype=np.uint8).reshape(5, 3)
TINY = np.array([[7, 8, 9]], dtype=np.uint8)  # small enough to be kept in the tag of its element
VARIABLES = {
    "cells": [COLOUR, GREY, TINY],
    "numbers": np.array([[1.5, 2.25, -3.0], [4.0, 5.0, 6.0]]),
    "flags": np.array([[0, 1]], dtype=np.uint8),
    "names": ["0/image1.jpg", "ü 脸", ""],
}


def read_images(path):
    return read_mat(path, {"cells": "images"})["cells"]


@pytest.fixture(params=FLAVOURS, ids=lambda flavour: f"v{flavour[0]}-{'compressed' if flavour[1] else 'plain'}")
def path(request, tmp_path):
    write_mat(tmp_path / "a.mat", VARIABLES, *request.param)
    return tmp_path / "a.mat"


def test_numbers_have_matlabs_rows_and_columns(path):
    found = read_mat(path, KINDS)
    assert found.keys() == VARIABLES.keys()
    np.testing.assert_array_equal(found["numbers"], VARIABLES["numbers"])
    np.testing.assert_array_equal(found["flags"], [[0, 1]])
    assert found["flags"].dtype == np.float64


def test_strings_are_read_in_any_script(path):
    assert read_mat(path, {"names": "strings"})["names"] == VARIABLES["names"]


def test_images_keep_their_orientation_and_channels(path):
    images = read_images(path)
    assert len(images) == 3
    for i, picture in enumerate(VARIABLES["cells"]):
        image = images.read(i)
        assert image.flags.c_contiguous
        assert image.flags.writeable
        np.testing.assert_array_equal(image, picture if picture.ndim == 3 else np.dstack([picture] * 3))
        assert images.size(i) == (picture.shape[1], picture.shape[0])


def test_a_size_is_read_before_any_image(path):
    assert read_images(path).size(1) == (3, 5)


def test_matlab_itself_would_read_what_the_writer_wrote(tmp_path):
    # The writer's version 7.3 against HDF5's own tool, and version 5 against scipy's reader: proof of the proof.
    write_mat(tmp_path / "7.3.mat", VARIABLES, "7.3")
    with h5py.File(tmp_path / "7.3.mat") as file:
        assert file["cells"].shape == (1, 3)
        assert file[file["cells"][0, 0]].shape == (3, 7, 4)
        assert file["numbers"].shape == (3, 2)
    assert (tmp_path / "7.3.mat").read_bytes().startswith(b"MATLAB 7.3 MAT-file")
    write_mat(tmp_path / "5.mat", VARIABLES, "5")
    cells = scipy.io.loadmat(tmp_path / "5.mat")["cells"]
    assert cells.shape == (3, 1)
    np.testing.assert_array_equal(cells[0, 0], COLOUR)


def test_big_endian_files_are_read(tmp_path):
    def element(kind, data):
        return struct.pack(">2I", kind, len(data)) + data + bytes(-len(data) % 8)

    def matrix(number, name, shape, *contents):
        dimensions = element(5, struct.pack(f">{len(shape)}i", *shape))
        return element(
            14, element(6, struct.pack(">2I", number, 0)) + dimensions + element(1, name) + b"".join(contents)
        )

    picture = element(2, COLOUR.tobytes(order="F"))
    cells = matrix(1, b"cells", (1, 1), matrix(9, b"", COLOUR.shape, picture))
    # An object of MATLAB's own, which has another header and is passed over.
    own = element(14, element(6, struct.pack(">2I", 17, 0)) + element(1, b"own") + element(1, b"MCOS!"))
    numbers = own + matrix(6, b"numbers", (1, 2), element(9, struct.pack(">2d", 1.5, -2)))
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    (tmp_path / "big.mat").write_bytes(header + cells + numbers)
    found = read_mat(tmp_path / "big.mat", {"cells": "images", "numbers": "matrix"})
    np.testing.assert_array_equal(found["cells"].read(0), COLOUR)
    np.testing.assert_array_equal(found["numbers"], [[1.5, -2]])


# Memory, processes -------------------------------------------------------------------------------


@pytest.mark.parametrize("flavour", FLAVOURS, ids=str)
def test_a_file_of_images_is_never_loaded_whole(flavour, tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (200, 300, 3), dtype=np.uint8) for _ in range(60)]
    write_mat(tmp_path / "a.mat", VARIABLES | {"cells": pictures}, *flavour)
    total = sum(picture.nbytes for picture in pictures)
    tracemalloc.start()
    try:
        images = read_mat(tmp_path / "a.mat", KINDS | {"cells": "images"})["cells"]
        for i in (59, 0, 30):
            np.testing.assert_array_equal(images.read(i), pictures[i])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Some images, and several of the pieces (256 KiB) in which a stream is unpacked; not the images of the file.
    assert peak < total / 4


def test_a_compressed_variable_is_unpacked_once_and_only_when_an_image_is_asked_for(tmp_path, monkeypatch):
    opened = []
    real = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **kwargs: opened.append(1) or real(**kwargs))
    write_mat(tmp_path / "a.mat", VARIABLES, "5", compressed=True)
    images = read_mat(tmp_path / "a.mat", KINDS)["cells"]
    assert (len(images), len(opened)) == (3, 0)
    images.read(2)
    images.size(0)
    images.read(0)
    assert len(opened) == 1
    write_mat(tmp_path / "plain.mat", VARIABLES, "5", compressed=False)
    read_images(tmp_path / "plain.mat").read(0)
    assert len(opened) == 1


def test_a_stream_that_is_longer_than_a_piece_is_unpacked_without_a_gap(tmp_path):
    # Black pictures shrink a thousandfold: many pieces come out of one that goes in; noise is the other way round.
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (900, 500, 3), dtype=np.uint8)
    pictures = [np.zeros((1000, 900, 3), np.uint8), noise, np.full((700, 800, 3), 9, np.uint8), GREY]
    write_mat(tmp_path / "a.mat", {"cells": pictures}, "5", compressed=True)
    images = read_images(tmp_path / "a.mat")
    np.testing.assert_array_equal(images.read(3)[:, :, 0], GREY)
    for i in (0, 1, 2):
        np.testing.assert_array_equal(images.read(i), pictures[i])


def test_a_disk_without_room_is_named_with_a_cure(tmp_path, monkeypatch):
    write_mat(tmp_path / "a.mat", VARIABLES, "5", compressed=True)
    images = read_images(tmp_path / "a.mat")

    def full(**kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match=r"a\.mat' are compressed as a whole.*No space left.*set TMPDIR"):
        images.read(0)


def test_images_can_be_pickled_before_and_after_one_was_read(path):
    images = read_images(path)
    for _ in range(2):
        copy = pickle.loads(pickle.dumps(images))
        np.testing.assert_array_equal(copy.read(0), COLOUR)
        np.testing.assert_array_equal(images.read(0), COLOUR)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_images_are_read_by_forked_processes_at_once(path):
    images = read_images(path)
    images.read(0)

    def read(seed):
        order = np.random.default_rng(seed).integers(0, 3, 40)
        pictures = [images.read(int(i))[0, 0] for i in order]
        good = all((p == VARIABLES["cells"][i][0, 0]).all() for p, i in zip(pictures, order, strict=True))
        os._exit(0 if good else 1)

    processes = [multiprocessing.get_context("fork").Process(target=read, args=(seed,)) for seed in range(2)]
    for process in processes:
        process.start()
    read_here = [images.read(i % 3)[0, 0] for i in range(40)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert all((p == VARIABLES["cells"][i % 3][0, 0]).all() for i, p in enumerate(read_here))


# Files that cannot be used -----------------------------------------------------------------------


def test_a_file_that_is_none_is_refused_with_what_it_is(tmp_path):
    with pytest.raises(BadFaceError, match=r"Cannot read '.*gone\.mat': No such file"):
        read_images(tmp_path / "gone.mat")
    (tmp_path / "empty.mat").touch()
    with pytest.raises(BadFaceError, match=r"empty\.mat' is empty"):
        read_images(tmp_path / "empty.mat")
    (tmp_path / "text.mat").write_text("<html>Not found</html>" * 20)
    with pytest.raises(BadFaceError, match=r"text\.mat' is no MATLAB file of version 5 or 7\.3 \(440 bytes\)"):
        read_images(tmp_path / "text.mat")


@pytest.mark.parametrize("part", [0.08, 0.2, 0.5, 0.9])
def test_a_file_that_is_cut_short_is_named(part, path):
    cut_short(path, part)
    with pytest.raises(BadFaceError, match=r"a\.mat' is cut short or damaged"):
        read_images(path).read(2)


def test_a_damaged_stream_is_named(tmp_path):
    path = tmp_path / "a.mat"
    write_mat(path, {"cells": [np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)]}, "5")
    data = bytearray(path.read_bytes())
    data[9000:9100] = bytes(100)
    path.write_bytes(data)
    with pytest.raises(BadFaceError, match=r"a\.mat' is cut short or damaged \("):
        read_images(path).read(0)


def test_a_stream_without_its_end_is_named(tmp_path):
    path = tmp_path / "a.mat"
    picture = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    write_mat(path, {"cells": [picture]}, "5")
    data = path.read_bytes()[:-500]
    path.write_bytes(data[:132] + struct.pack("<I", len(data) - 136) + data[136:])  # of the size that it announces
    images = read_images(path)
    with pytest.raises(BadFaceError, match=r"a\.mat' is cut short or damaged \("):
        images.read(0)


def test_a_missing_variable_is_named_with_those_there_are(path):
    for kind in ("matrix", "strings", "images"):
        with pytest.raises(BadFaceError, match=r"a\.mat' lacks the variable 'IsTr'; it holds cells, flags, names, n"):
            read_mat(path, {"IsTr": kind})


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("cells", "matrix", "matrix of real numbers"),
        ("numbers", "images", "cell array"),
        ("cells", "strings", "cell array of strings"),
        ("numbers", "strings", "cell array"),
    ],
)
def test_a_variable_of_another_kind_is_refused(name, kind, message, path):
    with pytest.raises(BadFaceError, match=rf"a\.mat': '{name}' is not a {message}"):
        read_mat(path, {name: kind})


def test_structs_are_read_from_version_5(tmp_path):
    struct = {"imgName": "a.png", "bb_detector": np.array([[1.5, 2, 3, 4]])}
    write_mat(tmp_path / "a.mat", {"boxes": [struct, {"imgName": ""}]}, "5")
    first, second = read_mat(tmp_path / "a.mat", {"boxes": "records"})["boxes"]
    assert (first["imgName"], second["imgName"]) == ("a.png", "")
    np.testing.assert_array_equal(first["bb_detector"], [[1.5, 2, 3, 4]])
    write_mat(tmp_path / "a.mat", {"boxes": [struct, GREY]}, "5")
    with pytest.raises(BadFaceError, match="'boxes' is not a cell array of structs"):
        read_mat(tmp_path / "a.mat", {"boxes": "records"})
    write_mat(tmp_path / "a.mat", VARIABLES, "7.3")
    with pytest.raises(BadFaceError, match="structs of 'cells' are read from version 5 alone"):
        read_mat(tmp_path / "a.mat", {"cells": "records"})


@pytest.mark.parametrize("flavour", FLAVOURS, ids=str)
@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (np.zeros((0, 0), np.uint8), "has no pixels"),
        (np.zeros((0, 0)), "has no pixels"),
        (np.zeros((4, 5)), "is 4 x 5 double; expected an image"),
        (np.zeros((4, 5, 4), np.uint8), "is 4 x 5 x 4 uint8; expected an image, H x W or H x W x 3 uint8"),
        (np.zeros((2, 3, 4, 3), np.uint8), "is 2 x 3 x 4 x 3 uint8"),
        ("text", "is 1 x 4 char"),
    ],
)
def test_a_cell_that_is_no_image_is_named(cell, message, flavour, tmp_path):
    write_mat(tmp_path / "a.mat", {"cells": [GREY, cell, GREY]}, *flavour)
    images = read_images(tmp_path / "a.mat")
    for look in (images.read, images.size):
        with pytest.raises(BadFaceError, match=rf"a\.mat': cell 2 \(from 1\) of 'cells' {message}"):
            look(1)
    np.testing.assert_array_equal(images.read(2)[:, :, 1], GREY)


def test_a_logical_cell_is_no_image(tmp_path):
    write_mat(tmp_path / "a.mat", {"cells": [np.ones((3, 4), np.bool_)]}, "5")
    with pytest.raises(BadFaceError, match="is 3 x 4 complex or logical uint8"):
        read_images(tmp_path / "a.mat").read(0)


def test_a_reference_to_nothing_is_named(tmp_path):
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file.create_dataset("cells", (1, 2), dtype=h5py.ref_dtype)
    with pytest.raises(BadFaceError, match=r"a\.mat': cell 2 \(from 1\) of 'cells' refers to nothing"):
        read_images(tmp_path / "a.mat").read(1)


# Where a file is ---------------------------------------------------------------------------------


def test_the_preferred_name_goes_first_then_the_nearest_then_the_first(tmp_path):
    def touch(name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    names = ["best.mat", "good.mat"]
    assert find_file(tmp_path, names) is None
    touch(".hidden/best.mat")
    (tmp_path / "good.mat").mkdir()  # a folder of that name is no file
    touch("1/2/3/4/5/6/7/best.mat")  # too deep to be looked for
    assert find_file(tmp_path, names) is None
    assert find_file(tmp_path, names) != touch("b/x/GOOD.mat")
    assert find_file(tmp_path, names) == tmp_path / "b/x/GOOD.mat"
    touch("a/Good.Mat")
    assert find_file(tmp_path, names) == tmp_path / "a/Good.Mat"
    touch("z/y/x/w/v/u/Best.mat")
    assert find_file(tmp_path, names) == tmp_path / "z/y/x/w/v/u/Best.mat"
