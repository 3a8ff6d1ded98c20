"""MATLAB's ``.mat`` files of version 5, read with every size checked against what is there.

Not with ``scipy.io.loadmat``: that trusts what a file says of itself, so that one changed byte can crash the process,
and it cannot read one image of many. The format is MathWorks' "MAT-File Format", level 5: a header, then elements, each
a tag (type and size) and its data; an array is an element of elements, and may be compressed as a whole.
"""

from __future__ import annotations

import math
import os
import struct
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

HEADER_BYTES = 128
_PIECE = 1 << 18  # bytes
_NESTED = 8  # cells in cells in cells
_MAX_RATIO, _MAX_EXTRA = 64, 1 << 26  # what may be unpacked: so many times the packed size, and 64 MB more

_INT32, _UINT32, _MATRIX, _COMPRESSED = 5, 6, 14, 15  # types of elements
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CLASSES = {
    1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 6: "double", 7: "single", 8: "int8", 9: "uint8",
    10: "int16", 11: "uint16", 12: "int32", 13: "uint32", 14: "int64", 15: "uint64",
}  # fmt: skip
_DTYPES = {
    "double": "f8", "single": "f4", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4",
    "uint32": "u4", "int64": "i8", "uint64": "u8",
}  # fmt: skip

_Read = Callable[[int, int], bytes]
"""(offset, size) -> that many bytes, or fewer at the end of the file."""


class DamagedError(Exception):
    """The elements of a file do not fit together."""


class _Element(NamedTuple):
    """``size`` bytes of one type at ``data``; the next element is at ``end``."""

    type: int
    data: int
    size: int
    end: int


class Matrix(NamedTuple):
    """The header of an array; its contents (numbers, or the elements of its cells) are from ``data`` to ``end``."""

    kind: str
    shape: tuple[int, ...]
    name: str
    data: int
    end: int

    @property
    def num_elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def _element(read: _Read, offset: int, order: str) -> _Element:
    tag = read(offset, 8)
    if len(tag) < 8:
        raise DamagedError("it is cut short")
    kind, size = struct.unpack(f"{order}2I", tag)
    if kind >> 16:  # four bytes or fewer are kept in the tag
        if kind >> 16 > 4:
            raise DamagedError(f"byte {offset} is no tag of an element")
        return _Element(kind & 0xFFFF, offset + 4, kind >> 16, offset + 8)
    end = offset + 8 + size
    return _Element(kind, offset + 8, size, end if kind == _COMPRESSED else end + -size % 8)


def _data(read: _Read, element: _Element, end: int) -> bytes:
    """The contents of an element within an array that ends at ``end``."""
    data = read(element.data, element.size) if element.data + element.size <= end else b""
    if len(data) < element.size:
        raise DamagedError(f"byte {element.data} announces {element.size} bytes, which are not there")
    return data


def _matrix(read: _Read, offset: int, order: str) -> Matrix:
    element = _element(read, offset, order)
    if element.type != _MATRIX:
        raise DamagedError(f"byte {offset} is no array")
    if element.size == 0:  # a short form of []
        return Matrix("double", (0, 0), "", element.end, element.end)
    flags = _element(read, element.data, order)
    if flags.type != _UINT32 or flags.size != 8:
        raise DamagedError(f"byte {offset} is no array")
    word = struct.unpack(f"{order}I", _data(read, flags, element.end)[:4])[0]
    kind = _CLASSES.get(word & 0xFF)
    if kind is None:  # a function or an object of a newer kind: its header is another
        return Matrix(f"of class {word & 0xFF}", (), "", flags.end, element.end)
    shape = _element(read, flags.end, order)
    name = _element(read, shape.end, order)
    if shape.type != _INT32 or shape.size % 4 or shape.size > 4 * 32 or name.size > 64:
        raise DamagedError(f"byte {offset} is no array")
    lengths = struct.unpack(f"{order}{shape.size // 4}i", _data(read, shape, element.end))
    if any(length < 0 for length in lengths):
        raise DamagedError(f"the array at byte {offset} has a negative length")
    if word & 0x0A00:
        kind = f"complex or logical {kind}"
    return Matrix(kind, lengths, _data(read, name, element.end).decode("latin-1"), name.end, element.end)


