"""Results of very many photos: a folder of Parquet files, written in parts that are whole or absent.

======== ============================================================================================================
table    rows
======== ============================================================================================================
faces    a face each: ``photo``, ``face`` (its number in the photo), ``box`` and ``landmarks`` (lists of x, y, pixels),
         ``iterations``, ``confidence`` (percent), ``yaw``, ``pitch``, ``roll`` (degrees)
photos   a photo each that could be read: ``photo``, ``faces`` (how many)
broken   a photo each that could not: ``photo``, ``error``
======== ============================================================================================================

Each table is a folder; ``pandas.read_parquet("results/faces")`` reads all of its parts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from face_align_env.aligner.alignment import Alignment
from face_align_env.aligner.folders import Input
from face_align_env.extras import needs
from face_align_env.files import remove_leftovers, replacing

FACES, BROKEN, PHOTOS = "faces", "broken", "photos"


class Record(TypedDict):
    """What has become of a photo.

    ``photo``: its path; ``error``: why there are no faces, or None; ``faces``: :meth:`Alignment.to_dict` of each.
    """

    photo: str
    error: str | None
    faces: list[dict[str, Any]]


def record(photo: Input, found: Sequence[Alignment] | Exception) -> Record:
    """What :func:`~face_align_env.aligner.folders.align_files` has given, in numbers and texts."""
    path = as_text(photo.path)
    if isinstance(found, Exception):
        return {"photo": path, "error": as_text(found), "faces": []}
    return {"photo": path, "error": None, "faces": [alignment.to_dict() for alignment in found]}


def as_text(subject: object) -> str:
    """A text that is UTF-8, as Parquet wants it: file names need not be, and what is not is escaped (``\\udcff``)."""
    return str(subject).encode("utf-8", "backslashreplace").decode()


class ParquetFolder:
    """The tables of a folder.

    :param folder: it is made where it is not; what it has is kept
    :param at_once: photos of a part
    :ivar done: paths of the photos that it has
    :raises MissingExtraError: pyarrow is not installed
    :raises ValueError: a file in it is no table of this kind
    :raises OSError: it cannot be read or written
    """

    def __init__(self, folder: str | os.PathLike[str], at_once: int = 1024) -> None:
        with needs("cluster", "Parquet"):
            import pyarrow as pa
            from pyarrow import parquet
        self.folder, self.at_once = Path(folder), at_once
        self.done: set[str] = set()
        self._waiting: list[Record] = []
        self._schemas = {
            FACES: pa.schema(
                [("photo", pa.string()), ("face", pa.int32()), ("box", pa.list_(pa.float32())),
                 ("landmarks", pa.list_(pa.float32())), ("iterations", pa.int32()), ("confidence", pa.float32()),
                 ("yaw", pa.float32()), ("pitch", pa.float32()), ("roll", pa.float32())]
            ),
            BROKEN: pa.schema([("photo", pa.string()), ("error", pa.string())]),
            PHOTOS: pa.schema([("photo", pa.string()), ("faces", pa.int32())]),
        }  # fmt: skip
        for table in self._schemas:
            (self.folder / table).mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder / table)
        self._next = 0
        for path in (self.folder / PHOTOS).glob("*.parquet"):
            try:
                self._next = max(self._next, int(path.stem) + 1)
            except ValueError as error:
                raise _not_ours(path, error) from error
        for table in (FACES, BROKEN):  # a part of photos is written last: without it, the others were cut off
            self._path(table).unlink(missing_ok=True)
        for path in [*(self.folder / PHOTOS).glob("*.parquet"), *(self.folder / BROKEN).glob("*.parquet")]:
            try:
                self.done |= set(parquet.read_table(path, columns=["photo"]).column("photo").to_pylist())
            except (pa.ArrowException, KeyError) as error:
                raise _not_ours(path, error) from error

    def _path(self, table: str) -> Path:
        """Of the part that is written next."""
        return self.folder / table / f"{self._next:06d}.parquet"

    def write(self, records: Iterable[Record]) -> None:
        """Add photos; those that are there already are passed over. Parts are written when they are full.

        :raises OSError: they cannot be written
        """
        for each in records:
            if each["photo"] not in self.done:
                self.done.add(each["photo"])
                self._waiting.append(each)
            if len(self._waiting) >= self.at_once:
                self.flush()

    def flush(self) -> None:
        """Write what waits for a full part.

        :raises OSError: it cannot be written
        """
        if not self._waiting:
            return
        rows: dict[str, list[dict[str, Any]]] = {FACES: [], BROKEN: [], PHOTOS: []}
        for each in self._waiting:
            if each["error"] is not None:
                rows[BROKEN].append({"photo": each["photo"], "error": each["error"]})
                continue
            rows[PHOTOS].append({"photo": each["photo"], "faces": len(each["faces"])})
            rows[FACES] += [_row(each["photo"], number, face) for number, face in enumerate(each["faces"])]
        for table in (FACES, BROKEN, PHOTOS):
            self._write_part(table, rows[table])
        self._waiting, self._next = [], self._next + 1

    def _write_part(self, table: str, rows: list[dict[str, Any]]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        with replacing(self._path(table)) as temporary:
            parquet.write_table(pa.Table.from_pylist(rows, schema=self._schemas[table]), temporary)


def _not_ours(path: Path, error: Exception) -> ValueError:
    return ValueError(f"'{path}' is no table of face-align align ({error}). Name another folder.")


def _row(photo: str, number: int, face: dict[str, Any]) -> dict[str, Any]:
    points = [coordinate for point in face["landmarks"] for coordinate in point]
    kept = {name: face[name] for name in ("box", "iterations", "confidence")}
    return {"photo": photo, "face": number, "landmarks": points, **kept, **face["pose"]}
