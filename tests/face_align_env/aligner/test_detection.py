"""Faces found by OpenCV's cascades."""

from __future__ import annotations

import warnings
from typing import Any

import cv2
import numpy as np
import pytest
from writers.support import real_root

from face_align_env import detection
from face_align_env.aligner.detection import SEARCHES, DetectorNotFoundError, Search, detect_faces, look, overlaps
from face_align_env.datasets import load_dataset

NOBODY = np.full((200, 300, 3), 128, dtype=np.uint8)


@pytest.fixture(scope="module")
def drawn() -> list[tuple[np.ndarray, np.ndarray]]:
    """Synthetic faces that the first cascade sees, with their boxes; it was made for photos, and sees about half."""
    dataset = load_dataset("synthetic", "test", size=24)
    faces = [(face.image, face.box) for face in map(dataset.__getitem__, range(len(dataset)))]
    seen = [
        (image, box) for image, box in faces if len(look(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), SEARCHES[0])) == 1
    ]
    assert len(seen) >= 4
    return seen[:4]


class Fake:
    """A cascade that sees what it is told."""

    def __init__(self, squares: Any) -> None:
        self.squares, self.photos = squares, []

    def detectMultiScale(self, gray: np.ndarray, **options: Any) -> Any:  # noqa: N802
        self.photos.append(gray)
        return self.squares(gray) if callable(self.squares) else self.squares


def test_boxes_are_those_of_the_landmarks(drawn: Any) -> None:
    for image, box in drawn:
        (found,) = detect_faces(image)
        assert overlaps(found[None], box)[0] > 0.4
        assert found.dtype == np.float64


def test_faces_in_a_dark_photo_are_found(drawn: Any) -> None:
    for image, box in drawn:
        assert overlaps(detect_faces((image * 0.12).astype(np.uint8)), box).max() > 0.4


def test_several_faces_come_the_largest_first(drawn: Any) -> None:
    (first, box_1), (second, box_2) = drawn[:2]
    photo = np.full((700, 900, 3), 90, dtype=np.uint8)
    photo[20:276, 30:286] = first
    photo[150:662, 350:862] = cv2.resize(second, (512, 512), interpolation=cv2.INTER_CUBIC)
    large, small = detect_faces(photo)
    assert overlaps(small[None], np.add(box_1, [30, 20, 30, 20]))[0] > 0.4
    assert overlaps(large[None], np.add(2 * box_2, [350, 150, 350, 150]))[0] > 0.4


def test_a_large_photo_is_reduced_and_its_boxes_are_not(drawn: Any) -> None:
    image, box = drawn[0]
    photo = np.zeros((2600, 2000, 3), dtype=np.uint8)
    photo[600:1624, 500:1524] = cv2.resize(image, (1024, 1024), interpolation=cv2.INTER_CUBIC)
    boxes = detect_faces(photo)
    assert overlaps(boxes, 4 * box + [500, 600, 500, 600]).max() > 0.4


def test_a_photo_of_nobody_has_no_boxes() -> None:
    assert detect_faces(NOBODY).shape == (0, 4)


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (20, 20)])
def test_photos_smaller_than_a_face_have_no_boxes(size: tuple[int, int]) -> None:
    assert detect_faces(np.zeros((*size, 3), np.uint8)).shape == (0, 4)


@pytest.mark.parametrize(
    "image",
    [np.zeros((0, 9, 3), np.uint8), np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3))],
    ids=["empty", "grey", "float"],
)
def test_images_that_cannot_be_are_errors(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"non-empty .* uint8 RGB image"):
        detect_faces(image)


def test_a_square_becomes_the_box_around_the_landmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "_classifier", lambda name: Fake([(10, 20, 40, 40)]))
    # the square's pixels go from 10 to 49: its centre is at (29.5, 39.5)
    boxes = look(NOBODY[:, :, 0], Search("any", 3, (0.1, 0.25, 0.9, 0.8)))
    np.testing.assert_allclose(boxes, [[33.5 - 18, 49.5 - 16, 33.5 + 18, 49.5 + 16]], atol=1e-4)


def test_in_the_mirrored_photo_everything_is_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (80, 100)).astype(np.uint8)
    fake = Fake(lambda photo: [(10, 20, 40, 40)] if photo[0, 0] == gray[0, -1] else ())
    monkeypatch.setattr(detection, "_classifier", lambda name: fake)
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

    monkeypatch.setattr(detection, "_classifier", lambda name: Fake(around_the_spot))
    (box,) = look(gray, Search("any", 3, (0, 0, 1, 1), tilts=(tilt,)))
    np.testing.assert_allclose((box[:2] + box[2:]) / 2, [151, 31], atol=1)
    np.testing.assert_allclose(box[2:] - box[:2], 21, atol=1e-3)


def test_a_face_seen_twice_is_one_face(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "_classifier", lambda name: Fake([(80, 50, 40, 40), (90, 55, 44, 44)]))
    assert len(look(NOBODY[:, :, 0], Search("any", 3, (0, 0, 1, 1), tilts=(0.0, 0.0)))) == 1


def test_later_searches_wait_for_those_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def classifier(name: str) -> Fake:
        asked.append(name)
        return Fake([(80, 50, 40, 40)] if len(asked) == 2 else ())

    monkeypatch.setattr(detection, "_classifier", classifier)
    assert len(detect_faces(NOBODY)) == 1
    assert asked == [search.cascade for search in SEARCHES[:2]]


@pytest.mark.parametrize("lacking", ["classifier", "data", "file"])
def test_an_opencv_without_cascades_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    if lacking == "classifier":
        monkeypatch.delattr(cv2, "CascadeClassifier")
    elif lacking == "data":
        monkeypatch.delattr(cv2, "data")
    else:
        monkeypatch.setattr(cv2.data, "haarcascades", "/nowhere/")
    detection._classifier.cache_clear()
    with pytest.raises(DetectorNotFoundError, match=r'pip install "opencv-python<5".*pass the faces\' boxes'):
        detect_faces(NOBODY)


def test_most_real_faces_are_found_where_they_are() -> None:
    root = real_root("300w")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        dataset = load_dataset("300w", "full", root)
    overlap, ratio = [], []
    for index in range(0, len(dataset), 23):
        face = dataset[index]
        boxes = detect_faces(face.image)
        each = overlaps(boxes, face.box.astype(float))
        overlap.append(each.max(initial=0))
        if overlap[-1] >= 0.3:
            ratio.append(
                (boxes[each.argmax(), 2:] - boxes[each.argmax(), :2]).max() / (face.box[2:] - face.box[:2]).max()
            )
    assert np.mean(np.array(overlap) >= 0.3) > 0.85
    assert np.median(overlap) > 0.7
    assert np.median(ratio) == pytest.approx(1, abs=0.06)
