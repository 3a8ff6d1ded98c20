"""FaceAligner: the episode of the environment, on photos."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from writers.release import card_of, micro_gen, write_bundle

from face_align_env import released
from face_align_env.aligner.aligner import FaceAligner
from face_align_env.aligner.looks import Look
from face_align_env.aligner.yunet import YuNetDetector
from face_align_env.crops import crop_transform, cut, invert_transform, transform_points
from face_align_env.datasets import FaceDataset, load_dataset
from face_align_env.datasets.base import BadFaceError
from face_align_env.landmarks import get_scheme
from face_align_env.networks.cascade import MeanStart, cascade
from face_align_env.networks.confidence import ErrorHead, ErrorHeadConfig
from face_align_env.networks.gain import GainHead, GainHeadConfig
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN
from face_align_env.prepared import PreparedFaces
from face_align_env.released import load_networks


@pytest.fixture
def lively(new_lrn: Callable[..., LRN]) -> LRN:
    return new_lrn(gain=3.0)


@pytest.fixture
def faces(toy_dataset: Any) -> PreparedFaces:
    return PreparedFaces(toy_dataset("test", size=8))


@pytest.fixture
def crops(faces: PreparedFaces) -> np.ndarray:
    return np.stack([faces.crop(i) for i in range(len(faces))])


def lengths(trajectory: np.ndarray) -> np.ndarray:
    """(..., T) mean L1 length of a landmark's increment at each iteration."""
    return np.abs(np.diff(trajectory, axis=-3)).sum(-1).mean(-1)


def mid_alpha(gen: GEN, lrn: LRN, crops: np.ndarray) -> float:
    """A bound that stops some faces early, some later."""
    trajectories, _ = FaceAligner(gen, lrn, None, 10).align_crops(crops)
    return float(np.median(lengths(trajectories)[:, :3].min(axis=1)))


def test_eq_3_stops_each_face_by_itself(gen: GEN, lively: LRN, crops: np.ndarray) -> None:
    alpha_2 = mid_alpha(gen, lively, crops)
    trajectories, iterations = FaceAligner(gen, lively, alpha_2, max_iterations=6).align_crops(crops)
    assert trajectories.shape == (8, 7, 68, 2)
    assert iterations.min() < iterations.max() <= 6, "faces differ"
    for trajectory, n in zip(trajectories, iterations.tolist(), strict=True):
        steps = lengths(trajectory)
        assert (steps[: n - 1] >= alpha_2).all()
        assert steps[n - 1] < alpha_2 or n == 6
        np.testing.assert_array_equal(trajectory[n:], np.broadcast_to(trajectory[n], trajectory[n:].shape))


def test_a_face_stops_where_its_next_iteration_is_predicted_to_gain_little(
    gen: GEN, lively: LRN, crops: np.ndarray
) -> None:
    head = GainHead(GainHeadConfig(68, 6))
    head.slopes[:, 0] = 1.0  # the mean length of the increment
    trajectories, _ = FaceAligner(gen, lively, None, 6).align_crops(crops)
    steps = np.linalg.norm(np.diff(trajectories, axis=1), axis=-1).mean(-1)
    least = float(np.median(steps[:, :3].min(axis=1)))
    found, iterations = FaceAligner(gen, lively, 1e9, 6, gain_head=head, least_gain=least).align_crops(crops)
    assert iterations.min() < iterations.max(), "faces differ, and Eq. 3 is not asked"
    for own, path, shape, n in zip(steps, trajectories, found, iterations.tolist(), strict=True):
        assert (own[: n - 1] >= least).all()
        assert own[n - 1] < least or n == 6
        np.testing.assert_allclose(shape[-1], path[n], atol=1e-3)
    told, lengths = FaceAligner(gen, lively, 1e9, 6, gain_head=head).align_crops(crops)
    assert lengths.tolist() == [1] * 8, "Eq. 3, where no gain is asked for"
    assert told.shape == found.shape


