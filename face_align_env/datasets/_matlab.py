"""MATLAB's ``.mat`` files, versions 5 and 7.3: numbers, strings, and cell arrays of images read one at a time."""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import weakref
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import numpy.typing as npt

from face_align_env.datasets.base import BadFaceError
from face_align_env.extras import needs

_CURE = "Get the file again."
_DEPTH = 6  # of folders in which a file is searched


def find_file(root: Path, names: Sequence[str]) -> Path | None:
    """The first of ``names`` that is in a folder or the folders within it, written in either case.

    Of several files of one name, the one nearest to the root is taken, then the first by name.

    :param names: in lower case, the preferred first
    """
    found: dict[str, Path] = {}
    level = [root]
    for _ in range(_DEPTH + 1):
        inner: list[Path] = []
        for folder in level:
            try:
                with os.scandir(folder) as entries:
                    listing = sorted((entry.name, entry.is_dir()) for entry in entries)
            except PermissionError:
                if folder == root:
                    raise
                continue
            for name, is_folder in listing:
                if is_folder and not name.startswith("."):
                    inner.append(folder / name)
                elif not is_folder and name.lower() in names:
                    found.setdefault(name.lower(), folder / name)
        if names[0] in found:
            break
        level = inner
    return next((found[name] for name in names if name in found), None)


class CellImages(ABC):
    """A cell array of images in a ``.mat`` file, each read when it is asked for.

    It keeps no open handle of that file, so that it can be pickled, and used by several threads and after a fork.

    :param path: the file
    :param name: the variable
    :param count: number of cells
    """

    def __init__(self, path: Path, name: str, count: int) -> None:
        self.path = path
        self.name = name
        self._count = count

    def __len__(self) -> int:
        return self._count

    @abstractmethod
    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """The image of cell ``index``: (H, W, 3) uint8, a grey image's pixels in all three channels.

        :raises BadFaceError: the cell holds no uint8 image, or the file is damaged; the message names both
        """

    @abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """Width and height of the image of cell ``index``, without reading its pixels.

        :raises BadFaceError: as :meth:`read`
        """

    def _check(self, index: int, shape: tuple[int, ...], kind: str) -> None:
        """Refuse a cell that is no image; shape is MATLAB's: (H, W) or (H, W, 3)."""
        if 0 in shape:
            self._fail(index, "has no pixels")
        if kind != "uint8" or not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
            size = " x ".join(map(str, shape))
            self._fail(index, f"is {size} {kind}; expected an image, H x W or H x W x 3 uint8")

    def _fail(self, index: int, what: str) -> NoReturn:
        raise BadFaceError(f"'{self.path}': cell {index + 1} (from 1) of '{self.name}' {what}. {_CURE}")


class MatFile(ABC):
    """The variables of one ``.mat`` file, whichever version it has; see :func:`open_mat`.

    :param path: the file
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def names(self) -> list[str]:
        """The names of the variables, sorted."""

    @abstractmethod
    def _read_array(self, name: str) -> Any: ...

    @abstractmethod
    def _read_strings(self, name: str) -> list[str]: ...

    @abstractmethod
    def _find_images(self, name: str) -> CellImages: ...

    def array(self, name: str) -> npt.NDArray[np.float64]:
        """A matrix of numbers, (rows, columns) as in MATLAB.

        :raises BadFaceError: there is no such variable, it is no real matrix, or the file is damaged
        """
        self._require(name)
        value = self._read_array(name)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub" or value.ndim != 2:
            self._fail(f"'{name}' is not a matrix of real numbers")
        return value.astype(np.float64)

    def strings(self, name: str) -> list[str]:
        """A cell array of strings.

        :raises BadFaceError: there is no such variable, it is none, or the file is damaged
        """
        self._require(name)
        return self._read_strings(name)

    def images(self, name: str) -> CellImages:
        """A cell array of images, of which none is read yet.

        :raises BadFaceError: there is no such variable, it is no cell array, or the file is damaged
        """
        self._require(name)
        return self._find_images(name)

    def _require(self, name: str) -> None:
        if name not in (names := self.names()):
            raise BadFaceError(
                f"'{self.path}' lacks the variable '{name}'; it holds {', '.join(names) or 'none'}. "
                "Get the dataset's own file."
            )

    def _fail(self, what: str) -> NoReturn:
        raise BadFaceError(f"'{self.path}': {what}. {_CURE}")


def open_mat(path: Path) -> MatFile:
    """Look at a ``.mat`` file of version 5 (also called 6 and 7) or 7.3.

    :raises BadFaceError: the file is missing, empty, cut short, or of another kind; the message says which
    """
    with needs("data", f"'{path}'"):
        import h5py

    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER_BYTES)
        is_hdf5 = h5py.is_hdf5(path)
    except OSError as error:
        raise BadFaceError(f"Cannot read '{path}': {error.strerror}. {_CURE}") from error
    if not header:
        raise BadFaceError(f"'{path}' is empty. {_CURE}")
    if is_hdf5:
        return _HdfFile(path)
    # Bytes 124 to 127: version and byte order, as two 16-bit numbers in that order.
    if header[124:] in (b"\x00\x01IM", b"\x01\x00MI"):
        return _Mat5File(path, "<" if header.endswith(b"IM") else ">")
    if header.startswith(b"MATLAB "):
        raise BadFaceError(f"'{path}' is cut short or damaged ({path.stat().st_size} bytes). {_CURE}")
    raise BadFaceError(f"'{path}' is no MATLAB file of version 5 or 7.3 ({path.stat().st_size} bytes). {_CURE}")


def _rgb(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) in an order of its own, from (H, W) or (H, W, 3) in any."""
    return np.ascontiguousarray(pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=-1))


