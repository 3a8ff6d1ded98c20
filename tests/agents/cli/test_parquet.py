"""face-align align --parquet, here and on a Ray cluster: each photo once, whatever breaks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from face_align_env.agents.cli.app import app
from face_align_env.agents.cli.photos import make_aligner
from face_align_env.aligner.folders import find_photos
from face_align_env.aligner.parquet import ParquetFolder, Record
from face_align_env.datasets import load_dataset

pytest.importorskip("pyarrow", reason="the extra cluster is not installed")

OPTIONS = ("--weights", "synthetic-68")
PHOTOS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with a face each, one without, and a file that is none."""
    made = tmp_path_factory.mktemp("photos")
    for number, face in enumerate(load_dataset("synthetic", "test", size=PHOTOS - 1)):
        cv2.imwrite(str(made / f"{number:02d}.png"), face.image[..., ::-1])
    cv2.imwrite(str(made / "empty.png"), np.full((120, 160, 3), 90, np.uint8))
    (made / "broken.jpg").write_bytes(b"no photo")
    return made


def align(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["align", *map(str, arguments), *OPTIONS])


def table(results: Path, name: str) -> pd.DataFrame:
    frame = pd.concat([pd.read_parquet(path) for path in sorted((results / name).glob("*.parquet"))])
    keys = [key for key in ("photo", "face") if key in frame]
    return frame.sort_values(keys).reset_index(drop=True)


def assert_whole(results: Path, folder: Path) -> None:
    photos, broken = table(results, "photos"), table(results, "broken")
    assert sorted([*photos["photo"], *broken["photo"]]) == sorted(map(str, folder.iterdir()))
    assert broken["photo"].tolist() == [str(folder / "broken.jpg")]
    assert "broken.jpg" in broken["error"][0]
    assert photos.set_index("photo")["faces"][str(folder / "empty.png")] == 0
    assert photos["faces"].sum() == len(table(results, "faces"))


