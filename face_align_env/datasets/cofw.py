"""COFW: 29 landmarks with occlusion, two MATLAB files that hold images and annotation."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.datasets.base import (
    Annotation,
    Archive,
    BadFaceError,
    DatasetNotFoundError,
    FaceDataset,
    files_digest,
    find_root,
)
from face_align_env.datasets.matlab import CellImages, find_file, read_mat

# split -> its variables: images, points, boxes
_VARIABLES = {"train": ("IsTr", "phisTr", "bboxesTr"), "test": ("IsT", "phisT", "bboxesT")}
_POINTS = 29

_URL = "https://data.caltech.edu/records/bc0bf-nc666/files/COFW_color.zip?download=1"
_CURE = "Get the file again."


class COFW(FaceDataset):
    """Caltech Occluded Faces in the Wild, as published: ``COFW_train_color.mat`` and ``COFW_test_color.mat``.

    Train is 845 faces of LFPW and 500 of COFW, test 507 of COFW. The files are MATLAB's version 7.3, in some copies
    version 5; an image is read when it is needed. Files without ``_color`` in their name hold grey images, and are
    taken where there is none in colour.

    ``visible`` says which landmarks are occluded. They are annotated all the same, and count in a loss and an error,
    as in the published protocol: ``counted`` is None.

    :param split: ``"train"`` or ``"test"``
    :param root: the folder that holds the file of the split, in itself or in a folder within it, names in either
        case. None: see :func:`face_align_env.datasets.base.find_root`
    :param landmarks: 29
    :raises DatasetNotFoundError: when there is no file of the split
    :raises BadFaceError: when it is no such file, is cut short, or a face's annotation cannot be used
    :raises ValueError: unknown split or number of landmarks
    :warns UserWarning: when the number of faces is not the protocol's, so that figures do not compare
    """

    name = "cofw"
    description = "Caltech Occluded Faces in the Wild: 29 landmarks with occlusion, photographs"
    licence = "research use only"
    how_to_get = (
        f"For research use only: 'face-align data download cofw' fetches it (from {_URL}), unless you have it: root is "
        "the folder that holds COFW_train_color.mat and COFW_test_color.mat."
    )
    splits = tuple(_VARIABLES)
    schemes = (_POINTS,)
    alpha_2 = 2.0
    protocol = {"train": 1345, "test": 507}  # noqa: RUF012
    archive = Archive(_URL, num_bytes=503_327_162, known_hash="md5:8b21d126c4e1fb307cb463578eef0511")

    def __init__(
        self,
        split: str = "train",
        root: str | os.PathLike[str] | None = None,
        landmarks: int | None = None,
    ) -> None:
        super().__init__(split, landmarks)  # refuse a bad argument before the disk is searched
        self._root = find_root(type(self), root)
        names = [f"COFW_{split}{colour}.mat" for colour in ("_color", "")]
        path = find_file(self._root, [name.lower() for name in names])
        if path is None:
            raise DatasetNotFoundError(
                f"'{self._root}' and the folders within it hold neither {names[0]} nor {names[1]}. {self.how_to_get}"
            )
        self._path = path
        images, points, boxes = _VARIABLES[split]
        found = read_mat(path, {images: "images", points: "matrix", boxes: "matrix"})
        self._images: CellImages = found[images]
        self._landmarks, self._visible = _read_points(path, points, found[points], len(self._images))
        self._boxes = _read_boxes(path, boxes, found[boxes], len(self._images))
        self.warn_if_incomplete()

    def __len__(self) -> int:
        return len(self._images)

    def annotation(self, index: int) -> Annotation:
        # Copies, so that no caller can change what the next one reads.
        return Annotation(
            landmarks=self._landmarks[index].copy(),
            box=self._boxes[index].copy(),
            visible=self._visible[index].copy(),
            id=f"{self.split}/{index + 1:04d}",  # the row, from 1 as in MATLAB
        )

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        return self._images.read(index)

    def image_size(self, index: int) -> tuple[int, int]:
        return self._images.size(index)

    def fingerprint(self) -> dict[str, Any]:
        return {"files": files_digest([self._path], self._root)}


def _read_points(
    path: Path, name: str, values: npt.NDArray[np.float64], count: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Landmarks (N, 29, 2), from 0 (the file counts from 1), and which are not occluded (N, 29)."""
    _check_shape(path, name, values, count, 3 * _POINTS, "29 x, 29 y and 29 occlusion flags")
    _refuse_rows(path, name, ~np.all(np.isfinite(values), axis=1), "holds what is not a finite number")
    x, y, occluded = np.split(values, 3, axis=1)
    return np.stack([x - 1.0, y - 1.0], axis=-1).astype(np.float32), occluded == 0


def _read_boxes(path: Path, name: str, values: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float32]:
    """(N, 4) x0, y0, x1, y1, from 0 (the file holds x, y, width and height, from 1)."""
    _check_shape(path, name, values, count, 4, "x, y, width and height")
    _refuse_rows(path, name, ~np.all(np.isfinite(values), axis=1), "holds what is not a finite number")
    _refuse_rows(path, name, np.any(values[:, 2:] <= 0, axis=1), "is an empty box")
    corner = values[:, :2] - 1.0
    return np.concatenate([corner, corner + values[:, 2:]], axis=1).astype(np.float32)


def _check_shape(
    path: Path, name: str, values: npt.NDArray[np.float64], count: int, columns: int, meaning: str
) -> None:
    if values.shape != (count, columns):
        raise BadFaceError(
            f"'{path}': '{name}' is {values.shape[0]} x {values.shape[1]}, expected {count} x {columns}: a row for "
            f"each of the {count} images, {meaning}. {_CURE}"
        )


def _refuse_rows(path: Path, name: str, wrong: npt.NDArray[np.bool_], what: str) -> None:
    rows = np.flatnonzero(wrong) + 1
    if len(rows):
        problems = [f"'{path}': row {row} (from 1) of '{name}' {what}. {_CURE}" for row in rows]
        more = f" ({len(rows) - 1} more rows of the kind)" if len(rows) > 1 else ""
        raise BadFaceError(problems[0] + more, problems)
