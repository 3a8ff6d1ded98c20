"""Where the results of many photos go: JSON lines, a CSV table, ``.pts`` files, pictures; each knows what it has.

A photo's results are appended as soon as they are there, in one piece. What was cut off in the middle of a line by a
killed process is removed when the file is opened again.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar, Protocol, Self

from face_align_env.aligner.alignment import Alignment, draw_alignments
from face_align_env.aligner.folders import Input
from face_align_env.aligner.tracking import TrackedFace
from face_align_env.datasets.pts import write_pts
from face_align_env.files import replacing, write_bytes


class Results(Protocol):
    """Takes the results of one photo after another."""

    def has(self, photo: Input, /) -> bool:
        """Whether the photo's results are there from an earlier time."""
        ...

    def write(self, photo: Input, alignments: Sequence[Alignment], /) -> None:
        """Add a photo's results.

        :raises OSError: they cannot be written
        """
        ...


def as_record(photo: Input, alignments: Sequence[Alignment]) -> dict[str, Any]:
    """What a line of JSON says of a photo: its path and its faces (:meth:`Alignment.to_dict`)."""
    return {"photo": str(photo.path), "faces": [alignment.to_dict() for alignment in alignments]}


class JsonLines:
    """A file with one JSON object a line for each photo; see :func:`as_record`.

    :param path: the file; what it has is kept
    :raises ValueError: it has a line that is none of a photo's
    :raises OSError: it cannot be read or written
    """

    def __init__(self, path: Path) -> None:
        self.path, self._known = path, set[str]()
        for number, line in enumerate(_whole_lines(path), 1):
            try:
                self._known.add(json.loads(line)["photo"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"'{path}', line {number}, is no line of face-align align's JSON. Name another file."
                ) from error

    def has(self, photo: Input, /) -> bool:
        """See :class:`Results`."""
        return str(photo.path) in self._known

    def write(self, photo: Input, alignments: Sequence[Alignment], /) -> None:
        """See :class:`Results`."""
        _append(self.path, json.dumps(as_record(photo, alignments)) + "\n")


class CsvTable:
    """A file with one row a face; a photo without faces has a row with an empty ``face``.

    :param path: the file; what it has is kept
    :param num_landmarks: K, for the columns x0, y0, x1, ...
    :raises ValueError: it has other columns
    :raises OSError: it cannot be read or written
    """

    def __init__(self, path: Path, num_landmarks: int) -> None:
        self.path = path
        columns = ["photo", "face", *_columns(num_landmarks)]
        try:
            rows = list(csv.reader(_whole_lines(path)))
        except csv.Error as error:
            raise ValueError(f"'{path}' is no CSV file of face-align align's ({error}). Name another file.") from error
        if rows and rows[0] != columns:
            raise ValueError(f"'{path}' has other columns than face-align align's with {num_landmarks} landmarks.")
        self._known = {row[0] for row in rows[1:] if row}
        self._width = len(columns)
        if not rows:
            _append(path, _csv([columns]))

    def has(self, photo: Input, /) -> bool:
        """See :class:`Results`."""
        return str(photo.path) in self._known

    def write(self, photo: Input, alignments: Sequence[Alignment], /) -> None:
        """See :class:`Results`."""
        rows: list[list[object]] = []
        for number, alignment in enumerate(alignments):
            rows.append([photo.path, number, *_cells(alignment)])
        _append(self.path, _csv(rows or [[photo.path] + [""] * (self._width - 1)]))


class _FilesOfPhotos:
    """A folder with files for each photo.

    :param folder: photos of a folder keep their places below it
    :param photos: all that will come; none may take another's file
    :raises ValueError: two of them would be written to one file
    """

    suffix: ClassVar[str]

    def __init__(self, folder: Path, photos: Iterable[Input]) -> None:
        self.folder = folder
        _check_names(folder, self.suffix, photos)

    def _file(self, photo: Input, end: str = "") -> Path:
        return self.folder / photo.name.with_name(f"{photo.name.stem}{end}{self.suffix}")


class PtsFolder(_FilesOfPhotos):
    """A folder with a ``.pts`` file for each face: ``photo.pts``, or ``photo_1.pts``, ... where there are several."""

    suffix = ".pts"

    def has(self, photo: Input, /) -> bool:
        """See :class:`Results`; photos without faces leave no file, and are aligned again."""
        return any(self._file(photo, end).exists() for end in ("", "_1"))

    def write(self, photo: Input, alignments: Sequence[Alignment], /) -> None:
        """See :class:`Results`."""
        # Backwards: the file that has() looks for comes last.
        for number in range(len(alignments), 0, -1):
            end = "" if len(alignments) == 1 else f"_{number}"
            write_pts(self._file(photo, end), alignments[number - 1].landmarks)


class Drawings(_FilesOfPhotos):
    """A folder with a picture of each photo, its landmarks drawn."""

    suffix = ".jpg"

    def has(self, photo: Input, /) -> bool:
        """See :class:`Results`; photos without faces leave no picture, and are aligned again."""
        return self._file(photo).exists()

    def write(self, photo: Input, alignments: Sequence[Alignment], /) -> None:
        """See :class:`Results`."""
        import cv2

        if alignments:
            picture = draw_alignments(alignments[0].image, alignments)
            # Pictures of more pixels than JPEG can hold do not come out of a photo.
            data = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
            write_bytes(self._file(photo), data.tobytes())


class FrameLines:
    """A file with one JSON object a line for each frame of a video; replaces an existing one when it is complete.

    :param path: the file; None: standard output
    :raises OSError: it cannot be written
    """

    def __init__(self, path: Path | None) -> None:
        self._stack = ExitStack()
        self._file: IO[str] = sys.stdout if path is None else self._stack.enter_context(_replacing(path))

    def write(self, frame: int, seconds: float, faces: Sequence[TrackedFace]) -> None:
        """Add a frame: its number, its time, and its faces with their ids."""
        told = [{"id": face.id, **face.alignment.to_dict()} for face in faces]
        print(json.dumps({"frame": frame, "time": round(seconds, 4), "faces": told}), file=self._file, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


class FrameCsv(FrameLines):
    """A file with one row for each face of each frame; replaces an existing one when it is complete.

    :param path: the file
    :param num_landmarks: K, for the columns x0, y0, x1, ...
    :raises OSError: it cannot be written
    """

    def __init__(self, path: Path, num_landmarks: int) -> None:
        super().__init__(path)
        self._file.write(_csv([["frame", "time", "id", *_columns(num_landmarks)]]))

    def write(self, frame: int, seconds: float, faces: Sequence[TrackedFace]) -> None:
        """Add the rows of a frame."""
        self._file.write(_csv([frame, round(seconds, 4), face.id, *_cells(face.alignment)] for face in faces))


@contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    """A text file that takes its place when it is complete."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file


def _columns(num_landmarks: int) -> list[str]:
    points = [f"{axis}{i}" for i in range(num_landmarks) for axis in "xy"]
    return ["left", "top", "right", "bottom", "iterations", "confidence", "yaw", "pitch", "roll", *points]


def _cells(alignment: Alignment) -> list[float | None]:
    told = alignment.to_dict()
    points = [value for point in told["landmarks"] for value in point]
    return [*told["box"], told["iterations"], told["confidence"], *told["pose"].values(), *points]


def _check_names(folder: Path, suffix: str, photos: Iterable[Input]) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"'{folder}' is a file, not a folder. Name another one.")
    taken: dict[Path, Path] = {}
    for photo in photos:
        name = photo.name.with_suffix(suffix)
        other = taken.setdefault(name, photo.path)
        if other != photo.path:
            raise ValueError(
                f"'{other}' and '{photo.path}' would both be written to '{folder / name}'. Align them one after the "
                "other, into different folders."
            )


def _whole_lines(path: Path) -> list[str]:
    """The lines of a text file, if there is one; what follows its last line break is removed from it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return []
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    return data[:whole].decode(errors="replace").splitlines()


def _append(path: Path, text: str) -> None:
    with path.open("ab", buffering=0) as file:  # in one write, so that a killed process leaves whole lines
        file.write(text.encode(errors="surrogateescape"))


def _csv(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
