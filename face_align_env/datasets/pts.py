"""The ``.pts`` format, and datasets made of images with a ``.pts`` file of the same stem beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.datasets.base import (
    Annotation,
    BadFaceError,
    DatasetNotFoundError,
    FaceDataset,
    files_digest,
    find_root,
    landmarks_box,
    read_image,
    read_image_size,
    uniform_hash,
)
from face_align_env.files import write_bytes
from face_align_env.landmarks import SCHEMES, to_19_points

# Of two images with one stem, the earlier suffix is taken.
IMAGE_SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg")

_CURE = "Restore the file from the dataset, or remove it together with its image."


def read_pts(path: str | os.PathLike[str]) -> npt.NDArray[np.float32]:
    """Read a ``.pts`` file: ``version: 1``, ``n_points: n``, ``{``, one ``x y`` a line, ``}``.

    :return: (n, 2) float32, pixels of the photo, (x, y), counted from 0 (the file counts from 1)
    :raises BadFaceError: when the file is missing, empty, not text, cut short, or a point is not two finite
        numbers, or there are not as many points as it says; the message names the file and the line
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadFaceError(f"'{path}' is not a text file (UTF-8). {_CURE}") from error
    except OSError as error:
        raise BadFaceError(f"Cannot read '{path}': {error.strerror}. {_CURE}") from error
    if not text.strip():
        raise BadFaceError(f"'{path}' is empty. {_CURE}")
    announced: int | None = None
    points: list[tuple[float, float]] = []
    inside = closed = False
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if words == ["}"]:
            closed = inside
            break
        if inside:
            try:
                x, y = map(float, words)
            except ValueError as error:
                raise BadFaceError(f"'{path}', line {number}: expected 'x y', got '{line.strip()}'. {_CURE}") from error
            points.append((x, y))
        elif words == ["{"]:
            inside = True
        elif (key_value := line.split(":"))[0].strip() == "n_points":
            if len(key_value) != 2 or not key_value[1].strip().isdecimal():
                raise BadFaceError(
                    f"'{path}', line {number}: expected 'n_points: 68' or so, got '{line.strip()}'. {_CURE}"
                )
            announced = int(key_value[1])
    if announced is None:
        raise BadFaceError(f"'{path}' has no line 'n_points: ...' before its points. {_CURE}")
    if len(points) != announced or not points:
        raise BadFaceError(f"'{path}' says n_points: {announced}, and holds {len(points)} points. {_CURE}")
    if not closed:
        raise BadFaceError(f"'{path}' does not end with '}}': it is cut short. {_CURE}")
    with np.errstate(over="ignore"):  # what is too large is infinite then
        landmarks = (np.asarray(points, dtype=np.float64) - 1.0).astype(np.float32)
    if not np.isfinite(landmarks).all():
        point = int(np.flatnonzero(~np.isfinite(landmarks).all(axis=1))[0])
        raise BadFaceError(f"'{path}': point {point} (from 0) is not a finite number. {_CURE}")
    return landmarks


