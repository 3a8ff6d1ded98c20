"""Many photos: which files are meant, and their faces aligned in batches that go across photos."""

from __future__ import annotations

import csv
import glob
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from face_align_env.aligner.aligner import FaceAligner
from face_align_env.aligner.alignment import Alignment
from face_align_env.aligner.looks import Photo

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
"""Of the files that are taken from a folder; a file that is named is tried whatever it is called."""

AHEAD = 8  # photos that are read before they are aligned, for each worker


@dataclass(frozen=True)
class Input:
    """A photo to align.

    :param path: the file
    :param name: its place within what was asked for: below the folder, or the file's own name; outputs are named so
    """

    path: Path
    name: Path


class NoPhotosError(ValueError):
    """An input that names no photo; the message says which."""


def find_photos(inputs: Iterable[str | os.PathLike[str]], without: Sequence[Path] = ()) -> list[Input]:
    """The photos that files, folders (with all folders in them) and patterns name, each once, in their order.

    :param inputs: paths; ``*``, ``?`` and ``[`` make a pattern, ``**`` any number of folders, unless there is a file
        of that very name
    :param without: folders to leave out, such as those that pictures are written to
    :raises NoPhotosError: a folder or pattern has no photo, or all photos are left out
    """
    left_out = [folder.resolve() for folder in without]
    found: dict[Path, Input] = {}
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            photos = [Input(file, file.relative_to(path)) for file in _files_in(path)]
            problem = f"There are no photos in the folder '{path}' ({', '.join(sorted(SUFFIXES))})."
        elif path.exists() or not glob.has_magic(str(given)):
            photos = [Input(path, Path(path.name))]
            problem = ""
        else:
            matches = [Path(match) for match in sorted(glob.glob(str(given), recursive=True))]
            files = [file for match in matches for file in (_files_in(match) if match.is_dir() else [match])]
            base = Path(os.path.commonpath([file.parent for file in files])) if files else path
            photos = [Input(file, file.relative_to(base)) for file in files]
            problem = f"Nothing matches '{given}'."
        if not photos:
            raise NoPhotosError(problem)
        for photo in photos:
            place = photo.path.resolve()
            if not any(place.is_relative_to(folder) for folder in left_out):
                found.setdefault(place, photo)
    if not found:
        names = ", ".join(f"'{folder}'" for folder in without)
        raise NoPhotosError(f"All photos lie in the folders {names}, which results are written to. Name another one.")
    return list(found.values())


def _files_in(folder: Path) -> list[Path]:
    """The photos of a folder and of those in it, sorted; hidden ones are left out."""
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [
            Path(parent, name)
            for name in sorted(names)
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
    return files


def align_files(
    aligner: FaceAligner,
    photos: Iterable[Input],
    boxes: Mapping[Path, npt.NDArray[np.float64]] | None = None,
    workers: int | None = None,
) -> Iterator[tuple[Input, list[Alignment] | Exception]]:
    """Align the faces of many photos, in their order.

    Files are read and faces found by threads, ahead of the networks, which take the faces of several photos at once.
    Only so many photos are in memory as are on their way.

    :param aligner: its detector must be usable by several threads, as those of this package are
    :param photos: the files
    :param boxes: (N, 4) boxes by the photos' resolved paths; faces are detected in photos that are not among them
    :param workers: threads; None: one for each core
    :return: each photo with its alignments; or with the error, a ``ValueError`` or ``OSError``, that says why there
        are none
    :raises ValueError: there is to be less than one worker
    :raises DetectorNotFoundError: faces are to be detected, and this OpenCV cannot
    """
    count = (os.cpu_count() or 1) if workers is None else workers
    if count < 1:
        raise ValueError(f"There must be at least one worker, got {workers}.")
    known = boxes or {}

    def prepare(photo: Input) -> Photo | Exception:
        try:
            return aligner.prepare(photo.path, known.get(photo.path.resolve()))
        except (ValueError, OSError) as error:
            return error

    waiting: deque[tuple[Input, Future[Photo | Exception]]] = deque()
    remaining = iter(photos)
    with ThreadPoolExecutor(count) as pool:
        try:
            while True:
                for photo in islice(remaining, count * AHEAD - len(waiting)):
                    waiting.append((photo, pool.submit(prepare, photo)))
                if not waiting:
                    return
                # The networks take what is ready, at least one photo and at most half of what is on its way.
                batch = [waiting.popleft()]
                while waiting and waiting[0][1].done() and len(batch) < count * AHEAD // 2:
                    batch.append(waiting.popleft())
                prepared = [(photo, future.result()) for photo, future in batch]
                aligned = iter(aligner.align_photos([each for _, each in prepared if isinstance(each, Photo)]))
                for photo, each in prepared:
                    yield photo, each if isinstance(each, Exception) else next(aligned)
        finally:
            pool.shutdown(cancel_futures=True)


def read_boxes(path: str | os.PathLike[str]) -> dict[Path, npt.NDArray[np.float64]]:
    """Faces' boxes from a CSV file with a line ``photo,x0,y0,x1,y1`` for each face; names may come first.

    :param path: the file; photos' paths are taken relative to its folder
    :return: (N, 4) boxes by resolved paths
    :raises ValueError: a line is none of that kind; the message has its number
    :raises OSError: the file cannot be read
    """
    file = Path(path)
    found: dict[Path, list[list[float]]] = {}
    with file.open(newline="", encoding="utf-8-sig", errors="replace") as lines:
        for number, row in enumerate(_rows(file, lines), 1):
            if not row or (number == 1 and [cell.strip() for cell in row[1:5]] == ["x0", "y0", "x1", "y1"]):
                continue
            try:
                photo = (file.parent / row[0].strip()).resolve()
                box = [float(cell) for cell in row[1:]]
            except (ValueError, OSError):  # a name that no file can have, or a word for a number
                box = []
            if len(box) != 4 or not np.isfinite(box).all() or box[0] >= box[2] or box[1] >= box[3]:
                raise ValueError(
                    f"'{file}', line {number}: expected photo,x0,y0,x1,y1 with x0 < x1 and y0 < y1, "
                    f"got '{','.join(row)[:80]}'."
                )
            found.setdefault(photo, []).append(box)
    return {photo: np.array(rows) for photo, rows in found.items()}


def _rows(file: Path, lines: Iterable[str]) -> Iterator[list[str]]:
    try:
        yield from csv.reader(lines)
    except csv.Error as error:
        raise ValueError(f"'{file}' is no CSV file: {error}.") from error
