"""Annotations from anywhere: what ``data verify`` calls whole can be played, and what cannot is named by both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from trust.refusals import Refused
from writers.pts import write_pts_folder
from writers.ytf import write_ytf

import face_align_env  # noqa: F401
from face_align_env.aligner.folders import read_boxes
from face_align_env.datasets import BadFaceError, load_dataset
from face_align_env.datasets.pts import read_pts, write_pts
from face_align_env.datasets.verification import verify

POINTS = [f"{10 + k}.5 {20 + k}.5" for k in range(68)]


def pts(points: list[str], head: str = "version: 1\nn_points: 68\n{\n", tail: str = "}\n") -> bytes:
    return (head + "\n".join(points) + "\n" + tail).encode()


def with_point(point: str, index: int = 9) -> list[str]:
    return [*POINTS[:index], point, *POINTS[index + 1 :]]


# name -> (contents, message)
BAD_PTS: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", r"is empty"),
    "blanks": (b" \n\n\t", r"is empty"),
    "no text": (b"\x89PNG\r\n\x1a\n\xff\xfe", r"is not a text file"),
    "text in UTF-16": (pts(POINTS).decode().encode("utf-16"), r"is not a text file"),
    "a page of HTML": (b"<html>Not found</html>", r"has no line 'n_points"),
    "no number of points": (pts(POINTS, "version: 1\n{\n"), r"has no line 'n_points"),
    "a number that is none": (pts(POINTS, "version: 1\nn_points: many\n{\n"), r"line 2: expected 'n_points: 68'"),
    "a negative number": (pts(POINTS, "version: 1\nn_points: -68\n{\n"), r"line 2: expected 'n_points: 68'"),
    "two numbers": (pts(POINTS, "version: 1\nn_points: 68: 68\n{\n"), r"line 2: expected 'n_points: 68'"),
    "no points": (pts([], "version: 1\nn_points: 0\n{\n"), r"says n_points: 0, and holds 0 points"),
    "a point too few": (pts(POINTS[:-1]), r"says n_points: 68, and holds 67 points"),
    "a point too many": (pts([*POINTS, "1 1"]), r"says n_points: 68, and holds 69 points"),
    "no brace at the end": (pts(POINTS, tail=""), r"does not end with '}': it is cut short"),
    "no brace at the beginning": (pts(POINTS, "version: 1\nn_points: 68\n"), r"holds 0 points"),
    "three numbers in a line": (pts(with_point("1 2 3")), r"line 13: expected 'x y', got '1 2 3'"),
    "one number in a line": (pts(with_point("1")), r"line 13: expected 'x y', got '1'"),
    "a word in a line": (pts(with_point("x y")), r"line 13: expected 'x y', got 'x y'"),
    "commas": (pts(with_point("1,5 2,5")), r"line 13: expected 'x y', got '1,5 2,5'"),
    "not a number": (pts(with_point("nan 3")), r"point 9 \(from 0\) is not a finite number"),
    "infinity": (pts(with_point("3 inf")), r"point 9 \(from 0\) is not a finite number"),
    "a number above all floats": (pts(with_point("1e999 3")), r"point 9 \(from 0\) is not a finite number"),
    "a number above float32": (pts(with_point("1e200 3")), r"point 9 \(from 0\) is not a finite number"),
}
for _part in (0.1, 0.5, 0.97):
    _data = pts(POINTS)
    BAD_PTS[f"a file of which {_part:.0%} are there"] = (_data[: int(_part * len(_data))], r"holds \d+ points|line \d+")


@pytest.mark.parametrize("name", BAD_PTS)
def test_a_bad_pts_file_is_one_message_that_names_it(name: str, tmp_path: Path, refused: Refused) -> None:
    contents, message = BAD_PTS[name]
    path = tmp_path / "a.pts"
    path.write_bytes(contents)
    with pytest.raises(BadFaceError, match=message) as caught:
        read_pts(path)
    assert f"'{path}'" in str(caught.value)
    refused(caught.value)


# name -> (what becomes of the text of a file, message)
BAD_CSV: dict[str, tuple[Callable[[str], str], str]] = {
    "an empty file": (lambda text: "", "does not begin with a header of 137 columns"),
    "a page of HTML": (lambda text: "<html>Not found</html>\n", "does not begin with a header of 137 columns"),
    "a pointer of Git LFS": (lambda text: "version https://git-lfs\nsize 9\n", "does not begin with a header"),
    "the header alone": (lambda text: text.splitlines(keepends=True)[0], "holds no frame"),
    "no header": (lambda text: "\n".join([",".join("ab"), *text.splitlines()[1:], ""]), "does not begin with a header"),
    "a last number that is cut": (lambda text: text.rstrip()[:-1], "does not end with the end of a line"),
    "a last line that is cut": (lambda text: text.rstrip()[:-300], "columns|does not end with the end of a line"),
    "a header that is cut": (lambda text: text[:40], "does not begin with a header|does not end"),
    "a number too many": (lambda text: text.rstrip() + ",1\n", "expected 137 columns .*, got 138"),
    "a word for a number": (
        lambda text: text.rstrip().rpartition(",")[0] + ",x\n",
        "could not convert string to float",
    ),
    "infinity": (lambda text: text.rstrip().rpartition(",")[0] + ",inf\n", "is not a finite number"),
    "a number above float32": (lambda text: text.rstrip().rpartition(",")[0] + ",1e60\n", "is not a finite number"),
    "a frame twice": (lambda text: text + text.splitlines()[-1] + "\n", "is in line"),
    "semicolons": (lambda text: text.replace(",", ";"), "does not begin with a header of 137 columns"),
}


@pytest.mark.parametrize("file_name", ["training_frames_keypoints.csv", "test_frames_keypoints.csv"])
@pytest.mark.parametrize("name", BAD_CSV)
def test_a_bad_csv_file_is_one_message_that_names_it(
    name: str, file_name: str, tmp_path: Path, refused: Refused
) -> None:
    change, message = BAD_CSV[name]
    path = write_ytf(tmp_path) / file_name
    path.write_bytes(change(path.read_bytes().decode().replace("\r\n", "\n")).encode())
    with pytest.raises(BadFaceError, match=message) as caught:
        load_dataset("ytf", "train", tmp_path)
    assert f"'{path}'" in str(caught.value)
    refused(caught.value)
    problems = [problem for report in verify("ytf", str(tmp_path), progress=False) for problem in report.problems]
    assert problems
    assert all(f"'{path}'" in problem for problem in problems)


# lines of a CSV file of boxes -> message
BAD_BOXES: dict[str, tuple[bytes, str]] = {
    "a box too short": (b"a.jpg,1,2,3\n", r"line 1: expected photo,x0,y0,x1,y1"),
    "a box too long": (b"a.jpg,1,2,3,4,5\n", r"line 1: expected photo,x0,y0,x1,y1"),
    "a word for a number": (b"photo,x0,y0,x1,y1\na.jpg,1,2,three,4\n", r"line 2: expected photo"),
    "infinity": (b"a.jpg,1,2,inf,4\n", r"line 1: expected photo"),
    "an empty box": (b"a.jpg,1,2,1,4\n", r"with x0 < x1 and y0 < y1"),
    "a name with a zero byte": (b"a\0.jpg,1,2,3,4\n", r"line 1: expected photo"),
    "a name that is too long": (b"a" * 200_000 + b",1,2,3,4\n", r"is no CSV file"),
    "a quote that does not end": (b'"a.jpg,1,2,3,4\n' * 9, r"expected photo"),
}


@pytest.mark.parametrize("name", BAD_BOXES)
def test_a_bad_file_of_boxes_is_one_message_that_names_it(name: str, tmp_path: Path, refused: Refused) -> None:
    contents, message = BAD_BOXES[name]
    path = tmp_path / "boxes.csv"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=message) as error:
        read_boxes(path)
    assert f"'{path}'" in str(error.value)
    refused(error.value)


def same_eyes(points: np.ndarray) -> None:
    points[45] = points[36]


def a_digit_too_many(points: np.ndarray) -> None:
    points[8] = points[8] * 10


def the_other_sign(points: np.ndarray) -> None:
    points[0] = -100 * points[0]


def other_units(points: np.ndarray) -> None:
    points += 500


# what becomes of the landmarks of an image of 60 x 48 pixels -> message
BAD_SHAPES: dict[Callable[[np.ndarray], None], str] = {
    same_eyes: r"points of its 'inter_ocular' distance coincide",
    a_digit_too_many: r"landmark \[.*\] lies far outside of its image of 60 x 48 pixels",
    the_other_sign: r"landmark \[.*\] lies far outside of its image of 60 x 48 pixels",
    other_units: r"box \[.*\] lies outside of its image of 60 x 48 pixels",
}


@pytest.mark.parametrize("change", BAD_SHAPES, ids=lambda change: change.__name__)
def test_verification_and_environment_refuse_the_same_face(
    change: Callable[[np.ndarray], None], tmp_path: Path, refused: Refused
) -> None:
    write_pts_folder(tmp_path)
    assert all(report.is_whole for report in verify("pts", str(tmp_path), decode=True, progress=False))
    path = sorted((tmp_path / "train").glob("*.pts"))[0]
    points = read_pts(path)
    change(points)
    write_pts(path, points)
    message = rf"train/{path.stem}: the {BAD_SHAPES[change]}"
    for decode in (False, True):
        reports = {r.split: r for r in verify("pts", str(tmp_path), decode=decode, progress=False)}
        assert reports["test"].is_whole
        assert len(reports["train"].problems) == 1
    with pytest.raises(BadFaceError, match=message):
        play_all(tmp_path)
    with pytest.raises(BadFaceError, match=message):
        raise BadFaceError(reports["train"].problems[0])
    refused(reports["train"].problems[0])


def play_all(root: Path) -> None:
    env = gym.make("FaceAlign-v0", dataset="pts", root=str(root), split="train", initializer="mean")
    for index in range(len(load_dataset("pts", "train", root))):
        env.reset(options={"index": index})
    env.close()