def write_pts(path: str | os.PathLike[str], landmarks: npt.ArrayLike) -> None:
    """Write a ``.pts`` file, complete or not at all; an existing file is replaced.

    :param landmarks: (n, 2), pixels, (x, y), counted from 0; the file counts from 1, in millionths of a pixel
    :raises BadFaceError: when the landmarks are not (n, 2) finite numbers
    :raises OSError: when the file cannot be written
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise BadFaceError(f"'{path}': expected landmarks of shape (n, 2) to write, got {points.shape}.")
    if not np.isfinite(points).all():
        raise BadFaceError(f"'{path}': a landmark to write is not a finite number.")
    rows = [f"{x:.6f} {y:.6f}" for x, y in points + 1.0]
    lines = ["version: 1", f"n_points: {len(points)}", "{", *rows, "}", ""]
    write_bytes(path, "\n".join(lines).encode())


@dataclass(frozen=True)
class PtsPair:
    """An image and its ``.pts`` file; ``id`` is their path within the dataset, without suffix, with ``/``."""

    id: str
    image_path: Path
    pts_path: Path


def find_folder(parent: Path, name: str) -> Path | None:
    """The sub-folder ``name`` (several joined by ``/``) of a folder, in whatever case it is written."""
    for part in name.split("/"):
        # An exact match goes first: where names differ only in case, both can exist.
        matches = [path for path in parent.iterdir() if path.name.lower() == part.lower() and path.is_dir()]
        if not matches:
            return None
        parent = min(matches, key=lambda path: (path.name != part, path.name))
    return parent


def find_pairs(folder: Path, prefix: str = "") -> list[PtsPair]:
    """The images directly in a folder that have a ``.pts`` file, sorted; an image without one is ignored.

    :param prefix: what the ids start with
    :raises BadFaceError: when a ``.pts`` file has no image beside it
    """
    images: dict[str, Path] = {}
    annotations: dict[str, Path] = {}
    with os.scandir(folder) as entries:
        for name in sorted(entry.name for entry in entries):
            stem, suffix = os.path.splitext(name)
            if name.startswith("."):
                continue  # ._x.pts and the like, which some archivers leave
            if suffix.lower() == ".pts":
                annotations.setdefault(stem, folder / name)
            elif suffix.lower() in IMAGE_SUFFIXES:
                rank = IMAGE_SUFFIXES.index(suffix.lower())
                if stem not in images or rank < IMAGE_SUFFIXES.index(images[stem].suffix.lower()):
                    images[stem] = folder / name
    orphans = [
        f"'{path}' has no image beside it: expected '{stem}' with {', '.join(IMAGE_SUFFIXES)}. "
        "Put the image there, or remove the .pts file."
        for stem, path in annotations.items()
        if stem not in images
    ]
    if orphans:
        more = f" ({len(orphans) - 1} more of the kind in this folder)" if len(orphans) > 1 else ""
        raise BadFaceError(orphans[0] + more, orphans)
    return [PtsPair(prefix + stem, images[stem], path) for stem, path in sorted(annotations.items())]


class PairedFaces(FaceDataset):
    """Faces given by pairs of an image and a ``.pts`` file, parsed when first asked for and kept.

    :param pairs: the faces, in order
    :param root: the folder that holds them
    :param points_in_file: number of points that each ``.pts`` file must hold; from 68, 19 are derived
    :raises DatasetNotFoundError: when there are no pairs
    """

    def __init__(self, split: str, landmarks: int, pairs: Sequence[PtsPair], root: Path, points_in_file: int) -> None:
        super().__init__(split, landmarks)
        self._root = root
        if not pairs:
            raise DatasetNotFoundError(f"Split '{split}' of '{self.name}' has no faces. {self.how_to_get}")
        self._pairs = tuple(pairs)
        self._points_in_file = points_in_file
        self._landmarks: list[npt.NDArray[np.float32] | None] = [None] * len(pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def annotation(self, index: int) -> Annotation:
        landmarks = self._landmarks[index]
        pair = self._pairs[index]
        if landmarks is None:
            landmarks = read_pts(pair.pts_path)
            if len(landmarks) != self._points_in_file:
                raise BadFaceError(
                    f"'{pair.pts_path}' has {len(landmarks)} points, expected {self._points_in_file} as in "
                    f"the rest of dataset '{self.name}'. {_CURE}"
                )
            self._landmarks[index] = landmarks
        box = self._box(pair, landmarks)
        k = self.scheme.num_landmarks
        # Copies, so that no caller can change what the next one reads.
        landmarks = landmarks.copy() if k == self._points_in_file else to_19_points(landmarks)
        return Annotation(landmarks, box, np.ones(k, dtype=np.bool_), pair.id)

    def _box(self, pair: PtsPair, landmarks: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(4,) float32, the box of a face, given all points of its file."""
        return landmarks_box(landmarks)

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        return read_image(self._pairs[index].image_path)

    def image_size(self, index: int) -> tuple[int, int]:
        return read_image_size(self._pairs[index].image_path)

    def fingerprint(self) -> dict[str, Any]:
        files = [path for pair in self._pairs for path in (pair.image_path, pair.pts_path)]
        return {"files": files_digest(files, self._root)}