def test_rows_are_what_json_says(folder: Path, tmp_path: Path) -> None:
    result = align(folder, "--parquet", tmp_path / "results")
    assert result.exit_code == 1, "a photo is broken"
    assert f"{PHOTOS + 1} photos, 1 of them broken" in result.output
    assert_whole(tmp_path / "results", folder)
    align(folder, "--json", tmp_path / "faces.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "faces.jsonl").read_text().splitlines()]
    faces = table(tmp_path / "results", "faces").set_index(["photo", "face"])
    assert len(faces) == sum(len(line["faces"]) for line in lines) > PHOTOS / 2
    for line in lines:
        for number, face in enumerate(line["faces"]):
            row = faces.loc[(line["photo"], number)]
            np.testing.assert_allclose(np.reshape(row["landmarks"], (-1, 2)), face["landmarks"], rtol=1e-5)
            np.testing.assert_allclose(row["box"], face["box"], rtol=1e-5)
            assert row["iterations"] == face["iterations"]
            assert row["yaw"] == pytest.approx(face["pose"]["yaw"], rel=1e-5)


def test_what_is_done_is_not_done_again_and_a_part_is_whole_or_absent(folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    align(folder / "00.png", folder / "01.png", "--parquet", results)
    kept = {path: path.stat().st_mtime_ns for path in results.rglob("*.parquet")}
    assert len(kept) == 3
    # The driver died after the faces of its second part.
    (results / "faces" / "000001.parquet").write_bytes((results / "faces" / "000000.parquet").read_bytes())
    again = align(folder, "--parquet", results)
    assert f"2 of {PHOTOS + 1} photos have their results already" in again.output
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert_whole(results, folder)
    third = align(folder, "--parquet", results)
    assert third.exit_code == 0
    assert "0 photos, 0 of them broken" in third.output
    assert_whole(results, folder)


def test_parts_are_of_so_many_photos_and_a_photo_is_there_once(tmp_path: Path) -> None:
    results = ParquetFolder(tmp_path, at_once=4)
    records: list[Record] = [{"photo": f"{i}.png", "error": None, "faces": []} for i in range(10)]
    results.write([*records, *records[:3]])
    assert len(list((tmp_path / "photos").glob("*.parquet"))) == 2
    results.flush()
    results.flush()
    assert len(list((tmp_path / "photos").glob("*.parquet"))) == 3
    assert table(tmp_path, "photos")["photo"].is_unique
    assert ParquetFolder(tmp_path).done == {each["photo"] for each in records}


def test_names_and_messages_need_not_be_utf_8(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"photos-\xe9")
    odd.mkdir()
    (odd / "face.png").write_bytes((folder / "00.png").read_bytes())
    (odd / "broken.png").write_bytes(b"no photo")
    for _ in range(2):
        align(odd, "--parquet", tmp_path / "results")
    assert table(tmp_path / "results", "photos")["photo"].tolist() == [f"{tmp_path}/photos-\\udce9/face.png"]
    assert "photos-\\udce9/broken.png" in table(tmp_path / "results", "broken")["error"][0]


def test_tables_of_somebody_else_are_left_alone(folder: Path, tmp_path: Path) -> None:
    """Only the part that would be written next can have been cut off."""
    own = tmp_path / "faces" / "000007.parquet"
    own.parent.mkdir()
    own.write_bytes(b"years of work")
    ParquetFolder(tmp_path)
    assert own.read_bytes() == b"years of work"
    (tmp_path / "photos").mkdir(exist_ok=True)
    (tmp_path / "photos" / "years.parquet").write_bytes(own.read_bytes())
    result = align(folder, "--parquet", tmp_path)
    assert result.exit_code == 1
    assert "years.parquet' is no table of face-align align" in result.stderr


def test_mistakes_are_named(folder: Path, tmp_path: Path) -> None:
    for options in (["--cluster", "local"], ["--parquet", tmp_path, "--csv", tmp_path / "faces.csv"]):
        result = align(folder, *options)
        assert result.exit_code == 1
        assert "--cluster goes with --parquet" in result.stderr
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "000000.parquet").write_bytes(b"something else")
    result = align(folder, "--parquet", tmp_path)
    assert "000000.parquet' is no table of face-align align" in result.stderr
    result = align(folder, "--parquet", tmp_path / "other", "--cluster", "127.0.0.1:1")
    assert "--cluster 127.0.0.1:1: no Ray cluster answers there" in result.stderr


@pytest.mark.timeout(600)
def test_a_killed_node_costs_nothing_but_time(three_nodes: Any, folder: Path, tmp_path: Path) -> None:
    from face_align_env.agents.photos_cluster import aligned_on_cluster

    make = partial(make_aligner, "synthetic-68", "cpu", "auto", None)
    results, killed = ParquetFolder(tmp_path / "far", at_once=4), threading.Event()
    with aligned_on_cluster(make, find_photos([folder]), three_nodes.address) as records:
        for each in records:
            results.write([each])
            if not killed.is_set():
                killed.set()
                three_nodes.remove_node(three_nodes.nodes[-1], allow_graceful=False)
    results.flush()
    assert_whole(tmp_path / "far", folder)
    align(folder, "--parquet", tmp_path / "near")
    far, near = table(tmp_path / "far", "faces"), table(tmp_path / "near", "faces")
    pd.testing.assert_frame_equal(far.drop(columns=["box", "landmarks"]), near.drop(columns=["box", "landmarks"]))
    np.testing.assert_allclose(np.stack(far["landmarks"]), np.stack(near["landmarks"]), atol=0.02)


DRIVER = """
import os, signal, sys
from functools import partial
from pathlib import Path
from face_align_env.agents.cli.photos import make_aligner
from face_align_env.agents.photos_cluster import aligned_on_cluster
from face_align_env.aligner.folders import find_photos
from face_align_env.aligner.parquet import ParquetFolder

folder, into, cluster = sys.argv[1:]
results = ParquetFolder(into, at_once=4)
make = partial(make_aligner, "synthetic-68", "cpu", "auto", None)
with aligned_on_cluster(make, find_photos([folder]), cluster) as records:
    for number, each in enumerate(records):
        results.write([each])
        if number == 9:  # two parts are whole, and half of the third is there
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.timeout(600)
def test_a_killed_driver_is_started_again(three_nodes: Any, folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRIVER, str(folder), str(tmp_path / "far"), three_nodes.address]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "far" / "photos").glob("*.parquet"))) == 2
    again = align(folder, "--parquet", tmp_path / "far", "--cluster", three_nodes.address)
    assert f"8 of {PHOTOS + 1} photos have their results already" in again.output
    assert_whole(tmp_path / "far", folder)


@pytest.mark.timeout(600)
def test_a_photo_that_ends_its_process_is_broken(
    three_nodes: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And costs no other photo."""
    from face_align_env.agents import photos_cluster

    monkeypatch.setattr(photos_cluster, "RETRIES", 0)

    def make() -> Any:
        import os

        from face_align_env.agents.cli.photos import make_aligner

        aligner: Any = make_aligner("synthetic-68", "cpu", "auto", None)
        prepare = aligner.prepare

        def prepare_or_die(photo: Path, boxes: Any) -> Any:
            if photo.name == "05.png":
                os._exit(1)
            if photo.name == "06.png":
                raise LookupError("nobody expects this")
            return prepare(photo, boxes)

        aligner.prepare = prepare_or_die
        return aligner

    photos = find_photos([*(folder / f"{number:02d}.png" for number in range(4, 9)), folder / "broken.jpg"])
    with photos_cluster.aligned_on_cluster(make, photos, three_nodes.address) as records:
        found = {Path(each["photo"]).name: each["error"] for each in records}
    assert len(found) == len(photos)
    assert {name for name, error in found.items() if error} == {"05.png", "06.png", "broken.jpg"}
    assert "process has died" in str(found["05.png"])
    assert found["06.png"] == "LookupError: nobody expects this"
