"""Faces that are followed through the frames of a video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from face_align_env.aligner.aligner import FaceAligner
from face_align_env.aligner.motion import moved_shape
from face_align_env.aligner.tracking import FaceTracker, OneEuroFilter
from face_align_env.aligner.videos import VideoError, VideoFrames, VideoWriter
from face_align_env.aligner.yunet import YuNetDetector
from face_align_env.crops import transform_points
from face_align_env.datasets import load_dataset
from face_align_env.released import find_release, load_networks

SIDE = 256


@pytest.fixture(scope="module")
def aligner() -> FaceAligner:
    return FaceAligner.from_pretrained("synthetic-68", detector=YuNetDetector())


@pytest.fixture(scope="module")
def faces() -> list[Any]:
    dataset = load_dataset("synthetic", "test", size=4)
    return [dataset[0], dataset[2]]


def frame_of(*placed: tuple[Any, int, int]) -> np.ndarray:
    """(400, 700, 3) with faces at (x, y)."""
    frame = np.full((400, 700, 3), 100, np.uint8)
    for face, x, y in placed:
        frame[y : y + SIDE, x : x + SIDE] = face.image
    return frame


def error(landmarks: np.ndarray, face: Any, x: int, y: int) -> float:
    truth = face.landmarks + np.float32([x, y])
    return float(np.linalg.norm(landmarks - truth, axis=1).mean() / np.linalg.norm(truth[36] - truth[45]))


def test_faces_keep_their_ids_while_they_move(aligner: FaceAligner, faces: list[Any]) -> None:
    tracker = FaceTracker(aligner)
    who: dict[int, int] = {}
    for i in range(8):
        places = [(10 + 8 * i, 20 + 3 * i), (420 - 6 * i, 100)]
        found = tracker(frame_of((faces[0], *places[0]), (faces[1], *places[1])))
        assert [each.id for each in found] == [0, 1]
        for each in found:
            errors = [error(each.alignment.landmarks, face, *place) for face, place in zip(faces, places, strict=True)]
            assert min(errors) < 0.08
            assert who.setdefault(each.id, int(np.argmin(errors))) == np.argmin(errors), "the same person"


def test_the_detector_searches_only_where_it_must(aligner: FaceAligner, faces: list[Any]) -> None:
    searched = []

    class Counting(YuNetDetector):
        def __call__(self, image: np.ndarray, /) -> np.ndarray:
            searched.append(len(searched))
            return super().__call__(image)

    tracker = FaceTracker(FaceAligner.from_pretrained("synthetic-68", detector=Counting()), detect_every=5)
    nobody, somebody = frame_of(), frame_of((faces[0], 100, 50))
    counts = []
    for frame in (nobody, nobody, *[somebody] * 8, nobody):
        searched.clear()
        tracker(frame)
        counts.append(len(searched))
    # none, none, found; then five frames without a search; lost in the last frame
    assert counts == [1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 1]


def test_a_face_that_comes_back_is_a_new_one(aligner: FaceAligner, faces: list[Any]) -> None:
    tracker = FaceTracker(aligner)
    somebody = frame_of((faces[0], 100, 50))
    assert [face.id for face in tracker(somebody)] == [0]
    assert tracker(frame_of()) == []
    assert [face.id for face in tracker(somebody)] == [1]


def test_a_followed_face_goes_on_from_its_moved_shape_and_a_fifth_of_gens(
    aligner: FaceAligner, faces: list[Any]
) -> None:
    tracker = FaceTracker(aligner)
    (before,) = tracker(frame_of((faces[0], 100, 50)))
    (after,) = tracker(frame_of((faces[0], 107, 46)))
    box = after.alignment.box
    (alone,) = aligner(frame_of((faces[0], 107, 46)), box)
    moved = before.alignment.landmarks + np.float32([7, -4])
    expected = moved + 0.2 * (alone.trajectory[0] - moved)
    np.testing.assert_allclose(after.alignment.trajectory[0], expected, atol=0.1)


def test_half_of_the_cascades_way_is_taken(aligner: FaceAligner, faces: list[Any]) -> None:
    crops = faces[0].image[None, :SIDE, :SIDE]
    refined = aligner.refine(crops)
    half = refined.damped(0.5)
    np.testing.assert_array_equal(half.trajectories[:, 0], refined.trajectories[:, 0])
    middle = (refined.trajectories[:, :1] + refined.trajectories) / 2
    np.testing.assert_allclose(half.trajectories, middle, atol=1e-4)


@pytest.mark.parametrize("mirror", [False, True])
def test_a_cascade_goes_on_where_it_has_stopped(faces: list[Any], mirror: bool) -> None:
    gen, lrn = load_networks(find_release("synthetic-68"))
    crops = np.stack([face.image[:SIDE, :SIDE] for face in faces])
    whole, first, second = (FaceAligner(gen, lrn, None, n, mirror=mirror) for n in (5, 3, 2))
    begun = first.refine(crops)
    if mirror:  # each look goes on from its own shape
        looks = first.looks(crops)
        ends = [look.trajectories[:, -1].numpy() for look in looks]
        rest = second.looks(crops, ends[0], begun.history)[0].trajectories
        expected = whole.looks(crops)[0].trajectories
    else:
        rest = second.refine(crops, begun.trajectories[:, -1], begun.history).trajectories
        expected = whole.refine(crops).trajectories
    np.testing.assert_allclose(rest[:, -1], expected[:, -1], atol=1e-3)
    with_nothing = second.refine(crops, begun.trajectories[:, -1]).trajectories
    assert np.abs(with_nothing[:, -1] - np.asarray(expected[:, -1])).max() > 0.1


@pytest.mark.parametrize("angle", [-7, 0, 4])
def test_the_motion_of_a_face_is_told(faces: list[Any], angle: float) -> None:
    before = frame_of((faces[0], 100, 50))
    shape = faces[0].landmarks + np.float32([100, 50])
    matrix = cv2.getRotationMatrix2D((250, 200), angle, 1.04)
    matrix[:, 2] += (9, -14)
    now = cv2.warpAffine(before, matrix, (700, 400), borderMode=cv2.BORDER_REPLICATE)
    moved = moved_shape(before, now, shape)
    assert moved is not None
    assert np.linalg.norm(moved - transform_points(matrix, shape), axis=1).max() < 1


def test_motion_is_not_told_where_there_is_none_to_see(faces: list[Any]) -> None:
    before, shape = frame_of((faces[0], 100, 50)), faces[0].landmarks + np.float32([100, 50])
    noise = np.random.default_rng(0).integers(0, 255, before.shape).astype(np.uint8)
    assert moved_shape(before, noise, shape) is None
    assert moved_shape(before, before[:200], shape) is None, "another size"
    assert moved_shape(before, before, np.full((68, 2), np.nan, np.float32)) is None
    assert moved_shape(before, before, np.full((68, 2), 5, np.float32)) is None


def test_after_a_cut_a_face_is_aligned_as_in_a_photo(aligner: FaceAligner, faces: list[Any]) -> None:
    tracker = FaceTracker(aligner)
    tracker(frame_of((faces[0], 100, 50)))
    tracker(frame_of((faces[0], 101, 50)))
    frame = frame_of((faces[1], 104, 53))
    (after,) = tracker(frame)
    (alone,) = aligner(frame, after.alignment.box)
    np.testing.assert_allclose(after.alignment.landmarks, alone.landmarks, atol=1e-3)


def test_following_is_as_exact_as_frame_by_frame_and_steadier(aligner: FaceAligner, faces: list[Any]) -> None:
    rng, tracker = np.random.default_rng(0), FaceTracker(aligner)
    apart: dict[str, list[np.ndarray]] = {"followed": [], "alone": []}
    iterations = []
    for i in range(24):
        x, y = 100 + round(60 * np.sin(i / 5)), 50 + round(30 * np.cos(i / 6))
        noise = rng.normal(0, 3, (400, 700, 3))
        frame = np.clip(frame_of((faces[0], x, y)) + noise, 0, 255).astype(np.uint8)
        for name, shape in (("followed", tracker(frame)[0].alignment), ("alone", aligner(frame)[0])):
            apart[name].append(shape.landmarks - faces[0].landmarks - np.float32([x, y]))
            iterations += [shape.iterations] if name == "followed" else []
    error, jitter = (
        {name: np.linalg.norm(np.diff(each, n, axis=0), axis=-1).mean() for name, each in apart.items()} for n in (0, 2)
    )
    assert error["followed"] < 1.05 * error["alone"]
    assert jitter["followed"] < 0.5 * jitter["alone"]
    assert np.mean(iterations[1:]) <= 1.3


def test_a_detector_that_cannot_look_searches_every_frame(faces: list[Any]) -> None:
    photos = []

    def detect(image: np.ndarray) -> np.ndarray:
        photos.append(image)
        return (faces[0].box + np.float32([100, 50, 100, 50]))[None].astype(float)

    tracker = FaceTracker(FaceAligner.from_pretrained("synthetic-68", detector=detect))
    frame = frame_of((faces[0], 100, 50))
    ids = [[face.id for face in tracker(frame)] for _ in range(3)]
    assert ids == [[0]] * 3
    assert len(photos) == 3


def test_smoothing_takes_jitter_and_leaves_faces_where_they_are(aligner: FaceAligner, faces: list[Any]) -> None:
    rng, results = np.random.default_rng(0), {}
    frames = [np.clip(frame_of((faces[0], 100, 50)) + rng.normal(0, 8, (400, 700, 3)), 0, 255) for _ in range(8)]
    for smooth in (False, True):
        tracker = FaceTracker(aligner, smooth=smooth)
        shapes = np.array([tracker(frame.astype(np.uint8))[0].alignment.landmarks for frame in frames])
        results[smooth] = np.abs(np.diff(shapes, 2, axis=0)).mean()
        assert error(shapes[-1], faces[0], 100, 50) < 0.06
    assert results[True] < 0.6 * results[False]


def test_the_filter_follows_a_fast_face_and_holds_a_slow_one() -> None:
    shape = np.random.default_rng(0).uniform(0, 100, (68, 2))
    noise = np.random.default_rng(1).normal(0, 0.5, (60, 68, 2))
    still, moving = OneEuroFilter(), OneEuroFilter()
    for i in range(60):
        held = still(shape + noise[i], 1 / 30)
        followed = moving(shape + np.array([20.0 * i, 0]), 1 / 30)
    assert np.abs(held - shape).mean() < 0.5 * np.abs(noise).mean()
    assert np.abs(followed - shape - np.array([20.0 * 59, 0])).mean() < 20, "less than a frame behind"


@pytest.mark.parametrize("wrong", [{"detect_every": 0}, {"fps": 0.0}, {"fps": float("nan")}])
def test_parameters_out_of_range_are_errors(aligner: FaceAligner, wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FaceTracker(aligner, **wrong)


def test_looking_finds_the_face_and_says_how_certain_it_is(faces: list[Any]) -> None:
    detector, frame = YuNetDetector(), frame_of((faces[0], 100, 50))
    truth = faces[0].box + np.float32([100, 50, 100, 50])
    for shift in (-15, 0, 15):
        box, score = detector.look(frame, truth + shift)
        assert score > 0.6
        np.testing.assert_allclose(box, truth, atol=25)
    for nowhere in ([500, 20, 600, 120], [9000, 0, 9100, 90], [5, 5, 5, 5]):
        box, score = detector.look(frame, np.array(nowhere))
        assert score == 0
        np.testing.assert_array_equal(box, nowhere)


def test_a_video_is_written_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "o" / "v.mp4"
    with VideoWriter(path, 12) as writer:
        for i in range(5):
            writer.write(np.full((64, 96, 3), [250, 30 * i, 0], np.uint8))
    frames = VideoFrames(path)
    assert (frames.fps, frames.count) == (12, 5)
    colors = [frame.reshape(-1, 3).mean(axis=0) for frame in frames]
    np.testing.assert_allclose(colors, [[250, 30 * i, 0] for i in range(5)], atol=12)
    assert [file.name for file in path.parent.iterdir()] == ["v.mp4"]


def break_off(writer: VideoWriter) -> None:
    writer.write(np.zeros((64, 96, 3), np.uint8))
    raise ValueError("a defect")


def test_a_video_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a defect"), VideoWriter(tmp_path / "v.mp4", 10) as writer:
        break_off(writer)
    assert list(tmp_path.iterdir()) == []


PHOTO = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.mp4", b"", r"'.*v\.mp4' is no video \(0 bytes\)"),
        ("v.mp4", b"some text", "is no video"),
        ("v.m3u8", b"#EXTM3U\n#EXTINF:1,\nother.mp4\n", "is no video"),
        ("v.mp4", b"ffconcat version 1.0\nfile other.mp4\n", "is no video"),
        ("v.mp4", PHOTO, "is a photo: face-align align takes it"),
        ("frame%02d.png", PHOTO, "is a photo: face-align align takes it"),
        ("v.mp4", None, "is missing. A camera is named by its number"),
        ("folder", None, "is no file; face-align align takes folders"),
    ],
)
def test_what_is_no_video_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    (tmp_path / "folder").mkdir()
    with VideoWriter(tmp_path / "other.mp4", 10) as writer:  # that a playlist may name
        writer.write(np.zeros((64, 96, 3), np.uint8))
    for number in range(3):  # that a pattern may stand for
        (tmp_path / f"frame{number:02}.png").write_bytes(PHOTO)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=message):
        VideoFrames(tmp_path / name)


@pytest.mark.parametrize(
    ("ending", "code"),
    [(".mp4", "mp4v"), (".mov", "mp4v"), (".avi", "MJPG"), (".mkv", "mp4v"), (".webm", "VP80"), (".ts", "mp4v")],
)
def test_videos_of_other_kinds_are_read(tmp_path: Path, ending: str, code: str) -> None:
    path = tmp_path / f"v{ending}"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10, (64, 64))
    for _ in range(5):
        writer.write(np.full((64, 64, 3), 99, np.uint8))
    writer.release()
    if not path.exists() or not path.stat().st_size:
        pytest.skip(f"this OpenCV writes no {ending}")
    assert {frame.shape for frame in VideoFrames(path)} == {(64, 64, 3)}


def test_a_camera_that_is_not_there_is_named() -> None:
    with pytest.raises(VideoError, match="There is no camera 87"):
        VideoFrames("87")


def test_other_kinds_of_files_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"written as \.mp4, not as '\.avi'"):
        VideoWriter(tmp_path / "v.avi", 30)


def test_a_video_that_is_cut_off_is_an_error_after_its_frames(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 64))
    for _ in range(20):
        writer.write(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    writer.release()
    data = (tmp_path / "v.avi").read_bytes()
    (tmp_path / "v.avi").write_bytes(data[: len(data) // 2])
    seen: list[np.ndarray] = []
    with pytest.raises(VideoError, match=r"ends after \d+ of 20 frames"):
        seen.extend(VideoFrames(tmp_path / "v.avi"))
    assert 0 < len(seen) < 18
