"""Views: landmarks stay on their pixels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from face_align_env import augmentation as module
from face_align_env.augmentation import Augmentation, Views, warp_images
from face_align_env.crops import CONTEXT, CROP_SIZE
from face_align_env.datasets import FaceDataset
from face_align_env.landmarks import SCHEME_19, get_scheme
from face_align_env.mdp import nme
from face_align_env.prepared import FaceSource, PreparedFaces

STILL = Augmentation(rotation=0, scale=0, shift=0, mirror=0, contrast=0, brightness=0, blur=0)
Toy = Callable[..., FaceDataset]


def view(seed: int, augmentation: Augmentation) -> Views:
    return augmentation.sample_seeded([seed])


def context_with_spot(x: float, y: float) -> npt.NDArray[np.uint8]:
    """A prepared face that is black but for a spot at (x, y) of its crop."""
    side = CROP_SIZE + 2 * CONTEXT
    rows, columns = np.mgrid[:side, :side] - CONTEXT
    spot = 250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 3.0**2))
    return np.repeat(spot[..., None], 3, axis=2).astype(np.uint8)


def centroid(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    weights = image[..., 0].astype(np.float64)
    weights[weights < 10] = 0
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()


@pytest.mark.parametrize("mirror", [0.0, 1.0], ids=["plain", "mirrored"])
@pytest.mark.parametrize("seed", range(4))
def test_landmarks_stay_on_their_pixels(seed: int, mirror: float) -> None:
    views = view(seed, Augmentation(mirror=mirror, contrast=0, brightness=0))
    rng = np.random.default_rng(seed)
    shape = rng.uniform(70, 186, (1, 19, 2)).astype(np.float32)
    moved = views.landmarks(shape, SCHEME_19)[0]
    for k in (0, 6, 13):  # the last is a point on the axis of symmetry, the others have a counterpart
        image = warp_images([context_with_spot(*shape[0, k])], views)[0]
        counterpart = SCHEME_19.mirror_permutation[k] if mirror else k
        np.testing.assert_allclose(centroid(image), moved[counterpart], atol=0.1)


def test_half_resolution_shows_the_same_view() -> None:
    """Networks may train on smaller images of the same faces."""
    views = view(1, Augmentation(contrast=0, brightness=0))
    context = context_with_spot(120.0, 90.0)
    half = cv2.resize(context, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    small = warp_images([np.asarray(half, dtype=np.uint8)], views, CROP_SIZE // 2)[0]
    large = warp_images([context], views)[0]
    np.testing.assert_allclose((centroid(small) + 0.5) * 2 - 0.5, centroid(large), atol=0.2)


def test_identity_is_the_plain_crop_exactly(toy_dataset: Toy) -> None:
    prepared = PreparedFaces(toy_dataset())
    indices, seeds = np.arange(6), np.arange(6)
    plain, still = FaceSource(prepared), FaceSource(prepared, STILL)
    np.testing.assert_array_equal(still.crops(indices, seeds), plain.crops(indices, seeds))
    for one, other in zip(still.annotations(indices, seeds), plain.annotations(indices, seeds), strict=True):
        np.testing.assert_array_equal(one, other)


def test_mirroring_twice_gives_the_face_back(toy_dataset: Toy) -> None:
    prepared = PreparedFaces(toy_dataset())
    mirrored = replace(STILL, mirror=1.0).sample_seeded([0])
    scheme = prepared.scheme
    once = mirrored.landmarks(prepared.landmarks[:1], scheme)
    np.testing.assert_allclose(mirrored.landmarks(once, scheme), prepared.landmarks[:1], atol=1e-3)
    np.testing.assert_array_equal(warp_images([prepared.context(0)], mirrored)[0], prepared.crop(0)[:, ::-1])
    flags = np.zeros((1, 68), dtype=bool)
    flags[0, 36] = True
    assert mirrored.flags(flags, scheme)[0].nonzero()[0].tolist() == [45]


def test_a_mirrored_face_is_a_face_of_the_same_scheme(toy_dataset: Toy) -> None:
    """The left eye is still on the left of the right one, and the chin below."""
    prepared = PreparedFaces(toy_dataset())
    views = replace(STILL, mirror=1.0).sample_seeded(range(6))
    shapes = views.landmarks(prepared.landmarks, get_scheme(68))
    assert (shapes[:, 36, 0] < shapes[:, 45, 0]).all()
    assert (shapes[:, 8, 1] > shapes[:, 27, 1]).all()


def test_nme_of_a_viewed_face_is_that_of_the_face(toy_dataset: Toy) -> None:
    """Lengths and d change alike."""
    prepared = PreparedFaces(toy_dataset())
    views = Augmentation().sample_seeded(range(6))
    x = prepared.landmarks + np.random.default_rng(0).normal(0, 5, prepared.landmarks.shape).astype(np.float32)
    moved, truth = (views.landmarks(shapes, prepared.scheme) for shapes in (x, prepared.landmarks))
    np.testing.assert_allclose(
        nme(moved, truth, prepared.d * views.scales), nme(x, prepared.landmarks, prepared.d), rtol=1e-4
    )


def test_brightness_and_contrast() -> None:
    grey = np.full((1, CROP_SIZE + 2 * CONTEXT, CROP_SIZE + 2 * CONTEXT, 3), 100, dtype=np.uint8)
    views = STILL.sample_seeded([0])
    lit = replace(views, gains=np.array([1.2]), offsets=np.array([-10.0]))
    assert set(warp_images(grey, lit).ravel().tolist()) == {85}  # (100 - 127.5) 1.2 + 127.5 - 10 = 84.5, and half up
    assert set(warp_images(grey, replace(views, offsets=np.array([300.0]))).ravel().tolist()) == {255}


def test_a_view_is_a_function_of_its_seed() -> None:
    together = Augmentation().sample_seeded([3, 5, 3])
    alone = Augmentation().sample_seeded([5])
    np.testing.assert_array_equal(together.matrices[1], alone.matrices[0])
    np.testing.assert_array_equal(together.matrices[0], together.matrices[2])
    assert (together.matrices[0] != together.matrices[1]).any()


def test_a_warped_face_does_not_depend_on_its_batch(toy_dataset: Toy) -> None:
    source = FaceSource(PreparedFaces(toy_dataset()), Augmentation())
    indices, seeds = np.arange(6), np.arange(10, 16)
    crops, (landmarks, *_) = source.crops(indices, seeds), source.annotations(indices, seeds)
    for i in range(6):
        alone = indices[i : i + 1], seeds[i : i + 1]
        np.testing.assert_array_equal(source.crops(*alone)[0], crops[i])
        np.testing.assert_array_equal(source.annotations(*alone)[0][0], landmarks[i])


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_do_not_change_pixels(toy_dataset: Toy, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = PreparedFaces(toy_dataset())
    contexts, views = [prepared.context(i) for i in range(3)], Augmentation().sample_seeded(range(3))
    alone = warp_images(contexts, views)
    monkeypatch.setattr(module, "_WORTH_A_THREAD", 1)
    monkeypatch.setattr("face_align_env.threads.CORES", threads)
    np.testing.assert_array_equal(warp_images(contexts, views), alone)


def test_ranges_are_kept() -> None:
    augmentation = Augmentation(rotation=20, scale=0.1, shift=0.05, mirror=0.5)
    views = augmentation.sample(np.random.default_rng(0), 2000)
    assert views.scales.min() >= 0.9
    assert views.scales.max() <= 1.1
    assert 0.45 < views.mirrored.mean() < 0.55
    middle = np.full((2000, 1, 2), (CROP_SIZE - 1) / 2, dtype=np.float32)
    shift = views.landmarks(np.repeat(middle, 19, axis=1), SCHEME_19) - middle
    assert np.abs(shift).max() <= 0.05 * CROP_SIZE + 1e-3
    angle = np.rad2deg(np.arctan2(views.matrices[:, 0, 1], views.matrices[:, 1, 1]))
    assert 19 < np.abs(angle).max() <= 20


@pytest.mark.parametrize(
    "wrong",
    [{"scale": 1.0}, {"mirror": 1.5}, {"rotation": -1.0}, {"occlusion": 1.5}, {"tint": 1.0}, {"gamma": -1}],
    ids=str,
)
def test_ranges_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Augmentation(**wrong)


def test_blur_is_opencvs_gaussian_of_the_sharp_view(toy_dataset: Toy) -> None:
    prepared = PreparedFaces(toy_dataset())
    contexts = [prepared.context(i) for i in range(3)]
    views = Augmentation(contrast=0, brightness=0, blur=4.0, blurred=1.0).sample_seeded(range(3))
    sharp, blurred = warp_images(contexts, replace(views, blurs=np.zeros(3))), warp_images(contexts, views)
    assert (views.blurs > 0.3).all()
    for i, sigma in enumerate(views.blurs):
        expected = cv2.GaussianBlur(sharp[i], (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        np.testing.assert_array_equal(blurred[i], expected)


def test_blur_is_measured_in_pixels_of_the_full_crop(toy_dataset: Toy) -> None:
    """At a quarter of the resolution, a blur of one pixel is a quarter of a pixel: not to be seen."""
    prepared = PreparedFaces(toy_dataset())
    small = [np.ascontiguousarray(prepared.context(0)[::4, ::4])]
    views = STILL.sample_seeded([0])
    for sigma, seen in ((1.0, False), (2.0, True)):
        changed = warp_images(small, replace(views, blurs=np.array([sigma])), CROP_SIZE // 4)
        assert np.array_equal(changed, warp_images(small, views, CROP_SIZE // 4)) is not seen


def test_as_many_views_are_blurred_as_asked() -> None:
    views = Augmentation(blur=2.0, blurred=0.25).sample(np.random.default_rng(0), 4000)
    assert 0.22 < (views.blurs > 0).mean() < 0.28
    assert views.blurs.max() <= 2
    assert not Augmentation(blur=0).sample(np.random.default_rng(0), 100).blurs.any()


def test_what_covers_a_face_is_a_rectangle_of_one_colour_and_nothing_else_changes(toy_dataset: Toy) -> None:
    prepared = PreparedFaces(toy_dataset())
    contexts = [prepared.context(i) for i in range(6)]
    views = replace(STILL, occlusion=0.4, occluded=1.0).sample_seeded(range(6))
    plain, covered = warp_images(contexts, STILL.sample_seeded(range(6))), warp_images(contexts, views)
    for i, (x0, y0, x1, y1) in enumerate(views.covers.round().astype(int).clip(0, CROP_SIZE)):
        expected = plain[i].copy()
        expected[y0:y1, x0:x1] = views.colours[i]
        np.testing.assert_array_equal(covered[i], expected)
    sides = views.covers[:, 2:] - views.covers[:, :2]
    assert sides.min() >= 0.1 * CROP_SIZE - 1e-9
    assert sides.max() <= 0.4 * CROP_SIZE
    assert (covered != plain).any(axis=(1, 2, 3)).sum() >= 5


def test_as_many_faces_are_covered_as_asked() -> None:
    views = Augmentation(occlusion=0.3, occluded=0.25).sample(np.random.default_rng(0), 4000)
    assert 0.22 < views.covers.any(axis=1).mean() < 0.28
    assert not Augmentation().sample(np.random.default_rng(0), 100).covers.any()


def test_a_cover_is_measured_in_pixels_of_the_full_crop(toy_dataset: Toy) -> None:
    small = [np.ascontiguousarray(PreparedFaces(toy_dataset()).context(0)[::4, ::4])]
    still = STILL.sample_seeded([0])
    views = replace(still, covers=np.array([[40.0, 80.0, 120.0, 100.0]]), colours=np.full((1, 3), 7, dtype=np.uint8))
    covered, plain = (warp_images(small, v, CROP_SIZE // 4)[0] for v in (views, still))
    assert (covered[20:25, 10:30] == 7).all()
    covered[20:25, 10:30] = plain[20:25, 10:30]
    np.testing.assert_array_equal(covered, plain)


def test_gamma_and_tint() -> None:
    grey = np.full((1, CROP_SIZE + 2 * CONTEXT, CROP_SIZE + 2 * CONTEXT, 3), 100, dtype=np.uint8)
    views = replace(STILL.sample_seeded([0]), gammas=np.array([2.0]), tints=np.array([[1.0, 0.5, 1.5]]))
    assert warp_images(grey, views)[0, 3, 3].tolist() == [39, 20, 59]  # 255 (100 / 255)^2 = 39.2


@pytest.mark.parametrize("more", [{"occlusion": 0.3}, {"gamma": 0.5}, {"tint": 0.2}], ids=str)
def test_wishes_do_not_change_what_else_is_drawn(more: dict[str, float]) -> None:
    plain = Augmentation().sample(np.random.default_rng(0), 5)
    views = Augmentation(**more).sample(np.random.default_rng(0), 5)
    for name in ("matrices", "mirrored", "scales", "gains", "offsets", "blurs"):
        np.testing.assert_array_equal(getattr(views, name), getattr(plain, name))
    changed = {name for name in ("gammas", "tints", "covers") if (getattr(views, name) != getattr(plain, name)).any()}
    assert changed == {{"occlusion": "covers", "gamma": "gammas", "tint": "tints"}[next(iter(more))]}


def test_drawing_and_making_views_needs_no_torch() -> None:
    """The environment's half is NumPy's and OpenCV's."""
    code = "import sys; import face_align_env.augmentation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
