"""ONNX files: ONNX Runtime gives the landmarks and iterations that PyTorch gives."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from face_align_env.aligner import FaceAligner, export, make_yunet, yunet
from face_align_env.datasets import load_dataset
from face_align_env.networks.cascade import MeanStart
from face_align_env.networks.confidence import ErrorHead, ErrorHeadConfig
from face_align_env.networks.gain import GainHead, GainHeadConfig
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN

onnx = pytest.importorskip("onnx", reason="the extra export is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")

FACES = 24


@pytest.fixture(scope="module")
def faces() -> list[Any]:
    return list(load_dataset("synthetic", "test", size=FACES))


def run(model: bytes, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    landmarks, iterations = session.run(["landmarks", "iterations"], inputs)
    return landmarks, iterations


def crops_of(aligner: FaceAligner, faces: list[Any]) -> np.ndarray:
    return np.concatenate([aligner.prepare(face.image, face.box).crops for face in faces])


def last(trajectories: np.ndarray, iterations: np.ndarray) -> np.ndarray:
    return np.stack([trajectory[steps] for trajectory, steps in zip(trajectories, iterations, strict=True)])


def assert_as_torch(found: np.ndarray, expected: np.ndarray) -> None:
    """Within 1e-3 pixels; of one face, one patch may be cut a pixel beside its place by another processor's sums."""
    differences = np.abs(found - expected).max(axis=(1, 2))
    assert (differences < export.TOLERANCE).sum() >= len(differences) - 1, differences


@pytest.mark.parametrize("name", ["300w-68", "300w-19", "synthetic-68"])
def test_crops_get_the_landmarks_of_torch_and_each_its_own_iterations(name: str, faces: list[Any]) -> None:
    aligner = FaceAligner.from_pretrained(name)
    crops = crops_of(aligner, faces)
    trajectories, expected = aligner.align_crops(crops)
    landmarks, iterations = run(export.build(aligner, "crop"), crops=crops)
    assert (iterations == expected).sum() >= FACES - 1
    assert len(set(iterations)) > 1, "faces stop at different times"
    assert_as_torch(landmarks, last(trajectories, expected))


def test_confidences_are_those_of_torch(faces: list[Any], gen: GEN, new_lrn: Callable[..., LRN]) -> None:
    head = ErrorHead(ErrorHeadConfig())
    head.state.copy_(torch.linspace(-0.2, 0.2, 512))
    head.offset.fill_(1.5)
    aligner = FaceAligner(gen, new_lrn(gain=30.0), error_head=head)
    crops = crops_of(aligner, faces[:6])
    expected = aligner.refine(crops).confidences
    assert expected is not None
    session = onnxruntime.InferenceSession(export.build(aligner, "crop"), providers=["CPUExecutionProvider"])
    (found,) = session.run(["confidence"], {"crops": crops})
    assert np.ptp(expected) > 0
    assert np.median(np.abs(found / expected - 1)) < 1e-4


@pytest.mark.parametrize("kind", export.KINDS)
def test_a_second_look_at_the_mirrored_face_is_that_of_torch(kind: str, faces: list[Any]) -> None:
    aligner = FaceAligner.from_pretrained("300w-68", mirror=True)
    assert aligner.error_head is not None
    session = onnxruntime.InferenceSession(export.build(aligner, kind), providers=["CPUExecutionProvider"])
    found, expected, plain = [], [], FaceAligner.from_pretrained("300w-68")
    for face in faces[:12]:
        box = face.box.astype(np.float32)
        photo = aligner.prepare(face.image, box)
        inputs = {"crops": photo.crops} if kind == "crop" else {"photo": face.image, "boxes": box[None]}
        found.append([each[0] for each in session.run(None, inputs)])
        refined = aligner.refine(photo.crops)
        (alignment,) = refined.alignments(photo)
        steps = refined.iterations[0]
        shape = refined.trajectories[0, steps] if kind == "crop" else alignment.landmarks
        expected.append((shape, steps, alignment.confidence))
        assert np.abs(alignment.landmarks - plain(face.image, box)[0].landmarks).max() > 0.01
    shapes, iterations, confidences = zip(*found, strict=True)
    wanted, wanted_iterations, wanted_confidences = zip(*expected, strict=True)
    assert_as_torch(np.stack(shapes), np.stack(wanted))
    assert (np.array(iterations) == wanted_iterations).sum() >= 11
    assert np.median(np.abs(np.divide(confidences, wanted_confidences) - 1)) < 1e-4


def test_two_looks_without_a_cascade_are_the_mean_of_two_starts(gen: GEN, faces: list[Any]) -> None:
    aligner = FaceAligner(gen, None, mirror=True)
    crops = crops_of(aligner, faces[:4])
    landmarks, iterations = run(export.build(aligner, "crop"), crops=crops)
    assert_as_torch(landmarks, aligner.align_crops(crops)[0][:, 0])
    assert not iterations.any()


