"""Files that are complete or not there: written to a temporary name first, and renamed. Folders with one owner."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import platform
import re
import shlex
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

_FULL = (errno.ENOSPC, errno.EDQUOT)
_END = struct.Struct("<4s4H2IH")  # of a zip file
_MAX_BYTES = 1 << 32  # of all arrays of a file together
_swept: set[Path] = set()  # folders in which this process has looked for leftovers


def temporary_path(path: Path) -> Path:
    """A name beside ``path`` that says which process uses it, so that :func:`remove_leftovers` can tell."""
    return path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that killed processes of this machine have left in a folder."""
    mark = re.compile(rf"\..*\.{re.escape(platform.node())}-(\d+)(\.\w+)+")
    for entry in folder.iterdir():
        if (match := mark.fullmatch(entry.name)) and not _is_alive(int(match[1])):
            with contextlib.suppress(OSError):  # another process is faster, or may not
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _is_alive(process: int) -> bool:
    if sys.platform == "win32":
        return True  # os.kill would end it
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def atomic_path(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The path to write to first, and the final one to rename it to, see :func:`replacing`.

    Makes the folder; the first time, what killed processes have left in it is removed.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    if (folder := final.parent.absolute()) not in _swept:
        _swept.add(folder)
        remove_leftovers(folder)
    return temporary_path(final), final


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], suffix: str = "") -> Iterator[Path]:
    """A path to write to; when that has succeeded, the file is on the disk and gets the name ``path``.

    Without the disk's own word (fsync) a power failure after the renaming may leave an empty file under that name.

    :param path: the file's name in the end
    :param suffix: what the name to write to ends with, for writers that choose the format by it
    :raises OSError: when it cannot be written; the message names the file
    """
    try:
        temporary, final = atomic_path(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    temporary = temporary.with_name(temporary.name + suffix)
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, final)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):  # not of this file
            raise
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _unwritable(path: str | os.PathLike[str], error: OSError) -> OSError:
    """The same error with the name of the file that was to be written, and a cure."""
    cure = "make room or choose another place" if error.errno in _FULL else "choose another place"
    return OSError(error.errno, f"Cannot write the file ({error.strerror}): {cure}", os.fspath(path))


@contextlib.contextmanager
def scratch_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder within another one; what killed processes have left of theirs is removed.

    :raises OSError: it cannot be made
    """
    temporary, _ = atomic_path(Path(folder) / "scratch")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, complete or not at all; an existing one is replaced.

    :raises OSError: when it cannot be written
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | os.PathLike[str], document: Mapping[str, Any]) -> None:
    """Write a JSON file, complete or not at all.

    :raises OSError: as :func:`write_bytes`
    """
    write_bytes(path, (json.dumps(document, indent=2) + "\n").encode())


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a compressed ``.npz`` file, complete or not at all.

    :raises OSError: when it cannot be written
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def read_arrays(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """Read all arrays of a ``.npz`` file, and compare each with its checksum.

    ``np.load`` stops before the end of an array's entry, where the checksum is looked at, and makes room for whatever
    an array's header claims.

    :raises FileNotFoundError: there is no such file
    :raises ValueError: it is damaged, or no such file; the message names it
    """
    try:
        with Path(path).open("rb") as file, zipfile.ZipFile(file) as archive:
            if len(archive.infolist()) != _num_entries(file):
                raise ValueError("its directory lacks entries")
            size = sum(entry.file_size for entry in archive.infolist())
            if size > _MAX_BYTES:
                raise ValueError(f"it claims {size:,} bytes")
            return {name.removesuffix(".npy"): _array(archive.read(name)) for name in archive.namelist()}
    except FileNotFoundError:
        raise
    except (
        *(OSError, ValueError, LookupError, EOFError, TypeError, SyntaxError, RuntimeError, OverflowError),
        *(zipfile.BadZipFile, zlib.error, struct.error),
    ) as error:
        raise ValueError(f"'{os.fspath(path)}' is damaged or no file of arrays ({error}).") from error


def _num_entries(file: IO[bytes]) -> int:
    """How many entries a zip file without a comment says at its end that it has; its directory may be damaged."""
    file.seek(-_END.size, os.SEEK_END)
    signature, *_, entries, _, _, comment = _END.unpack(file.read())
    if signature != b"PK\5\6" or comment:
        raise ValueError("it does not end as such a file does")
    return int(entries)


def _array(data: bytes) -> npt.NDArray[Any]:
    """What the bytes of a ``.npy`` file hold.

    :raises ValueError: they hold something else, or as many numbers as they do not say
    """
    stream = io.BytesIO(data)
    read_header = np.lib.format.read_array_header_1_0
    if np.lib.format.read_magic(stream) != (1, 0):
        read_header = np.lib.format.read_array_header_2_0
    shape, in_columns, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    flat = np.frombuffer(data, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if in_columns else "C").copy()


class FolderInUseError(OSError):
    """Another process works in this folder."""


@contextlib.contextmanager
def locked_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Work in a folder that no other process works in; makes the folder.

    The lock is the kernel's and goes with the process that holds it, however that ends: what a killed process leaves
    behind, the file ``.lock``, stops nobody.

    :param folder: to work in
    :raises FolderInUseError: another process holds it; the message says which
    :raises OSError: the folder cannot be written to
    """
    path = Path(folder) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                owner = file.read() or "another process"
                raise FolderInUseError(
                    f"'{os.fspath(folder)}' is in use by {owner}: wait until it is done, stop it, or take another "
                    "folder."
                ) from error
            except OSError:
                pass  # a file system without locks
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()} ({shlex.join(sys.orig_argv)})")
        file.flush()
        yield
