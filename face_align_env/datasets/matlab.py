"""MATLAB's ``.mat`` files, versions 5 and 7.3: numbers, strings, structs, and cell arrays of images.

Version 7.3 is HDF5; what is asked for is bounded, and nothing outside of the file is followed. Version 5 is read by
:mod:`face_align_env.datasets.mat5`.
"""

from __future__ import annotations

import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from face_align_env.datasets.base import MAX_PIXELS, BadFaceError
from face_align_env.datasets.mat5 import HEADER_BYTES, Cells, DamagedError, Mat5File
from face_align_env.extras import needs

_CURE = "Get the file again."
_DEPTH = 6  # of folders in which a file is searched
_HDF5 = b"\x89HDF\r\n\x1a\n"
_MAX_BYTES = 1 << 28  # of a matrix of numbers, and of the references of a cell array
_MAX_TEXT = 1 << 16  # characters of one string


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

    It can be pickled, and used by several threads and after a fork.

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

    def _check(self, index: int, shape: Sequence[int], kind: str) -> None:
        """Refuse a cell that is no image; shape is MATLAB's: (H, W) or (H, W, 3)."""
        if 0 in shape:
            self._fail(index, "has no pixels")
        size = " x ".join(map(str, shape))
        if kind != "uint8" or not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
            self._fail(index, f"is {size} {kind}; expected an image, H x W or H x W x 3 uint8")
        if shape[0] * shape[1] > MAX_PIXELS:
            self._fail(index, f"is {size}; an image may have {MAX_PIXELS / 1e6:.0f} million pixels")

    def _fail(self, index: int, what: str) -> NoReturn:
        raise BadFaceError(f"'{self.path}': cell {index + 1} (from 1) of '{self.name}' {what}. {_CURE}")