@pytest.mark.parametrize("zoom", [0.4, 1, 2.3])
def test_photos_get_the_landmarks_of_torch(zoom: float, faces: list[Any]) -> None:
    aligner = FaceAligner.from_pretrained("synthetic-68")
    model = export.build(aligner, "photo")
    found, expected = [], []
    for face in faces[:12]:
        photo = cv2.resize(face.image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
        box = np.float32(face.box * zoom)
        found.append(run(model, photo=photo, boxes=box[None])[0][0])
        expected.append(aligner(photo, box)[0].landmarks)
    assert_as_torch(np.stack(found), np.stack(expected))


def test_large_faces_are_reduced_before_they_are_cut(faces: list[Any]) -> None:
    aligner = FaceAligner.from_pretrained("synthetic-68")
    model = export.build(aligner, "photo")
    differences = []
    for face in faces[:8]:
        photo = cv2.resize(face.image, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
        box = np.float32(face.box * 5)
        found, _ = run(model, photo=photo, boxes=box[None])
        differences.append(np.abs(found[0] - aligner(photo, box)[0].landmarks).max())
    assert np.median(differences) < 0.05, differences  # of 1,280 pixels


def test_faces_of_one_photo_go_together_and_may_lie_at_its_edges(faces: list[Any]) -> None:
    aligner = FaceAligner.from_pretrained("synthetic-68")
    photo = np.concatenate([face.image for face in faces[:3]], axis=1)
    boxes = np.float32([*(faces[i].box + np.array([256 * i, 0, 256 * i, 0]) for i in range(3)), [-40, -30, 90, 100]])
    landmarks, iterations = run(export.build(aligner, "photo"), photo=photo, boxes=boxes)
    expected = aligner(photo, boxes)
    assert_as_torch(landmarks, np.stack([each.landmarks for each in expected]))
    assert iterations.tolist() == [each.iterations for each in expected]


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("kind", export.KINDS)
def test_no_face_is_no_landmarks(kind: str, mirror: bool) -> None:
    aligner = FaceAligner.from_pretrained("300w-19", mirror=mirror)
    nobody: dict[str, Any] = {"crops": np.zeros((0, 256, 256, 3), np.uint8)}
    if kind == "photo":
        nobody = {"photo": np.zeros((90, 120, 3), np.uint8), "boxes": np.zeros((0, 4), np.float32)}
    landmarks, iterations = run(export.build(aligner, kind), **nobody)
    assert landmarks.shape == (0, 19, 2)
    assert iterations.shape == (0,)


@pytest.fixture(
    params=["from the mean shape", "without a cascade", "without Eq. 3", "two iterations", "MDM", "48 pixels"]
)
def variant(
    request: pytest.FixtureRequest, mean_shape: np.ndarray, gen: GEN, new_lrn: Callable[..., LRN]
) -> FaceAligner:
    """Every way to put an aligner together, of networks that have learnt nothing."""
    lrn = new_lrn(gain=30.0)
    torch.manual_seed(0)
    variants: dict[str, Callable[[], FaceAligner]] = {
        "from the mean shape": lambda: FaceAligner(MeanStart(torch.from_numpy(mean_shape)), lrn, margin=0.3),
        "without a cascade": lambda: FaceAligner(gen, None),
        "without Eq. 3": lambda: FaceAligner(gen, lrn, alpha_2=None, max_iterations=3),
        "two iterations": lambda: FaceAligner(gen, lrn, alpha_2=1e-3, max_iterations=2),
        "MDM": lambda: FaceAligner(
            gen, new_lrn(gain=30.0, encoder=((4, 3, 1, 2), (4, 3, 1, 2)), bottleneck=0, patch_size=21), max_iterations=3
        ),
        "48 pixels": lambda: FaceAligner(
            GEN(GENConfig(input_size=48, width=4, hidden=16, batch_norm=True, dropout=0.1), mean_shape), lrn
        ),
    }
    return variants[request.param]()


def test_every_kind_of_aligner_is_exported(variant: FaceAligner, faces: list[Any]) -> None:
    crops = crops_of(variant, faces[:8])
    trajectories, expected = variant.align_crops(crops)
    landmarks, iterations = run(export.build(variant, "crop"), crops=crops)
    assert iterations.tolist() == expected.tolist()
    assert_as_torch(landmarks, last(trajectories, expected))


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    aligner = FaceAligner.from_pretrained("300w-19")
    path = tmp_path / "folder" / "aligner.onnx"
    found = export.write(aligner, path, "crop", {"license": "for research", "card": {"landmarks": 19}})
    assert found.shape == (8,)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    told = session.get_modelmeta().custom_metadata_map
    assert told["license"] == "for research"
    assert json.loads(told["card"]) == {"landmarks": 19}
    assert (told["kind"], float(told["alpha_2"]), float(told["margin"])) == ("crop", aligner.alpha_2, aligner.margin)
    assert [path.name for path in path.parent.iterdir()] == ["aligner.onnx"]


def test_what_cannot_be_exported_is_said(
    gen: GEN, new_lrn: Callable[..., LRN], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligner = FaceAligner(gen, new_lrn())
    with pytest.raises(ValueError, match=r"must end with \.onnx, got '.*aligner\.pt'"):
        export.write(aligner, tmp_path / "aligner.pt")
    with pytest.raises(ValueError, match="kind"):
        export.build(aligner, "video")
    with pytest.raises(export.ExportError, match=r"float32 are exported, these are in torch\.bfloat16"):
        export.build(FaceAligner(gen, new_lrn(), dtype=torch.bfloat16))
    with pytest.raises(export.ExportError, match=r"Only Eq\. 3 is exported: make the aligner without least_gain"):
        export.build(FaceAligner(gen, new_lrn(), gain_head=GainHead(GainHeadConfig(68)), least_gain=0.1))
    monkeypatch.setattr(export, "differences", lambda *_: np.full(8, 0.5))
    with pytest.raises(export.ExportError, match=r"by 0\.5 pixels\): nothing was written"):
        export.write(aligner, tmp_path / "aligner.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_detectors_file_is_what_its_maker_makes() -> None:
    """From the parameters in the file itself: libfacedetection's library is not at hand."""
    stored = onnx.load(yunet.MODEL).graph.initializer
    parameters = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in stored}
    assert hashlib.sha256(make_yunet.build(parameters)).hexdigest() == yunet.SHA256