def _value(read: _Read, matrix: Matrix, order: str, depth: int = 0) -> Any:
    """What an array holds: numbers in MATLAB's shape, a string, or a list (of cells, or of structs as dictionaries).

    None is for all else: a sparse or complex matrix, an object, a function.
    """
    if matrix.kind in ("cell", "struct"):
        return _parts(read, matrix, order, depth)
    if matrix.kind != "char" and matrix.kind not in _DTYPES:
        return None
    if not matrix.num_elements:
        return "" if matrix.kind == "char" else np.zeros(matrix.shape, _DTYPES[matrix.kind])
    element = _element(read, matrix.data, order)
    data = _data(read, element, matrix.end)
    if matrix.kind == "char":
        encoding = _TEXTS.get(element.type, "")
        if encoding[4:] in ("16", "32"):
            encoding += "-le" if order == "<" else "-be"
        try:
            return data.decode(encoding)
        except (LookupError, UnicodeDecodeError) as error:
            raise DamagedError(f"byte {element.data} is no text") from error
    dtype = np.dtype(order + _NUMBERS.get(element.type, "V1"))
    if dtype.kind == "V" or element.size != matrix.num_elements * dtype.itemsize:
        raise DamagedError(f"byte {element.data} does not hold the {matrix.num_elements} numbers announced")
    return np.frombuffer(data, dtype).reshape(matrix.shape, order="F").astype(_DTYPES[matrix.kind])


def _parts(read: _Read, matrix: Matrix, order: str, depth: int) -> list[Any]:
    """The cells of a cell array, or a dictionary for each struct."""
    at, fields = matrix.data, [""]
    if matrix.kind == "struct":
        length = _element(read, at, order)
        names = _element(read, length.end, order)
        width = int.from_bytes(_data(read, length, matrix.end), "little" if order == "<" else "big", signed=True)
        text = _data(read, names, matrix.end)
        if width <= 0 or len(text) % width:
            raise DamagedError(f"the struct at byte {at} has no names")
        fields = [text[i : i + width].split(b"\0")[0].decode("latin-1") for i in range(0, len(text), width)]
        at = names.end
    # No element is smaller than its tag.
    if depth > _NESTED or matrix.num_elements * len(fields) > (matrix.end - at) // 8:
        raise DamagedError(f"the array at byte {matrix.data} announces {matrix.num_elements} cells")
    found = []
    for _ in range(matrix.num_elements):
        values = {}
        for field in fields:
            inner = _matrix(read, at, order)
            if inner.end > matrix.end:
                raise DamagedError(f"the array at byte {at} is larger than the one that holds it")
            values[field] = _value(read, inner, order, depth + 1)
            at = inner.end
        found.append(values if matrix.kind == "struct" else values[""])
    return found


def _reader(file: IO[bytes]) -> _Read:
    """Read from an open file without its position, which forked processes share."""
    file_size = os.fstat(file.fileno()).st_size

    def read(offset: int, size: int) -> bytes:
        size = max(0, min(size, file_size - offset))
        if hasattr(os, "pread"):
            return os.pread(file.fileno(), size, offset)
        file.seek(offset)  # Windows, which does not fork
        return file.read(size)

    return read


def _inflate(path: Path, element: _Element, piece: int = _PIECE) -> Iterator[bytes]:
    """The contents of a compressed element, in pieces of at most that many bytes."""
    inflater = zlib.decompressobj()
    left, total = element.size, 0
    with open(path, "rb") as file:
        file.seek(element.data)
        while not inflater.eof:
            packed = inflater.unconsumed_tail
            if not packed:
                packed = file.read(min(piece, left))
                left -= len(packed)
            try:
                unpacked = inflater.decompress(packed, piece)
            except zlib.error as error:
                raise DamagedError(str(error)) from error
            total += len(unpacked)
            if total > _MAX_RATIO * element.size + _MAX_EXTRA:
                raise DamagedError(f"{element.size:,} bytes unpack to more than {total:,}")
            if unpacked:
                yield unpacked
            elif not packed and not inflater.eof:
                raise DamagedError("it is cut short")


