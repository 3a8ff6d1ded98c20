"""Minibatches: a function of the step, and pictures that fit their landmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from face_align_env.augmentation import Augmentation
from face_align_env.crops import CONTEXT, CROP_SIZE
from face_align_env.datasets import Annotation
from face_align_env.metrics import normalizing_distance
from face_align_env.prepared import FaceSource, PreparedFaces
from face_align_env.pretrain.faces import Batch, DeviceFaces

Faces = Callable[..., DeviceFaces]
STILL = Augmentation(rotation=0, scale=0, shift=0, mirror=0, contrast=0, brightness=0, blur=0)


def equal(first: Batch, second: Batch) -> bool:
    tensors = {name: value for name, value in vars(first).items() if isinstance(value, torch.Tensor)}
    return all(torch.equal(value, vars(second)[name]) for name, value in tensors.items())


def test_plain_batches_are_the_prepared_faces(device_faces: Faces) -> None:
    faces = device_faces()
    batch = faces.batch(np.array([4, 1]))
    prepared = faces.prepared
    np.testing.assert_array_equal(batch.crops.numpy(), [prepared.crop(4), prepared.crop(1)])
    np.testing.assert_array_equal(batch.landmarks.numpy(), prepared.landmarks[[4, 1]])
    np.testing.assert_allclose(batch.d.numpy(), prepared.d[[4, 1]], rtol=1e-6)
    assert batch.counted.all()
    assert batch.landmarks.dtype == batch.d.dtype == torch.float32


@pytest.mark.parametrize("size", [16, 64, 112])
def test_reduced_faces_are_what_gen_makes_of_full_crops(device_faces: Faces, size: int) -> None:
    small, full = (device_faces(num_faces=2, size=s).batch(np.arange(2)).crops for s in (size, 256))
    reduced = torch.nn.functional.adaptive_avg_pool2d(full.permute(0, 3, 1, 2).float(), size).permute(0, 2, 3, 1)
    assert small.shape == (2, size, size, 3)
    assert (small - reduced).abs().max() <= 0.5, "they differ by rounding to bytes alone"


def test_a_training_batch_is_a_function_of_the_step(device_faces: Faces) -> None:
    faces, again = device_faces(), device_faces()
    first = faces.training_batch(3, 4, 0, Augmentation())
    torch.manual_seed(99)
    np.random.seed(99)
    again.training_batch(2, 4, 0, Augmentation())  # what came before does not matter, nor global generators
    assert equal(first, again.training_batch(3, 4, 0, Augmentation()))
    assert not equal(first, faces.training_batch(4, 4, 0, Augmentation()))
    assert not equal(first, faces.training_batch(3, 4, 1, Augmentation()))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_a_training_batch(device_faces: Faces, processes: int) -> None:
    faces = device_faces()
    whole = faces.training_batch(3, 6, 0, Augmentation())
    parts = [faces.training_batch(3, 6, 0, Augmentation(), (number, processes)) for number in range(processes)]
    for name in ("crops", "landmarks", "d", "counted"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    everybody = torch.arange(6)
    assert torch.equal(torch.cat([everybody[part.part] for part in parts]), everybody[whole.part])
    assert {part.whole for part in (whole, *parts)} == {6}


@pytest.mark.parametrize("batch_size", [2, 4, 15])
def test_each_epoch_is_a_permutation(device_faces: Faces, batch_size: int) -> None:
    faces = device_faces(num_faces=6)
    drawn: list[int] = []
    for step in range(-(-30 // batch_size)):
        batch = faces.training_batch(step, batch_size, 0, STILL)
        distances = np.abs(batch.landmarks.numpy()[:, None] - faces.prepared.landmarks[None]).max((2, 3))
        assert (distances.min(1) < 1e-3).all()
        drawn += distances.argmin(1).tolist()
    epochs = np.array(drawn[:30]).reshape(5, 6)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(6), (5, 1)))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1, "each epoch has its own order"


@pytest.mark.parametrize("size", [256, 64])
@pytest.mark.parametrize("mirror", [0.0, 1.0], ids=["plain", "mirrored"])
def test_augmented_landmarks_stay_on_their_pixels(device_faces: Faces, size: int, mirror: float) -> None:
    faces = device_faces(num_faces=3, size=size)
    point, counterpart = 36, 45 if mirror else 36  # outer eye corners
    side = faces.contexts.shape[1]
    rows, columns = np.mgrid[:side, :side]
    for i, (x, y) in enumerate(faces.prepared.landmarks[:, point]):
        # where the landmark lies in the context, at its resolution
        u, v = ((np.array([x, y]) + CONTEXT + 0.5) * size / CROP_SIZE - 0.5).tolist()
        spot = 250 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 2.0**2))
        faces.contexts[i] = torch.from_numpy(np.repeat(spot[..., None], 3, axis=2).astype(np.uint8))
    batch = faces.training_batch(0, 3, 5, Augmentation(mirror=mirror, contrast=0, brightness=0))
    weights = batch.crops[..., 0].numpy().astype(np.float64)
    weights[weights < 10] = 0
    assert (weights.sum((1, 2)) > 0).all()
    axis = (np.arange(size) + 0.5) * CROP_SIZE / size - 0.5
    centroids = np.stack([weights.sum(1) @ axis, weights.sum(2) @ axis], -1) / weights.sum((1, 2))[:, None]
    np.testing.assert_allclose(centroids, batch.landmarks[:, counterpart].numpy(), atol=0.15 * CROP_SIZE / size)


def test_the_normalising_distance_follows_the_view(device_faces: Faces) -> None:
    faces = device_faces()
    batch = faces.training_batch(0, 6, 0, Augmentation())
    expected = normalizing_distance(batch.landmarks.numpy(), "inter_ocular")
    np.testing.assert_allclose(batch.d.numpy(), expected, rtol=1e-5)
    assert not np.allclose(np.sort(batch.d.numpy()), np.sort(faces.prepared.d), rtol=1e-3)


def test_flags_of_mirrored_faces_change_sides(toy_dataset: Any) -> None:
    class Partly(toy_dataset):  # type: ignore[misc]
        def annotation(self, index: int) -> Annotation:
            return replace(super().annotation(index), counted=np.arange(68) != 0)

    faces = DeviceFaces(PreparedFaces(Partly(size=4)), 16, progress=False)
    for mirror, uncounted in ((0.0, 0), (1.0, 16)):  # the ends of the jaw
        batch = faces.training_batch(0, 4, 0, replace(STILL, mirror=mirror))
        assert (~batch.counted).nonzero()[:, 1].tolist() == [uncounted] * 4


def test_training_and_environment_see_the_same_views(device_faces: Faces) -> None:
    faces = device_faces()
    augmentation, indices, seeds = Augmentation(), np.array([0, 2]), np.array([5, 6])
    source = FaceSource(faces.prepared, augmentation)
    landmarks, *_ = source.annotations(indices, seeds)
    batch = faces.batch(indices, augmentation.sample_seeded(seeds))
    np.testing.assert_array_equal(batch.crops.numpy(), source.crops(indices, seeds))
    np.testing.assert_array_equal(batch.landmarks.numpy(), landmarks)
