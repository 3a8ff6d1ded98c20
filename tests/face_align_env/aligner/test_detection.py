"""The contract that every face detector keeps, and YuNet's own business."""

from __future__ import annotations

import hashlib
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
from writers.support import real_root

from face_align_env.aligner import yunet
from face_align_env.aligner.detection import DETECTORS, Detector, DetectorNotFoundError, overlaps
from face_align_env.aligner.detectors import get_detector
from face_align_env.aligner.haar import HaarDetector
from face_align_env.aligner.yunet import MODEL, SHA256, YuNetDetector, distinct
from face_align_env.datasets import load_dataset

NOBODY = np.full((200, 300, 3), 128, dtype=np.uint8)


@pytest.fixture(params=DETECTORS)
def detector(request: pytest.FixtureRequest) -> Detector:
    return get_detector(request.param)


def test_boxes_are_those_of_the_landmarks(detector: Detector, drawn: Any) -> None:
    for image, box in drawn:
        (found,) = detector(image)
        assert overlaps(found[None], box)[0] > 0.4
        assert found.dtype == np.float64


def test_faces_in_a_dark_photo_are_found(detector: Detector, drawn: Any) -> None:
    for image, box in drawn:
        assert overlaps(detector((image * 0.12).astype(np.uint8)), box).max() > 0.4


def test_several_faces_come_the_largest_first(detector: Detector, drawn: Any) -> None:
    (first, box_1), (second, box_2) = drawn[:2]
    photo = np.full((700, 900, 3), 90, dtype=np.uint8)
    photo[20:276, 30:286] = first
    photo[150:662, 350:862] = cv2.resize(second, (512, 512), interpolation=cv2.INTER_CUBIC)
    large, small = detector(photo)
    assert overlaps(small[None], np.add(box_1, [30, 20, 30, 20]))[0] > 0.4
    assert overlaps(large[None], np.add(2 * box_2, [350, 150, 350, 150]))[0] > 0.4


def test_a_large_photo_is_reduced_and_its_boxes_are_not(detector: Detector, drawn: Any) -> None:
    image, box = drawn[0]
    photo = np.zeros((2600, 2000, 3), dtype=np.uint8)
    photo[600:1624, 500:1524] = cv2.resize(image, (1024, 1024), interpolation=cv2.INTER_CUBIC)
    assert overlaps(detector(photo), 4 * box + [500, 600, 500, 600]).max() > 0.4


def test_a_photo_of_nobody_has_no_boxes(detector: Detector) -> None:
    boxes = detector(NOBODY)
    assert (boxes.shape, boxes.dtype) == ((0, 4), np.float64)


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3), (20, 20), (32, 1024)])
def test_photos_smaller_than_a_face_have_no_boxes(detector: Detector, size: tuple[int, int]) -> None:
    assert detector(np.zeros((*size, 3), np.uint8)).shape == (0, 4)


@pytest.mark.parametrize(
    "image",
    [np.zeros((0, 9, 3), np.uint8), np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3))],
    ids=["empty", "grey", "float"],
)
def test_images_that_cannot_be_are_errors(detector: Detector, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"non-empty .* uint8 RGB image"):
        detector(image)


def test_an_unknown_detector_is_named() -> None:
    with pytest.raises(ValueError, match=r"no face detector 'hog'; there are auto, yunet, haar"):
        get_detector("hog")


def test_without_dnn_the_cascades_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(get_detector(), YuNetDetector)
    monkeypatch.delattr(cv2, "FaceDetectorYN")
    assert isinstance(get_detector(), HaarDetector)
    with pytest.raises(DetectorNotFoundError, match=r"detector 'haar', or pass the faces' boxes"):
        get_detector("yunet")


def test_the_file_is_the_one_that_was_pinned(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hashlib.sha256(MODEL.read_bytes()).hexdigest() == SHA256
    assert "3-clause BSD" in (MODEL.parent / "LICENSE.yunet").read_text()
    monkeypatch.setattr(yunet, "MODEL", tmp_path / "yunet.onnx")
    with pytest.raises(DetectorNotFoundError, match=r"Cannot read .*yunet\.onnx"):
        YuNetDetector()
    (tmp_path / "yunet.onnx").write_bytes(MODEL.read_bytes()[:-1])
    with pytest.raises(DetectorNotFoundError, match="not the file of this release"):
        YuNetDetector()


@pytest.mark.parametrize("wrong", [{"min_face": 2}, {"min_face": float("nan")}, {"score": 0}, {"score": 1.5}])
def test_parameters_out_of_range_are_errors(wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        YuNetDetector(**wrong)


@pytest.mark.slow
def test_small_faces_of_a_large_photo_are_found_in_its_tiles(drawn: Any) -> None:
    """Faces of about 70 pixels, also where tiles meet and in the last corner."""
    photo = np.full((1800, 2400, 3), 90, dtype=np.uint8)
    truth = []
    for i, (y, x) in enumerate([(100, 100), (700, 650), (960, 1330), (1660, 2260), (740, 1000)]):
        image, box = drawn[i % 3]
        photo[y : y + 128, x : x + 128] = cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA)
        truth.append(box / 2 + [x, y, x, y])
    boxes = YuNetDetector(min_face=20)(photo)
    assert len(boxes) == len(truth)
    for box in truth:
        assert overlaps(boxes, box).max() > 0.4


def test_min_face_enlarges_the_photo_for_tiny_faces(drawn: Any) -> None:
    image, box = drawn[1]
    photo = np.full((200, 200, 3), 90, dtype=np.uint8)
    photo[50:80, 50:80] = cv2.resize(image, (30, 30), interpolation=cv2.INTER_AREA)  # a face of 16 pixels
    assert len(YuNetDetector()(photo)) == 0
    (found,) = YuNetDetector(min_face=10)(photo)
    assert overlaps(found[None], box * 30 / 256 + 50)[0] > 0.4


def test_threads_find_what_one_finds(drawn: Any) -> None:
    detector = YuNetDetector()
    photos = [image for image, _ in drawn] * 6
    expected = [detector(photo) for photo in photos]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(expected, pool.map(detector, photos), strict=True):
            np.testing.assert_array_equal(one, other)


def test_of_boxes_around_one_face_the_best_is_kept() -> None:
    faces = np.array(
        [[0, 0, 100, 100, 0.9], [5, 0, 105, 100, 0.8], [40, 0, 100, 90, 0.7], [150, 0, 250, 100, 0.6]], dtype=float
    )
    np.testing.assert_array_equal(distinct(faces), faces[[0, 3]])
    assert distinct(faces[:0]).shape == (0, 5)


def test_real_faces_are_found_where_they_are() -> None:
    root, detector = real_root("300w"), YuNetDetector()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        dataset = load_dataset("300w", "full", root)
    overlap, ratio = [], []
    for index in range(0, len(dataset), 23):
        face = dataset[index]
        boxes = detector(face.image)
        each = overlaps(boxes, face.box.astype(float))
        overlap.append(each.max(initial=0))
        if overlap[-1] >= 0.3:
            best = boxes[each.argmax()]
            ratio.append((best[2:] - best[:2]).max() / (face.box[2:] - face.box[:2]).max())
    assert np.mean(np.array(overlap) >= 0.3) > 0.95
    assert np.median(overlap) > 0.8
    assert np.median(ratio) == pytest.approx(1, abs=0.03)
