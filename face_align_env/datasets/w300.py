"""300W: 68 landmarks, the official tree of AFW, HELEN, LFPW and IBUG."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from face_align_env.datasets.base import BadFaceError, DatasetNotFoundError, FaceDataset, find_root
from face_align_env.datasets.pts import PairedFaces, PtsPair, find_folder, find_pairs

# split -> its folders, and the number of images that the protocol has there
_SPLITS: dict[str, tuple[tuple[str, ...], int]] = {
    "train": (("afw", "helen/trainset", "lfpw/trainset"), 3148),
    "common": (("helen/testset", "lfpw/testset"), 554),
    "challenging": (("ibug",), 135),
    "full": (("helen/testset", "lfpw/testset", "ibug"), 689),
}

_ARCHIVE = "ibug_300W_large_face_landmark_dataset"

_BOX_FOLDERS = ("Bounding Boxes", "Bounding_Boxes")


class W300(PairedFaces):
    """300 Faces in the Wild, as published: folders in either case, images in .jpg or .png.

    Train is AFW and the training sets of HELEN and LFPW (3,148 images), common the test sets of both (554),
    challenging IBUG (135), full common and challenging (689). Every landmark is annotated and counts.

    :param split: ``"train"``, ``"common"``, ``"challenging"`` or ``"full"``
    :param root: the folder that holds afw, helen, lfpw and ibug; None: see
        :func:`face_align_env.datasets.base.find_root`
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
        f"For research use only, https://dlib.net/files/data/{_ARCHIVE}.tar.gz has train, common and "
        f"challenging: unpack it, and take its folder {_ARCHIVE} (it holds afw, helen, ibug and lfpw)."
    )
    splits = tuple(_SPLITS)
    test_split = "full"
    schemes = (68, 19)
    alpha_2 = 3.0

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
        root = find_folder(root, _ARCHIVE) or root  # the archive unpacked inside the folder
        names, expected = _SPLITS[split]
        folders = {name: find_folder(root, name) for name in names}
        missing = [name for name, folder in folders.items() if folder is None]
        if missing:
            raise DatasetNotFoundError(
                f"'{root}' lacks {', '.join(missing)} of 300W's split '{split}'. {self.how_to_get}"
            )
        pairs = [pair for name, folder in folders.items() if folder for pair in _find_faces(folder, name)]
        super().__init__(split, landmarks or 68, pairs, points_in_file=68)
        if len(pairs) != expected:
            warnings.warn(
                f"300w {split}: {len(pairs)} of the protocol's {expected} images; "
                "compare figures with published ones accordingly.",
                stacklevel=2,
            )
        self._detected = _read_boxes(root, names) if boxes == "detector" else {}

    def _box(self, pair: PtsPair, landmarks: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        box = self._detected.get(pair.id)
        return super()._box(pair, landmarks) if box is None else box.copy()


def _find_faces(folder: Path, name: str) -> list[PtsPair]:
    """The pairs of a folder, without the mirrored copies (``x_mirror`` beside ``x``) of dlib's archive."""
    pairs = find_pairs(folder, f"{name}/")
    ids = {pair.id for pair in pairs}
    return [pair for pair in pairs if not (pair.id.endswith("_mirror") and pair.id[: -len("_mirror")] in ids)]


def _read_boxes(root: Path, folders: tuple[str, ...]) -> dict[str, npt.NDArray[np.float32]]:
    """The detector's box of each id: (4,) float32, x0, y0, x1, y1, from 0 (the files count from 1)."""
    import scipy.io

    box_folder = next(filter(None, (find_folder(root, name) for name in _BOX_FOLDERS)), None)
    if box_folder is None:
        raise DatasetNotFoundError(
            f"boxes='detector' needs the folder '{_BOX_FOLDERS[0]}' (or '{_BOX_FOLDERS[1]}') with "
            f"bounding_boxes_*.mat in '{root}'. Get it from ibug.doc.ic.ac.uk/resources/300-W, or take "
            "boxes='landmarks'."
        )
    boxes = {}
    for folder in folders:
        path = box_folder / f"bounding_boxes_{folder.replace('/', '_')}.mat"
        if not path.is_file():
            raise DatasetNotFoundError(f"boxes='detector' needs '{path}'. Restore it, or take boxes='landmarks'.")
        try:
            cells = scipy.io.loadmat(path, variable_names=["bounding_boxes"])["bounding_boxes"]
            for cell in cells.ravel():
                entry = cell[0, 0]
                # By stem: the same image is .png in one copy of the dataset and .jpg in another.
                stem = os.path.splitext(str(entry["imgName"].item()))[0]
                boxes[f"{folder}/{stem}"] = entry["bb_detector"].astype(np.float64).reshape(4) - 1.0
        except Exception as error:  # loadmat raises whatever its parser meets
            raise BadFaceError(
                f"'{path}' is not a file of 300W boxes ({type(error).__name__}: {error}). Restore it, or "
                "take boxes='landmarks'."
            ) from error
    return {name: box.astype(np.float32) for name, box in boxes.items()}
