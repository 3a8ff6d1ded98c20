"""face-align export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner
from writers.release import micro_gen, micro_lrn

from face_align_env.agents.cli.app import app
from face_align_env.agents.run_config import RunConfig

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")


def call(*arguments: Any, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


@pytest.mark.parametrize("kind", ["photo", "crop"])
def test_released_weights_become_a_file_with_their_card(tmp_path: Path, kind: str) -> None:
    output = tmp_path / "faces.onnx"
    told = call("300w-19", "--input", kind, "--output", output).output
    assert "8 drawn faces within 0.001 pixels of PyTorch" in told
    session = onnxruntime.InferenceSession(output.read_bytes(), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == (["photo", "boxes"] if kind == "photo" else ["crops"])
    known = session.get_modelmeta().custom_metadata_map
    assert known["name"] == "300w-19"
    assert "research" in known["license"]
    assert json.loads(known["card"])["landmarks"] == 19


def test_a_run_becomes_a_file(tmp_path: Path) -> None:
    run, output = tmp_path / "run", tmp_path / "run.onnx"
    micro_gen().save(run / "gen" / "weights.safetensors")
    micro_lrn().save(run / "dcrn" / "weights.safetensors")
    RunConfig(preset="tiny").write(run)
    call(run, "--input", "crop", "--output", output)
    session = onnxruntime.InferenceSession(output.read_bytes(), providers=["CPUExecutionProvider"])
    landmarks, _ = session.run(None, {"crops": np.zeros((2, 256, 256, 3), np.uint8)})
    assert landmarks.shape == (2, 68, 2)
    assert json.loads(session.get_modelmeta().custom_metadata_map["config"])["preset"] == "tiny"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("300w-70", "--output", "a.onnx"), "There are no released weights '300w-70'; there are 300w-19, 300w-68"),
        ((".", "--output", "a.onnx"), "is no folder of a run"),
        (("300w-19", "--output", "a.pt"), "name must end with .onnx, got 'a.pt'"),
        (("300w-19", "--output", "file/a.onnx"), "Cannot write the file"),
        (("300w-19", "--output", "a.onnx", "--input", "video"), "photo, crop"),
    ],
)
def test_mistakes_are_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    result = call(*arguments, code=1)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