class Mat5File:
    """The variables of a file of version 5.

    :param path: the file
    :param order: ``"<"`` or ``">"``, its byte order
    :raises DamagedError: it is cut short or damaged
    """

    def __init__(self, path: Path, order: str) -> None:
        self.path = path
        self.order = order
        self._variables: dict[str, tuple[_Element, Matrix]] = {}
        with open(path, "rb") as file:
            read, offset, file_size = _reader(file), HEADER_BYTES, os.fstat(file.fileno()).st_size
            while offset < file_size:
                element = _element(read, offset, order)
                if element.data + element.size > file_size:
                    raise DamagedError(f"byte {offset} announces {element.size} bytes of {file_size - element.data}")
                matrix = self._matrix_of(read, offset, element)
                if matrix.name:  # what has none is MATLAB's own
                    self._variables.setdefault(matrix.name, (element, matrix))
                offset = element.end

    def _matrix_of(self, read: _Read, offset: int, element: _Element) -> Matrix:
        if element.type != _COMPRESSED:
            return _matrix(read, offset, self.order)
        start = next(_inflate(self.path, element, 1024), b"")  # enough for the header of any array
        return _matrix(lambda at, size: start[at : at + size], 0, self.order)

    def names(self) -> list[str]:
        """The names of the variables, sorted."""
        return sorted(self._variables)

    def matrix(self, name: str) -> Matrix:
        """The header of a variable."""
        return self._variables[name][1]

    def value(self, name: str) -> Any:
        """What a variable holds, see :func:`_value`.

        :raises DamagedError: it is damaged
        """
        element, matrix = self._variables[name]
        if element.type != _COMPRESSED:
            with open(self.path, "rb") as file:
                return _value(_reader(file), matrix, self.order)
        data = b"".join(_inflate(self.path, element))
        if matrix.end > len(data) + 7:  # the last element may lack its padding
            raise DamagedError("it is cut short")
        return _value(lambda at, size: data[at : at + size], matrix, self.order)


class Cells:
    """The cells of one variable, each read when it is asked for.

    Where a variable is compressed it is one stream: the first cell unpacks it to a temporary file, once. That file has
    no name, needs as much disk as the cells have bytes, and is gone with this object or its process.

    :param file: the file
    :param name: a variable that is a cell array
    :raises DamagedError: it announces more cells than there is room for
    """

    def __init__(self, file: Mat5File, name: str) -> None:
        self._path, self._order = file.path, file.order
        self._element, self._matrix = file._variables[name]
        self._offsets: npt.NDArray[np.int64] | None = None
        self._unpacked: IO[bytes] | None = None
        if 8 * len(self) > self._matrix.end:
            raise DamagedError(f"'{name}' announces {len(self)} cells")

    def __len__(self) -> int:
        return self._matrix.num_elements

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_unpacked": None}

    def header(self, index: int) -> Matrix:
        """The header of a cell.

        :raises DamagedError: it is damaged
        """
        with self._reading() as read:
            return self._header(read, index)

    def value(self, index: int) -> Any:
        """What a cell holds, see :func:`_value`.

        :raises DamagedError: it is damaged
        """
        with self._reading() as read:
            return _value(read, self._header(read, index), self._order)

    def _header(self, read: _Read, index: int) -> Matrix:
        if self._offsets is None:
            offsets = np.empty(len(self), dtype=np.int64)
            at = self._matrix.data
            for i in range(len(self)):
                offsets[i] = at
                at = _element(read, at, self._order).end
            self._offsets = offsets
        return _matrix(read, int(self._offsets[index]), self._order)

    @contextmanager
    def _reading(self) -> Iterator[_Read]:
        if self._element.type != _COMPRESSED:
            with open(self._path, "rb") as file:
                yield _reader(file)
            return
        if self._unpacked is None:
            self._unpacked = self._unpack()
            weakref.finalize(self, self._unpacked.close)
        yield _reader(self._unpacked)

    def _unpack(self) -> IO[bytes]:
        pieces = _inflate(self._path, self._element)
        first = next(pieces)  # an error of the .mat file is not one of the temporary file
        try:
            with ExitStack() as stack:
                file = stack.enter_context(tempfile.TemporaryFile(prefix="face-align-"))
                file.write(first)
                for piece in pieces:
                    file.write(piece)
                file.flush()
                stack.pop_all()  # complete: it stays open
        except OSError as error:
            raise OSError(
                error.errno,
                f"The images of '{self._path}' are compressed as a whole and cannot be unpacked to a temporary file "
                f"({error.strerror}). Make room in the folder for temporary files, or set TMPDIR to another",
            ) from error
        return file
