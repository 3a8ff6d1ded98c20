"""Prepared faces on disk: read and cut once, then mapped into memory by every process that needs them.

What was prepared is kept under a key made of everything that shapes it: the dataset's fingerprint (its files or
parameters), the crops' matrices, this package's code for reading and cutting, and the versions of the libraries
that decode and warp. Another key is another entry; nothing stale is ever read, and ``face-align data clear`` removes
what is no longer needed.

The place is ``$FACE_ALIGN_CACHE``, else ``~/.cache/face-align/prepared``; ``FACE_ALIGN_CACHE=off`` keeps nothing.
A disk that is full or read-only costs speed and a warning, never a face.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import shutil
import tempfile
import warnings
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.crops import CONTEXT, CROP_SIZE, Matrix
from face_align_env.datasets import FaceDataset
from face_align_env.files import write_bytes, write_json

CONTEXT_SHAPE = (CROP_SIZE + 2 * CONTEXT, CROP_SIZE + 2 * CONTEXT, 3)
_CONTEXT_BYTES = int(np.prod(CONTEXT_SHAPE))
_SAMPLED = 509  # one byte in so many; prime, so that it is another column in each row
_SPARE_BYTES = 1 << 30  # of the disk, left to others
_CONTEXTS, _CHECKS, _KEY = "contexts.npy", "checks.npy", "key.json"


@dataclass(frozen=True, eq=False)
class Annotations:
    """The annotations of N faces as arrays; see :class:`~face_align_env.datasets.Annotation`.

    :param landmarks: (N, K, 2) float32, pixels of the photos
    :param boxes: (N, 4) float32, x0, y0, x1, y1 in the same pixels
    :param visible: (N, K) bool
    :param counted: (N, K) bool
    :param ids: (N,) names
    """

    landmarks: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float32]
    visible: npt.NDArray[np.bool_]
    counted: npt.NDArray[np.bool_]
    ids: npt.NDArray[np.str_]


def cache_folder() -> Path | None:
    """Where prepared faces are kept; None: nowhere."""
    folder = os.environ.get("FACE_ALIGN_CACHE")
    if folder is None:
        return Path.home() / ".cache" / "face-align" / "prepared"
    return None if folder.strip().lower() in ("", "off") else Path(folder)


def entries(dataset: str | None = None) -> list[Path]:
    """What is kept of a dataset (None: of all of them): one folder a split."""
    folder = cache_folder()
    if folder is None or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if dataset is None or path.name.rpartition("-")[0] == dataset)


def disk_usage(folder: Path) -> int:
    """Bytes that a folder takes on disk; the holes of a file that is not filled yet take none."""
    statuses = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(512 * status.st_blocks if hasattr(status, "st_blocks") else status.st_size for status in statuses)


def load_annotations(dataset: FaceDataset) -> Annotations:
    """All annotations of a dataset, from the disk where they have been read before.

    :raises BadFaceError: an annotation cannot be used
    """
    folder, key = _place(dataset, landmarks=dataset.scheme.num_landmarks)
    path = None if folder is None else folder / f"annotations-{_digest(key)}.npz"
    if path is not None and path.is_file():
        try:
            with np.load(path) as arrays:
                return Annotations(**{field.name: arrays[field.name] for field in fields(Annotations)})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            pass  # damaged: read the dataset again
    annotations = _read_annotations(dataset)
    if path is not None:
        buffer = io.BytesIO()
        np.savez(buffer, **{field.name: getattr(annotations, field.name) for field in fields(Annotations)})
        try:
            write_bytes(path, buffer.getvalue())
        except OSError as error:
            _warn(error)
    return annotations


def _read_annotations(dataset: FaceDataset) -> Annotations:
    found = [dataset.annotation(i) for i in range(len(dataset))]
    everything = np.ones(dataset.scheme.num_landmarks, dtype=np.bool_)
    return Annotations(
        landmarks=np.stack([a.landmarks for a in found]),
        boxes=np.stack([a.box for a in found]),
        visible=np.stack([a.visible for a in found]),
        counted=np.stack([everything if a.counted is None else a.counted for a in found]),
        ids=np.array([a.id for a in found]),
    )


class ContextStore:
    """The crops with context of one split in a file that grows as faces are prepared.

    Processes that have it open share its pages and see what the others add. Each crop has a checksum of a sample of
    every page, compared when a process first reads it, so that what a power cut has lost is prepared again.

    :param folder: as :func:`open_contexts` has made it
    :raises OSError, ValueError: it is not there, or damaged
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._map = np.load(folder / _CONTEXTS, mmap_mode="r")
        mode: Any = "r+" if os.access(folder / _CHECKS, os.W_OK) else "r"
        self._checks = np.load(folder / _CHECKS, mmap_mode=mode)
        if self._map.shape != (len(self._checks), *CONTEXT_SHAPE):
            raise ValueError(f"'{folder}' holds crops of shape {self._map.shape}.")
        self._compared = np.zeros(len(self._checks), dtype=np.bool_)
        self._writable = mode == "r+"

    def __len__(self) -> int:
        return len(self._checks)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8] | None:
        """The crop of a face, (352, 352, 3) uint8, not writable; None: not prepared yet."""
        check = int(self._checks[index])
        if not check:
            return None
        crop: npt.NDArray[np.uint8] = np.asarray(self._map[index])
        if not self._compared[index]:
            if _checksum(crop) != check:
                return None
            self._compared[index] = True
        return crop

    def add(self, index: int, crop: npt.NDArray[np.uint8]) -> bool:
        """Keep the crop of a face, (352, 352, 3) uint8.

        :return: whether it is kept; it is not on a disk that is read-only or full
        """
        if not self._writable:
            return False
        try:
            # Written, not assigned to the map: a full disk is an exception here, and would kill the process there.
            with (self.folder / _CONTEXTS).open("r+b", buffering=0) as file:
                file.seek(self._map.offset + index * _CONTEXT_BYTES)
                file.write(np.ascontiguousarray(crop).data)
        except OSError as error:
            self._writable = False
            _warn(error)
            return False
        self._checks[index] = _checksum(crop)
        self._compared[index] = True
        return True

    def absent(self) -> list[int]:
        """The faces that are not prepared yet."""
        return np.flatnonzero(np.asarray(self._checks) == 0).tolist()

    def whole(self) -> npt.NDArray[np.uint8] | None:
        """All crops, (N, 352, 352, 3) uint8 mapped copy-on-write; None while one is missing."""
        if self.absent():
            return None
        crops: npt.NDArray[np.uint8] = np.load(self.folder / _CONTEXTS, mmap_mode="c")
        return crops

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.folder,)