def test_gains_that_nobody_predicts_are_an_error(gen: GEN, lively: LRN) -> None:
    head = GainHead(GainHeadConfig(68))
    for arguments in ({}, {"gain_head": None}):
        with pytest.raises(ValueError, match="least_gain needs weights that predict what an iteration gains"):
            FaceAligner(gen, lively, least_gain=0.1, **arguments)
    with pytest.raises(ValueError, match="least_gain must be a finite number"):
        FaceAligner(gen, lively, gain_head=head, least_gain=float("nan"))
    with pytest.raises(ValueError, match="the head of the gain 19"):
        FaceAligner(gen, lively, gain_head=GainHead(GainHeadConfig(19)), least_gain=0.1)


@pytest.mark.parametrize(("alpha_2", "expected"), [(None, 4), (1e9, 1), (1e-9, 4)])
def test_the_bound_decides_how_long(gen: GEN, lively: LRN, crops: np.ndarray, alpha_2: Any, expected: int) -> None:
    _, iterations = FaceAligner(gen, lively, alpha_2, max_iterations=4).align_crops(crops)
    assert iterations.tolist() == [expected] * 8


def test_without_lrn_the_start_is_the_answer(gen: GEN, crops: np.ndarray) -> None:
    trajectories, iterations = FaceAligner(gen, None).align_crops(crops)
    assert trajectories.shape == (8, 1, 68, 2)
    assert not iterations.any()
    with torch.no_grad():
        np.testing.assert_allclose(trajectories[:, 0], gen(torch.from_numpy(crops)), atol=1e-4)


@pytest.fixture
def normalised(mean_shape: np.ndarray, crops: np.ndarray) -> GEN:
    """A GEN with batch normalisation whose running means have moved."""
    torch.manual_seed(0)
    gen = GEN(GENConfig(input_size=32, width=4, hidden=16, batch_norm=True, dropout=0.2), mean_shape).train()
    with torch.no_grad():
        gen(torch.from_numpy(crops))
    return gen


def test_the_fast_form_of_the_networks_aligns_as_they_do(normalised: GEN, lively: LRN, crops: np.ndarray) -> None:
    trajectories, _ = FaceAligner(normalised, lively, None, max_iterations=3).align_crops(crops)
    with torch.no_grad():
        images = torch.from_numpy(crops)
        x_0 = normalised.eval()(images)
        shapes = [x_0, *(step.landmarks for step in cascade(lively, images, x_0, 3))]
    np.testing.assert_allclose(trajectories, torch.stack(shapes, 1).numpy(), rtol=0, atol=0.01)


def test_the_networks_stay_as_they_are(normalised: GEN, lively: LRN, crops: np.ndarray) -> None:
    aligner = FaceAligner(normalised, lively, dtype=torch.bfloat16)
    before, _ = aligner.align_crops(crops)
    assert normalised.training
    for network in (normalised, lively):
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        assert all(parameter.requires_grad for parameter in network.parameters())
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
    np.testing.assert_array_equal(aligner.align_crops(crops)[0], before, err_msg="an aligner has its own copies")


def test_bfloat16_moves_landmarks_by_less_than_a_pixel(normalised: GEN, lively: LRN, crops: np.ndarray) -> None:
    exact, _ = FaceAligner(normalised, lively, None, max_iterations=3).align_crops(crops)
    rounded, _ = FaceAligner(normalised, lively, None, max_iterations=3, dtype=torch.bfloat16).align_crops(crops)
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 1


def test_the_mean_shape_is_not_rounded(lively: LRN, crops: np.ndarray, mean_shape: np.ndarray) -> None:
    start = MeanStart(torch.from_numpy(mean_shape))
    trajectories, _ = FaceAligner(start, lively, dtype=torch.bfloat16).align_crops(crops)
    np.testing.assert_array_equal(trajectories[:, 0], np.broadcast_to(mean_shape, (8, 68, 2)))


