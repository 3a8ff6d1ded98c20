"""AFLW: 19 landmarks of which not all are annotated, photographs from Flickr."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from face_align_env.datasets.base import (
    Annotation,
    BadFaceError,
    DatasetNotFoundError,
    FaceDataset,
    files_digest,
    find_root,
    read_image,
    read_image_size,
)
from face_align_env.datasets.matlab import find_file, read_mat
from face_align_env.datasets.pts import find_folder

_MAT = "AFLWinfo_release.mat"
_POINTS = 19
# variable -> number of columns, and what they are
_MATRICES = {
    "data": (2 * _POINTS, "19 x and 19 y"),
    "mask_new": (_POINTS, "a flag for each landmark"),
    "bbox": (4, "x_min, x_max, y_min and y_max"),
}
# The official tree, and root in it at any height; the images themselves are in 0, 2 and 3.
_IMAGE_FOLDERS = ("aflw/data/flickr", "data/flickr", "flickr")
_CURE = "Get the file again."


class AFLW(FaceDataset):
    """Annotated Facial Landmarks in the Wild, in the 19-point protocol: ``AFLWinfo_release.mat`` and the images.

    The file's permutation ``ra`` names the 20,000 faces of train and the 4,386 of full; frontal is those of full of
    which ``mask_new`` calls all 19 points visible (1,314). One photo may show several of the faces.

    A landmark is annotated where its coordinates are finite, not (0, 0), and within the image, and visible where
    ``mask_new`` says so too. Every annotated landmark counts, hidden or not; with ``count="visible"`` only those that
    are visible do. A coordinate that is not a finite number reads as 0. Coordinates are taken as pixels counted from 0,
    as they are in the file.

    A face that has no landmark that counts, or whose image is not on the disk, is left out.

    :param split: ``"train"``, ``"full"`` or ``"frontal"``
    :param root: the folder that holds ``AFLWinfo_release.mat``, in itself or in a folder within it, and the images in
        ``aflw/data/flickr``, ``data/flickr``, ``flickr``, or its own ``0``, ``2`` and ``3``; names in either case.
        None: see :func:`face_align_env.datasets.base.find_root`
    :param landmarks: 19
    :param count: ``"annotated"`` or ``"visible"``, the landmarks that count in a loss and an error
    :raises DatasetNotFoundError: when the file, the folder of images, or every image of the split is missing
    :raises BadFaceError: when the file is no such file or cut short, ``ra`` is no permutation, or a face's box is empty
    :raises ValueError: unknown split, number of landmarks, or ``count``
    :warns UserWarning: when faces were left out, or the number of faces is not the protocol's, so that figures do not
        compare
    """

    name = "aflw"
    description = "Annotated Facial Landmarks in the Wild: up to 19 landmarks, photographs, all poses"
    licence = "research use only, on request (TU Graz)"
    how_to_get = (
        "For research use only, by hand: (1) ask TU Graz for the images (tugraz.at, institute ICG, download of AFLW) "
        "and unpack aflw-images-0, -2 and -3, so that root holds aflw/data/flickr/0, 2 and 3. (2) Put "
        f"{_MAT}, the 19-point annotation of 'Unconstrained face alignment via cascaded compositional "
        "learning' (CVPR 2016; mmlab.ie.cuhk.edu.hk/projects/compositional.html), into root."
    )
    splits = ("train", "full", "frontal")
    test_split = "full"
    schemes = (_POINTS,)
    alpha_2 = 1.5
    normalizer = "face_size"
    protocol = {"train": 20_000, "full": 4_386, "frontal": 1_314}  # noqa: RUF012

    _NUM_TRAIN: ClassVar[int] = 20_000

    def __init__(
        self,
        split: str = "train",
        root: str | os.PathLike[str] | None = None,
        landmarks: int | None = None,
        count: str = "annotated",
    ) -> None:
        super().__init__(split, landmarks)  # refuse a bad argument before the disk is searched
        if count not in ("annotated", "visible"):
            raise ValueError(f"count is 'annotated' or 'visible', got '{count}'.")
        self._count = count
        self._root = find_root(type(self), root)
        path = find_file(self._root, [_MAT.lower()])
        if path is None:
            raise DatasetNotFoundError(
                f"'{self._root}' and the folders within it do not hold {_MAT}. {self.how_to_get}"
            )
        folder = _find_image_folder(self._root)
        if folder is None:
            raise DatasetNotFoundError(
                f"'{self._root}' holds none of {', '.join(_IMAGE_FOLDERS)}, and no folder 0, 2 or 3 with images. "
                f"{self.how_to_get}"
            )
        self._path, self._folder = path, folder

        found = read_mat(path, {"nameList": "strings", **dict.fromkeys((*_MATRICES, "ra"), "matrix")})
        names = [name.strip().replace("\\", "/") for name in found["nameList"]]
        points, mask, bounds = (_checked(path, found, name, len(names)) for name in _MATRICES)
        with np.errstate(over="ignore"):  # what counts is finite in float32, in which it is given out
            shapes = np.stack(np.split(points, 2, axis=1), axis=-1).astype(np.float32)
            boxes = bounds[:, [0, 2, 1, 3]].astype(np.float32)
        annotated = _find_annotated(shapes)
        flagged = np.isfinite(mask) & (mask != 0)
        visible = annotated & flagged
        counted = visible if count == "visible" else annotated

        order = _order(path, found["ra"].ravel(), len(names))
        rows = order[: self._NUM_TRAIN] if split == "train" else order[self._NUM_TRAIN :]
        if split == "frontal":
            rows = rows[np.all(flagged, axis=1)[rows]]
        if not len(rows):
            raise BadFaceError(
                f"'{path}' holds {len(names):,} faces, and none of split '{split}'; the protocol has 24,386. {_CURE}"
            )

        files = _find_images(folder, [names[row] for row in rows])
        empty = ~np.any(counted, axis=1)
        missing_images = sorted({names[row] for row in rows if names[row] not in files})
        without_points = [_face_id(names[row], row) for row in rows if empty[row]]
        # Within the root: this goes into the cards of weights, which name nobody's disk.
        within = folder.relative_to(self._root).as_posix()
        self._left_out = [
            *_summary(missing_images, "image is", "images are", f"not in '{within}'"),
            *_summary(without_points, "face has", "faces have", "no landmark that counts"),
        ]
        if not files:
            raise DatasetNotFoundError(
                f"Split '{split}' of '{self.name}' in '{self._root}' has no images: {self._left_out[0]}. "
                f"{self.how_to_get}"
            )
        rows = np.array([row for row in rows if names[row] in files and not empty[row]], dtype=np.int64)
        if not len(rows):
            raise DatasetNotFoundError(
                f"Split '{split}' of '{self.name}' has no faces: {'; '.join(self._left_out)}. {self.how_to_get}"
            )
        _check_boxes(path, boxes, rows)
        self._ids = [_face_id(names[row], row) for row in rows]
        self._files = [files[names[row]] for row in rows]
        self._landmarks = np.nan_to_num(shapes[rows], nan=0.0, posinf=0.0, neginf=0.0)
        self._boxes = boxes[rows]
        self._counted, self._visible = counted[rows], visible[rows]
        self.warn_if_incomplete()

    def __len__(self) -> int:
        return len(self._ids)

    def missing(self) -> list[str]:
        lines = super().missing()
        return [f"{lines[0]} ({'; '.join(self._left_out)})"] if lines and self._left_out else lines + self._left_out

    def annotation(self, index: int) -> Annotation:
        # The image's header alone says whether a point lies outside, which is how some are marked as not annotated.
        landmarks = self._landmarks[index].copy()
        inside = np.all((landmarks >= 0) & (landmarks <= np.array(self.image_size(index)) - 1), axis=-1)
        return Annotation(
            landmarks=landmarks,
            box=self._boxes[index].copy(),
            visible=self._visible[index] & inside,
            id=self._ids[index],
            counted=self._counted[index] & inside,
        )

    def subject(self, index: int) -> str:
        return self._ids[index]  # annotation() opens the image

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        return read_image(self._folder / self._files[index])

    def image_size(self, index: int) -> tuple[int, int]:
        return read_image_size(self._folder / self._files[index])

    def fingerprint(self) -> dict[str, Any]:
        # Several faces of one photo: each file once.
        images = [self._folder / name for name in dict.fromkeys(self._files)]
        return {"files": files_digest([self._path, *images], self._root), "count": self._count}


def _face_id(name: str, row: int) -> str:
    """The image's path without suffix, and the row of the face, from 1 as in MATLAB."""
    return f"{os.path.splitext(name)[0]}#{row + 1}"


