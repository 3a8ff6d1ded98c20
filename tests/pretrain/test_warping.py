"""Views on an accelerator: the same as on the CPU but for rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch

from face_align_env.augmentation import Augmentation, Views, warp_images
from face_align_env.crops import CONTEXT, CROP_SIZE
from face_align_env.datasets import FaceDataset
from face_align_env.prepared import PreparedFaces
from face_align_env.pretrain.warping import warp, warp_tensors

STILL = Augmentation(rotation=0, scale=0, shift=0, mirror=0, contrast=0, brightness=0, blur=0)
HARD = Augmentation(gamma=0.3, tint=0.2, occlusion=0.4, occluded=0.7)
Toy = Callable[..., FaceDataset]


def both_ways(contexts: torch.Tensor, views: Views, size: int) -> npt.NDArray[np.int32]:
    """How the crops of the CPU and those of an accelerator differ, grey levels."""
    return np.abs(np.int32(warp(contexts, views, size)) - np.int32(warp_tensors(contexts, views, size)))


def test_faces_are_chosen_where_they_are(toy_dataset: Toy) -> None:
    prepared = PreparedFaces(toy_dataset())
    contexts = torch.from_numpy(np.stack([prepared.context(i) for i in range(6)]))
    faces, views = np.array([4, 0, 4]), Augmentation().sample_seeded([1, 2, 3])
    crops = warp(contexts, views, faces=faces)
    assert torch.equal(crops, warp(contexts[torch.from_numpy(faces)], views))
    read_only = [prepared.context(i).view() for i in faces.tolist()]
    for context in read_only:
        context.flags.writeable = False
    np.testing.assert_array_equal(warp_images(read_only, views), crops.numpy())


# Gamma makes more of a difference between two dark grey levels.
@pytest.mark.parametrize(("augmentation", "least"), [(Augmentation(), 2), (HARD, 5)], ids=["default", "hard"])
@pytest.mark.parametrize("size", [CROP_SIZE, 112, 48])
def test_accelerators_see_the_same_but_for_rounding(
    toy_dataset: Toy, size: int, augmentation: Augmentation, least: int
) -> None:
    prepared = PreparedFaces(toy_dataset())
    full = torch.from_numpy(np.stack([prepared.context(i) for i in range(6)]))
    side = full.shape[1] * size // CROP_SIZE
    reduced = torch.nn.functional.adaptive_avg_pool2d(full.permute(0, 3, 1, 2).float(), side)
    contexts = reduced.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    difference = both_ways(contexts, augmentation.sample_seeded(range(6)), size)
    assert difference.mean() < 0.5
    assert (difference > least).mean() < 0.001
    unchanged = STILL.sample_seeded(range(6))
    assert both_ways(contexts, unchanged, size).max() == 0


def test_the_largest_difference_between_devices() -> None:
    """A place off by 1/64 of a pixel in x and in y, between black and white."""
    side = CROP_SIZE + 2 * CONTEXT
    noise = np.random.default_rng(0).choice(np.array([0, 255], dtype=np.uint8), (8, side, side, 3))
    assert both_ways(torch.from_numpy(noise), Augmentation().sample_seeded(range(8)), CROP_SIZE).max() <= 12


def test_an_accelerators_face_does_not_depend_on_its_batch(toy_dataset: Toy) -> None:
    prepared = PreparedFaces(toy_dataset())
    contexts = torch.from_numpy(np.stack([prepared.context(i) for i in range(4)]))
    together = warp_tensors(contexts, HARD.sample_seeded(range(4)))
    for i in range(4):
        assert torch.equal(warp_tensors(contexts[i : i + 1], HARD.sample_seeded([i]))[0], together[i])


def test_an_accelerators_blur_is_opencvs(toy_dataset: Toy) -> None:
    prepared = PreparedFaces(toy_dataset())
    contexts = torch.from_numpy(np.stack([prepared.context(i) for i in range(3)]))
    views = Augmentation(contrast=0, brightness=0, blur=4.0, blurred=1.0).sample_seeded(range(3))
    assert both_ways(contexts, views, CROP_SIZE).max() <= 2
