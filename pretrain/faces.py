"""Prepared faces on the training device: batches are gathered, augmented and cropped there."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from face_align_env.augmentation import Augmentation, Views
from face_align_env.crops import CONTEXT, CROP_SIZE
from face_align_env.prepared import PreparedFaces, faces_digest
from face_align_env.pretrain.warping import to_device, warp
from face_align_env.progress import Progress

_SAMPLED = 61  # pixels of a face that tell it from others
_CHUNK = 64  # faces prepared at a time, to bound the memory of the reduction


def _side(size: int) -> int:
    """Side of a context around crops of ``size`` pixels."""
    return round((CROP_SIZE + 2 * CONTEXT) * size / CROP_SIZE)


def _reduce(contexts: Tensor, size: int) -> Tensor:
    """(N, S, S, 3) uint8 contexts of 256-pixel crops, for crops of ``size`` pixels.

    The mean over the pixels under each new one, as GEN itself reduces full crops.
    """
    side = _side(size)
    if side == contexts.shape[1]:
        return contexts
    small = torch.nn.functional.adaptive_avg_pool2d(contexts.permute(0, 3, 1, 2).float(), side)
    return small.round().to(torch.uint8).permute(0, 2, 3, 1)


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, n: int) -> npt.NDArray[np.int64]:
    """The permutation of ``n`` faces that an epoch goes through."""
    return np.random.default_rng([seed, 0, epoch]).permutation(n)


class Batch:
    """N faces in random or plain views.

    No dataclass, dictionary or tuple: under bf16-mixed, Fabric rounds what it finds in these on the way into a model,
    and a landmark in bfloat16 is known to a pixel.

    :param crops: (N, size, size, 3) uint8
    :param landmarks: (N, K, 2) float32 ground truth, pixels of the 256-pixel crop
    :param d: (N,) float32, Eq. 2's normalising distance in the same pixels
    :param counted: (N, K) bool, the landmarks that Eq. 2 counts
    :param part: which part of a minibatch these faces are; None: all of it
    :param whole: how many faces the minibatch has; None: N
    """

    def __init__(
        self,
        crops: Tensor,
        landmarks: Tensor,
        d: Tensor,
        counted: Tensor,
        part: slice | None = None,
        whole: int | None = None,
    ) -> None:
        self.crops, self.landmarks, self.d, self.counted = crops, landmarks, d, counted
        self.part = slice(None) if part is None else part
        self.whole = len(crops) if whole is None else whole


class DeviceFaces:
    """All faces of a dataset in the memory of one device, as uint8 crops with context.

    :param prepared: the faces
    :param size: side of the crops that batches hold, pixels: 256, or the input size of GEN
    :param device: where they live
    :param progress: show a bar while images are read
    """

    def __init__(
        self, prepared: PreparedFaces, size: int, device: torch.device | str = "cpu", progress: bool = True
    ) -> None:
        self.prepared, self.size, self.device = prepared, size, torch.device(device)
        # Full-size crops in main memory need no copy where a file has them: its pages are shared, and can be dropped.
        mapped = prepared.mapped_contexts(progress) if size == CROP_SIZE and self.device.type == "cpu" else None
        self.contexts: Tensor = self._read(progress) if mapped is None else torch.from_numpy(mapped)

    def _read(self, progress: bool) -> Tensor:
        n, prepared = len(self.prepared), self.prepared
        contexts = torch.empty((n, *[_side(self.size)] * 2, 3), dtype=torch.uint8, device=self.device)
        with Progress(total=n, desc=prepared.title, unit="face", disable=not progress, leave=False) as bar:
            for start in range(0, n, _CHUNK):
                indices = range(start, min(start + _CHUNK, n))
                chunk = torch.from_numpy(np.stack([prepared.context(i) for i in indices])).to(self.device)
                contexts[start : start + len(chunk)] = _reduce(chunk, self.size)
                bar.update(len(chunk))
        return contexts

    def reduced(self, size: int) -> DeviceFaces:
        """The same faces at a lower resolution, without reading them again."""
        faces = copy.copy(self)
        faces.size = size
        faces.contexts = torch.cat([_reduce(chunk, size) for chunk in torch.split(self.contexts, _CHUNK)])
        return faces

    def __len__(self) -> int:
        return len(self.contexts)

    def digest(self) -> str:
        """A hash of what is learned from: every face's landmarks and a sample of its pixels."""
        sampled = torch.from_numpy(np.linspace(0, self.contexts[0].numel() - 1, _SAMPLED).astype(np.int64))
        pixels = self.contexts.reshape(len(self), -1)[:, sampled.to(self.device)]
        return faces_digest(self.prepared, pixels.cpu().numpy())

    def batch(self, indices: npt.NDArray[np.int64], views: Views | None = None) -> Batch:
        """The faces ``indices``, plain or in the given views."""
        scheme = self.prepared.scheme
        landmarks, counted = self.prepared.landmarks[indices], self.prepared.counted[indices]
        d = self.prepared.d[indices]
        if views is None:
            border = (self.contexts.shape[1] - self.size) // 2
            inner = slice(border, border + self.size)
            crops = self.contexts[:, inner, inner][to_device(indices, self.device)]
        else:
            crops = warp(self.contexts, views, self.size, indices)
            landmarks, counted, d = views.landmarks(landmarks, scheme), views.flags(counted, scheme), d * views.scales
        return Batch(
            crops,
            to_device(landmarks, self.device),
            to_device(d.astype(np.float32), self.device),
            to_device(counted, self.device),
        )

    def looked_at(
        self, batch_size: int, augmentation: Augmentation | None, views: int, seed: Sequence[int], title: str
    ) -> Iterator[tuple[npt.NDArray[np.int64], Batch]]:
        """All faces, one view of each after the other, in batches, with a bar.

        :param batch_size: faces of a batch, at most
        :param augmentation: of the views; None: plain
        :param views: of each face
        :param seed: of the views
        :param title: of the bar
        :return: the faces of each batch, and their view
        """
        with Progress(total=views * len(self), desc=title, unit="face", leave=False) as bar:
            for view in range(views):
                for first in range(0, len(self), batch_size):
                    chosen = np.arange(first, min(first + batch_size, len(self)))
                    drawn = None
                    if augmentation is not None:
                        drawn = augmentation.sample(np.random.default_rng([*seed, view, first]), len(chosen))
                    yield chosen, self.batch(chosen, drawn)
                    bar.update(len(chosen))

    def training_batch(
        self, step: int, batch_size: int, seed: int, augmentation: Augmentation, share: tuple[int, int] = (0, 1)
    ) -> Batch:
        """Minibatch number ``step`` of an endless training: a function of its arguments alone.

        Each epoch is a permutation of all faces, the epochs follow each other without a gap. That nothing is
        drawn from a running generator makes a resumed training equal an unbroken one.

        :param batch_size: faces of the whole minibatch
        :param share: number of a process, and how many there are: its faces only. Together they have the faces, in the
            views, that one process has
        """
        n = len(self)
        positions = np.arange(step * batch_size, (step + 1) * batch_size)
        epochs = positions // n
        indices = np.empty(batch_size, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            indices[here] = _order(seed, int(epoch), n)[positions[here] % n]
        number, processes = share
        part = slice(number * batch_size // processes, (number + 1) * batch_size // processes)
        views = augmentation.sample(np.random.default_rng([seed, 1, step]), batch_size)
        batch = self.batch(indices[part], views.part(part))
        batch.part, batch.whole = part, batch_size
        return batch