def _summary(names: Sequence[str], one: str, several: str, what: str) -> list[str]:
    """``2 images are not in 'x': 0/a.jpg, 0/b.jpg``; with the first three of the names, and nothing of no names."""
    if not names:
        return []
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return [f"{len(names):,} {one if len(names) == 1 else several} {what}: {shown}"]


def _find_image_folder(root: Path) -> Path | None:
    """The folder that holds 0, 2 and 3."""
    for name in _IMAGE_FOLDERS:
        if folder := find_folder(root, name):
            return folder
    return root if any(find_folder(root, name) for name in "023") else None


def _find_images(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The files that are on the disk: name in the annotation -> path within the folder.

    The suffix may be written in either case on either side. Each folder is listed once: thousands of files, one by
    one, are slow to look for on a network's disk.
    """
    found: dict[str, str] = {}
    listings: dict[str, dict[str, str]] = {}
    for name in dict.fromkeys(names):
        parent, _, base = name.rpartition("/")
        if parent not in listings:
            listings[parent] = _list_folder(folder, parent)
        listing = listings[parent]
        file = listing.get(base) or listing.get(_lower_suffix(base))
        if file:
            found[name] = file
    return found


def _list_folder(folder: Path, name: str) -> dict[str, str]:
    """File name, as it is and with its suffix in lower case -> path within ``folder``."""
    inner = find_folder(folder, name) if name else folder
    if inner is None:
        return {}
    prefix = inner.relative_to(folder)
    with os.scandir(inner) as entries:
        files = sorted(entry.name for entry in entries)
    paths = {file: str(prefix / file) for file in files}
    for file in files:
        paths.setdefault(_lower_suffix(file), paths[file])
    return paths


def _lower_suffix(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem + suffix.lower()


def _checked(path: Path, found: dict[str, Any], name: str, rows: int) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = found[name]
    columns, meaning = _MATRICES[name]
    if values.shape != (rows, columns):
        raise BadFaceError(
            f"'{path}': '{name}' is {values.shape[0]} x {values.shape[1]}, expected {rows} x {columns}: a row "
            f"for each of the {rows} names in 'nameList', {meaning}. {_CURE}"
        )
    return values


def _order(path: Path, values: npt.NDArray[np.float64], rows: int) -> npt.NDArray[np.int64]:
    """(N,) the rows in the order of the protocol, from 0 (the file counts from 1)."""
    if not np.array_equal(np.sort(values), np.arange(1, rows + 1)):
        raise BadFaceError(
            f"'{path}': 'ra' is no permutation of 1 to {rows} ({len(values)} numbers): it cannot tell the "
            f"splits. {_CURE}"
        )
    return values.astype(np.int64) - 1


def _find_annotated(shapes: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """(N, K) which of (N, K, 2) landmarks are annotated, as far as can be told without the images."""
    annotated: npt.NDArray[np.bool_] = (
        np.isfinite(shapes).all(axis=-1) & (shapes >= 0).all(axis=-1) & (shapes != 0).any(axis=-1)
    )
    return annotated


def _check_boxes(path: Path, boxes: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> None:
    sound = np.all(np.isfinite(boxes), axis=1) & np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
    wrong = np.sort(rows[~sound[rows]]) + 1
    if len(wrong):
        problems = [f"'{path}': row {row} (from 1) of 'bbox' is an empty box or no numbers. {_CURE}" for row in wrong]
        more = f" ({len(wrong) - 1} more rows of the kind)" if len(wrong) > 1 else ""
        raise BadFaceError(problems[0] + more, problems)
