"""``.mat`` files from anywhere: one message that names the file; no crash, no other file, no memory without bounds."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from trust.refusals import Refused
from writers.cofw import write_mat

from face_align_env.datasets import BadFaceError
from face_align_env.datasets.matlab import read_mat

CELLS = [np.arange(84, dtype=np.uint8).reshape(4, 7, 3), np.arange(15, dtype=np.uint8).reshape(5, 3)]
VARIABLES = {"cells": CELLS, "numbers": np.ones((2, 3)), "names": ["0/image1.jpg", ""]}
KINDS = {"cells": "images", "numbers": "matrix", "names": "strings"}
HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
DAMAGED = r"is cut short or damaged \(.*\)\. Get the file again"


def element(kind: int, data: bytes, size: int | None = None) -> bytes:
    return struct.pack("<2I", kind, len(data) if size is None else size) + data + bytes(-len(data) % 8)


def array(number: int, name: bytes, shape: tuple[int, ...], *contents: bytes, flags: int = 0) -> bytes:
    dimensions = element(5, struct.pack(f"<{len(shape)}i", *shape))
    return element(
        14, element(6, struct.pack("<2I", number | flags, 0)) + dimensions + element(1, name) + b"".join(contents)
    )


def packed(data: bytes, size: int | None = None) -> bytes:
    data = zlib.compress(data)
    return struct.pack("<2I", 15, len(data) if size is None else size) + data


def nested(depth: int) -> bytes:
    inner = array(6, b"", (1, 1), element(9, struct.pack("<d", 1)))
    for _ in range(depth):
        inner = array(1, b"", (1, 1), inner)
    return array(1, b"names", (1, 1), inner)


DOUBLE = element(9, struct.pack("<d", 1))
PIXELS = array(9, b"", (2, 2), element(2, bytes(4)))

# name -> (variable, kind, contents after the header, message)
BAD_5: dict[str, tuple[str, str, bytes, str]] = {
    "fewer numbers than announced": ("a", "matrix", array(6, b"a", (2, 2), DOUBLE), DAMAGED),
    "four thousand million numbers": ("a", "matrix", array(6, b"a", (65_536, 65_536), DOUBLE), DAMAGED),
    "a negative length": ("a", "matrix", array(6, b"a", (-1, 2), DOUBLE), DAMAGED),
    "numbers of an unknown type": ("a", "matrix", array(6, b"a", (1, 1), element(99, bytes(8))), DAMAGED),
    "an element larger than its array": ("a", "matrix", array(6, b"a", (1, 1), element(9, bytes(8), 1 << 20)), DAMAGED),
    "an element larger than the file": ("a", "matrix", element(14, bytes(64), 1 << 30), DAMAGED),
    "33 dimensions": ("a", "matrix", array(6, b"a", (1,) * 33, DOUBLE), DAMAGED),
    "three dimensions": ("a", "matrix", array(6, b"a", (1, 1, 1), DOUBLE), "'a' is not a matrix of real numbers"),
    "complex numbers": ("a", "matrix", array(6, b"a", (1, 1), DOUBLE, DOUBLE, flags=0x800), "not a matrix of real"),
    "a sparse matrix": ("a", "matrix", array(5, b"a", (1, 1), DOUBLE), "not a matrix of real numbers"),
    "text for numbers": ("a", "matrix", array(4, b"a", (1, 1), element(16, b"x")), "not a matrix of real numbers"),
    "text that is none": ("a", "strings", array(1, b"a", (1, 1), array(4, b"", (1, 1), element(16, b"\xff"))), DAMAGED),
    "text of an unknown type": (
        *("a", "strings", array(1, b"a", (1, 1), array(4, b"", (1, 1), element(99, b"x"))), DAMAGED),
    ),
    "numbers for text": ("a", "strings", array(1, b"a", (1, 1), PIXELS), "'a' is not a cell array of strings"),
    "numbers for cells": ("a", "strings", array(6, b"a", (1, 1), DOUBLE), "'a' is not a cell array"),
    "cells that are not there": ("a", "strings", array(1, b"a", (1000, 1000), PIXELS), DAMAGED),
    "images that are not there": ("a", "images", array(1, b"a", (2**31 - 1, 2**31 - 1), PIXELS), DAMAGED),
    "a cell larger than its array": ("a", "strings", array(1, b"a", (1, 1), element(14, bytes(8), 1 << 20)), DAMAGED),
    "cells in cells without end": ("names", "strings", nested(500), DAMAGED),
    "a struct without names": (
        *(
            "a",
            "records",
            array(1, b"a", (1, 1), array(2, b"", (1, 1), element(5, bytes(4)), element(1, b""))),
            DAMAGED,
        ),
    ),
    "a struct with names of no length": (
        "a",
        "records",
        array(1, b"a", (1, 1), array(2, b"", (1, 1), element(5, struct.pack("<i", -3)), element(1, b"abc"))),
        DAMAGED,
    ),
    "no structs": ("a", "records", array(1, b"a", (1, 1), PIXELS), "'a' is not a cell array of structs"),
    "no such variable": ("b", "matrix", array(6, b"a", (1, 1), DOUBLE), "lacks the variable 'b'; it holds a"),
    "no variable at all": ("b", "matrix", b"", "lacks the variable 'b'; it holds none"),
    "a stream that is none": ("a", "matrix", struct.pack("<2I", 15, 64) + bytes(64), DAMAGED),
    "a stream that is cut short": ("a", "matrix", packed(array(6, b"a", (1, 1), DOUBLE))[:-6], DAMAGED),
    "a stream that announces less": ("a", "matrix", packed(array(6, b"a", (9, 9), bytes(999)), 30), DAMAGED),
    "a stream that is a bomb": (
        "a",
        "matrix",
        packed(array(6, b"a", (1, 1 << 24), element(9, bytes(1 << 27)))),
        DAMAGED,
    ),
    "a tag that is none": ("a", "matrix", struct.pack("<2I", 0x00090005, 0) * 4, DAMAGED),
    "another element than an array": ("a", "matrix", element(9, bytes(8)), DAMAGED),
}


def read_first(path: Path, variable: str, kind: str) -> None:
    """The variable, and of images the first."""
    found = read_mat(path, {variable: kind})[variable]
    if kind == "images":
        found.read(0)


@pytest.mark.parametrize("name", BAD_5)
def test_a_bad_file_of_version_5_is_one_message_that_names_it(name: str, tmp_path: Path, refused: Refused) -> None:
    variable, kind, contents, message = BAD_5[name]
    path = tmp_path / "a.mat"
    path.write_bytes(HEADER + contents)
    with pytest.raises(BadFaceError, match=message) as caught:
        read_first(path, variable, kind)
    assert f"'{path}'" in str(caught.value)
    refused(caught.value)


def external_storage(file: Any, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(range(48)))
    file.create_dataset("numbers", (2, 3), dtype="f8", external=[(str(folder / "secret"), 0, 48)])


def external_storage_of_an_image(file: Any, folder: Path) -> None:
    (folder / "secret").write_bytes(bytes(range(48)))
    image = file.create_dataset("hidden", (3, 4, 4), dtype="u1", external=[(str(folder / "secret"), 0, 48)])
    file.create_dataset("cells", data=np.array([[image.ref]], dtype=h5py.ref_dtype))


def external_link(file: Any, folder: Path) -> None:
    write_mat(folder / "other.mat", VARIABLES)
    file["numbers"] = h5py.ExternalLink(str(folder / "other.mat"), "/numbers")


def soft_link(file: Any, folder: Path) -> None:
    file["hidden"] = np.ones((2, 3))
    file["numbers"] = h5py.SoftLink("/hidden")


def virtual(file: Any, folder: Path) -> None:
    write_mat(folder / "other.mat", VARIABLES)
    layout = h5py.VirtualLayout((3, 2), "f8")
    layout[:] = h5py.VirtualSource(str(folder / "other.mat"), "numbers", (3, 2))
    file.create_virtual_dataset("numbers", layout)


def ten_gigabytes(file: Any, folder: Path) -> None:
    file.create_dataset("numbers", (40_000, 31_250), dtype="f8")


def a_large_chunk(file: Any, folder: Path) -> None:
    file.create_dataset("numbers", (2, 2), maxshape=(None, None), chunks=(20_000, 20_000), dtype="f8", compression=1)


def an_image_of_ten_gigabytes(file: Any, folder: Path) -> None:
    image = file.create_dataset("hidden", (3, 60_000, 60_000), dtype="u1", chunks=True)
    file.create_dataset("cells", data=np.array([[image.ref]], dtype=h5py.ref_dtype))


def references_without_end(file: Any, folder: Path) -> None:
    file.create_dataset("cells", (1, 1 << 30), dtype=h5py.ref_dtype, chunks=True)


def a_group_for_numbers(file: Any, folder: Path) -> None:
    file.create_group("numbers")


def a_group_for_an_image(file: Any, folder: Path) -> None:
    file.create_dataset("cells", data=np.array([[file.create_group("hidden").ref]], dtype=h5py.ref_dtype))


def a_long_text(file: Any, folder: Path) -> None:
    text = file.create_dataset("hidden", (1 << 20, 1), dtype="u2")
    text.attrs["MATLAB_class"] = np.bytes_("char")
    file.create_dataset("names", data=np.array([[text.ref]], dtype=h5py.ref_dtype))


def an_empty_array_of_no_shape(file: Any, folder: Path) -> None:
    file.create_dataset("numbers", (1 << 20,), dtype="u8").attrs["MATLAB_empty"] = np.uint8(1)


def text_for_numbers(file: Any, folder: Path) -> None:
    file["numbers"] = "text"


# how the file is made -> (variable, kind, message)
BAD_73: dict[Callable[[Any, Path], None], tuple[str, str, str]] = {
    external_storage: ("numbers", "matrix", "refers to another file"),
    external_storage_of_an_image: ("cells", "images", "refers to another file"),
    external_link: ("numbers", "matrix", "refers to another place or file"),
    soft_link: ("numbers", "matrix", "refers to another place or file"),
    virtual: ("numbers", "matrix", "refers to another file"),
    ten_gigabytes: ("numbers", "matrix", "claims 1,250,000,000 numbers"),
    a_large_chunk: ("numbers", "matrix", "claims 4 numbers in chunks of 400,000,000"),
    an_image_of_ten_gigabytes: ("cells", "images", "an image may have 67 million pixels"),
    references_without_end: ("cells", "images", "claims 1,073,741,824 numbers"),
    a_group_for_numbers: ("numbers", "matrix", "'numbers' is not a matrix of real numbers"),
    a_group_for_an_image: ("cells", "images", "is no array"),
    a_long_text: ("names", "strings", "claims 1,048,576 numbers"),
    an_empty_array_of_no_shape: ("numbers", "matrix", "claims 1,048,576 numbers"),
    text_for_numbers: ("numbers", "matrix", "'numbers' is not a matrix of real numbers"),
}


@pytest.mark.parametrize("make", BAD_73, ids=lambda make: make.__name__)
def test_a_bad_file_of_version_73_is_one_message_that_names_it(make: Any, tmp_path: Path, refused: Refused) -> None:
    variable, kind, message = BAD_73[make]
    path = tmp_path / "a.mat"
    with h5py.File(path, "w") as file:
        make(file, tmp_path)
    with pytest.raises(BadFaceError, match=message) as caught:
        read_first(path, variable, kind)
    assert f"'{path}'" in str(caught.value)
    refused(caught.value)


def test_scipy_reads_the_good_forms_of_what_is_refused_here(tmp_path: Path) -> None:
    """The helpers of this module write the format."""
    path = tmp_path / "a.mat"
    for data in (array(6, b"a", (1, 1), DOUBLE), packed(array(6, b"a", (1, 1), DOUBLE))):
        path.write_bytes(HEADER + data)
        assert scipy.io.loadmat(path)["a"] == [[1]]
        assert read_mat(path, {"a": "matrix"})["a"] == [[1]]
