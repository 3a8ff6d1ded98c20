"""Files that are complete or not there: written to a temporary name first, and renamed. Folders with one owner."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def atomic_path(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The path to write to first, and the final one to rename it to; makes the folder."""
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    return final.with_name(f".{final.name}.{os.getpid()}.tmp"), final


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to; when that has succeeded, the file is on the disk and gets the name ``path``.

    Without the disk's own word (fsync) a power failure after the renaming may leave an empty file under that name.

    :raises OSError: when it cannot be written
    """
    temporary, final = atomic_path(path)
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, complete or not at all; an existing one is replaced.

    :raises OSError: when it cannot be written
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | os.PathLike[str], document: Mapping[str, Any]) -> None:
    """Write a JSON file, complete or not at all.

    :raises OSError: when it cannot be written
    """
    write_bytes(path, (json.dumps(document, indent=2) + "\n").encode())


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
