"""300W: 68 landmarks, the official tree of AFW, HELEN, LFPW, IBUG and 300W's own test set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.datasets.base import (
    Archive,
    BadFaceError,
    DatasetNotFoundError,
    FaceDataset,
    files_digest,
    find_root,
)
from face_align_env.datasets.matlab import read_mat
from face_align_env.datasets.pts import PairedFaces, PtsPair, find_folder, find_pairs

# folder -> number of images that the protocol has there
_FOLDERS = {
    "afw": 337,
    "helen/trainset": 2000,
    "helen/testset": 330,
    "lfpw/trainset": 811,
    "lfpw/testset": 224,
    "ibug": 135,
    "300W/01_Indoor": 300,
    "300W/02_Outdoor": 300,
}
_SPLITS = {
    "train": ("afw", "helen/trainset", "lfpw/trainset"),
    "common": ("helen/testset", "lfpw/testset"),
    "challenging": ("ibug",),
    "full": ("helen/testset", "lfpw/testset", "ibug"),
    "private": ("300W/01_Indoor", "300W/02_Outdoor"),
}

_ARCHIVE = "ibug_300W_large_face_landmark_dataset"
_URL = f"https://dlib.net/files/data/{_ARCHIVE}.tar.gz"

_BOX_FOLDERS = ("Bounding Boxes", "Bounding_Boxes")


class W300(PairedFaces):
    """300 Faces in the Wild, as published: folders in either case, images in .jpg or .png.

    Train is AFW and the training sets of HELEN and LFPW (3,148 images), common the test sets of both (554),
    challenging IBUG (135), full common and challenging (689), private the indoor and outdoor images of the 300W
    competition (600). Every landmark is annotated and counts.

    :param split: ``"train"``, ``"common"``, ``"challenging"``, ``"full"`` or ``"private"``
    :param root: the folder that holds afw, helen, lfpw and ibug, and for private 300W/01_Indoor and 300W/02_Outdoor;
        or the folder that holds that of dlib's archive. None: see :func:`face_align_env.datasets.base.find_root`
    :param landmarks: 68 (default), or the 19 derived from them
    :param boxes: ``"landmarks"``: the box around the 68 points; ``"detector"``: the detector's box from
        ``Bounding Boxes/*.mat``, and the landmarks' box for an image that has none there
    :raises DatasetNotFoundError: when a folder of the split, or a file of boxes asked for, is missing
    :raises BadFaceError: when a ``.pts`` file has no image, or a file of boxes cannot be read
    :raises ValueError: unknown split, number of landmarks, or boxes
    :warns UserWarning: when the number of images is not the protocol's, so that figures do not compare
    """

    name = "300w"
    description = "300 Faces in the Wild: 68 landmarks, photographs"
    licence = "research use only (each image: the terms of AFW, HELEN, LFPW, IBUG)"
    how_to_get = (
        "For research use only: 'face-align data download 300w' fetches train, common and challenging (from "
        f"{_URL}), unless you have them: root is the folder that holds afw, helen, ibug and lfpw. The private split is "
        "given out at ibug.doc.ic.ac.uk/resources/300-W in four parts: join them (cat 300w.zip.00* > 300w.zip), and "
        "unpack that there too."
    )
    splits = tuple(_SPLITS)
    test_split = "full"
    schemes = (68, 19)
    alpha_2 = 3.0
    protocol = {split: sum(_FOLDERS[folder] for folder in folders) for split, folders in _SPLITS.items()}  # noqa: RUF012
    archive = Archive(_URL)

    def __init__(
        self,
        split: str = "train",
        root: str | os.PathLike[str] | None = None,
        landmarks: int | None = None,
        boxes: str = "landmarks",
    ) -> None:
        FaceDataset.__init__(self, split, landmarks)  # refuse a bad argument before the disk is searched
        if boxes not in ("landmarks", "detector"):
            raise ValueError(f"boxes is 'landmarks' or 'detector', got '{boxes}'.")
        root = find_root(type(self), root)
        names = _SPLITS[split]
        folders = {name: _find(root, name) for name in names}
        absent = [name for name, folder in folders.items() if folder is None]
        if absent:
            raise DatasetNotFoundError(
                f"'{root}' lacks {', '.join(absent)} of 300W's split '{split}'. {self.how_to_get}"
            )
        self._found = {name: _find_faces(folder, name) for name, folder in folders.items() if folder}
        super().__init__(split, landmarks or 68, [pair for pairs in self._found.values() for pair in pairs], root, 68)
        self.warn_if_incomplete()
        self._box_files = _box_files(root, names) if boxes == "detector" else []
        self._detected = _read_boxes(self._box_files, names)

    def missing(self) -> list[str]:
        lines = super().missing()
        counts = [(name, len(pairs), _FOLDERS[name]) for name, pairs in self._found.items()]
        wrong = [f"{name} {found:,} of {expected:,}" for name, found, expected in counts if found != expected]
        return [f"{lines[0]} ({', '.join(wrong)})"] if wrong and lines else wrong

    def fingerprint(self) -> dict[str, Any]:
        return {**super().fingerprint(), "boxes": files_digest(self._box_files, self._root)}

    def _box(self, pair: PtsPair, landmarks: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        box = self._detected.get(pair.id)
        return super()._box(pair, landmarks) if box is None else box.copy()


def _find(root: Path, name: str) -> Path | None:
    """A folder of 300W: in dlib's archive where that is unpacked inside the root, or in the root itself."""
    archive = find_folder(root, _ARCHIVE)
    # The competition's images also come without the folder that holds them.
    names = (name, name.removeprefix("300W/"))
    found = (find_folder(place, name) for place in (archive, root) if place is not None for name in names)
    return next(filter(None, found), None)


def _find_faces(folder: Path, name: str) -> list[PtsPair]:
    """The pairs of a folder, without the mirrored copies (``x_mirror`` beside ``x``) of dlib's archive."""
    pairs = find_pairs(folder, f"{name}/")
    ids = {pair.id for pair in pairs}
    return [pair for pair in pairs if not (pair.id.endswith("_mirror") and pair.id[: -len("_mirror")] in ids)]


def _box_files(root: Path, folders: tuple[str, ...]) -> list[Path]:
    """The file of boxes of each folder."""
    box_folder = next(filter(None, (_find(root, name) for name in _BOX_FOLDERS)), None)
    if box_folder is None:
        raise DatasetNotFoundError(
            f"boxes='detector' needs the folder '{_BOX_FOLDERS[0]}' (or '{_BOX_FOLDERS[1]}') with "
            f"bounding_boxes_*.mat in '{root}'. Get it from ibug.doc.ic.ac.uk/resources/300-W, or take "
            "boxes='landmarks'."
        )
    paths = [box_folder / f"bounding_boxes_{folder.replace('/', '_')}.mat" for folder in folders]
    for path in paths:
        if not path.is_file():
            raise DatasetNotFoundError(f"boxes='detector' needs '{path}'. Restore it, or take boxes='landmarks'.")
    return paths


def _read_boxes(paths: list[Path], folders: tuple[str, ...]) -> dict[str, npt.NDArray[np.float32]]:
    """The detector's box of each id: (4,) float32, x0, y0, x1, y1, from 0 (the files count from 1)."""
    boxes = {}
    for path, folder in zip(paths, folders, strict=False):  # no paths: nothing to read
        try:
            cells = read_mat(path, {"bounding_boxes": "records"})["bounding_boxes"]
        except BadFaceError as error:
            raise BadFaceError(f"{error} Or take boxes='landmarks'.") from error
        for row, cell in enumerate(cells, 1):
            name, box = cell.get("imgName"), np.ravel(cell.get("bb_detector"))
            sound = isinstance(name, str) and box.dtype.kind in "fiu" and box.shape == (4,) and np.isfinite(box).all()
            if not sound:
                raise BadFaceError(
                    f"'{path}' is not a file of 300W boxes: its cell {row} (from 1) has no name of an image, or no "
                    "four numbers as detector's box. Restore it, or take boxes='landmarks'."
                )
            # By stem: the same image is .png in one copy of the dataset and .jpg in another.
            boxes[f"{folder}/{os.path.splitext(name)[0]}"] = (box.astype(np.float64) - 1).astype(np.float32)
    return boxes
