"""``face-align data``: what it says, what it writes, and its exit status."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner
from writers.w300 import FOLDERS, PRIVATE_FOLDERS, write_300w
from writers.ytf import write_ytf

from face_align_env.agents.cli import app as cli
from face_align_env.agents.cli.app import app
from face_align_env.datasets import REGISTRY


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, home, and folder of prepared faces."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FACE_ALIGN_CACHE", str(tmp_path / "prepared"))
    monkeypatch.delenv("FACE_ALIGN_DATA", raising=False)
    monkeypatch.setattr(cli.console, "width", 200)
    return tmp_path


def call(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(app, ["data", *arguments])
    assert result.exit_code == status, result.output + repr(result.exception)
    return " ".join(result.output.split())


def test_list_tells_of_every_dataset_what_it_is_and_where_it_was_looked_for(here: Path) -> None:
    said = call("list")
    for name in REGISTRY:
        assert f"│ {name} │" in said
    assert "train 2,000" in said
    assert "generated" in said
    assert "face-align data download 300w" in said
    os.environ["FACE_ALIGN_DATA"] = str(here / "data")
    try:
        write_300w(here / "data" / "300w")
        said = call("list")
    finally:
        del os.environ["FACE_ALIGN_DATA"]
    assert "train 9 of 3,148" in said
    assert "challenging 3 of 135" in said


def test_list_goes_on_after_a_dataset_that_cannot_be_read(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACE_ALIGN_DATA", str(here / "data"))
    write_300w(here / "data" / "300w")
    (here / "data" / "300w" / "ibug" / "image_0001.jpg").unlink()
    said = call("list")
    assert "challenging: cannot be read" in said
    assert "train 9 of 3,148" in said
    assert "│ ytf │" in said


def test_verify_names_what_is_wrong_and_fails(here: Path) -> None:
    write_300w(here / "faces")
    (here / "faces/afw/image_0002.jpg").write_bytes(b"no image")
    said = call("verify", "300w", "--root", "faces", status=1)
    assert "9 of the protocol's 3,148 faces" in said
    assert "broken: 'faces/afw/image_0002.jpg' is no image (8 bytes;" in said
    assert "300w is not whole: 1 broken, 5 of 5 splits lack faces." in said
    assert call("verify", "synthetic", "--option", "size=2", "--decode").endswith("synthetic is whole.")


def test_prepare_fills_the_cache_and_clear_empties_it(here: Path) -> None:
    arguments = ("prepare", "synthetic", "--split", "test", "--option", "size=3", "--workers", "1")
    said = call(*arguments)
    assert "synthetic test: 3 faces, 3 of them prepared now." in said
    assert "0.00 GB" in said
    assert "3 faces, 0 of them prepared now." in call(*arguments)
    assert len(list((here / "prepared" / "synthetic-test").glob("contexts-*"))) == 1
    assert "synthetic train: 3 faces" in call("prepare", "synthetic", "--option", "size=3", "--workers", "1")
    call("clear", "300w")
    assert (here / "prepared" / "synthetic-test").is_dir()
    assert "Removed" in call("clear", "synthetic")
    assert not list((here / "prepared").iterdir())


def test_prepare_leaves_out_the_splits_that_are_not_there(here: Path) -> None:
    write_300w(here / "faces")
    with pytest.warns(UserWarning, match="of the protocol's"):
        said = call("prepare", "300w", "--root", "faces", "--workers", "1")
    assert "300w train: 9 faces, 9 of them prepared now." in said
    assert "300w full: 9 faces, 9 of them prepared now." in said
    assert "300w private: left out." in said


@pytest.mark.filterwarnings("ignore:300w .* of the protocol's:UserWarning")
def test_prepare_takes_the_splits_that_all_of_several_datasets_have(here: Path) -> None:
    write_300w(here / "data" / "300w", (*FOLDERS, *PRIVATE_FOLDERS))
    write_ytf(here / "data" / "ytf")
    said = call("prepare", "300w+ytf", "--root", "data", "--workers", "1")
    assert "300w+ytf full: 15 faces" in said
    assert "private" not in said


def test_prepare_says_that_nothing_is_kept_when_it_is_off(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACE_ALIGN_CACHE", "off")
    result = CliRunner().invoke(app, ["data", "prepare", "synthetic", "--option", "size=2"])
    assert result.exit_code == 1
    assert "FACE_ALIGN_CACHE" in result.stderr


@pytest.mark.parametrize("landmarks", ["68", "29", "19"])
def test_show_draws_faces_into_a_png(here: Path, landmarks: str) -> None:
    options = ("--option", "size=4", "--landmarks", landmarks, "--output", "sub folder/gezeigt ü.png")
    said = call("show", "synthetic", "--split", "test", "--index", "2", "--index", "3", *options)
    assert "2 of the 4 faces of synthetic test" in said
    with Image.open(here / "sub folder" / "gezeigt ü.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height > 500
        pixels = np.asarray(picture)
    for half in (pixels[:, : pixels.shape[1] // 2], pixels[:, -pixels.shape[1] // 2 :]):
        assert len(np.unique(half.reshape(-1, 3), axis=0)) > 1000, "a face is on each side"


def test_show_knows_how_many_faces_there_are(here: Path) -> None:
    result = CliRunner().invoke(app, ["data", "show", "synthetic", "--option", "size=4", "--index", "4"])
    assert result.exit_code == 1
    assert "There is no face 4: 'synthetic' train has 0 to 3." in " ".join(result.stderr.split())
    assert not (here / "faces.png").exists()


def test_list_and_verify_speak_json(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACE_ALIGN_DATA", str(here / "data"))
    write_300w(here / "data" / "300w")
    (here / "data" / "300w" / "ibug" / "image_0001.jpg").unlink()
    told = json.loads(CliRunner().invoke(app, ["data", "list", "--json"]).stdout)
    assert told["datasets"].keys() == REGISTRY.keys()
    found = told["datasets"]["300w"]
    assert found["faces"]["train"] == 9
    assert found["protocol"]["train"] == 3148
    assert found["faces"]["challenging"] is None
    assert "image_0001" in found["error"]
    assert found["root"] == str(here / "data" / "300w")
    assert told["datasets"]["synthetic"]["generated"]
    assert told["prepared"] == {"folder": str(here / "prepared"), "bytes": 0}

    verified = CliRunner().invoke(app, ["data", "verify", "300w", "--split", "train", "--json"])
    assert verified.exit_code == 1
    report = json.loads(verified.stdout)
    assert (report["dataset"], report["whole"]) == ("300w", False)
    (split,) = report["splits"]
    assert (split["split"], split["num_faces"], split["expected"], split["problems"]) == ("train", 9, 3148, [])
    whole = CliRunner().invoke(app, ["data", "verify", "synthetic", "--option", "size=2", "--json"])
    assert whole.exit_code == 0
    assert json.loads(whole.stdout)["whole"] is True
