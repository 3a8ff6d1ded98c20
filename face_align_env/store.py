"""Prepared faces on disk: read and cut once, then mapped into memory by every process that needs them.

What was prepared is kept under a key made of everything that shapes it: the dataset's fingerprint (its files or
parameters), the version of its reader, the crops' matrices, and the versions of the libraries that decode and warp.
Another key is another entry; nothing stale is ever read, and ``face-align data clear`` removes what is not needed any
more.

The place is ``$FACE_ALIGN_CACHE``, else ``~/.cache/face-align/prepared``; ``FACE_ALIGN_CACHE=off`` keeps nothing.
A disk that is full or read-only costs speed and a warning, never a face.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import warnings
import zlib
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from face_align_env.crops import CONTEXT, CROP_SIZE, Matrix
from face_align_env.datasets import FaceDataset
from face_align_env.files import atomic_path, read_arrays, write_bytes, write_json

CONTEXT_SHAPE = (CROP_SIZE + 2 * CONTEXT, CROP_SIZE + 2 * CONTEXT, 3)
_CONTEXT_BYTES = int(np.prod(CONTEXT_SHAPE))
_SPARE_BYTES = 1 << 30  # of the disk, left to others
_CONTEXTS, _CHECKS, _KEY = "contexts.raw", "checks.raw", "key.json"
# Of what is kept, and of what makes it beside the readers: raise it when crops.cut or landmarks.to_19_points changes.
_FORMAT = 3


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
            arrays = read_arrays(path)
            return Annotations(**{field.name: arrays[field.name] for field in fields(Annotations)})
        except (OSError, ValueError, KeyError):
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

    Processes that have it open share its pages and see what the others add. Each crop has a checksum, compared when a
    process first reads it: what a power cut or a full disk has lost is prepared again. Files that are removed
    meanwhile stay those of whoever has them open.

    :param folder: as :func:`open_contexts` has made it
    :raises OSError, ValueError: it is not there, or damaged
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writable = os.access(folder / _CHECKS, os.W_OK)
        # The same handles for reading and writing: another process may put other files under these names.
        mode = "r+b" if self._writable else "rb"
        with ExitStack() as stack:
            self._contexts = stack.enter_context((folder / _CONTEXTS).open(mode, buffering=0))
            self._checks = stack.enter_context((folder / _CHECKS).open(mode, buffering=0))
            sizes = [os.fstat(file.fileno()).st_size for file in (self._contexts, self._checks)]
            self._num_faces = sizes[1] // 4
            if not self._num_faces or sizes != [self._num_faces * _CONTEXT_BYTES, self._num_faces * 4]:
                raise ValueError(f"'{folder}' holds {sizes[0]} bytes of crops and {sizes[1]} of checksums.")
            self._map = np.memmap(self._contexts, np.uint8, "r", shape=(self._num_faces, *CONTEXT_SHAPE))
            self._checksums = np.memmap(self._checks, np.uint32, "r")
            stack.pop_all()
        self._compared = np.zeros(self._num_faces, dtype=np.bool_)

    def __len__(self) -> int:
        return self._num_faces

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8] | None:
        """The crop of a face, (352, 352, 3) uint8, not writable; None: not prepared yet, or damaged."""
        check = int(self._checksums[index])
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
            data = np.ascontiguousarray(crop)
            _write_at(self._contexts, index * _CONTEXT_BYTES, data.tobytes())
            _write_at(self._checks, 4 * index, np.uint32(_checksum(data)).tobytes())
        except OSError as error:
            self._writable = False
            _warn(error)
            return False
        return self[index] is not None

    def absent(self) -> list[int]:
        """The faces that are not prepared yet."""
        return np.flatnonzero(np.asarray(self._checksums) == 0).tolist()

    def whole(self) -> npt.NDArray[np.uint8] | None:
        """All crops, (N, 352, 352, 3) uint8 mapped copy-on-write; None while one is missing or damaged."""
        if any(self[index] is None for index in range(len(self))):
            return None
        return np.memmap(self._contexts, np.uint8, "c", shape=(self._num_faces, *CONTEXT_SHAPE))

    def __del__(self) -> None:
        for file in (getattr(self, "_contexts", None), getattr(self, "_checks", None)):
            if file is not None:
                file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.folder,)


def _checksum(crop: npt.NDArray[np.uint8]) -> int:
    return zlib.crc32(crop.data) or 1  # 0 stands for a face that is not prepared yet


def _write_at(file: IO[bytes], offset: int, data: bytes) -> None:
    """Write all of it, at a place in a file.

    :raises OSError: the disk is full; a system call may have written a part then, and says so without an error
    """
    left = memoryview(data)
    while left:
        if hasattr(os, "pwrite"):
            written = os.pwrite(file.fileno(), left, offset)  # forked processes share the file's position
        else:
            file.seek(offset)
            written = file.write(left)
        left, offset = left[written:], offset + written


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
    temporary, _ = atomic_path(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        write_json(temporary / _KEY, key)
        with (temporary / _CONTEXTS).open("wb") as file:
            file.truncate(needed)  # sparse: the disk's blocks are taken as crops are written
        (temporary / _CHECKS).write_bytes(bytes(4 * num_faces))
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
    readers = [part.reader_version for part in dataset.parts]
    key = {
        "format": _FORMAT,
        "dataset": dataset.name,
        "split": dataset.split,
        "readers": readers,
        **fingerprint,
        **more,
    }
    key["libraries"] = _libraries()
    return root / f"{dataset.name}-{dataset.split}", key


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _libraries() -> dict[str, str]:
    """The versions of what decodes images and warps them."""
    import cv2
    import PIL

    return {"numpy": np.__version__, "opencv": cv2.__version__, "pillow": PIL.__version__}


def _warn(error: OSError) -> None:
    place = cache_folder()
    warnings.warn(
        f"Prepared faces are not kept on disk in '{place}' ({error}); they are prepared anew in each process. "
        "Set FACE_ALIGN_CACHE to a folder with more room, or to 'off' to silence this.",
        stacklevel=4,
    )
