"""Many photos: which are meant, in batches, and where the results go."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from writers.support import needs_permissions

from face_align_env.aligner.aligner import FaceAligner
from face_align_env.aligner.folders import Input, NoPhotosError, align_files, find_photos, read_boxes
from face_align_env.aligner.results import CsvTable, Drawings, JsonLines, PtsFolder
from face_align_env.datasets.pts import read_pts
from face_align_env.networks.gen import GEN


@pytest.fixture
def aligner(gen: GEN) -> FaceAligner:
    """Sees as many faces in a photo as its first pixel says."""

    def detect(image: np.ndarray) -> np.ndarray:
        return np.array([[10.0 + i, 20, 60 + i, 90] for i in range(int(image[0, 0, 0]))]).reshape(-1, 4)

    return FaceAligner(gen, None, detector=detect)


def photo(path: Path, faces: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((100, 120, 3), faces, np.uint8))
    return path


def names(photos: list[Input]) -> list[str]:
    return [str(found.name) for found in photos]


def test_a_folder_is_searched_with_its_folders_in_order(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "a.PNG", ".hidden/1.png", "b/.1.png"):
        photo(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photo")
    assert names(find_photos([tmp_path])) == ["a.PNG", "b/10.png", "b/2.png"]
    assert names(find_photos([tmp_path], without=[tmp_path / "b"])) == ["a.PNG"]


def test_patterns_and_files_name_photos_once(tmp_path: Path) -> None:
    one, two = photo(tmp_path / "x" / "1.png"), photo(tmp_path / "y" / "2.png")
    assert names(find_photos([one, tmp_path / "*" / "*.png"])) == ["1.png", "y/2.png"]
    assert [found.path for found in find_photos([tmp_path / "**" / "2.png"])] == [two]
    strange = photo(tmp_path / "[odd] *.png")
    assert [found.path for found in find_photos([strange])] == [strange]


@pytest.mark.parametrize(
    ("given", "message"), [("empty", r"no photos in the folder '.*empty'"), ("*.jpg", r"Nothing matches '.*\*\.jpg'")]
)
def test_inputs_without_photos_are_named(tmp_path: Path, given: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoPhotosError, match=message):
        find_photos([tmp_path / given])


def test_batches_across_photos_align_as_one_by_one(tmp_path: Path, aligner: FaceAligner) -> None:
    paths = [photo(tmp_path / f"{i:02}.png", faces=i % 4) for i in range(20)]
    sizes = []
    together = aligner.align_photos
    aligner.align_photos = lambda photos: sizes.append(len(photos)) or together(photos)  # type: ignore[method-assign]
    found = list(align_files(aligner, find_photos([tmp_path]), workers=2))
    assert [result[0].path for result in found] == paths
    assert max(sizes) > 1
    for path, (_, alignments) in zip(paths, found, strict=True):
        assert isinstance(alignments, list)
        expected = aligner(path)
        assert len(alignments) == len(expected)
        for one, other in zip(alignments, expected, strict=True):
            np.testing.assert_allclose(one.landmarks, other.landmarks, atol=1e-3)
            np.testing.assert_array_equal(one.box, other.box)


def test_only_photos_on_their_way_are_in_memory(tmp_path: Path, aligner: FaceAligner) -> None:
    photo(tmp_path / "1.png")
    begun = 0

    def endless() -> Any:
        nonlocal begun
        while True:
            begun += 1
            yield Input(tmp_path / "1.png", Path("1.png"))

    threads = threading.active_count()
    results = align_files(aligner, endless(), workers=1)
    for _ in range(50):
        next(results)
    results.close()  # type: ignore[attr-defined]
    assert begun <= 50 + 2 * 8
    assert threading.active_count() < threads + 10


def test_a_broken_file_does_not_stop_the_others(tmp_path: Path, aligner: FaceAligner) -> None:
    photo(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"")
    photo(tmp_path / "3.png")
    (_, one), (_, two), (_, three) = align_files(aligner, find_photos([tmp_path]))
    assert isinstance(two, ValueError)
    assert "2.png" in str(two)
    assert isinstance(one, list)
    assert isinstance(three, list)


def test_an_error_of_the_program_is_not_taken_for_a_broken_file(tmp_path: Path, gen: GEN) -> None:
    def broken(image: np.ndarray) -> np.ndarray:
        raise ZeroDivisionError("a defect")

    photo(tmp_path / "1.png")
    with pytest.raises(ZeroDivisionError, match="a defect"):
        list(align_files(FaceAligner(gen, None, detector=broken), find_photos([tmp_path])))


def test_less_than_one_worker_is_an_error(aligner: FaceAligner) -> None:
    with pytest.raises(ValueError, match="at least one worker, got 0"):
        list(align_files(aligner, [], workers=0))


def test_boxes_come_from_a_file(tmp_path: Path, aligner: FaceAligner) -> None:
    photo(tmp_path / "1.png"), photo(tmp_path / "2.png", faces=3)
    table = tmp_path / "boxes.csv"
    table.write_text("photo,x0,y0,x1,y1\n1.png,1,2,30,40\n\n1.png,5,6,70,80.5\n")
    (_, one), (_, two) = align_files(aligner, find_photos([tmp_path]), read_boxes(table))
    assert [alignment.box.tolist() for alignment in one] == [[1, 2, 30, 40], [5, 6, 70, 80.5]]  # type: ignore[union-attr]
    assert len(two) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "line", ["1.png,1,2,3", "1.png,a,b,c,d", "1.png,5,5,1,9", "1.png,1,2,nan,4", "1.png,1,2,3,4,5"]
)
def test_a_line_that_is_no_box_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "boxes.csv").write_text(f"1.png,1,2,3,4\n{line}\n")
    with pytest.raises(ValueError, match=r"'.*boxes\.csv', line 2: expected photo,x0,y0,x1,y1"):
        read_boxes(tmp_path / "boxes.csv")


def write_all(results: Any, aligner: FaceAligner, photos: list[Input]) -> None:
    for each in photos:
        if not results.has(each):
            results.write(each, aligner(each.path))


def test_json_lines_are_resumed(tmp_path: Path, aligner: FaceAligner) -> None:
    for i in range(3):
        photo(tmp_path / f"{i}.png", faces=i)
    photos, path = find_photos([tmp_path]), tmp_path / "out" / "faces.json"
    write_all(JsonLines(path), aligner, photos)
    whole = path.read_text()
    told = [json.loads(line) for line in whole.splitlines()]
    assert [(Path(each["photo"]).name, len(each["faces"])) for each in told] == [
        ("0.png", 0),
        ("1.png", 1),
        ("2.png", 2),
    ]
    path.write_text(whole[:-30])  # killed in the middle of a line
    again = JsonLines(path)
    assert [again.has(each) for each in photos] == [True, True, False]
    write_all(again, aligner, photos)
    assert path.read_text() == whole


def test_a_table_is_resumed(tmp_path: Path, aligner: FaceAligner) -> None:
    for i in range(3):
        photo(tmp_path / f"{i}.png", faces=i)
    photos, path = find_photos([tmp_path]), tmp_path / "faces.csv"
    write_all(CsvTable(path, 68), aligner, photos[:2])
    again = CsvTable(path, 68)
    assert [again.has(each) for each in photos] == [True, True, False]
    write_all(again, aligner, photos)
    rows = np.genfromtxt(path, delimiter=",", names=True, dtype=None, encoding="utf-8")
    assert rows["face"].tolist() == [-1, 0, 0, 1]  # genfromtxt's word for empty
    (expected,) = aligner(photos[1].path)
    np.testing.assert_allclose([rows["x5"][1], rows["y5"][1]], expected.landmarks[5], atol=0.006)
    np.testing.assert_allclose([rows[name][1] for name in ("left", "top", "right", "bottom")], expected.box)


def test_files_of_something_else_are_not_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="other columns"):
        CsvTable(path, 68)
    with pytest.raises(ValueError, match=r"line 1, is no line of face-align align's JSON"):
        JsonLines(path)
    assert path.read_text() == "a,b\n1,2\n"


def test_pts_files_and_pictures_keep_the_photos_places(tmp_path: Path, aligner: FaceAligner) -> None:
    photo(tmp_path / "in" / "a" / "1.png"), photo(tmp_path / "in" / "2.png", faces=2), photo(tmp_path / "in/3.png", 0)
    photos = find_photos([tmp_path / "in"])
    pts, drawn = PtsFolder(tmp_path / "pts", photos), Drawings(tmp_path / "drawn", photos)
    assert not any(results.has(each) for each in photos for results in (pts, drawn))
    for results in (pts, drawn):
        write_all(results, aligner, photos)
        assert [results.has(each) for each in photos] == [True, False, True]
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*") if "in" not in path.parts)
    assert written == ["drawn/2.jpg", "drawn/a/1.jpg", "pts/2_1.pts", "pts/2_2.pts", "pts/a/1.pts"]
    (expected,) = aligner(tmp_path / "in" / "a" / "1.png")
    np.testing.assert_allclose(read_pts(tmp_path / "pts" / "a" / "1.pts"), expected.landmarks, atol=1e-4)
    assert cv2.imread(str(tmp_path / "drawn" / "2.jpg")).max() > 100


@pytest.mark.parametrize("kind", [PtsFolder, Drawings])
def test_two_photos_never_share_a_file(tmp_path: Path, kind: Any) -> None:
    photo(tmp_path / "a" / "1.png"), photo(tmp_path / "b" / "1.png")
    with pytest.raises(ValueError, match=r"1\.png' and '.*1\.png' would both be written to"):
        kind(tmp_path / "out", find_photos([tmp_path / "a", tmp_path / "b"]))


@needs_permissions
def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="Permission"):
        CsvTable(tmp_path / "faces.csv", 68)