def test_faces_are_aligned_alike_one_by_one_and_together(gen: GEN, lively: LRN, crops: np.ndarray) -> None:
    alpha_2 = mid_alpha(gen, lively, crops) + 0.013
    together, iterations = FaceAligner(gen, lively, alpha_2).align_crops(crops)
    for batch_size in (1, 3):
        apart, others = FaceAligner(gen, lively, alpha_2, batch_size=batch_size).align_crops(crops)
        np.testing.assert_array_equal(others, iterations)
        np.testing.assert_allclose(apart, together, atol=1e-3)


def test_it_plays_the_episodes_of_the_environment(
    toy_env: Any, lively: LRN, crops: np.ndarray, mean_shape: np.ndarray
) -> None:
    start = MeanStart(torch.from_numpy(mean_shape))
    alpha_2 = mid_alpha(start, lively, crops) + 0.013  # type: ignore[arg-type]
    trajectories, iterations = FaceAligner(start, lively, alpha_2, max_iterations=5).align_crops(crops)
    assert len(set(iterations.tolist())) > 1
    env = toy_env(True, "test", termination="blind", alpha_2=alpha_2, max_iterations=5)
    for i in range(6):  # toy_env has six of the eight faces
        observation, info = env.reset(options={"index": i})
        over = False
        while not over:
            with torch.inference_mode():
                a, d = lively(*(torch.from_numpy(observation[key])[None] for key in ("patches", "history")))
            observation, _, terminated, truncated, info = env.step(torch.cat([a, d], 1)[0].numpy())
            over = terminated or truncated
            np.testing.assert_allclose(info["landmarks"], trajectories[i, info["iterations"]], atol=1e-3)
        assert info["iterations"] == iterations[i]


def test_landmarks_are_pixels_of_the_photo(toy_dataset: Any, gen: GEN, lively: LRN) -> None:
    dataset: FaceDataset = toy_dataset("test")
    face = dataset[0]
    shifted = face.box + np.float32([-6, 4, 10, 12])
    aligner = FaceAligner(gen, lively, None, max_iterations=3, margin=0.2)
    alignments = aligner(face.image, [face.box, shifted])
    for box, alignment in zip([face.box, shifted], alignments, strict=True):
        matrix = crop_transform(box, 0.2)
        (trajectory,), _ = aligner.align_crops(cut(face.image, matrix)[None])
        photo = np.stack([transform_points(invert_transform(matrix), shape) for shape in trajectory])
        np.testing.assert_allclose(alignment.trajectory, photo, atol=1e-3)
        np.testing.assert_array_equal(alignment.landmarks, alignment.trajectory[-1])
        assert alignment.iterations == 3
        assert len(alignment.trajectory) == 4
        assert alignment.landmarks.dtype == np.float32
        np.testing.assert_array_equal(alignment.box, box)
        centre = alignment.landmarks.mean(0)
        assert (box[:2] < centre).all()
        assert (centre < box[2:]).all()


def test_a_trajectory_has_one_shape_more_than_iterations(
    toy_dataset: Any, gen: GEN, lively: LRN, crops: np.ndarray
) -> None:
    face = toy_dataset("test")[1]
    boxes = [face.box + np.float32(shift) for shift in range(0, 12, 2)]
    aligner = FaceAligner(gen, lively, mid_alpha(gen, lively, crops))
    alignments = aligner(face.image, boxes)
    assert len(alignments) == len(boxes)
    for alignment in alignments:
        assert 1 <= alignment.iterations <= 10
        assert alignment.trajectory.shape == (alignment.iterations + 1, 68, 2)


