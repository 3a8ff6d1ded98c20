"""What every dataset gives: a :class:`Face`, and the sequence of faces of one split."""

from __future__ import annotations

import hashlib
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import numpy.typing as npt

from face_align_env.landmarks import LandmarkScheme, get_scheme
from face_align_env.metrics import normalizing_distance

# What Pillow may open an image as: without a list it goes by the contents alone, and runs Ghostscript on PostScript.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
FAR = 0.5  # of an image's larger side: a contour may pass its border, by at most 0.18 in 300W
MAX_PIXELS = 1 << 26  # of an image; decoded, that many take 200 MB


class DatasetNotFoundError(FileNotFoundError):
    """The data is not where it was looked for; the message says where to get it."""


class BadFaceError(ValueError):
    """An image or annotation that cannot be used; the message names the file and the cure.

    :param message: for the user
    :param problems: one line for each bad file, where the message sums up several; None: the message alone
    """

    def __init__(self, message: str, problems: Sequence[str] | None = None) -> None:
        super().__init__(message)
        self.problems = tuple(problems or (message,))


@dataclass(frozen=True)
class Archive:
    """A public archive that holds a dataset, for ``face-align data download``.

    :param url: where it is; the last part of the path is its file name (.zip, .tar.gz or .tgz)
    :param num_bytes: its size; None: not known
    :param known_hash: its hash, ``"sha256:..."`` or ``"md5:..."``; None: not known. The SHA-256 that was seen is
        written down beside the data
    """

    url: str
    num_bytes: int | None = None
    known_hash: str | None = None


@dataclass(frozen=True, eq=False)
class Annotation:
    """What is known of a face without opening its image.

    :param landmarks: (K, 2) float32, pixels of the photo, (x, y), pixel centres at integers
    :param box: (4,) float32, the face's box x0, y0, x1, y1 in pixels of the photo
    :param visible: (K,) bool; False where a landmark is occluded or not annotated
    :param id: name of the face, unique within its dataset
    :param counted: (K,) bool; False where a landmark must not count in a loss or an error (not annotated).
        None: all count, which is the published protocol wherever every point is annotated
    :raises BadFaceError: when shapes disagree, a coordinate is not finite, no landmark counts, or the box is empty
    """

    landmarks: npt.NDArray[np.float32]
    box: npt.NDArray[np.float32]
    visible: npt.NDArray[np.bool_]
    id: str
    counted: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        k = self.landmarks.shape[0]
        flags = {self.visible.shape, self.visible.shape if self.counted is None else self.counted.shape}
        if self.landmarks.shape != (k, 2) or flags != {(k,)} or self.box.shape != (4,):
            raise BadFaceError(
                f"{self.id}: expected landmarks (K, 2), visible and counted (K,) and box (4,), got "
                f"{self.landmarks.shape}, {sorted(flags)} and {self.box.shape}."
            )
        if not (np.isfinite(self.landmarks).all() and np.isfinite(self.box).all()):
            raise BadFaceError(f"{self.id}: a landmark or the box is not a finite number; mend its annotation.")
        if self.counted is not None and not self.counted.any():
            raise BadFaceError(f"{self.id}: none of its landmarks counts; leave the face out.")
        if self.box[2] <= self.box[0] or self.box[3] <= self.box[1]:
            raise BadFaceError(f"{self.id}: the box {self.box.tolist()} is empty; expected x0 < x1 and y0 < y1.")

    def check_distance(self, normalizer: str) -> None:
        """Refuse a face whose Eq. 2 has no ``d``.

        :param normalizer: see :func:`face_align_env.metrics.normalizing_distance`
        :raises BadFaceError: its landmarks, or its box, give none
        """
        counted = None if self.counted is None else self.counted[None]
        try:
            d = float(normalizing_distance(self.landmarks[None], normalizer, self.box[None], counted)[0])
        except ValueError:
            d = 0.0
        if not d > 0:
            what = "lack a landmark that it needs" if np.isnan(d) else "coincide"
            raise BadFaceError(
                f"{self.id}: the points of its '{normalizer}' distance {what}, so no error can be normalised by it. "
                "Mend its annotation, leave the face out, or take another normalizer."
            )

    def check_place(self, width: int, height: int) -> None:
        """Refuse a box outside of the image, and landmarks far outside of it.

        :param width, height: of the image, pixels
        :raises BadFaceError: image and annotation do not belong together
        """
        x0, y0, x1, y1 = self.box.tolist()
        if x1 <= 0 or y1 <= 0 or x0 >= width - 1 or y0 >= height - 1:
            self._misplaced(f"box {self.box.tolist()} lies outside", width, height)
        points = self.landmarks if self.counted is None else self.landmarks[self.counted]
        outside = np.maximum(-points, points - [width - 1, height - 1]).max(axis=1)
        if outside.max() > FAR * max(width, height):
            point = points[outside.argmax()].tolist()
            self._misplaced(f"landmark {point} lies far outside", width, height)

    def _misplaced(self, what: str, width: int, height: int) -> NoReturn:
        raise BadFaceError(
            f"{self.id}: the {what} of its image of {width} x {height} pixels. Image and annotation do not belong "
            "together; get both again."
        )


