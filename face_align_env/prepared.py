"""Prepared faces: each face of a dataset once cut, with its landmarks in pixels of the crop."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from face_align_env.crops import CONTEXT, CROP_SIZE, MARGIN, crop_transform, cut, transform_points
from face_align_env.datasets import FaceDataset
from face_align_env.metrics import normalizing_distance


@dataclass(frozen=True, eq=False)
class FaceBatch:
    """N faces as an episode sees them.

    :param crops: (N, 256, 256, 3) uint8, RGB
    :param landmarks: (N, K, 2) float32, ground truth, crop pixels
    :param d: (N,) float64, the normalising distance of Eq. 2, crop pixels
    :param counted: (N, K) bool, the landmarks that Eq. 2 counts
    """

    crops: npt.NDArray[np.uint8]
    landmarks: npt.NDArray[np.float32]
    d: npt.NDArray[np.float64]
    counted: npt.NDArray[np.bool_]


class PreparedFaces:
    """The faces of a dataset, cut to crops with context; images are read when they are needed.

    :param dataset: the faces
    :param normalizer: name of Eq. 2's ``d``; None: the dataset's own
    :param margin: margin around the box, see :func:`~face_align_env.crops.crop_transform`
    :param max_cached: number of prepared images to keep in memory (about 370 kB each)
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
        annotations = [dataset.annotation(i) for i in range(len(dataset))]
        self.ids = [a.id for a in annotations]
        photo = np.stack([a.landmarks for a in annotations])
        boxes = np.stack([a.box for a in annotations])
        self.transforms = np.stack([crop_transform(box, margin) for box in boxes])
        self.landmarks = transform_points(self.transforms, photo)
        everything = np.ones(photo.shape[1], dtype=np.bool_)
        self.counted = np.stack([everything if a.counted is None else a.counted for a in annotations])
        self.visible = np.stack([a.visible for a in annotations])
        self.d = self.distances(self.normalizer)
        self._max_cached = max_cached
        self._cache: OrderedDict[int, npt.NDArray[np.uint8]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.landmarks)

    def distances(self, normalizer: str) -> npt.NDArray[np.float64]:
        """(N,) Eq. 2's ``d`` under a named normaliser, crop pixels."""
        boxes = np.stack([self.dataset.annotation(i).box for i in range(len(self))])
        sides = transform_points(self.transforms, boxes.reshape(-1, 2, 2)).reshape(-1, 4)
        return normalizing_distance(self.landmarks, normalizer, boxes=sides)

    def mean_shape(self) -> npt.NDArray[np.float32]:
        """(K, 2) mean of the counted landmarks, crop pixels."""
        weights = self.counted[..., None].astype(np.float64)
        total = (self.landmarks * weights).sum(axis=0)
        return (total / np.maximum(weights.sum(axis=0), 1)).astype(np.float32)

    def context(self, index: int) -> npt.NDArray[np.uint8]:
        """The crop of face ``index`` with its context: (S, S, 3) uint8, S = 256 + 2 x 48."""
        cached = self._cache.get(index)
        if cached is not None:
            self._cache.move_to_end(index)
            return cached
        image = self.dataset.image(index)
        try:
            prepared = cut(image, self.transforms[index], CONTEXT)
        except ValueError as error:
            raise ValueError(f"{self.dataset.name}/{self.ids[index]}: {error}") from error
        if self._max_cached > 0:
            self._cache[index] = prepared
            if len(self._cache) > self._max_cached:
                self._cache.popitem(last=False)
        return prepared

    def crop(self, index: int) -> npt.NDArray[np.uint8]:
        """The plain 256x256 crop of face ``index``: (256, 256, 3) uint8."""
        return self.context(index)[CONTEXT : CONTEXT + CROP_SIZE, CONTEXT : CONTEXT + CROP_SIZE]

    def __getstate__(self) -> dict[str, object]:
        """Pickle without the cached images: they can be read again."""
        return {**self.__dict__, "_cache": OrderedDict()}


class FaceSource:
    """Where an episode's face comes from: prepared faces, as they are or in a random view.

    An episode's crop is identified by (index, seed): a replay buffer stores these two numbers and makes the
    same pixels again.

    :param prepared: the faces
    :param augmentation: an :class:`~face_align_env.augmentation.Augmentation`; None: plain crops, seeds are ignored
    """

    def __init__(self, prepared: PreparedFaces, augmentation: object | None = None) -> None:
        self.prepared = prepared
        self.augmentation = augmentation

    def crops(self, indices: npt.NDArray[np.int64], seeds: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """(N, 256, 256, 3) uint8 crops of faces ``indices``; ``seeds`` (N,) choose the views."""
        if self.augmentation is None:
            return np.stack([self.prepared.crop(int(i)) for i in indices])
        import torch

        from face_align_env.augmentation import Augmentation, warp

        assert isinstance(self.augmentation, Augmentation)
        contexts = np.stack([self.prepared.context(int(i)) for i in indices])
        return warp(torch.from_numpy(contexts), self.augmentation.sample_seeded(seeds)).numpy()

    def batch(self, indices: npt.NDArray[np.int64], seeds: npt.NDArray[np.int64]) -> FaceBatch:
        """The faces ``indices`` in the views of ``seeds``, with everything that an episode needs."""
        landmarks, d = self.prepared.landmarks[indices], self.prepared.d[indices]
        counted = self.prepared.counted[indices]
        if self.augmentation is not None:
            from face_align_env.augmentation import Augmentation

            assert isinstance(self.augmentation, Augmentation)
            views = self.augmentation.sample_seeded(seeds)
            landmarks = views.landmarks(landmarks, self.prepared.scheme)
            counted = views.flags(counted, self.prepared.scheme)
            d = d * views.scales
        return FaceBatch(self.crops(indices, seeds), landmarks, d, counted)
