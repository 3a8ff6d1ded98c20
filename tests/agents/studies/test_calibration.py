"""face-align calibrate: runs and releases learn to predict the errors of their faces."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from face_align_env.agents.cli.app import app
from face_align_env.agents.release import make_release
from face_align_env.agents.run_folder import RunFolder
from face_align_env.agents.studies import calibration
from face_align_env.agents.studies.calibration import calibrate
from face_align_env.networks.confidence import ErrorHead
from face_align_env.pretrain.confidence import Seen, Stretch
from face_align_env.pretrain.recipes import Data
from face_align_env.released import find_release, load_error_head, load_networks


def test_a_run_learns_to_predict_its_errors(micro_run: Path) -> None:
    crop = Data("synthetic", None, 29, {"size": 12}).prepare().crop(0)[None]
    before = RunFolder(micro_run).aligner().refine(crop)
    made = calibrate(micro_run, views=1)
    names = ("confidence.safetensors", "confidence.json", "confidence.md", "figures/confidence.png")
    assert made.paths == tuple(micro_run / name for name in names)
    assert all(path.is_file() for path in made.paths)
    document = json.loads((micro_run / "confidence.json").read_text())
    assert (document["dataset"], document["split"], document["num_faces"]) == ("synthetic", "test", 12)
    one, two = document["test"]
    assert (one["looks"], two["looks"]) == ("one look", "two looks")
    for each, mirror in ((one, False), (two, True)):
        assert sum(part["faces"] for part in each["bins"]) == 12
        aligner = RunFolder(micro_run).aligner(mirror=mirror)
        faces = RunFolder(micro_run).data().prepare()
        confidences = aligner.refine(np.stack([faces.crop(i) for i in range(12)])).confidences
        assert each["predicted"] == pytest.approx(confidences.mean(), rel=1e-3)
    after = RunFolder(micro_run).aligner().refine(crop)
    assert before.confidences is None
    assert after.confidences is not None
    np.testing.assert_array_equal(after.trajectories, before.trajectories)


def test_the_head_is_released_with_the_networks(micro_run: Path, tmp_path: Path) -> None:
    without = make_release(micro_run, "micro-29", tmp_path / "a")
    assert load_error_head(without) is None
    calibrate(micro_run, views=1)
    head = load_error_head(make_release(micro_run, "micro-29", tmp_path / "b"))
    assert head is not None
    for tensor, expected in zip(head.buffers(), ErrorHead.load(RunFolder(micro_run).error_head).buffers(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0)


def test_a_release_is_calibrated_and_keeps_its_networks(micro_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    before = make_release(micro_run, "micro-29", folder)
    originals = load_networks(before)
    for _ in range(2):  # a second time replaces the first
        calibrate("micro-29", views=1, output=tmp_path / "figures", weights_folder=folder)
        after = find_release("micro-29", folder)
        assert load_error_head(after) is not None
        assert after.card.recipe.startswith(before.card.recipe)
        assert after.card.recipe.count("Confidence: ridge regression") == 1
    for network, original in zip(load_networks(after), originals, strict=True):
        for tensor, expected in zip(network.state_dict().values(), original.state_dict().values(), strict=True):
            torch.testing.assert_close(tensor, expected, rtol=0, atol=0)
    assert sorted(path.name for path in folder.iterdir()) == ["micro-29.json", "micro-29.safetensors"]


def test_faces_that_were_held_out_stretch_the_predictions(
    micro_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = Stretch((0.1, 1.2), (-0.2, 0.9))
    given = []

    def fit(head: ErrorHead, unseen: Seen) -> Stretch:
        given.append(unseen.faces.tolist())
        return fixed  # of networks that know nothing, twelve faces tell nothing

    monkeypatch.setattr(calibration, "fit_stretch", fit)
    held_out = tmp_path / "held-out.txt"
    held_out.write_text("\n".join(map(str, RunFolder(micro_run).data().prepare("train").ids[6:])))
    made = calibrate(micro_run, views=1, held_out=held_out, output=tmp_path / "first")
    assert given == [[6, 7, 8, 9, 10, 11]]
    again = calibrate(micro_run, views=1, like=tmp_path / "first" / "confidence.json")
    assert (made.stretch, again.stretch) == (fixed, fixed)
    assert again.reliabilities != made.reliabilities, "the second is fitted on all faces"
    plain = calibrate(micro_run, views=1)
    for before, after in zip(plain.reliabilities[0].bins, again.reliabilities[0].bins, strict=True):
        assert after.predicted == pytest.approx(np.exp(0.1 + 1.2 * np.log(before.predicted)), rel=1e-2)
    with pytest.raises(ValueError, match="has no stretch"):
        calibrate(micro_run, like=micro_run / "confidence.json")
    held_out.write_text("nobody")
    with pytest.raises(ValueError, match="got 'nobody'"):
        calibrate(micro_run, held_out=held_out)


def test_a_run_that_has_held_faces_out_is_stretched_by_them(
    micro_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def fit(head: ErrorHead, unseen: Seen) -> Stretch:
        given.append(unseen.faces)
        return Stretch((0.0, 1.0), (0.0, 1.0))

    monkeypatch.setattr(calibration, "fit_stretch", fit)
    whole = RunFolder(micro_run).data()
    options = {**(whole.options or {}), "held_out": 0.4}
    monkeypatch.setattr(RunFolder, "data", lambda self, root=None: replace(whole, options=options))
    made = calibrate(micro_run, views=1, output=tmp_path)
    assert 0 < len(given[0]) < 12
    held_out = replace(whole, options=options).prepare("validation").ids
    assert [whole.prepare("train").ids[i] for i in given[0]] == list(held_out)
    written = json.loads((tmp_path / "confidence.json").read_text())
    assert written["split"] == whole.test_split == "test", "measured on the dataset's own test faces"
    assert made.stretch is not None


def test_the_command(micro_run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["calibrate", str(micro_run), "--views", "1", "--json"])
    assert result.exit_code == 0, result.output
    assert {Path(path).name for path in json.loads(result.stdout)} == {"confidence.json", "gain.json"}
    assert (micro_run / "gain.safetensors").is_file()
    (micro_run / "confidence.safetensors").unlink()
    result = CliRunner().invoke(app, ["calibrate", str(micro_run), "--views", "1", "--only", "gain"])
    assert result.exit_code == 0, result.output
    assert not (micro_run / "confidence.safetensors").is_file()
    for wrong, said in (
        (("--only", "error"), "--only must be one of confidence, gain"),
        (("--only", "gain", "--like", "x.json"), "--held-out and --like stretch the confidence"),
    ):
        result = CliRunner().invoke(app, ["calibrate", str(micro_run), *wrong])
        assert result.exit_code == 1
        assert said in " ".join(result.output.split())
    result = CliRunner().invoke(app, ["calibrate", "nowhere-68"])
    assert result.exit_code == 1
    assert "no released weights 'nowhere-68'" in result.output
