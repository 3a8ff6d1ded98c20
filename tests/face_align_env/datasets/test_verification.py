"""Verification: every fault by the name of its file, and silence where there is none."""

from __future__ import annotations

import warnings

import pytest
from writers.images import cut_short, write_noise
from writers.pts import write_pts_folder
from writers.support import real_root
from writers.w300 import FOLDERS, PRIVATE_FOLDERS, write_300w

from face_align_env.datasets import DatasetNotFoundError
from face_align_env.datasets.verification import verify
from face_align_env.datasets.w300 import W300


def by_split(reports):
    return {report.split: report for report in reports}


@pytest.fixture
def small_protocol(monkeypatch):
    """As if 300W had three faces in each of its folders."""
    monkeypatch.setattr("face_align_env.datasets.w300._FOLDERS", dict.fromkeys((*FOLDERS, *PRIVATE_FOLDERS), 3))
    counts = {"train": 9, "common": 6, "challenging": 3, "full": 9, "private": 6}
    monkeypatch.setattr(W300, "protocol", counts)


def test_a_whole_dataset_is_whole(tmp_path, small_protocol):
    write_300w(tmp_path, (*FOLDERS, *PRIVATE_FOLDERS))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reports = verify("300w", str(tmp_path), decode=True, progress=False)
    assert [(report.split, report.num_faces, report.expected) for report in reports] == [
        ("train", 9, 9), ("common", 6, 6), ("challenging", 3, 3), ("full", 9, 9), ("private", 6, 6)
    ]  # fmt: skip
    assert all(report.is_whole and not report.problems for report in reports)


def test_what_the_protocol_has_and_the_copy_lacks_is_counted(tmp_path, small_protocol):
    write_300w(tmp_path)
    for suffix in (".png", ".pts"):
        (tmp_path / f"lfpw/testset/image_0002{suffix}").unlink()
    reports = by_split(verify("300w", str(tmp_path), progress=False))
    assert reports["train"].is_whole
    assert reports["common"].missing == ("5 of the protocol's 6 faces (lfpw/testset 2 of 3)",)
    assert reports["full"].missing == ("8 of the protocol's 9 faces (lfpw/testset 2 of 3)",)
    assert reports["private"].num_faces == 0
    assert "300W/01_Indoor, 300W/02_Outdoor" in reports["private"].missing[0]
    assert not any(report.problems for report in reports.values())


def test_every_broken_file_is_named(tmp_path, small_protocol):
    write_300w(tmp_path)
    (tmp_path / "afw/image_0001.jpg").write_bytes(b"")
    (tmp_path / "afw/image_0002.pts").write_text("version: 1\nn_points: 68\n{\n1 1\n}\n")
    text = (tmp_path / "ibug/image_092 _01.pts").read_text().splitlines()
    (tmp_path / "ibug/image_092 _01.pts").write_text("\n".join([*text[:3], "nan nan", *text[4:]]))
    reports = by_split(verify("300w", str(tmp_path), progress=False))
    assert len(reports["train"].problems) == 2
    assert "image_0001.jpg' is no image (0 bytes;" in "".join(reports["train"].problems)
    assert "image_0002.pts' says n_points: 68, and holds 1 points" in "".join(reports["train"].problems)
    for split in ("challenging", "full"):
        assert len(reports[split].problems) == 1
        assert "image_092 _01.pts'" in reports[split].problems[0]
        assert "not a finite number" in reports[split].problems[0]
    assert reports["common"].is_whole


def test_every_annotation_without_an_image_is_named(tmp_path, small_protocol):
    write_300w(tmp_path)
    for stem in ("image_0001", "image_0002"):
        (tmp_path / f"ibug/{stem}.jpg").unlink()
    report = by_split(verify("300w", str(tmp_path), progress=False))["challenging"]
    assert len(report.problems) == 2
    for stem, problem in zip(("image_0001", "image_0002"), report.problems, strict=True):
        assert f"{stem}.pts' has no image" in problem


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_an_image_that_is_cut_short_is_found_by_decoding(tmp_path, suffix):
    write_pts_folder(tmp_path)
    (tmp_path / "test/a.jpg").unlink()
    path = tmp_path / f"test/a{suffix}"
    write_noise(path)
    cut_short(path)
    assert by_split(verify("pts", str(tmp_path), progress=False))["test"].is_whole, "its header is"
    report = by_split(verify("pts", str(tmp_path), decode=True, progress=False))["test"]
    assert len(report.problems) == 1
    assert f"a{suffix}'" in report.problems[0]


def test_a_box_outside_of_its_image_is_named(tmp_path):
    write_pts_folder(tmp_path)
    path = tmp_path / "train/b.pts"
    head, points = path.read_text().split("{\n")
    moved = [" ".join(str(float(word) + 500) for word in line.split()) for line in points.splitlines()[:-1]]
    path.write_text(head + "{\n" + "\n".join([*moved, "}"]))
    report = by_split(verify("pts", str(tmp_path), progress=False))["train"]
    assert len(report.problems) == 1
    assert report.problems[0].startswith("train/b: the box")
    assert "outside of its image of 60 x 48 pixels" in report.problems[0]


def test_the_splits_that_are_asked_for_are_verified_and_no_other(tmp_path, small_protocol):
    write_300w(tmp_path, ("ibug",))
    assert [report.split for report in verify("300w", str(tmp_path), splits=["challenging"], progress=False)] == [
        "challenging"
    ]


def test_a_dataset_that_is_not_there_is_an_error_that_says_how_to_get_it(tmp_path):
    for root in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DatasetNotFoundError, match="data download 300w"):
            verify("300w", str(root), progress=False)


def test_the_real_300w_is_whole_as_far_as_it_is_there():
    for report in verify("300w", str(real_root("300w")), progress=False):
        assert report.num_faces <= report.expected
        assert bool(report.missing) == (report.num_faces < report.expected)
        assert not report.problems