# Version 7.3: HDF5, every array transposed against MATLAB ----------------------------------------


@contextmanager
def _open_hdf(path: Path) -> Iterator[Any]:
    """The file, open for one access; whatever HDF5 meets in a bad file is a :class:`BadFaceError` that names it.

    Opening takes about a millisecond, and a handle that is kept could be shared with no other process.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except BadFaceError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise BadFaceError(f"'{path}' is cut short or damaged ({error}). {_CURE}") from error


def _matlab_class(data: Any) -> str:
    """MATLAB's class of an HDF5 dataset; that of its numbers where the file does not say."""
    name = data.attrs.get("MATLAB_class", data.dtype.name)
    return name.decode("latin-1") if isinstance(name, bytes) else str(name)


def _matlab_shape(data: Any) -> tuple[int, ...]:
    """MATLAB's shape of an HDF5 dataset; an empty array is stored as its shape."""
    if data.attrs.get("MATLAB_empty", 0):
        return tuple(int(n) for n in data[()].ravel())
    return tuple(data.shape[::-1])


class _HdfFile(MatFile):
    def names(self) -> list[str]:
        with _open_hdf(self.path) as file:
            return sorted(name for name in file if not name.startswith("#"))  # "#refs#" holds the cells

    def _read_array(self, name: str) -> Any:
        import h5py

        with _open_hdf(self.path) as file:
            data = file[name]
            if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "fiub":
                return None
            shape = _matlab_shape(data)
            return np.zeros(shape) if 0 in shape else data[()].T

    def _read_strings(self, name: str) -> list[str]:
        with _open_hdf(self.path) as file:
            cells = [file[reference] for reference in self._cells(file, name)[()].ravel()]
            if any(_matlab_class(cell) != "char" for cell in cells):
                self._fail(f"'{name}' is not a cell array of strings")
            return [
                "" if 0 in _matlab_shape(cell) else cell[()].astype("<u2").tobytes().decode("utf-16-le")
                for cell in cells
            ]

    def _find_images(self, name: str) -> CellImages:
        with _open_hdf(self.path) as file:
            return _HdfImages(self.path, name, int(self._cells(file, name).size))

    def _cells(self, file: Any, name: str) -> Any:
        import h5py

        data = file[name]
        if not isinstance(data, h5py.Dataset) or h5py.check_ref_dtype(data.dtype) is not h5py.Reference:
            self._fail(f"'{name}' is not a cell array")
        return data


class _HdfImages(CellImages):
    def _cell(self, file: Any, index: int) -> Any:
        references = file[self.name]
        reference = references[np.unravel_index(index, references.shape)]
        if not reference:
            self._fail(index, "refers to nothing")
        data = file[reference]
        self._check(index, _matlab_shape(data), _matlab_class(data))
        return data

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        with _open_hdf(self.path) as file:
            return _rgb(self._cell(file, index)[()].T)

    def size(self, index: int) -> tuple[int, int]:
        with _open_hdf(self.path) as file:
            height, width = _matlab_shape(self._cell(file, index))[:2]
            return width, height


# Version 5: a header, then tagged elements, of which each may be compressed ----------------------

_HEADER_BYTES = 128
_PIECE = 1 << 18
_UINT8, _MATRIX, _COMPRESSED = 2, 14, 15  # types of elements
_CELL_CLASS = 1
_CLASSES = {
    1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 6: "double", 7: "single", 8: "int8", 9: "uint8",
    10: "int16", 11: "uint16", 12: "int32", 13: "uint32", 14: "int64", 15: "uint64",
}  # fmt: skip