@dataclass(frozen=True, eq=False)
class Face(Annotation):
    """One annotated face: :class:`Annotation` with its image.

    :param image: (H, W, 3) uint8, RGB; may be a region of the photo, landmarks and box are in its pixels
    :raises BadFaceError: as :class:`Annotation` and :meth:`Annotation.check_place`, or it is no such image
    """

    image: npt.NDArray[np.uint8] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image is None or self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.size == 0:
            raise BadFaceError(f"{self.id}: expected a non-empty (H, W, 3) image.")
        if self.image.dtype != np.uint8:
            raise BadFaceError(f"{self.id}: expected a uint8 image, got {self.image.dtype}.")
        self.check_place(self.image.shape[1], self.image.shape[0])


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
    :cvar protocol: number of faces that the published protocol has in each split; empty: there is no protocol
    :cvar generated: whether it is made by this package and needs no files
    :cvar reader_version: part of the key under which prepared faces are kept on disk: raise it with every change of
        the reader that changes an image, a box or a landmark
    :cvar archive: what ``face-align data download`` fetches; None: it has to be fetched by hand
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
    protocol: ClassVar[Mapping[str, int]] = {}
    archive: ClassVar[Archive | None] = None
    reader_version: ClassVar[int] = 1
    generated: ClassVar[bool] = False

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

    def image_size(self, index: int) -> tuple[int, int]:
        """Width and height of the image of face ``index``; a subclass that can tell without decoding it does.

        :raises BadFaceError: the image is missing or none
        """
        height, width = self.image(index).shape[:2]
        return width, height

    @property
    def parts(self) -> tuple[FaceDataset, ...]:
        """The datasets that this one joins; a plain dataset is its own only part."""
        return (self,)

    def subject(self, index: int) -> str:
        """Who is on face ``index``, as far as it is known: :class:`~face_align_env.datasets.held_out.HeldOut` keeps all
        faces of a subject together. A subclass with several images of a person gives the person's name.
        """
        return self.annotation(index).id

    def missing(self) -> list[str]:
        """What the published protocol has in this split and this copy has not (or has too much of), a line each."""
        expected = self.protocol.get(self.split, len(self))
        return [] if len(self) == expected else [f"{len(self):,} of the protocol's {expected:,} faces"]

    def warn_if_incomplete(self) -> None:
        """Say what this copy lacks of the published protocol, if anything; for the end of ``__init__``."""
        missing = self.missing()
        if missing:
            warnings.warn(
                f"{self.name} {self.split}: {'; '.join(missing)}. Compare figures with published ones accordingly.",
                stacklevel=3,
            )

    def fingerprint(self) -> dict[str, Any] | None:
        """Everything outside of this package that decides the images, boxes and landmarks of this split.

        Prepared faces are kept on disk under it (:mod:`face_align_env.store`). It says nothing of the number of
        landmarks and of normalisers, which are told apart there.

        :return: of JSON's types; None: not known, nothing is kept on disk
        """
        return None

    def __getitem__(self, index: int) -> Face:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(f"Face {index} of '{self.name}' ({self.split}): there are {len(self)}.")
        index %= len(self)
        a = self.annotation(index)
        return Face(a.landmarks, a.box, a.visible, a.id, a.counted, image=self.image(index))