def _checksum(crop: npt.NDArray[np.uint8]) -> int:
    """Of eight bytes of each page of the file: whole pages get lost, and reading all bytes takes ten times as long."""
    return zlib.adler32(crop.reshape(-1)[::_SAMPLED].tobytes())


def _reopen(folder: Path) -> ContextStore | None:
    try:
        return ContextStore(folder)
    except (OSError, ValueError):
        return None  # another machine, or cleared since


def open_contexts(dataset: FaceDataset, transforms: Matrix) -> ContextStore | None:
    """The store of a dataset's crops, made where there is none.

    :param dataset: one dataset (of a joined one: a part)
    :param transforms: (N, 2, 3) from photo to crop
    :return: None where nothing is kept: the dataset has no fingerprint, or the disk has no room
    """
    matrices = hashlib.sha256(np.ascontiguousarray(transforms).tobytes()).hexdigest()
    folder, key = _place(dataset, transforms=matrices, shape=[len(dataset), *CONTEXT_SHAPE])
    if folder is None:
        return None
    folder = folder / f"contexts-{_digest(key)}"
    try:
        if folder.is_dir():
            try:
                return ContextStore(folder)
            except (OSError, ValueError):
                shutil.rmtree(folder)  # damaged
        _make(folder, len(dataset), key)
        return ContextStore(folder)
    except OSError as error:
        _warn(error)
        return None


def _make(folder: Path, num_faces: int, key: dict[str, Any]) -> None:
    """An empty store, complete or not at all; another process may have made it meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed, free = num_faces * _CONTEXT_BYTES, shutil.disk_usage(folder.parent).free
    if free < needed + _SPARE_BYTES:
        raise OSError(f"it takes {needed / 1e9:.1f} GB and '{folder.parent}' has {free / 1e9:.1f} GB left")
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write_json(temporary / _KEY, key)
        # Sparse: the disk's blocks are taken as crops are written.
        np.lib.format.open_memmap(temporary / _CONTEXTS, "w+", np.uint8, (num_faces, *CONTEXT_SHAPE))
        np.save(temporary / _CHECKS, np.zeros(num_faces, dtype=np.uint32))
        temporary.chmod(0o755)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _place(dataset: FaceDataset, **more: Any) -> tuple[Path | None, dict[str, Any]]:
    """The folder of a dataset's split, and the key of what is prepared of it."""
    root, fingerprint = cache_folder(), dataset.fingerprint()
    if root is None or fingerprint is None:
        return None, {}
    key = {"format": 2, "dataset": dataset.name, "split": dataset.split, **fingerprint, **more, "made_by": _maker()}
    return root / f"{dataset.name}-{dataset.split}", key


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def _maker() -> dict[str, str]:
    """What reads and cuts faces: a hash of this package's part in it, and the libraries' versions."""
    import cv2
    import PIL

    package = Path(__file__).parent
    sources = [*sorted((package / "datasets").rglob("*.py")), package / "crops.py", package / "landmarks.py"]
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return {"code": code, "numpy": np.__version__, "opencv": cv2.__version__, "pillow": PIL.__version__}


def _warn(error: OSError) -> None:
    place = cache_folder()
    warnings.warn(
        f"Prepared faces are not kept on disk in '{place}' ({error}); they are prepared anew in each process. "
        "Set FACE_ALIGN_CACHE to a folder with more room, or to 'off' to silence this.",
        stacklevel=4,
    )
