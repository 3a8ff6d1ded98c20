"""face-align align and track, on drawn faces and on everything that is no photo or video."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner
from writers.support import needs_permissions

from face_align_env.agents.cli import photos as cli
from face_align_env.agents.cli.app import app, main
from face_align_env.aligner.videos import VideoFrames, VideoWriter
from face_align_env.datasets import load_dataset

FAST = ("--weights", "synthetic-68")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.console, "width", 200)
    return tmp_path


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    return load_dataset("synthetic", "test", size=1)[0].image


@pytest.fixture
def folder(here: Path, face: np.ndarray) -> Path:
    """A face, nobody, and two faces."""
    folder = here / "in"
    (folder / "deep").mkdir(parents=True)
    save(folder / "a.png", face)
    save(folder / "deep" / "b.png", np.full((90, 120, 3), 128, np.uint8))
    save(folder / "deep" / "c.jpg", np.concatenate([face, face], axis=1))
    return folder


def save(path: Path, image: np.ndarray) -> None:
    Image.fromarray(image).save(path)


def call(*arguments: Any, code: int = 0, stdin: str | None = None) -> Any:
    result = CliRunner().invoke(app, ["align", *map(str, arguments), *FAST], input=stdin)
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def test_in_a_pipe_every_photo_is_a_line_of_json(folder: Path) -> None:
    told = [json.loads(line) for line in call(folder).stdout.splitlines()]
    assert [Path(each["photo"]).name for each in told] == ["a.png", "b.png", "c.jpg"]
    assert [len(each["faces"]) for each in told] == [1, 0, 2]
    (found,) = told[0]["faces"]
    truth = load_dataset("synthetic", "test", size=1)[0].landmarks
    error = np.linalg.norm(np.array(found["landmarks"]) - truth, axis=1).mean() / np.linalg.norm(truth[36] - truth[45])
    assert error < 0.08
    assert set(found) == {"landmarks", "box", "iterations", "confidence", "pose", "five_points"}


def test_faces_stop_where_little_is_to_be_gained(folder: Path) -> None:
    def iterations(*options: str) -> list[int]:
        result = CliRunner().invoke(app, ["align", str(folder), "--weights", "300w-68", *options])
        assert result.exit_code == 0, result.output
        told = [json.loads(line) for line in result.stdout.splitlines()]
        return [face["iterations"] for each in told for face in each["faces"]]

    assert iterations("--least-gain", "9") == [1, 1, 1]
    assert iterations("--least-gain", "-9") == [10, 10, 10]
    result = CliRunner().invoke(app, ["align", str(folder), *FAST, "--least-gain", "0.1"])
    assert result.exit_code == 1
    assert "least_gain needs weights that predict what an iteration gains" in " ".join(result.output.split())


def test_on_a_terminal_faces_are_a_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.console, "_force_terminal", True)
    output = call(folder).output
    for text in ("a.png", "none", "iterations", "3 faces in 3 photos, none in 1 of them"):
        assert text in output


def test_all_outputs_are_written_and_what_is_done_is_not_done_again(
    folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = ("--json", "o/f.json", "--csv", "o/f.csv", "--pts", "o/pts", "--draw", "o/draw")
    assert "3 faces in 3 photos" in call(folder, *outputs).output
    written = {path: path.read_bytes() for path in (here / "o").rglob("*.*")}
    assert sorted(str(path.relative_to(here / "o")) for path in written) == [
        *("draw/a.jpg", "draw/deep/c.jpg", "f.csv", "f.json"),
        *("pts/a.pts", "pts/deep/c_1.pts", "pts/deep/c_2.pts"),
    ]
    again = call(folder, *outputs[:4]).output
    assert "3 of 3 photos have their results already" in again
    assert "0 faces in 0 photos" in again
    save(folder / "d.png", np.full((90, 120, 3), 128, np.uint8))
    assert "3 of 4 photos have their results already" in call(folder, *outputs[:4]).output
    assert {path: path.read_bytes() for path in written if "f." not in path.name} == {
        path: data for path, data in written.items() if "f." not in path.name
    }
    assert len((here / "o" / "f.json").read_text().splitlines()) == 4
    with (here / "o" / "f.csv").open() as file:
        assert [row[1] for row in csv.reader(file)] == ["face", "0", "", "0", "1", ""]


def test_pictures_in_the_folder_itself_are_not_aligned(folder: Path) -> None:
    call(folder, "--draw", folder / "drawn")
    assert "3 photos" in call(folder, "--draw", folder / "drawn", "--json", "f.json").output


def test_paths_come_from_standard_input(folder: Path) -> None:
    told = call("-", stdin=f"{folder / 'a.png'}\n\n{folder / 'deep'}\n").stdout.splitlines()
    assert [Path(json.loads(line)["photo"]).name for line in told] == ["a.png", "b.png", "c.jpg"]


def test_boxes_replace_the_detector(folder: Path, here: Path) -> None:
    (here / "boxes.csv").write_text("in/deep/b.png,10,10,60,70\nin/a.png,50,50,200,200\nin/a.png,60,60,190,190\n")
    told = [json.loads(line) for line in call(folder, "--boxes", "boxes.csv").stdout.splitlines()]
    assert [[each["box"] for each in photo["faces"]] for photo in told[:2]] == [
        [[50, 50, 200, 200], [60, 60, 190, 190]],
        [[10, 10, 60, 70]],
    ]
    assert len(told[2]["faces"]) == 2


@pytest.mark.parametrize(
    "options", [("--detector", "haar"), ("--detector", "haar", "--min-face", "24"), ("--workers", "1")]
)
def test_detectors_and_workers_can_be_chosen(folder: Path, options: Any) -> None:
    assert len(call(folder, *options).stdout.splitlines()) == 3


def test_a_photo_is_turned_as_its_exif_says(here: Path, face: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(face[::-1, ::-1]).save("turned.png", exif=exif)
    save(here / "upright.png", face)
    turned, upright = (json.loads(line)["faces"] for line in call("turned.png", "upright.png").stdout.splitlines())
    assert turned == upright


def exif_only(image: Image.Image) -> bytes:
    return encoded(image, "JPEG")[:40]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def cut_off(kind: str, **options: Any) -> Callable[[Image.Image], bytes]:
    return lambda image: encoded(image, kind, **options)[: len(encoded(image, kind, **options)) // 2]


def huge(image: Image.Image) -> bytes:
    """A header that promises 60,000 x 60,000 pixels."""
    data = bytearray(encoded(image, "BMP"))
    data[18:26] = (60_000).to_bytes(4, "little") * 2
    return bytes(data)


def scrambled(image: Image.Image) -> bytes:
    data = bytearray(encoded(image, "PNG"))
    data[60:4000] = bytes(3940)
    return bytes(data)


# A file's name, what is in it, and what is said of it.
BROKEN: dict[str, tuple[Callable[[Image.Image], bytes], str]] = {
    "empty.jpg": (lambda _: b"", r"is no image \(0 bytes"),
    "one-byte.jpg": (lambda _: b"\xff", r"is no image \(1 bytes"),
    "text.jpg": (lambda _: b"Dear all, please find attached", "is no image"),
    "page.png": (lambda _: b"<!doctype html><title>404</title>", "is no image"),
    "json.jpeg": (lambda _: b"{}", "is no image"),
    "zeros.jpg": (lambda _: bytes(10_000), "is no image"),
    "noise.png": (lambda _: np.random.default_rng(0).bytes(5000), "is no image"),
    "script.gif": (lambda _: b"#!/bin/sh\nexit 0\n", "is no image"),
    "phone.jpg": (lambda _: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(2000), "is no image"),  # HEIC
    "clip.jpg": (lambda _: b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(2000), "is no image"),
    "archive.png": (lambda _: b"PK\x03\x04" + bytes(200), "is no image"),
    "elf.bmp": (lambda _: b"\x7fELF" + bytes(200), "is no image"),
    "pdf.jpg": (lambda _: b"%PDF-1.7\n" + bytes(200), "is no image"),
    "svg.png": (lambda _: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no image"),
    "header.jpg": (exif_only, "Cannot read|is no image"),
    "half.jpg": (cut_off("JPEG"), "Cannot read.*truncated"),
    "half.png": (cut_off("PNG"), "Cannot read"),
    "half.bmp": (cut_off("BMP"), "Cannot read"),
    "half.gif": (cut_off("GIF"), "Cannot read"),
    "half.tif": (cut_off("TIFF"), "Cannot read|is no image"),
    "half.webp": (cut_off("WEBP"), "Cannot read|is no image"),
    "half-progressive.jpg": (cut_off("JPEG", progressive=True), "Cannot read.*truncated"),
    "scrambled.png": (scrambled, "Cannot read|is no image"),
    "bomb.bmp": (huge, "Cannot read|pixels"),
}

# A file's name, and what is in it: unusual, and read all the same.
READ: dict[str, Callable[[Image.Image], bytes]] = {
    "cmyk.jpg": lambda image: encoded(image.convert("CMYK"), "JPEG"),
    "gray.jpg": lambda image: encoded(image.convert("L"), "JPEG"),
    "gray-alpha.png": lambda image: encoded(image.convert("LA"), "PNG"),
    "rgba.png": lambda image: encoded(image.convert("RGBA"), "PNG"),
    "palette.png": lambda image: encoded(image.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
    "transparent.gif": lambda image: encoded(image.convert("P"), "GIF", transparency=0),
    "bilevel.png": lambda image: encoded(image.convert("1"), "PNG"),
    "lzw.tif": lambda image: encoded(image, "TIFF", compression="tiff_lzw"),
    "animated.gif": lambda image: encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)] * 3),
    "animated.webp": lambda image: encoded(image, "WEBP", save_all=True, append_images=[image.rotate(90)] * 3),
    "progressive.jpg": lambda image: encoded(image, "JPEG", progressive=True),
    "16-bit.png": lambda image: encoded(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG"),
    "jpeg.png": lambda image: encoded(image, "JPEG"),  # the name says something else
    "ünïcode 顔.png": lambda image: encoded(image, "PNG"),
    "exif-nonsense.jpg": lambda image: encoded(image, "JPEG", exif=b"Exif\0\0" + bytes(20)),
    "trailing.jpg": lambda image: encoded(image, "JPEG") + b"something else",
}


@pytest.fixture
def picture(face: np.ndarray) -> Image.Image:
    return Image.fromarray(face)


def test_broken_files_are_passed_over_and_listed(here: Path, picture: Image.Image, face: np.ndarray) -> None:
    folder = here / "in"
    folder.mkdir()
    for name, (content, _) in BROKEN.items():
        (folder / name).write_bytes(content(picture))
    (folder / "dangling.jpg").symlink_to(here / "nowhere")
    save(folder / "whole.png", face)
    result = call(folder, "--json", "f.json", code=1)
    said = {
        Path(line.partition("'")[2].partition("'")[0]).name: line for line in result.stderr.splitlines() if "'" in line
    }
    assert set(said) == {*BROKEN, "dangling.jpg"}
    assert f"{len(said)} of {len(said) + 1} photos could not be aligned" in result.stderr
    for name, (_, message) in BROKEN.items():
        assert re.search(message, said[name]), said[name]
    assert "missing" in said["dangling.jpg"]
    (line,) = Path("f.json").read_text().splitlines()
    assert len(json.loads(line)["faces"]) == 1
    assert "Traceback" not in result.output


def test_unusual_photos_are_read(here: Path, picture: Image.Image) -> None:
    folder = here / "in"
    folder.mkdir()
    for name, content in READ.items():
        (folder / name).write_bytes(content(picture))
    told = {Path(each["photo"]).name: each for each in map(json.loads, call(folder).stdout.splitlines())}
    assert set(told) == set(READ)
    found = {name for name, each in told.items() if len(each["faces"]) == 1}
    assert set(READ) - found <= {"bilevel.png"}, "the face is in the pixels"


WRONG: list[tuple[tuple[str, ...], str]] = [
    (("nowhere.jpg",), "'nowhere.jpg'.*missing"),
    (("nothing",), "no photos in the folder 'nothing'"),
    (("*.xyz",), r"Nothing matches '\*\.xyz'"),
    (("a.png", "--weights", "nobody"), "no released weights 'nobody'"),
    (("a.png", "--weights", "nothing"), "nothing"),
    (("a.png", "--detector", "hog"), "no face detector 'hog'; there are auto, yunet, haar"),
    (("a.png", "--min-face", "3"), "min_face must be at least 10 pixels, got 3"),
    (("a.png", "--min-face", "0", "--detector", "haar"), "min-face must be at least 1 pixel, got 0"),
    (("a.png", "--workers", "0"), "at least one worker, got 0"),
    (("a.png", "--boxes", "nowhere.csv"), "nowhere.csv"),
    (("a.png", "--boxes", "bad.csv"), r"'bad\.csv', line 1: expected photo,x0,y0,x1,y1"),
    (("a.png", "--boxes", "far.csv"), "a.png.*lies outside the image"),
    (("a.png", "--json", "bad.csv"), r"'bad\.csv', line 1, is no line of face-align align's JSON"),
    (("a.png", "--csv", "bad.csv"), "other columns"),
    (("a.png", "b/a.jpg", "--pts", "o"), "would both be written to 'o/a.pts'"),
    (("a.png", "b/a.jpg", "--draw", "o"), "would both be written to 'o/a.jpg'"),
    (("a.png", "--json", "nothing"), "nothing"),
    (("a.png", "--draw", "a.png"), "'a.png' is a file, not a folder"),
    (("nested", "--draw", "nested"), "All photos lie in the folders"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(each[0]) for each in WRONG])
def test_mistakes_end_in_one_line_that_names_them(
    here: Path,
    face: np.ndarray,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "nothing").mkdir()
    (here / "b").mkdir()
    (here / "nested").mkdir()
    save(here / "nested" / "a.png", face)
    save(here / "a.png", face)
    save(here / "b" / "a.jpg", face)
    (here / "bad.csv").write_text("a.png,1,2\n")
    (here / "far.csv").write_text("a.png,9000,9000,9100,9100\n")
    weights = () if "--weights" in arguments else FAST
    monkeypatch.setattr(sys, "argv", ["face-align", "align", *arguments, *weights])
    assert_fails(message, capsys)


def assert_fails(message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command that ``sys.argv`` holds ends with 1 and one message."""
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 1
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert "Traceback" not in said


