"""Prepared faces: each face of a dataset once cut, with its landmarks in pixels of the crop."""

from __future__ import annotations

import bisect
import hashlib
import multiprocessing
from collections import OrderedDict
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from face_align_env.crops import CONTEXT, CROP_SIZE, MARGIN, crop_transform, cut, transform_points
from face_align_env.datasets import FaceDataset
from face_align_env.metrics import normalizing_distance
from face_align_env.processes import end_with_parent
from face_align_env.progress import Progress
from face_align_env.store import cache_folder, load_annotations, open_contexts
from face_align_env.threads import share

if TYPE_CHECKING:
    from face_align_env.augmentation import Augmentation
    from face_align_env.sequences import Motion

_DIGESTED = 16  # faces whose pixels are looked at
_CHUNK = 32  # faces that a process prepares before it reports
_WORTH_A_THREAD = 8  # crops to copy


class PreparedFaces:
    """The faces of a dataset, cut to crops with context; images are read when they are needed.

    What has been prepared stays on disk, where the dataset can be told by its fingerprint (see
    :mod:`face_align_env.store`): the next process maps it, and all that run share its pages.

    :param dataset: the faces
    :param normalizer: name of Eq. 2's ``d``; None: the dataset's own
    :param margin: margin around the box, see :func:`~face_align_env.crops.crop_transform`
    :param max_cached: number of crops to keep in memory where they are not kept on disk (about 370 kB each)
    :raises BadFaceError: an annotation cannot be used
    :raises ValueError: the dataset is empty, or its landmarks do not give that ``d``
    """

    def __init__(
        self,
        dataset: FaceDataset,
        normalizer: str | None = None,
        margin: float = MARGIN,
        max_cached: int = 1024,
    ) -> None:
        if len(dataset) == 0:
            raise ValueError(f"Dataset '{dataset.name}' has no faces in its split '{dataset.split}'.")
        self.dataset = dataset
        self.scheme = dataset.scheme
        self.margin = margin
        self.normalizer = normalizer or dataset.normalizer
        annotations = load_annotations(dataset)
        self.ids: list[str] = annotations.ids.tolist()
        self.transforms = crop_transform(annotations.boxes, margin)
        self.landmarks = transform_points(self.transforms, annotations.landmarks)
        self.boxes = transform_points(self.transforms, annotations.boxes.reshape(-1, 2, 2)).reshape(-1, 4)
        self.counted = annotations.counted
        self.visible = annotations.visible
        self.d = self.distances(self.normalizer)
        if np.isnan(self.d).any():
            first = self.ids[int(np.flatnonzero(np.isnan(self.d))[0])]
            raise ValueError(
                f"The normaliser '{self.normalizer}' needs landmarks that are not annotated in "
                f"{np.isnan(self.d).sum()} faces of '{dataset.name}' ({first}, ...). Take normalizer='face_size'."
            )
        self._ends = list(accumulate(len(part) for part in dataset.parts))
        starts = [0, *self._ends[:-1]]
        self._stores = [
            open_contexts(part, self.transforms[start:end])
            for part, start, end in zip(dataset.parts, starts, self._ends, strict=True)
        ]
        self._max_cached = max_cached
        self._cache: OrderedDict[int, npt.NDArray[np.uint8]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.landmarks)

    def distances(self, normalizer: str) -> npt.NDArray[np.float64]:
        """(N,) Eq. 2's ``d`` under a named normaliser, crop pixels; NaN where a landmark it needs is not annotated.

        :raises BadFaceError: a face's is not positive; the message names it
        :raises ValueError: there is no such normaliser
        """
        try:
            return normalizing_distance(self.landmarks, normalizer, self.boxes, self.counted)
        except ValueError:
            for index in range(len(self)):  # which face it is
                self.dataset.annotation(index).check_distance(normalizer)
            raise

    def mean_shape(self) -> npt.NDArray[np.float32]:
        """(K, 2) mean of the counted landmarks, crop pixels."""
        weights = self.counted[..., None].astype(np.float64)
        total = (self.landmarks * weights).sum(axis=0)
        mean: npt.NDArray[np.float32] = (total / np.maximum(weights.sum(axis=0), 1)).astype(np.float32)
        return mean

    def context(self, index: int) -> npt.NDArray[np.uint8]:
        """The crop of face ``index`` with its context: (S, S, 3) uint8, S = 256 + 2 x 48; not to be written to.

        :raises BadFaceError: its image cannot be read, or its box or landmarks do not belong to it
        :raises ValueError: the margin leaves nothing of the image
        """
        part = bisect.bisect_right(self._ends, index)
        store, local = self._stores[part], index - (self._ends[part - 1] if part else 0)
        kept = None if store is None else store[local]
        if kept is not None:
            return kept
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        image = self.dataset[index].image  # the whole face, which is checked against its image
        try:
            prepared = cut(image, self.transforms[index], CONTEXT)
        except ValueError as error:
            raise ValueError(f"{self.dataset.name}/{self.ids[index]}: {error}") from error
        if store is not None and store.add(local, prepared):
            return prepared
        if self._max_cached > 0:
            self._cache[index] = prepared
            if len(self._cache) > self._max_cached:
                self._cache.popitem(last=False)
        return prepared

    def mapped_contexts(self, progress: bool = False) -> npt.NDArray[np.uint8] | None:
        """All contexts as one array whose pages all processes share; those that are not on disk yet are prepared.

        :param progress: show a bar meanwhile
        :return: (N, S, S, 3) uint8, writing to it changes no file; None where they are not kept in one file
        """
        store = self._stores[0] if len(self._stores) == 1 else None
        if store is None:
            return None
        for index in Progress(range(len(store)), desc=self.title, unit="face", disable=not progress, leave=False):
            self.context(index)  # what is damaged is prepared again, too
        return store.whole()

    def absent(self) -> list[int]:
        """The faces that are not on disk yet.

        :raises OSError: they are not kept on disk
        """
        absent: list[int] = []
        for store, end in zip(self._stores, self._ends, strict=True):
            if store is None:
                raise OSError(
                    f"Prepared faces of '{self.dataset.name}' are not kept on disk: FACE_ALIGN_CACHE is off, there is "
                    "no room, or the dataset has no fingerprint."
                )
            absent += [end - len(store) + index for index in store.absent()]
        return absent

    @property
    def title(self) -> str:
        """Of a progress bar."""
        return f"reading {self.dataset.name} {self.dataset.split}"

    def crop(self, index: int) -> npt.NDArray[np.uint8]:
        """The plain 256x256 crop of face ``index``: (256, 256, 3) uint8."""
        return self.context(index)[CONTEXT : CONTEXT + CROP_SIZE, CONTEXT : CONTEXT + CROP_SIZE]

    def __getstate__(self) -> dict[str, object]:
        """Pickle without the cached images: they can be read again."""
        return {**self.__dict__, "_cache": OrderedDict()}


