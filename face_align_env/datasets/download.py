"""Fetches the public archive of a dataset and unpacks it where the dataset's reader looks.

Beside the dataset's folder ``<name>`` there are

* ``.<name>.download``: the archive while it is fetched (``*.part``) and what tells whether the server still has the
  same file (``*.part.json``), so that a broken download goes on where it stopped; and for good ``download.json``,
  which hash the archive had, and the empty file ``lock``
* ``.<name>.unpacking-<pid>``: what is being unpacked. It becomes ``<name>`` in one step, once the reader has found its
  data in it, so nothing half-unpacked is ever taken for the dataset; what a killed run has left goes with the next.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from face_align_env.datasets.base import (
    Archive,
    BadFaceError,
    DatasetNotFoundError,
    FaceDataset,
    candidate_roots,
)
from face_align_env.datasets.resuming import Resuming, bytes_bar, check_room, read_record, state_file, wrong_size
from face_align_env.datasets.unpacking import (
    DEFAULT_LIMITS,
    TAR_SUFFIXES,
    ZIP_SUFFIX,
    ArchiveError,
    DownloadError,
    Limits,
    in_bytes,
    unpack,
    unpacked_size,
)
from face_align_env.files import write_json

_RECORD, _LOCK = "download.json", "lock"


def download(
    dataset: type[FaceDataset],
    root: str | os.PathLike[str] | None = None,
    progress: bool = True,
    limits: Limits = DEFAULT_LIMITS,
    keep_archive: bool = False,
    accept_changed: bool = False,
) -> Path:
    """Fetch a dataset's archive and unpack it; a download that broke off goes on where it stopped.

    The dataset's folder gets a ``download.json`` that says where it is from and which hash the archive had. Proxies
    are those of the environment (``HTTPS_PROXY``, ...).

    :param dataset: the dataset's class
    :param root: the folder to make; None: ``$FACE_ALIGN_DATA/<name>``, else ``~/.cache/face-align/<name>``
    :param progress: show bars
    :param limits: what the archive may unpack to
    :param keep_archive: leave the archive in ``.<name>.download`` beside the folder
    :param accept_changed: take an archive that is not the one that is known: of another hash or size than the
        dataset's class says, or of another hash than when it was last fetched
    :return: the folder
    :raises DatasetNotFoundError: the dataset has no public archive; the message says how to get it
    :raises ArchiveError: the archive has another hash or size than expected, is damaged, holds what must not be
        unpacked, or lacks the dataset
    :raises DownloadError: the folder is there already, the server or the connection fails, or the disk is full
    :raises OSError: the folder beside cannot be made or written to
    :warns UserWarning: the reader objects to a file
    """
    archive = dataset.archive
    if archive is None:
        raise DatasetNotFoundError(f"Dataset '{dataset.name}' has no archive to download. {dataset.how_to_get}")
    file_name = PurePosixPath(urlsplit(archive.url).path).name
    if not file_name.endswith((*TAR_SUFFIXES, ZIP_SUFFIX)):
        raise ValueError(f"'{archive.url}': expected a file {', '.join(TAR_SUFFIXES)} or {ZIP_SUFFIX}.")
    target = candidate_roots(dataset, root)[0].resolve()
    _refuse_occupied(target)
    folder = target.with_name(f".{target.name}.download")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name
    with _alone(folder, dataset):
        _remove_leftovers(target, path)
        record = _fetch(dataset, archive, path, progress, accept_changed)
        try:
            if not accept_changed:
                _compare(record, folder / _RECORD)
            _install(dataset, path, target, record, limits, progress)
        except ArchiveError:
            path.unlink()  # the next call must not meet it again
            raise
        write_json(folder / _RECORD, record)
        if not keep_archive:
            path.unlink()
    return target


def _refuse_occupied(target: Path) -> None:
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise DownloadError(
            f"'{target}' is there already and is not touched. If it is the dataset, there is nothing to do; to fetch "
            "it anew, rename or remove it first, or choose another folder."
        )


@contextmanager
def _alone(folder: Path, dataset: type[FaceDataset]) -> Iterator[None]:
    """Keep other processes from fetching the same dataset to the same place; the system lets go of a killed one's."""
    with (folder / _LOCK).open("w") as file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DownloadError(
                    f"Another process is fetching '{dataset.name}' to '{folder.parent}'. Wait for it, or end it."
                ) from error
            except OSError:
                pass  # a file system without locks
        yield