@needs_permissions
def test_a_file_without_permission_is_named(folder: Path) -> None:
    (folder / "a.png").chmod(0)
    assert "Permission denied" in call(folder, code=1).stderr


@pytest.fixture
def clip(here: Path, face: np.ndarray) -> Path:
    """Six frames of a face that moves to the right."""
    with VideoWriter(here / "clip.mp4", 10) as writer:
        for i in range(6):
            frame = np.full((300, 400, 3), 100, np.uint8)
            frame[20:276, 10 + 8 * i : 266 + 8 * i] = face
            writer.write(frame)
    return here / "clip.mp4"


def track(*arguments: Any) -> Any:
    result = CliRunner().invoke(app, ["track", *map(str, arguments), *FAST])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result


def test_a_face_is_followed_through_a_video(clip: Path, here: Path) -> None:
    output = track(clip, "--json", "o/f.json", "--csv", "o/f.csv", "--video", "o/v.mp4").output
    assert "6 frames, 1 faces" in output
    told = [json.loads(line) for line in (here / "o" / "f.json").read_text().splitlines()]
    assert [(each["frame"], each["time"], [face["id"] for face in each["faces"]]) for each in told] == [
        (i, i / 10, [0]) for i in range(6)
    ]
    noses = np.array([each["faces"][0]["landmarks"][30][0] for each in told])
    np.testing.assert_allclose(np.diff(noses), 8, atol=3)
    with (here / "o" / "f.csv").open() as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_allclose([float(row["x30"]) for row in rows], noses)
    assert len(list(VideoFrames(here / "o" / "v.mp4"))) == 6
    assert len(list((here / "o").iterdir())) == 3