class PtsFolder(PairedFaces):
    """Your own faces: any tree of images with ``.pts`` files of the same stem beside them.

    Sub-folders ``train`` and ``test`` (in any case), where there are such, are the splits, and nothing else
    is read. In any other tree each face belongs to a split by the hash of its relative path, so that adding a
    face never moves another. The box is that of the landmarks; every landmark counts as visible.

    :param split: ``"train"`` or ``"test"``
    :param root: the folder; None: see :func:`face_align_env.datasets.base.find_root`
    :param landmarks: 19, 29 or 68; None: as many as the files hold. 19 of 68 points are derived
    :param test_fraction: part of the faces, 0 to 1, that is the test split; with sub-folders ``train`` and
        ``test`` it has no effect
    :raises DatasetNotFoundError: when there is no such folder, or no face in the split
    :raises BadFaceError: when a ``.pts`` file has no image, or the first one cannot be used
    :raises ValueError: unknown split, landmarks that the files do not offer, or a fraction out of range
    """

    name = "pts"
    description = "a folder of your own images with .pts files"
    licence = "yours"
    how_to_get = "Put images (.jpg, .png, .bmp) into a folder, each with a .pts file of the same stem."
    splits = ("train", "test")
    schemes = (68, 29, 19)

    def __init__(
        self,
        split: str = "train",
        root: str | os.PathLike[str] | None = None,
        landmarks: int | None = None,
        test_fraction: float = 0.2,
    ) -> None:
        FaceDataset.__init__(self, split, landmarks)  # refuse a bad argument before the disk is searched
        if not 0.0 <= test_fraction <= 1.0:
            raise ValueError(f"test_fraction is a fraction from 0 to 1, got {test_fraction}.")
        folder = find_root(type(self), root)
        split_folders = {name: find_folder(folder, name) for name in self.splits}
        if any(split_folders.values()):
            chosen = split_folders[split]
            if chosen is None:
                raise DatasetNotFoundError(
                    f"'{folder}' has no sub-folder '{split}' beside its other split. Add it, or pass as root "
                    "a folder without train and test, which test_fraction divides."
                )
            pairs = _find_tree(chosen, f"{chosen.name}/")
        else:
            is_test = split == "test"
            pairs = [pair for pair in _find_tree(folder) if (uniform_hash(pair.id) < test_fraction) == is_test]
        if not pairs:
            raise DatasetNotFoundError(
                f"Split '{split}' of '{folder}' has no faces (test_fraction={test_fraction}). {self.how_to_get}"
            )
        points_in_file = len(read_pts(pairs[0].pts_path))
        if points_in_file not in SCHEMES:
            raise BadFaceError(
                f"'{pairs[0].pts_path}' has {points_in_file} points; there are schemes of {sorted(SCHEMES)}. "
                "Annotate with one of these."
            )
        if landmarks not in (None, points_in_file) and (landmarks, points_in_file) != (19, 68):
            raise ValueError(
                f"landmarks={landmarks} cannot be had from '{folder}': its files hold {points_in_file} "
                "points (only 19 of 68 are derived)."
            )
        super().__init__(split, landmarks or points_in_file, pairs, folder, points_in_file)


def _find_tree(folder: Path, prefix: str = "") -> list[PtsPair]:
    """All pairs in a folder and the folders within it, sorted by id."""
    pairs: list[PtsPair] = []
    for path, folders, _ in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inner = Path(path).relative_to(folder).as_posix()
        pairs += find_pairs(Path(path), prefix if inner == "." else f"{prefix}{inner}/")
    return sorted(pairs, key=lambda pair: pair.id)