def faces_digest(prepared: PreparedFaces, pixels: npt.NDArray[np.uint8] | None = None) -> str:
    """A hash of faces by their contents, wherever they lie: of landmarks, of what counts, and of pixels.

    :param pixels: what is known of the images; None: some faces are looked at, evenly spaced
    :return: in hexadecimal
    """
    if pixels is None:
        some = np.unique(np.linspace(0, len(prepared) - 1, _DIGESTED).astype(np.int64))
        pixels = np.stack([prepared.context(int(i)) for i in some])
    digest = hashlib.sha256(f"{prepared.scheme.num_landmarks} {prepared.normalizer}".encode())
    for array in (prepared.landmarks, prepared.counted, prepared.d, pixels):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


class FaceSource:
    """Where an episode's face comes from: prepared faces, as they are or in a random view.

    An episode's crop is identified by (index, seed): a replay buffer stores these two numbers and makes the
    same pixels again.

    :param prepared: the faces
    :param augmentation: an :class:`~face_align_env.augmentation.Augmentation`, or for sequences a
        :class:`~face_align_env.sequences.Motion`; None: plain crops, seeds are ignored
    """

    def __init__(self, prepared: PreparedFaces, augmentation: Augmentation | Motion | None = None) -> None:
        self.prepared = prepared
        self.augmentation = augmentation

    def crops(
        self,
        indices: npt.NDArray[np.int64],
        seeds: npt.NDArray[np.int64],
        out: npt.NDArray[np.uint8] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """(N, 256, 256, 3) uint8 crops of faces ``indices``; ``seeds`` (N,) choose the views.

        :param out: the array to fill, whose rows may lie apart; None: a new one
        """
        if self.augmentation is None:
            crops = np.empty((len(indices), CROP_SIZE, CROP_SIZE, 3), dtype=np.uint8) if out is None else out
            found = [self.prepared.crop(int(i)) for i in indices]

            def copy(some: slice) -> None:
                for crop, source in zip(crops[some], found[some], strict=True):
                    crop[:] = source

            share(copy, len(found), len(found) // _WORTH_A_THREAD)
            return crops
        from face_align_env.augmentation import warp_images

        contexts = [self.prepared.context(int(i)) for i in indices]
        return warp_images(contexts, self.augmentation.sample_seeded(seeds), out=out)

    def annotations(
        self, indices: npt.NDArray[np.int64], seeds: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """What an episode needs to know of faces ``indices`` in the views of ``seeds``; no image is read.

        :return: (N, K, 2) float32 ground truth, crop pixels; (N,) float64 Eq. 2's normalising distance, crop pixels;
            (N, K) bool, the landmarks that Eq. 2 counts
        """
        landmarks, d = self.prepared.landmarks[indices], self.prepared.d[indices]
        counted = self.prepared.counted[indices]
        if self.augmentation is not None:
            views = self.augmentation.sample_seeded(seeds)
            landmarks = views.landmarks(landmarks, self.prepared.scheme)
            counted = views.flags(counted, self.prepared.scheme)
            d = d * views.scales
        return landmarks, d, counted


_worker: PreparedFaces  # of a process of prepare_on_disk


def _begin_work(prepared: PreparedFaces) -> None:
    global _worker
    end_with_parent()
    _worker = prepared


def _work(indices: list[int]) -> int:
    for index in indices:
        _worker.context(index)
    return len(indices)


def prepare_on_disk(prepared: PreparedFaces, workers: int = 1, progress: bool = True) -> int:
    """Prepare every face that is not on disk yet, so that all later processes start with them.

    :param workers: processes that share the work, and end with this one
    :param progress: show a bar
    :return: how many faces were prepared now
    :raises OSError: they cannot be kept on disk
    :raises BadFaceError: an image cannot be read
    """
    absent = prepared.absent()
    chunks = [absent[i : i + _CHUNK] for i in range(0, len(absent), _CHUNK)]
    with Progress(total=len(absent), desc=prepared.title, unit="face", disable=not progress) as bar:
        if workers <= 1 or len(chunks) <= 1:
            _begin_work(prepared)
            for chunk in chunks:
                bar.update(_work(chunk))
        else:
            # Spawned, not forked: OpenCV and torch hold threads that a fork would leave behind.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, context, _begin_work, (prepared,)) as pool:
                for done in as_completed([pool.submit(_work, chunk) for chunk in chunks]):
                    bar.update(done.result())
    if prepared.absent():
        raise OSError(
            f"{len(prepared.absent())} of {len(prepared)} faces could not be kept on disk in '{cache_folder()}': "
            "make room there, or set FACE_ALIGN_CACHE to another folder."
        )
    return len(absent)
