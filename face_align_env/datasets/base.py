"""What every dataset gives: a :class:`Face`, and the sequence of faces of one split."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from face_align_env.landmarks import LandmarkScheme, get_scheme


class DatasetNotFoundError(FileNotFoundError):
    """The data is not where it was looked for; the message says where to get it."""


class BadFaceError(ValueError):
    """An image or annotation that cannot be used; the message names the file and the cure."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """What is known of a face without opening its image.

    :param landmarks: (K, 2) float32, pixels of the photo, (x, y), pixel centres at integers
    :param box: (4,) float32, the face's box x0, y0, x1, y1 in pixels of the photo
    :param visible: (K,) bool; False where a landmark is occluded or not annotated
    :param id: name of the face, unique within its dataset
    :param counted: (K,) bool; False where a landmark must not count in a loss or an error (not annotated).
        None: all count, which is the published protocol wherever every point is annotated
    :raises BadFaceError: when shapes disagree, a coordinate is not finite, or the box is empty
    """

    landmarks: npt.NDArray[np.float32]
    box: npt.NDArray[np.float32]
    visible: npt.NDArray[np.bool_]
    id: str
    counted: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        k = self.landmarks.shape[0]
        if self.landmarks.shape != (k, 2) or self.visible.shape != (k,) or self.box.shape != (4,):
            raise BadFaceError(
                f"{self.id}: expected landmarks (K, 2), visible (K,) and box (4,), got "
                f"{self.landmarks.shape}, {self.visible.shape} and {self.box.shape}."
            )
        if not (np.isfinite(self.landmarks).all() and np.isfinite(self.box).all()):
            raise BadFaceError(f"{self.id}: a landmark or the box is not a finite number; mend its annotation.")
        if self.box[2] <= self.box[0] or self.box[3] <= self.box[1]:
            raise BadFaceError(f"{self.id}: the box {self.box.tolist()} is empty; expected x0 < x1 and y0 < y1.")


@dataclass(frozen=True, eq=False)
class Face(Annotation):
    """One annotated face: :class:`Annotation` with its image.

    :param image: (H, W, 3) uint8, RGB; may be a region of the photo, landmarks and box are in its pixels
    """

    image: npt.NDArray[np.uint8] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image is None or self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.size == 0:
            raise BadFaceError(f"{self.id}: expected a non-empty (H, W, 3) image.")
        if self.image.dtype != np.uint8:
            raise BadFaceError(f"{self.id}: expected a uint8 image, got {self.image.dtype}.")


class FaceDataset(ABC, Sequence[Face]):
    """The faces of one split of one dataset, in a fixed order.

    A subclass sets the class attributes, fills ``__init__(split, root, landmarks, **options)``, and gives
    :meth:`annotation` (cheap: no image is opened) and :meth:`image`.

    :cvar name: the registry's name
    :cvar description: one line
    :cvar licence: terms of use, one line
    :cvar how_to_get: what to do when the data is nowhere to be found
    :cvar splits: the names of the splits, the training split first
    :cvar test_split: the split that an evaluation takes when none is named
    :cvar schemes: the numbers of landmarks that it can give, the default first
    :cvar alpha_2: Table 2's value for this dataset
    :cvar normalizer: default normaliser of Eq. 2 (see :func:`face_align_env.metrics.normalizing_distance`)
    """

    name: ClassVar[str]
    description: ClassVar[str]
    licence: ClassVar[str]
    how_to_get: ClassVar[str] = ""
    splits: ClassVar[tuple[str, ...]]
    test_split: ClassVar[str] = "test"
    schemes: ClassVar[tuple[int, ...]] = (68,)
    alpha_2: ClassVar[float] = 3.0
    normalizer: ClassVar[str] = "inter_ocular"

    def __init__(self, split: str, landmarks: int | None = None) -> None:
        if split not in self.splits:
            raise ValueError(f"Dataset '{self.name}' has no split '{split}'; it has {', '.join(self.splits)}.")
        if landmarks is not None and landmarks not in self.schemes:
            raise ValueError(
                f"Dataset '{self.name}' has no annotation with {landmarks} landmarks; it has "
                f"{', '.join(map(str, self.schemes))}."
            )
        self.split = split
        self.scheme: LandmarkScheme = get_scheme(landmarks or self.schemes[0])

    @property
    def is_train(self) -> bool:
        """Whether this is the split to learn from (played shuffled, with oracle termination)."""
        return self.split == self.splits[0]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def annotation(self, index: int) -> Annotation:
        """The annotation of face ``index``, without opening its image."""

    @abstractmethod
    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """The image of face ``index``: (H, W, 3) uint8, RGB."""

    def __getitem__(self, index: int) -> Face:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(f"Face {index} of '{self.name}' ({self.split}): there are {len(self)}.")
        index %= len(self)
        a = self.annotation(index)
        return Face(a.landmarks, a.box, a.visible, a.id, a.counted, image=self.image(index))


def find_root(dataset: type[FaceDataset], root: str | os.PathLike[str] | None) -> Path:
    """The folder of a dataset: ``root``, else ``$FACE_ALIGN_DATA/<name>``, else ``~/.cache/face-align/<name>``.

    :raises DatasetNotFoundError: when there is no such folder; the message says how to get the data
    """
    if root is not None:
        candidates = [Path(root)]
    else:
        data = os.environ.get("FACE_ALIGN_DATA")
        candidates = [Path(data) / dataset.name] if data else []
        candidates.append(Path.home() / ".cache" / "face-align" / dataset.name)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    looked = " or ".join(f"'{path}'" for path in candidates)
    raise DatasetNotFoundError(
        f"Dataset '{dataset.name}' was looked for in {looked}, and there is no such folder. {dataset.how_to_get}\n"
        f"Then pass root=..., or put the folder at $FACE_ALIGN_DATA/{dataset.name}. "
        "Without any data, dataset='synthetic' works."
    )


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Read an image file as (H, W, 3) uint8 RGB; the path may hold any characters.

    :raises BadFaceError: when the file is missing, empty or not an image
    """
    import cv2

    try:
        # Not cv2.imread: it cannot open every path on every platform, and hides why it failed.
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise BadFaceError(f"Cannot read the image '{path}': {error.strerror}. Restore it from the dataset.") from error
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise BadFaceError(f"'{path}' is empty, truncated or not an image ({data.size} bytes); get it again.")
    return np.ascontiguousarray(image[:, :, ::-1])


def landmarks_box(landmarks: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(4,) x0, y0, x1, y1: the smallest box around (K, 2) landmarks."""
    return np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)]).astype(np.float32)