_Read = Callable[[int, int], bytes]
"""(offset, size) -> that many bytes, or fewer at the end of the file."""


class _DamagedError(Exception):
    """The elements of a file do not fit together."""


@dataclass(frozen=True)
class _Element:
    """``size`` bytes of one type at ``data``; the next element is at ``end``."""

    type: int
    data: int
    size: int
    end: int


@dataclass(frozen=True)
class _Matrix:
    """The header of an array; its contents (numbers, or the elements of its cells) begin at ``data``."""

    class_number: int
    plain: bool
    shape: tuple[int, ...]
    name: str
    data: int

    @property
    def kind(self) -> str:
        name = _CLASSES.get(self.class_number, f"of class {self.class_number}")
        return name if self.plain else f"complex or logical {name}"


def _read_element(read: _Read, offset: int, order: str) -> _Element:
    tag = read(offset, 8)
    if len(tag) < 8:
        raise _DamagedError("it is cut short")
    kind, size = struct.unpack(f"{order}2I", tag)
    if kind >> 16:  # four bytes or fewer are kept in the tag
        if kind >> 16 > 4:
            raise _DamagedError(f"byte {offset} is no tag of an element")
        return _Element(kind & 0xFFFF, offset + 4, kind >> 16, offset + 8)
    end = offset + 8 + size
    return _Element(kind, offset + 8, size, end if kind == _COMPRESSED else end + -size % 8)


def _read_matrix(read: _Read, offset: int, order: str) -> _Matrix:
    element = _read_element(read, offset, order)
    if element.type != _MATRIX:
        raise _DamagedError(f"byte {offset} is no array")
    if element.size == 0:  # a short form of []
        return _Matrix(6, True, (0, 0), "", element.end)
    flags = _read_element(read, element.data, order)
    word = struct.unpack(f"{order}I", read(flags.data, 4))[0]
    if word & 0xFF not in _CLASSES:  # a function or an object of a newer kind: its header is another
        return _Matrix(word & 0xFF, True, (), "", flags.end)
    shape = _read_element(read, flags.end, order)
    name = _read_element(read, shape.end, order)
    if flags.size != 8 or shape.size % 4 or name.end > element.end:
        raise _DamagedError(f"byte {offset} is no array")
    lengths = struct.unpack(f"{order}{shape.size // 4}i", read(shape.data, shape.size))
    if any(length < 0 for length in lengths):
        raise _DamagedError(f"the array at byte {offset} has a negative length")
    text = read(name.data, name.size).decode("latin-1")
    return _Matrix(word & 0xFF, not word & 0x0A00, lengths, text, name.end)


def _slices(data: bytes) -> _Read:
    return lambda offset, size: data[offset : offset + size]


def _windows(file: IO[bytes]) -> _Read:
    """Read from an open file without its position, which forked processes share."""
    file_size = os.fstat(file.fileno()).st_size

    def read(offset: int, size: int) -> bytes:
        size = min(size, file_size - offset)
        if size <= 0:
            return b""
        before = offset % mmap.ALLOCATIONGRANULARITY
        with mmap.mmap(file.fileno(), before + size, access=mmap.ACCESS_READ, offset=offset - before) as window:
            return window[before:]

    return read


def _inflate(path: Path, element: _Element, piece: int = _PIECE) -> Iterator[bytes]:
    """The contents of a compressed element, in pieces of at most that many bytes."""
    inflater = zlib.decompressobj()
    left = element.size
    with open(path, "rb") as file:
        file.seek(element.data)
        while not inflater.eof:
            packed = inflater.unconsumed_tail
            if not packed:
                packed = file.read(min(piece, left))
                left -= len(packed)
            unpacked = inflater.decompress(packed, piece)
            if unpacked:
                yield unpacked
            elif not packed and not inflater.eof:
                raise _DamagedError("it is cut short")


@contextmanager
def _refuse_damage(path: Path) -> Iterator[None]:
    """What goes wrong between here and the end of the elements of a file is a :class:`BadFaceError` that names it."""
    try:
        yield
    except (_DamagedError, zlib.error, struct.error) as error:
        raise BadFaceError(f"'{path}' is cut short or damaged ({error}). {_CURE}") from error


@contextmanager
def _open_elements(path: Path) -> Iterator[_Read]:
    try:
        file = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise BadFaceError(f"Cannot read '{path}': {error.strerror}. {_CURE}") from error

    def read(offset: int, size: int) -> bytes:
        file.seek(offset)
        return file.read(size)

    with file:
        yield read