def test_images_may_be_files(toy_dataset: Any, gen: GEN, lively: LRN, tmp_path: Path) -> None:
    face = toy_dataset("test")[0]
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), face.image[:, :, ::-1])
    aligner = FaceAligner(gen, lively)
    (from_file,), (from_array,) = aligner(path, face.box), aligner(face.image, face.box)
    np.testing.assert_array_equal(from_file.landmarks, from_array.landmarks)


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4))], ids=["list", "array"])
def test_no_boxes_no_faces(toy_dataset: Any, gen: GEN, lively: LRN, boxes: Any) -> None:
    assert FaceAligner(gen, lively)(toy_dataset("test").image(0), boxes) == []


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([1000, 1000, 1100, 1100], "outside the image"),
        ([50, 50, 50, 90], "x0 < x1"),
        ([50, 50, float("nan"), 90], "Expected a box"),
    ],
)
def test_boxes_that_cannot_be_are_errors(toy_dataset: Any, gen: GEN, lively: LRN, box: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FaceAligner(gen, lively)(toy_dataset("test").image(0), [box])


@pytest.mark.parametrize(
    "image",
    [np.zeros((0, 9, 3), np.uint8), np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3))],
    ids=["empty", "grey", "float"],
)
def test_images_that_cannot_be_are_errors(gen: GEN, lively: LRN, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"non-empty .* uint8 RGB image"):
        FaceAligner(gen, lively)(image, [0, 0, 5, 5])


def test_a_missing_file_is_named(gen: GEN, lively: LRN, tmp_path: Path) -> None:
    with pytest.raises(BadFaceError, match=r"nowhere\.jpg"):
        FaceAligner(gen, lively)(tmp_path / "nowhere.jpg", [0, 0, 5, 5])


def test_networks_of_two_schemes_are_an_error(gen: GEN, new_lrn: Callable[..., LRN]) -> None:
    with pytest.raises(ValueError, match="x_0 has 68 landmarks, LRN 29"):
        FaceAligner(gen, new_lrn(num_landmarks=29))
    with pytest.raises(ValueError, match="x_0 has 68 landmarks, the head of the confidence 19"):
        FaceAligner(gen, new_lrn(), error_head=ErrorHead(ErrorHeadConfig(19)))


def mirrored_back(shapes: np.ndarray) -> np.ndarray:
    return np.stack([255 - shapes[..., 0], shapes[..., 1]], -1)[..., get_scheme(68).mirror_permutation, :]


def test_the_second_look_is_that_at_the_mirrored_face(gen: GEN, lively: LRN, crops: np.ndarray) -> None:
    alpha_2 = mid_alpha(gen, lively, crops)
    plain = FaceAligner(gen, lively, alpha_2)
    first, second = plain.refine(crops), plain.refine(crops[:, :, ::-1])
    both = FaceAligner(gen, lively, alpha_2, mirror=True, batch_size=3).refine(crops)
    mean = (first.trajectories + mirrored_back(second.trajectories)) / 2
    np.testing.assert_allclose(both.trajectories, mean, atol=1e-3)
    np.testing.assert_array_equal(both.iterations, np.maximum(first.iterations, second.iterations))
    assert np.abs(both.trajectories - first.trajectories).max() > 0.1


def test_with_two_looks_a_mirrored_face_has_the_mirrored_shape(gen: GEN, lively: LRN, crops: np.ndarray) -> None:
    aligner = FaceAligner(gen, lively, None, max_iterations=3, mirror=True)
    shapes, mirrored = (aligner.align_crops(images)[0] for images in (crops, crops[:, :, ::-1]))
    np.testing.assert_allclose(mirrored_back(mirrored), shapes, atol=1e-3)


def test_given_starts_are_mirrored_too(gen: GEN, lively: LRN, crops: np.ndarray) -> None:
    starts = gen.mean_shape.numpy() + np.random.default_rng(0).normal(0, 4, (len(crops), 68, 2)).astype(np.float32)
    both = FaceAligner(gen, lively, None, max_iterations=2, mirror=True).align_crops(crops, starts)[0]
    np.testing.assert_allclose(both[:, 0], starts, atol=1e-4)
    plain = FaceAligner(gen, lively, None, max_iterations=2)
    second = plain.align_crops(crops[:, :, ::-1], mirrored_back(starts).astype(np.float32))[0]
    expected = (plain.align_crops(crops, starts)[0] + mirrored_back(second)) / 2
    np.testing.assert_allclose(both, expected, atol=1e-3)


