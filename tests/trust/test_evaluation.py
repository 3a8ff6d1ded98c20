"""The files of evaluations and benchmarks: whoever reads them is told which one is damaged, and what makes it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trust.refusals import Refused
from typer.testing import CliRunner

from face_align_env.agents.benchmark.results import Results
from face_align_env.agents.benchmark.trial import COLUMNS, write_rows
from face_align_env.agents.cli.app import app
from face_align_env.agents.evaluation.files import read_faces, read_rows
from face_align_env.agents.evaluation.measure import Row
from face_align_env.files import read_arrays, write_arrays, write_json

FACES = {
    "ids": np.array(["a", "b", "c"]),
    "normalizer": np.array("inter_ocular"),
    "DCRN/nme": np.array([0.03, 0.04, 0.05]),
    "DCRN/iterations": np.array([1, 2, 3]),
    "DCRN/rewards": np.ones((4, 3), dtype=np.float32),
}
DOCUMENT: dict[str, Any] = {
    "dataset": "toy",
    "split": "test",
    "num_faces": 3,
    "seed": 0,
    "rows": [asdict(Row("DCRN", 4.0, 3.5, 4.5, None, 0.0, 0.6, 2.0, 1.5))],
}


def write_evaluation(folder: Path) -> Path:
    """The two files of an evaluation; returns the JSON file."""
    write_json(folder / "evaluation.json", DOCUMENT)
    write_arrays(folder / "evaluation.npz", FACES)
    return folder / "evaluation.json"


def test_whole_files_are_read(tmp_path: Path) -> None:
    path = write_evaluation(tmp_path)
    assert read_rows(path) == [Row("DCRN", 4.0, 3.5, 4.5, None, 0.0, 0.6, 2.0, 1.5)]
    assert read_faces(path).keys() == FACES.keys()
    for name, array in read_faces(path).items():
        np.testing.assert_array_equal(array, FACES[name])


def _row(**values: Any) -> dict[str, Any]:
    return {**DOCUMENT, "rows": [{**DOCUMENT["rows"][0], **values}]}


# contents -> message
BAD_JSON: dict[str, tuple[str | dict[str, Any], str]] = {
    "an empty file": ("", "is damaged"),
    "half of a file": (json.dumps(DOCUMENT)[:90], "is damaged"),
    "brackets without end": ("[" * 100_000, "is damaged"),
    "a list": ("[]", "dataset is missing"),
    "a page of HTML": ("<html></html>", "is damaged"),
    "no rows": ({key: value for key, value in DOCUMENT.items() if key != "rows"}, "rows is missing"),
    "rows that are not a list": ({**DOCUMENT, "rows": {"DCRN": 3}}, "rows is missing or makes no sense"),
    "a row that is none": ({**DOCUMENT, "rows": [3]}, "a row's method is missing"),
    "a row without its NME": (
        {**DOCUMENT, "rows": [{key: value for key, value in DOCUMENT["rows"][0].items() if key != "nme"}]},
        "a row's nme is missing",
    ),
    "an NME that is text": (_row(nme="4.0"), "a row's nme is missing or makes no sense"),
    "an NME that is no number": (_row(nme=float("nan")), "a row's nme is missing or makes no sense"),
    "a method that is a number": (_row(method=4), "a row's method is missing or makes no sense"),
    "faces that are text": ({**DOCUMENT, "num_faces": "3"}, "num_faces is missing or makes no sense"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_a_bad_evaluation_is_named_with_its_cure(name: str, tmp_path: Path, refused: Refused) -> None:
    contents, message = BAD_JSON[name]
    path = write_evaluation(tmp_path)
    path.write_text(contents if isinstance(contents, str) else json.dumps(contents))
    with pytest.raises(ValueError, match=message) as error:
        read_rows(path)
    assert f"'{path}'" in str(error.value)
    refused(error.value)


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _changed(data: bytes) -> bytes:
    place = data.index(b"DCRN/nme.npy") + 40
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


BAD_BYTES: dict[str, Callable[[bytes], bytes]] = {
    "an empty file": lambda data: b"",
    "half of a file": _cut,
    "a byte that was changed": _changed,
    "zeros": lambda data: bytes(len(data)),
    "a single array": lambda data: b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': ()}",
    "text": lambda data: b"nme: 3",
}


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bad_arrays_are_named_with_their_cure(name: str, tmp_path: Path, refused: Refused) -> None:
    path = write_evaluation(tmp_path)
    arrays = path.with_suffix(".npz")
    arrays.write_bytes(BAD_BYTES[name](arrays.read_bytes()))
    with pytest.raises(ValueError, match=r"is damaged .* Make it again: face-align evaluate") as error:
        read_faces(path)
    assert f"'{arrays}'" in str(error.value)
    refused(error.value)


BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "objects": ({"ids": np.array([{}], dtype=object)}, "holds objects"),
    "no names": ({"ids": None}, "ids is missing"),
    "no normaliser": ({"normalizer": None}, "normalizer is missing"),
    "errors of other faces": ({"DCRN/nme": np.ones(4)}, "DCRN/nme is no number for each face"),
    "errors that are text": ({"DCRN/nme": np.array(["a", "b", "c"])}, "DCRN/nme is no number for each face"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_of_something_else_are_refused(name: str, tmp_path: Path, refused: Refused) -> None:
    changes, message = BAD_ARRAYS[name]
    path = write_evaluation(tmp_path)
    np.savez(
        path.with_suffix(".npz"), **{key: array for key, array in {**FACES, **changes}.items() if array is not None}
    )
    with pytest.raises(ValueError, match=message) as error:
        read_faces(path)
    assert "Make it again: face-align evaluate" in str(error.value)
    refused(error.value)


def test_an_array_takes_no_more_memory_than_its_file_says(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(4))
    data = (tmp_path / "a.npz").read_bytes()
    assert data.count(b"(4,), ") == 1
    # NumPy's own reader stops at the checksum only after it has made room; here the checksum comes first.
    (tmp_path / "a.npz").write_bytes(data.replace(b"(4,), ", b"(9**9,"))
    with pytest.raises(ValueError, match=r"Bad CRC-32"):
        read_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_commands_that_read_evaluations_say_what_is_damaged(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        write_evaluation(Path(f"toy/seed-{seed}"))
        write_json(f"toy/seed-{seed}/config.json", {"seed": seed})
    assert CliRunner().invoke(app, ["summarize", "toy"]).exit_code == 0
    path = Path("toy/seed-1/evaluation").with_suffix(suffix)
    path.write_bytes(path.read_bytes()[:-30])
    result = CliRunner().invoke(app, ["summarize", "toy"])
    assert result.exit_code == 1
    assert f"Error: '{path}' is damaged" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    refused(result.stderr)


# what becomes of the text of a benchmark's results.csv -> message
BAD_RESULTS: dict[str, tuple[Callable[[str], str], str]] = {
    "an empty file": (lambda text: "", "No columns"),
    "the header alone": (lambda text: text.splitlines()[0], "it has no rows"),
    "a column too few": (lambda text: text.replace("success,", ""), "it has no success|no number|no whole number"),
    "a word for a figure": (lambda text: text.replace("0.5", "half"), "a figure in it is no number"),
    "a figure that is cut off": (lambda text: text.rstrip().rpartition(",")[0] + ",", "a figure in it is no number"),
    "a page of HTML": (lambda text: "<html></html>", "it has no algorithm"),
    "a step that is none": (lambda text: text.replace(",16,", ",1.6,"), "no whole number"),
}


@pytest.mark.parametrize("name", BAD_RESULTS)
def test_bad_results_of_a_benchmark_are_named(name: str, tmp_path: Path, refused: Refused) -> None:
    change, message = BAD_RESULTS[name]
    own = tmp_path / "trials" / "sac.features.0"
    row = {**dict.fromkeys(COLUMNS, 0.5), "algorithm": "sac", "start": "features", "termination": "oracle", "seed": 0}
    write_rows(own / "results.csv", [{**row, "step": 16}])
    write_arrays(own / "faces.npz", {"oracle/nme": np.ones(3)})
    assert len(Results.read(tmp_path).frame) == 1
    path = own / "results.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=message) as error:
        Results.read(tmp_path)
    assert f"'{path}'" in str(error.value)
    refused(error.value)


def test_bad_faces_of_a_benchmark_are_named(tmp_path: Path, refused: Refused) -> None:
    own = tmp_path / "trials" / "sac.features.0"
    row = {**dict.fromkeys(COLUMNS, 0.5), "algorithm": "sac", "start": "features", "termination": "oracle", "seed": 0}
    write_rows(own / "results.csv", [{**row, "step": 16}])
    (own / "faces.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="is damaged or no file of arrays") as error:
        Results.read(tmp_path)
    assert "faces.npz" in str(error.value)
    refused(error.value)