class _Mat5File(MatFile):
    """:param order: ``"<"`` or ``">"``, the byte order"""

    def __init__(self, path: Path, order: str) -> None:
        super().__init__(path)
        self._order = order
        self._variables: dict[str, tuple[_Element, _Matrix]] = {}
        with _refuse_damage(path), _open_elements(path) as read:
            offset, file_size = _HEADER_BYTES, path.stat().st_size
            while offset < file_size:
                element = _read_element(read, offset, order)
                if element.data + element.size > file_size:
                    raise _DamagedError(f"byte {offset} announces {element.size} bytes of {file_size - element.data}")
                if element.type == _COMPRESSED:
                    start = next(_inflate(path, element, 1024), b"")  # enough for the header of any array
                    matrix = _read_matrix(_slices(start), 0, order)
                else:
                    matrix = _read_matrix(read, offset, order)
                if matrix.name:  # what has none is MATLAB's own
                    self._variables.setdefault(matrix.name, (element, matrix))
                offset = element.end

    def names(self) -> list[str]:
        return sorted(self._variables)

    def _load(self, name: str) -> Any:
        import scipy.io

        try:  # other variables are skipped, not read
            return scipy.io.loadmat(self.path, appendmat=False, variable_names=[name])[name]
        except Exception as error:  # loadmat raises whatever its parser meets
            self._fail(f"'{name}' cannot be read ({type(error).__name__}: {error})")

    def _read_array(self, name: str) -> Any:
        return self._load(name)

    def _read_strings(self, name: str) -> list[str]:
        cells = self._load(name)
        if not isinstance(cells, np.ndarray) or cells.dtype != object:
            self._fail(f"'{name}' is not a cell array")
        strings = cells.ravel(order="F")
        if any(not isinstance(s, np.ndarray) or s.dtype.kind != "U" or s.size > 1 for s in strings):
            self._fail(f"'{name}' is not a cell array of strings")
        return [str(s.item()) if s.size else "" for s in strings]

    def _find_images(self, name: str) -> CellImages:
        element, matrix = self._variables[name]
        if matrix.class_number != _CELL_CLASS:
            self._fail(f"'{name}' is not a cell array")
        return _Mat5Images(self.path, element, matrix, self._order)


class _Mat5Images(CellImages):
    """Where a variable is compressed it is one stream: the first image unpacks it to a temporary file, once.

    That file has no name, needs as much disk as the images have pixels, and is gone with this object or its process.
    """

    def __init__(self, path: Path, element: _Element, matrix: _Matrix, order: str) -> None:
        super().__init__(path, matrix.name, int(np.prod(matrix.shape, dtype=np.int64)))
        self._element = element
        self._first_cell = matrix.data
        self._order = order
        self._offsets: npt.NDArray[np.int64] | None = None
        self._unpacked: IO[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_unpacked": None}

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        with self._cell(index) as (read, matrix):
            element = _read_element(read, matrix.data, self._order)
            if element.type != _UINT8 or element.size != np.prod(matrix.shape, dtype=np.int64):
                raise _DamagedError(f"cell {index + 1} of '{self.name}' does not hold what its header says")
            data = read(element.data, element.size)
            if len(data) < element.size:
                raise _DamagedError("it is cut short")
            return _rgb(np.frombuffer(data, dtype=np.uint8).reshape(matrix.shape, order="F"))

    def size(self, index: int) -> tuple[int, int]:
        with self._cell(index) as (_, matrix):
            height, width = matrix.shape[:2]
            return width, height

    @contextmanager
    def _cell(self, index: int) -> Iterator[tuple[_Read, _Matrix]]:
        """The header of a cell that is an image, and how to read what follows."""
        with _refuse_damage(self.path), self._elements() as read:
            if self._offsets is None:
                self._offsets = self._index(read)
            matrix = _read_matrix(read, int(self._offsets[index]), self._order)
            self._check(index, matrix.shape, matrix.kind)
            yield read, matrix

    def _index(self, read: _Read) -> npt.NDArray[np.int64]:
        """Where each cell's element begins."""
        offsets = np.empty(len(self), dtype=np.int64)
        at = self._first_cell
        for index in range(len(self)):
            offsets[index] = at
            at = _read_element(read, at, self._order).end
        return offsets

    @contextmanager
    def _elements(self) -> Iterator[_Read]:
        if self._element.type != _COMPRESSED:
            with _open_elements(self.path) as read:
                yield read
            return
        if self._unpacked is None:
            self._unpacked = self._unpack()
            weakref.finalize(self, self._unpacked.close)
        yield _windows(self._unpacked)

    def _unpack(self) -> IO[bytes]:
        pieces = _inflate(self.path, self._element)
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
                f"The images of '{self.path}' are compressed as a whole and cannot be unpacked to a temporary file "
                f"({error.strerror}). Make room in the folder for temporary files, or set TMPDIR to another",
            ) from error
        return file