def candidate_roots(dataset: type[FaceDataset], root: str | os.PathLike[str] | None = None) -> list[Path]:
    """Where a dataset is looked for: ``root``; or ``$FACE_ALIGN_DATA/<name>``, then ``~/.cache/face-align/<name>``."""
    if root is not None:
        return [Path(root)]
    data = os.environ.get("FACE_ALIGN_DATA")
    return [*([Path(data) / dataset.name] if data else []), Path.home() / ".cache" / "face-align" / dataset.name]


def find_root(dataset: type[FaceDataset], root: str | os.PathLike[str] | None) -> Path:
    """The first of :func:`candidate_roots` that is a folder.

    :raises DatasetNotFoundError: when there is no such folder; the message says how to get the data
    """
    candidates = candidate_roots(dataset, root)
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    looked = " or ".join(f"'{path}'" for path in candidates)
    raise DatasetNotFoundError(
        f"Dataset '{dataset.name}' was looked for in {looked}, and there is no such folder. {dataset.how_to_get}\n"
        f"Then pass root=..., or put the folder at $FACE_ALIGN_DATA/{dataset.name}. "
        "Without any data, dataset='synthetic' works."
    )


@contextmanager
def _open_image(path: Path) -> Iterator[Any]:
    """A Pillow image of an allowed format and size; what is wrong with it is a :class:`BadFaceError` that names it."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise _too_large(path, f"{width} x {height} pixels")
            yield image
    except BadFaceError:
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(path, "far too many pixels") from error
    except FileNotFoundError as error:
        raise BadFaceError(f"The image '{path}' is missing. Restore it from the dataset.") from error
    except UnidentifiedImageError as error:
        raise BadFaceError(
            f"'{path}' is no image ({path.stat().st_size} bytes; {', '.join(IMAGE_FORMATS)} are read). Get it again."
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow's decoders raise all of these for a file that is cut short or damaged.
        raise BadFaceError(f"Cannot read the image '{path}': {error}. Get it again.") from error


def _too_large(path: Path, size: str) -> BadFaceError:
    return BadFaceError(f"'{path}' has {size}; at most {MAX_PIXELS / 1e6:.0f} million are read. Make it smaller.")


def read_image(path: Path, upright: bool = False) -> npt.NDArray[np.uint8]:
    """Read an image file as (H, W, 3) uint8 RGB; the path may hold any characters. Of a GIF, the first frame.

    :param upright: turn the picture as its EXIF orientation says. Photos want that; datasets do not: they were
        annotated on the pixels as they are stored
    :raises BadFaceError: when the file is missing, empty, cut short, not an image of :data:`IMAGE_FORMATS`, or has more
        than :data:`MAX_PIXELS` pixels, which is found out before it is decoded
    """
    from PIL import ImageOps

    with _open_image(path) as image:
        if upright:
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I;16"):  # convert() would cut off what is above 255
            return np.stack([(np.asarray(image) >> 8).astype(np.uint8)] * 3, axis=-1)
        return np.array(image.convert("RGB"))


def read_image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file, from its header.

    :raises BadFaceError: as :func:`read_image`, as far as the header tells
    """
    with _open_image(path) as image:
        size: tuple[int, int] = image.size
        return size


def files_digest(paths: Iterable[Path], root: Path) -> str:
    """A hash that changes when a file is added, removed, renamed, or written to (by size and time of change).

    :param root: names are taken relative to it, so that a dataset may be moved
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            status = path.stat()
            state = f"{status.st_size}\0{status.st_mtime_ns}"
        except FileNotFoundError:
            state = "missing"  # whoever asks for that face learns of it
        digest.update(f"{os.path.relpath(path, root)}\0{state}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def uniform_hash(name: str) -> float:
    """A number in [0, 1) that depends on nothing but the name."""
    return int(hashlib.sha1(name.encode(errors="surrogateescape")).hexdigest()[:8], 16) / 2**32


def landmarks_box(landmarks: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(4,) x0, y0, x1, y1: the smallest box around (K, 2) landmarks."""
    return np.concatenate([landmarks.min(axis=0), landmarks.max(axis=0)]).astype(np.float32)