def head(seed: int = 0) -> ErrorHead:
    made = ErrorHead(ErrorHeadConfig(68))
    torch.manual_seed(seed)
    made.state.normal_(0, 0.3)
    made.offset.fill_(1.0)
    made.pair.copy_(torch.tensor([0.5, 0.7, 0.4]))
    return made


def test_the_confidence_is_read_off_the_last_state(gen: GEN, lively: LRN, crops: np.ndarray) -> None:
    aligner = FaceAligner(gen, lively, mid_alpha(gen, lively, crops), error_head=head())
    (look,) = aligner.looks(crops)
    expected = np.exp(1 + look.history.numpy() @ head().state.numpy())
    confidences = aligner.refine(crops).confidences
    np.testing.assert_allclose(confidences, expected, rtol=1e-4)
    assert np.ptp(confidences) > 0
    images, x_0 = torch.from_numpy(crops[:1]), torch.from_numpy(aligner.start_shapes(crops[:1]))
    *_, last = cascade(lively, images, x_0, int(look.iterations[0]))
    np.testing.assert_allclose(look.history[0], last.history[0].detach(), atol=1e-4)


def test_the_confidence_of_two_looks_knows_how_far_they_are_apart(gen: GEN, lively: LRN, crops: np.ndarray) -> None:
    aligner = FaceAligner(gen, lively, None, max_iterations=2, mirror=True, error_head=head())
    first, second = aligner.looks(crops)
    (x, y) = (look.trajectories[:, -1].numpy() for look in (first, second))
    mean = (x + y) / 2
    pupils = np.linalg.norm(mean[:, 36:42].mean(1) - mean[:, 42:48].mean(1), axis=-1)
    apart = np.log(np.linalg.norm(x - y, axis=-1).mean(1) / pupils)
    single = 1 + (first.history.numpy() + second.history.numpy()) / 2 @ head().state.numpy()
    np.testing.assert_allclose(aligner.refine(crops).confidences, np.exp(0.5 + 0.7 * single + 0.4 * apart), rtol=1e-4)


def test_a_head_changes_no_landmark_and_without_one_nothing_is_known(toy_dataset: Any, gen: GEN, lively: LRN) -> None:
    face = toy_dataset("test")[0]
    (known,) = FaceAligner(gen, lively, error_head=head())(face.image, face.box)
    (unknown,) = FaceAligner(gen, lively)(face.image, face.box)
    np.testing.assert_array_equal(known.trajectory, unknown.trajectory)
    assert known.confidence > 0
    assert known.to_dict()["confidence"] == round(known.confidence, 2)
    assert unknown.confidence is None
    assert unknown.to_dict()["confidence"] is None
    assert FaceAligner(gen, None, error_head=head())(face.image, face.box)[0].confidence is None


@pytest.mark.parametrize("mirror", [False, True])
def test_no_crops_are_no_faces(gen: GEN, lively: LRN, crops: np.ndarray, mirror: bool) -> None:
    refined = FaceAligner(gen, lively, max_iterations=4, mirror=mirror, error_head=head()).refine(crops[:0])
    assert refined.trajectories.shape == (0, 5, 68, 2)
    assert refined.iterations.shape == refined.confidences.shape == (0,)


