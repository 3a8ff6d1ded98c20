"""YouTube Faces: video frames with 68 landmarks, laid out as in the repository P1_Facial_Keypoints."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
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
    landmarks_box,
    read_image,
    read_image_size,
)
from face_align_env.landmarks import to_19_points

_FOLDERS = {"training": "training_frames_keypoints.csv", "test": "test_frames_keypoints.csv"}
_COMMIT = "99f1b576cb9413750f6cb9f8a049ff35c5c1cc8b"  # of the repository; a branch moves
_COLUMNS = 1 + 2 * 68
_TRAIN_PERCENT = 76
_CHALLENGING_PART = 0.2
# 300W's order: the two ends of the jaw, and the tip of the nose
_RIGHT_JAW, _LEFT_JAW, _NOSE_TIP = 0, 16, 30


class YouTubeFaces(FaceDataset):
    """Frames of YouTube Faces, 68 landmarks annotated automatically, in 300W's order.

    The repository's folders ``training`` and ``test`` share people, so the split is by person: 76 % of the
    people, chosen by the hash of their name, are train, and the frames of the others are test ("full"). For a
    report like 300W's, "challenging" is the fifth of the test frames with the largest :func:`yaw_asymmetry`,
    "common" the rest. There is no annotated box: the box is that of the landmarks. Every landmark counts.

    :param split: ``"train"``, ``"common"``, ``"challenging"`` or ``"full"``
    :param root: the folder that holds ``training``, ``test`` and their ``_frames_keypoints.csv``, directly or
        in ``data``; None: see :func:`face_align_env.datasets.base.find_root`
    :param landmarks: 68 (default), or the 19 derived from them
    :raises DatasetNotFoundError: when a folder or its file of landmarks is missing, or the split has no face
    :raises BadFaceError: when a file of landmarks cannot be used; the message names its line
    :raises ValueError: unknown split or number of landmarks
    """

    name = "ytf"
    description = "YouTube Faces: 68 landmarks, video frames"
    licence = "research use only (YouTube Faces; the annotation: MIT)"
    how_to_get = (
        "For research use only: 'face-align data download ytf', or git clone "
        "https://github.com/udacity/P1_Facial_Keypoints (its data folder has training, test and both .csv files)."
    )
    splits = ("train", "common", "challenging", "full")
    test_split = "full"
    schemes = (68, 19)
    alpha_2 = 3.0
    archive = Archive(f"https://github.com/udacity/P1_Facial_Keypoints/archive/{_COMMIT}.zip")

    def __init__(
        self,
        split: str = "train",
        root: str | os.PathLike[str] | None = None,
        landmarks: int | None = None,
    ) -> None:
        super().__init__(split, landmarks)
        self._root = find_root(type(self), root)
        if (self._root / "data" / "training").is_dir():
            self._root /= "data"
        missing = [name for name in _FOLDERS if not (self._root / name).is_dir()]
        missing += [name for name in _FOLDERS.values() if not (self._root / name).is_file()]
        if missing:
            raise DatasetNotFoundError(f"'{self._root}' lacks {', '.join(missing)}. {self.how_to_get}")
        shapes: dict[str, npt.NDArray[np.float32]] = {}
        for folder, name in _FOLDERS.items():
            for frame, shape in _read_csv(self._root / name).items():
                shapes[f"{folder}/{frame}"] = shape
        frames = sorted(frame for frame in shapes if _is_train(frame) == self.is_train)
        if split in ("common", "challenging") and frames:
            asymmetry = yaw_asymmetry(np.stack([shapes[frame] for frame in frames]))
            # A stable sort: of equally turned faces the earlier name goes first.
            by_yaw = np.argsort(-asymmetry, kind="stable")
            first = round(_CHALLENGING_PART * len(frames))
            chosen = by_yaw[:first] if split == "challenging" else by_yaw[first:]
            frames = [frames[i] for i in sorted(chosen)]
        if not frames:
            raise DatasetNotFoundError(f"'{self._root}' has no frames in split '{split}'. {self.how_to_get}")
        self._frames = frames
        self._landmarks = np.stack([shapes[frame] for frame in frames])

    def __len__(self) -> int:
        return len(self._frames)

    def annotation(self, index: int) -> Annotation:
        landmarks = self._landmarks[index]
        box = landmarks_box(landmarks)
        k = self.scheme.num_landmarks
        # A copy, so that no caller can change what the next one reads.
        landmarks = landmarks.copy() if k == 68 else to_19_points(landmarks)
        name = os.path.splitext(self._frames[index])[0]
        return Annotation(landmarks, box, np.ones(k, dtype=np.bool_), name)

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        return read_image(self._root / self._frames[index])

    def image_size(self, index: int) -> tuple[int, int]:
        return read_image_size(self._root / self._frames[index])

    def subject(self, index: int) -> str:
        return _person(self._frames[index])

    def fingerprint(self) -> dict[str, Any] | None:
        files = [self._root / name for name in (*_FOLDERS.values(), *self._frames)]
        return {"files": files_digest(files, self._root)}


def yaw_asymmetry(landmarks: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """How far faces are turned: |r - l| / (r + l), the nose's tip being r and l away from the jaw's two ends.

    :param landmarks: (N, 68, 2), any unit
    :return: (N,) float64, 0 (from the front) to 1; 0 where both distances are 0
    """
    points = landmarks.astype(np.float64)
    right = np.linalg.norm(points[:, _NOSE_TIP] - points[:, _RIGHT_JAW], axis=-1)
    left = np.linalg.norm(points[:, _NOSE_TIP] - points[:, _LEFT_JAW], axis=-1)
    total = right + left
    asymmetry: npt.NDArray[np.float64] = np.divide(
        np.abs(right - left), total, out=np.zeros_like(total), where=total > 0
    )
    return asymmetry


def _is_train(frame: str) -> bool:
    """Whether the person of a frame, ``training/Some_Name_01.jpg``, belongs to the training split."""
    return int(hashlib.sha1(_person(frame).encode()).hexdigest()[:8], 16) % 100 < _TRAIN_PERCENT


def _person(frame: str) -> str:
    """``Some_Name`` of ``training/Some_Name_01.jpg``."""
    return re.sub(r"_\d+\.[^.]*$", "", frame.rpartition("/")[2])


def _whole_lines(path: Path, file: Iterable[str]) -> Iterator[str]:
    """The lines of a file, whose last one must end, too: else nobody knows what is missing of its last number."""
    line = "\n"
    for line in file:
        yield line
    if not line.endswith("\n"):
        raise BadFaceError(f"'{path}' does not end with the end of a line: it is cut short. Get it again.")


def _read_csv(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """The landmarks of each file name: (68, 2) float32, pixels counted from 0, as in the file.

    :raises BadFaceError: naming the file and the line
    """
    names: dict[str, int] = {}
    rows: list[list[float]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(_whole_lines(path, file))
            if len(next(reader, [])) != _COLUMNS:
                raise BadFaceError(
                    f"'{path}' does not begin with a header of {_COLUMNS} columns: it is no such file. Get it again."
                )
            for row in reader:
                if not row:
                    continue
                place = f"'{path}', line {reader.line_num}"
                if len(row) != _COLUMNS:
                    raise BadFaceError(
                        f"{place}: expected {_COLUMNS} columns (file name, x1, y1, ..., x68, y68), got "
                        f"{len(row)}. Get the file again."
                    )
                if row[0] in names:
                    raise BadFaceError(f"{place}: '{row[0]}' is in line {names[row[0]]} too. Remove one.")
                names[row[0]] = reader.line_num
                try:
                    rows.append([float(value) for value in row[1:]])
                except ValueError as error:
                    raise BadFaceError(f"{place}: {error}. Mend or remove the line.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadFaceError(f"'{path}' is not a CSV file in UTF-8: {error}. Get the file again.") from error
    if not rows:
        raise BadFaceError(f"'{path}' holds no frame. Get it again.")
    with np.errstate(over="ignore"):  # what is too large is infinite then
        shapes = np.asarray(rows, dtype=np.float32).reshape(-1, 68, 2)
    for (name, line), shape in zip(names.items(), shapes, strict=True):
        if not np.isfinite(shape).all():
            raise BadFaceError(
                f"'{path}', line {line}: a landmark of '{name}' is not a finite number. Mend or remove it."
            )
    return dict(zip(names, shapes, strict=True))