def read_mat(path: Path, wanted: Mapping[str, str]) -> dict[str, Any]:
    """Read variables of a ``.mat`` file of version 5 (also called 6 and 7) or 7.3.

    :param wanted: variable -> kind: ``"matrix"``: (rows, columns) float64 as in MATLAB; ``"strings"``: a list, of a
        cell array of strings; ``"images"``: :class:`CellImages`, of which none is read yet; ``"records"``, in version
        5: a list of dictionaries, of a cell array of structs, with strings and arrays
    :return: variable -> what it holds
    :raises BadFaceError: the file is missing, empty, cut short, damaged, or of another kind; there is no such variable,
        or it is of another kind; the message says which
    :raises MissingExtraError: version 7.3 needs h5py, which is not installed
    """
    try:
        with open(path, "rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise BadFaceError(f"Cannot read '{path}': {error.strerror}. {_CURE}") from error
    header = start[:HEADER_BYTES]
    if not header:
        raise BadFaceError(f"'{path}' is empty. {_CURE}")
    if any(start[at : at + 8] == _HDF5 for at in (0, 512, 1024, 2048)):
        with needs("data", f"'{path}', a file of MATLAB's version 7.3,"):
            import h5py  # noqa: F401
        return _read_hdf(path, wanted)
    # Bytes 124 to 127: version and byte order, as two 16-bit numbers in that order.
    if header[124:] in (b"\x00\x01IM", b"\x01\x00MI"):
        return _read_mat5(path, "<" if header.endswith(b"IM") else ">", wanted)
    if header.startswith(b"MATLAB "):
        raise BadFaceError(f"'{path}' is cut short or damaged ({path.stat().st_size} bytes). {_CURE}")
    raise BadFaceError(f"'{path}' is no MATLAB file of version 5 or 7.3 ({path.stat().st_size} bytes). {_CURE}")


def _damaged(path: Path, reason: object) -> BadFaceError:
    return BadFaceError(f"'{path}' is cut short or damaged ({reason}). {_CURE}")


def _lacks(path: Path, name: str, names: Sequence[str]) -> BadFaceError:
    return BadFaceError(
        f"'{path}' lacks the variable '{name}'; it holds {', '.join(names) or 'none'}. Get the dataset's own file."
    )


def _is_no(path: Path, name: str, kind: str) -> BadFaceError:
    return BadFaceError(f"'{path}': '{name}' is not a {kind}. {_CURE}")


def _rgb(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(H, W, 3), a copy, from (H, W) or (H, W, 3) in any order."""
    return np.array(pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=-1), order="C")


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
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise _damaged(path, error) from error


def _matlab_class(data: Any) -> str:
    """MATLAB's class of an HDF5 dataset; that of its numbers where the file does not say."""
    name = data.attrs.get("MATLAB_class", data.dtype.name)
    return name.decode("latin-1") if isinstance(name, bytes) else str(name)


def _matlab_shape(data: Any) -> tuple[int, ...]:
    """MATLAB's shape of an HDF5 dataset; an empty array is stored as its shape."""
    if data.attrs.get("MATLAB_empty", 0):
        return tuple(int(n) for n in _bounded(data, 32 * 8)[()].ravel())
    return tuple(data.shape[::-1])


def _bounded(data: Any, num_bytes: int) -> Any:
    """A dataset whose contents are in the file itself and take no more than that much memory.

    :raises ValueError: it is none
    """
    import h5py

    if not isinstance(data, h5py.Dataset):
        raise ValueError("a variable or cell is no array")
    if data.external or data.is_virtual:
        raise ValueError(f"'{data.name}' refers to another file")
    # A chunk is unpacked as a whole, whatever part of it belongs to the array.
    chunk = math.prod(data.chunks or ()) * data.dtype.itemsize
    if max(data.size * data.dtype.itemsize, chunk) > num_bytes:
        chunks = f" in chunks of {math.prod(data.chunks):,}" if data.chunks else ""
        raise ValueError(f"'{data.name}' claims {data.size:,} numbers{chunks}")
    return data


def _read_hdf(path: Path, wanted: Mapping[str, str]) -> dict[str, Any]:
    import h5py

    found: dict[str, Any] = {}
    with _open_hdf(path) as file:
        names = sorted(name for name in file if not name.startswith("#"))  # "#refs#" holds the cells
        for name, kind in wanted.items():
            if name not in names:
                raise _lacks(path, name, names)
            if not isinstance(file.get(name, getlink=True), h5py.HardLink):
                raise _damaged(path, f"'{name}' refers to another place or file")
            found[name] = _HDF_READERS[kind](path, file, name)
    return found


def _hdf_matrix(path: Path, file: Any, name: str) -> npt.NDArray[np.float64]:
    import h5py

    data = file[name]
    if isinstance(data, h5py.Dataset) and data.dtype.kind in "fiub":
        shape = _matlab_shape(data)
        if len(shape) == 2:
            return np.zeros(shape) if 0 in shape else _bounded(data, _MAX_BYTES)[()].T.astype(np.float64)
    raise _is_no(path, name, "matrix of real numbers")


def _hdf_cells(path: Path, file: Any, name: str) -> Any:
    import h5py

    data = file[name]
    if not isinstance(data, h5py.Dataset) or h5py.check_ref_dtype(data.dtype) is not h5py.Reference:
        raise _is_no(path, name, "cell array")
    return _bounded(data, _MAX_BYTES)


def _hdf_strings(path: Path, file: Any, name: str) -> list[str]:
    texts = []
    for reference in _hdf_cells(path, file, name)[()].ravel():
        cell = _bounded(file[reference], 2 * _MAX_TEXT)
        if _matlab_class(cell) != "char":
            raise _is_no(path, name, "cell array of strings")
        empty = 0 in _matlab_shape(cell)
        texts.append("" if empty else cell[()].astype("<u2").tobytes().decode("utf-16-le"))
    return texts


def _hdf_images(path: Path, file: Any, name: str) -> CellImages:
    return _HdfImages(path, name, int(_hdf_cells(path, file, name).size))


def _hdf_records(path: Path, file: Any, name: str) -> NoReturn:
    raise BadFaceError(f"'{path}': the structs of '{name}' are read from version 5 alone. Save it anew with '-v7'.")


_HDF_READERS = {"matrix": _hdf_matrix, "strings": _hdf_strings, "images": _hdf_images, "records": _hdf_records}


class _HdfImages(CellImages):
    def _cell(self, file: Any, index: int) -> Any:
        references = _hdf_cells(self.path, file, self.name)
        reference = references[np.unravel_index(index, references.shape)]
        if not reference:
            self._fail(index, "refers to nothing")
        data = file[reference]
        # The shape is checked first, whose message says more.
        self._check(index, _matlab_shape(_bounded(data, sys.maxsize)), _matlab_class(data))
        return _bounded(data, 3 * MAX_PIXELS)

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        with _open_hdf(self.path) as file:
            return _rgb(self._cell(file, index)[()].T)

    def size(self, index: int) -> tuple[int, int]:
        with _open_hdf(self.path) as file:
            height, width = _matlab_shape(self._cell(file, index))[:2]
            return width, height


# Version 5 ---------------------------------------------------------------------------------------


def _read_mat5(path: Path, order: str, wanted: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with _refuse_damage(path):
        file = Mat5File(path, order)
        for name, kind in wanted.items():
            if name not in file.names():
                raise _lacks(path, name, file.names())
            if kind != "matrix" and file.matrix(name).kind != "cell":
                raise _is_no(path, name, "cell array")
            if kind == "images":
                found[name] = _Mat5Images(path, name, Cells(file, name))
                continue
            found[name] = value = file.value(name)
            if kind == "matrix":
                if not isinstance(value, np.ndarray) or value.ndim != 2:
                    raise _is_no(path, name, "matrix of real numbers")
                found[name] = value.astype(np.float64)
            elif kind == "strings":
                if not all(isinstance(cell, str) for cell in value):
                    raise _is_no(path, name, "cell array of strings")
            elif all(isinstance(cell, list) and len(cell) == 1 and isinstance(cell[0], dict) for cell in value):
                found[name] = [cell for (cell,) in value]
            else:
                raise _is_no(path, name, "cell array of structs")
    return found


@contextmanager
def _refuse_damage(path: Path) -> Iterator[None]:
    """What goes wrong between here and the end of the elements of a file is a :class:`BadFaceError` that names it."""
    try:
        yield
    except DamagedError as error:
        raise _damaged(path, error) from error


class _Mat5Images(CellImages):
    def __init__(self, path: Path, name: str, cells: Cells) -> None:
        super().__init__(path, name, len(cells))
        self._cells = cells

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        self.size(index)
        with _refuse_damage(self.path):
            return _rgb(self._cells.value(index))

    def size(self, index: int) -> tuple[int, int]:
        with _refuse_damage(self.path):
            header = self._cells.header(index)
        self._check(index, header.shape, header.kind)
        height, width = header.shape[:2]
        return width, height
