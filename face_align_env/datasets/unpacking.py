"""Unpacks an archive from elsewhere: nothing leads out of the folder, nothing fills the disk, nothing is a link."""

from __future__ import annotations

import errno
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO, Any

TAR_SUFFIXES, ZIP_SUFFIX = (".tar.gz", ".tgz", ".tar"), ".zip"
_CHUNK = 1 << 20  # bytes, of files
_MAX_HEADER = 16 << 20  # bytes; a tar's header of longer names is no archive of faces

# Type of a zip's member -> what it is; a symbolic link in a zip has its target as contents.
_ZIP_KINDS = {0: "file", stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "a symbolic link"}

_TAR_KINDS = {
    "file": tarfile.TarInfo.isreg,
    "folder": tarfile.TarInfo.isdir,
    "a symbolic link": tarfile.TarInfo.issym,
    "a hard link": tarfile.TarInfo.islnk,
}


class DownloadError(OSError):
    """A download that cannot be finished; the message says why, what was kept, and what to do."""


class ArchiveError(DownloadError):
    """An archive that is damaged, hostile, or not the dataset; it has been deleted."""


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to; far above any dataset of faces, far below what fills a disk.

    :param members: number of files and folders
    :param num_bytes: size of all files together
    :param ratio: unpacked over packed size, which counts once more than ``ratio_from`` bytes are unpacked
    :param ratio_from: bytes
    """

    members: int = 200_000
    num_bytes: int = 60_000_000_000
    ratio: float = 200.0
    ratio_from: int = 100_000_000


DEFAULT_LIMITS = Limits()


def unpack(archive: Path, folder: Path, limits: Limits, bar: Any) -> None:
    """Unpack a zip or tar archive into an empty folder, with the modes of newly made files.

    :raises ArchiveError: it is damaged, above a limit, or has a member that is no file or folder, leads out of the
        folder, or has the name of another one
    """
    packed, written = archive.stat().st_size, 0
    names: set[str] = set()
    members = closing((_zip_members if archive.name.endswith(ZIP_SUFFIX) else _tar_members)(archive))
    try:
        with members as opened:
            for count, member in enumerate(opened, 1):
                if count > limits.members:
                    raise _refusal(archive, f"it has more than {limits.members:,} members")
                parts = _parts(archive, member)
                if not parts or "__MACOSX" in parts or parts[-1] == ".DS_Store" or parts[-1].startswith("._"):
                    continue  # the archive's root, or litter of macOS
                path = folder.joinpath(*parts)
                if member.kind == "folder":
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                name = "/".join(parts).casefold()  # on some disks, A.jpg overwrites a.jpg
                if name in names:
                    raise _refusal(archive, f"'{member.name}' is in it twice, or in another case")
                names.add(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as source, path.open("xb") as file:
                    while chunk := source.read(_CHUNK):
                        written += len(chunk)  # what is really there: a header may lie
                        if written > limits.num_bytes:
                            raise _refusal(archive, f"it unpacks to more than {in_bytes(limits.num_bytes)}")
                        if written > limits.ratio_from and written > limits.ratio * packed:
                            raise _refusal(archive, f"it unpacks to more than {limits.ratio:g} times its size")
                        file.write(chunk)
                        bar.update(len(chunk))
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _refusal(archive, f"'{member.name}' is a file and a folder in it") from error
    except (
        *(zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError),
        # an unknown method of compression, and a name that no file can have
        *(NotImplementedError, RuntimeError, ValueError),
        *(IndexError, struct.error),  # zipfile's own: an empty name, a field that is cut short
    ) as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        # Errors of gzip and bz2 have no number, the disk's have one; EINVAL: a header names a place before the file.
        if isinstance(error, ArchiveError) or error.errno not in (None, errno.EINVAL):
            raise
        raise _damaged(archive, error) from error


def _parts(archive: Path, member: _Member) -> tuple[str, ...]:
    """The parts of a member's path, which stays within the folder that it is joined to.

    :raises ArchiveError: it would not, or the member is neither file nor folder
    """
    name = member.name.replace("\\", "/")  # some programs on Windows write it so, and there it separates
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or PureWindowsPath(name).drive or ".." in parts:
        raise _refusal(archive, f"the path of '{member.name}' leads out of the dataset's folder")
    if member.kind not in ("file", "folder"):
        raise _refusal(archive, f"'{member.name}' is no file or folder, but {member.kind}")
    return parts


@dataclass(frozen=True)
class _Member:
    """A member of an archive.

    :param name: path in the archive
    :param kind: ``"file"``, ``"folder"``, or what else it is, for a message
    :param open: gives a file's contents
    """

    name: str
    kind: str
    open: Callable[[], IO[bytes]]


def _zip_members(path: Path) -> Generator[_Member, None, None]:
    with zipfile.ZipFile(path) as file:
        for info in file.infolist():
            kind = _ZIP_KINDS.get(stat.S_IFMT(info.external_attr >> 16), "a device or pipe")
            if info.flag_bits & 1:
                kind = "an encrypted file"
            elif kind == "file" and info.is_dir():
                kind = "folder"
            yield _Member(info.filename, kind, partial(file.open, info))


def _tar_members(path: Path) -> Generator[_Member, None, None]:
    stream: Any = path.open("rb") if path.suffix == ".tar" else _BoundedGzip(path)
    with stream, tarfile.open(fileobj=stream, mode="r:") as file:
        for info in file:
            kind = next((kind for kind, is_kind in _TAR_KINDS.items() if is_kind(info)), "a device or pipe")
            yield _Member(info.name, kind, partial(_contents, file, info))
        # tarfile takes a header that it cannot read for the end, and gzip compares its checksum at the end only.
        if stream.read(_CHUNK).strip(b"\0"):
            raise tarfile.ReadError("a header cannot be read")


def _contents(file: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    contents = file.extractfile(info)
    assert contents is not None  # None is for what is no regular file
    return contents


class _BoundedGzip(gzip.GzipFile):
    """A gzip file for tarfile, which takes a header into memory whole, as large as it claims to be."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > _MAX_HEADER:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        return super().read(size)


def unpacked_size(archive: Path) -> int:
    """What an archive says, or is likely to unpack to at least: bytes.

    :raises ArchiveError: it is no archive
    """
    if not archive.name.endswith(ZIP_SUFFIX):
        return archive.stat().st_size
    try:
        with zipfile.ZipFile(archive) as file:
            return sum(info.file_size for info in file.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise _damaged(archive, error) from error


def _refusal(archive: Path, reason: str) -> ArchiveError:
    return ArchiveError(
        f"'{archive.name}' is not unpacked, since {reason}. It and all that was unpacked are deleted. If you trust "
        "it, get and unpack it by hand."
    )


def _damaged(archive: Path, error: Exception) -> ArchiveError:
    return ArchiveError(
        f"'{archive.name}' is damaged, or no archive ({type(error).__name__}: {error}). It and all that was unpacked "
        "are deleted; the same command fetches it again."
    )


def in_bytes(num_bytes: int) -> str:
    """A number of bytes as people read it."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"