def test_frames_go_to_a_pipe_one_line_each(clip: Path) -> None:
    lines = track(clip, "--max-frames", 2, "--smooth").stdout.splitlines()
    assert [len(json.loads(line)["faces"]) for line in lines] == [1, 1]


WRONG_VIDEOS: list[tuple[tuple[str, ...], str]] = [
    (("nowhere.mp4",), r"'nowhere\.mp4' is missing. A camera is named by its number"),
    (("87",), "There is no camera 87"),
    (("text.mp4",), r"'text\.mp4' is no video \(4 bytes\)"),
    (("empty.mp4",), r"'empty\.mp4' is no video \(0 bytes\)"),
    ((".",), "is no file; face-align align takes folders"),
    (("clip.mp4", "--max-frames", "0"), "max-frames must be at least 1, got 0"),
    (("clip.mp4", "--detect-every", "0"), "detect_every must be at least 1 frame, got 0"),
    (("clip.mp4", "--video", "out.avi"), r"written as \.mp4, not as '\.avi'"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG_VIDEOS, ids=[" ".join(each[0]) for each in WRONG_VIDEOS])
def test_what_cannot_be_tracked_is_named(
    clip: Path,
    here: Path,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (here / "text.mp4").write_text("text")
    (here / "empty.mp4").write_bytes(b"")
    monkeypatch.setattr(sys, "argv", ["face-align", "track", *arguments, *FAST])
    assert_fails(message, capsys)


def test_there_are_at_least_fifty_kinds_of_bad_input() -> None:
    assert len(BROKEN) + len(WRONG) + len(WRONG_VIDEOS) >= 50