def _remove_leftovers(target: Path, archive: Path) -> None:
    """Remove what killed runs and archives of another name have left; the lock must be held."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.unpacking-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    part = _part(archive)
    for entry in archive.parent.iterdir():
        if entry.is_file() and entry.name not in (archive.name, part.name, state_file(part).name, _RECORD, _LOCK):
            entry.unlink()


def _part(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.part")


def _fetch(
    dataset: type[FaceDataset], archive: Archive, path: Path, progress: bool, accept_changed: bool
) -> dict[str, Any]:
    """Fetch an archive to ``path``, unless a former call did, and check its size and hash.

    :return: what ``download.json`` says
    """
    import pooch

    if accept_changed:
        archive = replace(archive, num_bytes=None, known_hash=None)
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # the bar says what happens
    try:
        pooch.retrieve(
            archive.url,
            known_hash=archive.known_hash,
            fname=path.name,
            path=path.parent,
            downloader=Resuming(dataset, archive, _part(path), progress),
        )
    except ValueError as error:  # pooch's word for another hash; it names both, and has deleted the file
        raise ArchiveError(
            f"The archive of '{dataset.name}' is not the expected one. {error} To take it all the same, add "
            "--accept-changed (accept_changed=True)."
        ) from error
    finally:
        logger.setLevel(level)
    size = path.stat().st_size
    if archive.num_bytes not in (None, size):
        path.unlink()
        raise wrong_size(dataset, archive, size)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "dataset": dataset.name,
        "url": archive.url,
        "file_name": path.name,
        "num_bytes": size,
        "sha256": sha256,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _compare(record: dict[str, Any], path: Path) -> None:
    """Refuse an archive whose hash differs from the one that was recorded for the same address.

    :raises ArchiveError: it does
    """
    earlier = read_record(path)
    if earlier.get("url") == record["url"] and earlier.get("sha256") not in (None, record["sha256"]):
        raise ArchiveError(
            f"The archive of '{record['dataset']}' has changed: its SHA-256 is {record['sha256']}, and was "
            f"{earlier['sha256']} on {earlier.get('date')} ('{path}'). Figures may not compare with earlier ones. It "
            "was not kept; to take it all the same, add --accept-changed (accept_changed=True)."
        )


def _install(
    dataset: type[FaceDataset], archive: Path, target: Path, record: dict[str, Any], limits: Limits, progress: bool
) -> None:
    """Unpack an archive beside the target, find the data in it, and rename that to the target.

    :raises ArchiveError: see :func:`_unpack`; or the dataset is not in it
    :raises DownloadError: the disk is full, or the target was made meanwhile; the archive is kept
    """
    temporary = target.with_name(f".{target.name}.unpacking-{os.getpid()}")
    needed = unpacked_size(archive)
    try:
        check_room(f"What '{archive}' unpacks to", target.parent, min(needed, limits.num_bytes))
        temporary.mkdir()
        with bytes_bar(progress, f"{dataset.name}: unpacking") as bar:
            unpack(archive, temporary, limits, bar)
        found = _find_data(dataset, temporary, target)
        write_json(found / _RECORD, record)
        _refuse_occupied(target)
        if target.exists():
            target.rmdir()
        found.rename(target)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"'{archive.name}' cannot be unpacked to '{target}' ({error}); it takes at least {in_bytes(needed)} there. "
            f"What was unpacked is removed; the archive is kept in '{archive.parent}' for the next call."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _find_data(dataset: type[FaceDataset], folder: Path, target: Path) -> Path:
    """The folder in which the reader finds a split: the archive's only top folder, or what the archive was unpacked to.

    :param target: for messages; the folder's later name
    :raises ArchiveError: it finds none
    """
    entries = list(folder.iterdir())
    top = entries if len(entries) == 1 and entries[0].is_dir() else []
    for root in (*top, folder):
        for split in dataset.splits:
            try:
                dataset(split=split, root=root)  # type: ignore[call-arg]
            except DatasetNotFoundError as error:
                reason = str(error)
            except BadFaceError as error:
                # The data is there, and as it was published; whoever reads it is told what to mend.
                warnings.warn(str(error).replace(str(root), str(target)), stacklevel=4)
                return root
            else:
                return root
    raise ArchiveError(
        f"The archive lacks the data of '{dataset.name}', and is deleted with all that was unpacked: "
        f"{reason.replace(str(folder), dataset.archive.url if dataset.archive else '')}"
    )