def test_released_weights_give_their_aligner(
    lively: LRN, crops: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(released, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="no released weights '300w-68'"):
        FaceAligner.from_pretrained()
    path, gen = tmp_path / "300w-68.safetensors", micro_gen()
    write_bundle(path, gen, lively)
    path.with_suffix(".json").write_text(json.dumps(card_of(path, gen, lively, alpha_2=2.5, margin=0.3)))
    aligner = FaceAligner.from_pretrained("300w-68", dtype=torch.bfloat16)
    assert (aligner.alpha_2, aligner.margin) == (2.5, 0.3)
    assert {parameter.dtype for parameter in aligner.start.parameters()} == {torch.bfloat16}
    networks = load_networks(released.find_release("300w-68"))
    expected = FaceAligner(*networks, alpha_2=2.5, margin=0.3).align_crops(crops)
    np.testing.assert_array_equal(FaceAligner.from_pretrained().align_crops(crops)[0], expected[0])
    assert FaceAligner.from_pretrained().error_head is None
    assert FaceAligner.from_pretrained(mirror=True).mirror
    write_bundle(path, gen, lively, head())
    path.with_suffix(".json").write_text(json.dumps(card_of(path, gen, lively, alpha_2=2.5, margin=0.3)))
    with_head = FaceAligner.from_pretrained().refine(crops)
    np.testing.assert_array_equal(with_head.trajectories, expected[0])
    exact = FaceAligner(*networks, alpha_2=2.5, margin=0.3, error_head=head()).refine(crops)
    np.testing.assert_array_equal(with_head.confidences, exact.confidences)


def test_without_boxes_the_faces_are_detected(toy_dataset: Any, gen: GEN, lively: LRN) -> None:
    face = toy_dataset("test")[0]
    aligner = FaceAligner(gen, lively, detector=lambda image: np.stack([face.box, face.box + 5]).astype(float))
    detected, given = aligner(face.image), aligner(face.image, [face.box, face.box + 5])
    assert len(detected) == 2
    for one, other in zip(detected, given, strict=True):
        np.testing.assert_array_equal(one.landmarks, other.landmarks)
        np.testing.assert_array_equal(one.box, other.box)


def test_the_first_choice_of_detectors_is_made_when_it_is_needed(gen: GEN, lively: LRN) -> None:
    aligner = FaceAligner(gen, lively)
    assert isinstance(aligner.detector, YuNetDetector)
    assert aligner.detector is aligner.detector


def test_the_package_offers_the_aligner_and_stays_cheap() -> None:
    script = (
        "import sys, face_align_env\n"
        "assert not {'torch', 'cv2'} & set(sys.modules)\n"
        "from face_align_env import FaceAligner\n"
        "print(FaceAligner.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "face_align_env.aligner.aligner"


def test_a_photo_without_faces_gives_none(gen: GEN, lively: LRN) -> None:
    assert FaceAligner(gen, lively)(np.full((200, 300, 3), 128, np.uint8)) == []


def test_threads_share_the_faces_and_find_the_same() -> None:
    faces = PreparedFaces(load_dataset("synthetic", "test", size=20))
    crops = np.stack([faces.crop(i) for i in range(len(faces))])
    aligner = FaceAligner.from_pretrained("synthetic-68", mirror=True)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = aligner.refine(crops)
        torch.set_num_threads(2)
        shared = aligner.refine(crops)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert (shared.iterations == alone.iterations).sum() >= len(crops) - 1
    assert np.median(np.abs(shared.trajectories - alone.trajectories).max(axis=(1, 2, 3))) < 1e-3


@pytest.mark.parametrize("threads", [1, 2])
def test_no_more_faces_than_the_batch_go_through_the_networks_together(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligner = FaceAligner.from_pretrained("synthetic-68")
    aligner.batch_size, look, seen = 8, aligner._look, list[int]()
    monkeypatch.setattr(aligner, "_look", lambda images, *rest: seen.append(len(images)) or look(images, *rest))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    assert len(aligner.align_crops(np.zeros((20, 256, 256, 3), np.uint8))[0]) == 20
    assert sorted(seen) == [4, 8, 8]
    # Elsewhere than on the CPU nothing is shared, and the batch is as large all the same.
    seen.clear()
    monkeypatch.setattr(aligner, "device", torch.device("meta"))
    monkeypatch.setattr(aligner, "_two_looks", lambda crops, *_: seen.append(len(crops)) or (_nothing(len(crops)),))
    aligner.looks(np.zeros((20, 256, 256, 3), np.uint8))
    assert seen == [8, 8, 4]


def _nothing(n: int) -> Look:
    return Look(torch.zeros(n, 1, 68, 2), torch.zeros(n), torch.zeros(n, 512))
