"""Faces found by OpenCV's cascades."""

from __future__ import annotations

import warnings
from typing import Any

import cv2
import numpy as np
import pytest
from writers.support import real_root

from face_align_env.aligner import haar
from face_align_env.aligner.detection import DetectorNotFoundError, overlaps
from face_align_env.aligner.haar import SEARCHES, HaarDetector, Search, look
from face_align_env.datasets import load_dataset

NOBODY = np.full((200, 300, 3), 128, dtype=np.uint8)


class Fake:
    """A cascade that sees what it is told."""

    def __init__(self, squares: Any) -> None:
        self.squares, self.photos = squares, []

    def detectMultiScale(self, gray: np.ndarray, **options: Any) -> Any:  # noqa: N802
        self.photos.append(gray)
        return self.squares(gray) if callable(self.squares) else self.squares


def test_a_square_becomes_the_box_around_the_landmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haar, "_classifier", lambda name: Fake([(10, 20, 40, 40)]))
    # the square's pixels go from 10 to 49: its centre is at (29.5, 39.5)
    boxes = look(NOBODY[:, :, 0], Search("any", 3, (0.1, 0.25, 0.9, 0.8)))
    np.testing.assert_allclose(boxes, [[33.5 - 18, 49.5 - 16, 33.5 + 18, 49.5 + 16]], atol=1e-4)


def test_in_the_mirrored_photo_everything_is_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (80, 100)).astype(np.uint8)
    fake = Fake(lambda photo: [(10, 20, 40, 40)] if photo[0, 0] == gray[0, -1] else ())
    monkeypatch.setattr(haar, "_classifier", lambda name: fake)
    search = Search("any", 3, (0.1, 0.25, 0.9, 0.8), mirrored=True)
    # seen from the other side, the face is at 99 - x
    np.testing.assert_allclose(look(gray, search), [[99 - 33.5 - 18, 33.5, 99 - 33.5 + 18, 65.5]], atol=1e-4)
    np.testing.assert_array_equal(fake.photos[1], gray[:, ::-1])


@pytest.mark.parametrize("tilt", [-25.0, 25.0, 90.0])
def test_in_the_tilted_photo_faces_are_where_they_are(monkeypatch: pytest.MonkeyPatch, tilt: float) -> None:
    gray = np.zeros((120, 200), dtype=np.uint8)
    gray[30:33, 150:153] = 255

    def around_the_spot(photo: np.ndarray) -> list[tuple[int, int, int, int]]:
        y, x = np.argwhere(photo > 100).mean(axis=0).round().astype(int)
        return [(int(x) - 10, int(y) - 10, 21, 21)]

    monkeypatch.setattr(haar, "_classifier", lambda name: Fake(around_the_spot))
    (box,) = look(gray, Search("any", 3, (0, 0, 1, 1), tilts=(tilt,)))
    np.testing.assert_allclose((box[:2] + box[2:]) / 2, [151, 31], atol=1)
    np.testing.assert_allclose(box[2:] - box[:2], 21, atol=1e-3)


def test_a_face_seen_twice_is_one_face(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haar, "_classifier", lambda name: Fake([(80, 50, 40, 40), (90, 55, 44, 44)]))
    assert len(look(NOBODY[:, :, 0], Search("any", 3, (0, 0, 1, 1), tilts=(0.0, 0.0)))) == 1


def test_later_searches_wait_for_those_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def classifier(name: str) -> Fake:
        asked.append(name)
        return Fake([(80, 50, 40, 40)] if len(asked) == len(SEARCHES) + 2 else ())

    monkeypatch.setattr(haar, "_classifier", classifier)
    assert len(HaarDetector()(NOBODY)) == 1
    assert asked[len(SEARCHES) :] == [search.cascade for search in SEARCHES[:2]]


@pytest.mark.parametrize("lacking", ["classifier", "data", "file"])
def test_an_opencv_without_cascades_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    if lacking == "classifier":
        monkeypatch.delattr(cv2, "CascadeClassifier")
    elif lacking == "data":
        monkeypatch.delattr(cv2, "data")
    else:
        monkeypatch.setattr(cv2.data, "haarcascades", "/nowhere/")
    haar._classifier.cache_clear()
    with pytest.raises(DetectorNotFoundError, match=r'pip install "opencv-python<5".*pass the faces\' boxes'):
        HaarDetector()(NOBODY)


def test_most_real_faces_are_found_where_they_are() -> None:
    root = real_root("300w")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        dataset = load_dataset("300w", "full", root)
    overlap, ratio = [], []
    for index in range(0, len(dataset), 23):
        face = dataset[index]
        boxes = HaarDetector()(face.image)
        each = overlaps(boxes, face.box.astype(float))
        overlap.append(each.max(initial=0))
        if overlap[-1] >= 0.3:
            ratio.append(
                (boxes[each.argmax(), 2:] - boxes[each.argmax(), :2]).max() / (face.box[2:] - face.box[:2]).max()
            )
    assert np.mean(np.array(overlap) >= 0.3) > 0.85
    assert np.median(overlap) > 0.7
    assert np.median(ratio) == pytest.approx(1, abs=0.06)
