"""face-align calibrate: runs and releases learn what an iteration gains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from face_align_env.agents.release import make_release, run_of_release
from face_align_env.agents.run_folder import RunFolder
from face_align_env.agents.studies.calibration import calibrate
from face_align_env.agents.studies.gains import calibrate_gain
from face_align_env.aligner import FaceAligner
from face_align_env.networks.gain import GainHead
from face_align_env.released import find_release, load_error_head, load_gain_head


def test_a_run_learns_what_an_iteration_gains(micro_run: Path) -> None:
    made = calibrate_gain(micro_run, views=1)
    assert made.paths == tuple(micro_run / name for name in ("gain.safetensors", "gain.json", "gain.md"))
    document = json.loads((micro_run / "gain.json").read_text())
    assert (document["dataset"], document["split"], document["num_faces"]) == ("synthetic", "test", 12)
    assert [each["iteration"] for each in document["test"]] == list(range(1, 10))
    data, aligner = RunFolder(micro_run).data().prepare(), RunFolder(micro_run).aligner(least_gain=-100.0)
    crops = np.stack([data.crop(i) for i in range(12)])
    trajectories, iterations = aligner.align_crops(crops)
    assert iterations.tolist() == [10] * 12
    head = GainHead.load(micro_run / "gain.safetensors")
    for each in made.gains:
        before, after = (trajectories[:, t] for t in (each.iteration, each.iteration + 1))
        gain = np.linalg.norm(before - data.landmarks, axis=-1) - np.linalg.norm(after - data.landmarks, axis=-1)
        assert each.real == pytest.approx(float((100 * gain.mean(1) / data.d).mean()), abs=2e-3)
        increments = torch.from_numpy(before - trajectories[:, each.iteration - 1]).flatten(1)
        assert each.predicted == pytest.approx(head(each.iteration, increments).mean().item(), abs=2e-3)
        assert (each.spearman is not None) == each.by_length


def test_a_release_keeps_its_other_head(micro_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    before = make_release(micro_run, "micro-29", folder)
    assert load_gain_head(before) is None
    options = {"views": 1, "output": tmp_path / "figures", "weights_folder": folder}
    calibrate("micro-29", **options)
    error_head = load_error_head(find_release("micro-29", folder))
    for _ in range(2):  # a second time replaces the first
        calibrate_gain("micro-29", **options)
        after = find_release("micro-29", folder)
        assert after.card.recipe.startswith(before.card.recipe)
        assert after.card.recipe.count(" Confidence: ridge") == after.card.recipe.count(" Gain of an iteration: ") == 1
    kept = load_error_head(after)
    assert error_head is not None
    assert kept is not None
    torch.testing.assert_close(kept.state, error_head.state, rtol=0, atol=0)
    gain = load_gain_head(after)
    assert gain is not None
    calibrate("micro-29", **options)
    again = find_release("micro-29", folder)
    assert again.card.recipe.count(" Confidence: ridge") == again.card.recipe.count(" Gain of an iteration: ") == 1
    kept_gain = load_gain_head(again)
    assert kept_gain is not None
    torch.testing.assert_close(kept_gain.offset, gain.offset, rtol=0, atol=0)
    run = run_of_release(again, tmp_path / "run")
    torch.testing.assert_close(GainHead.load(run.gain_head).offset, gain.offset, rtol=0, atol=0)
    without = make_release(micro_run, "micro-29", tmp_path / "older")
    run.path.joinpath("config.json").unlink()
    assert not run_of_release(without, run.path).gain_head.exists(), "it was of another version"


def test_the_heads_of_a_run_are_released(micro_run: Path, tmp_path: Path) -> None:
    calibrate_gain(micro_run, views=1)
    head = load_gain_head(make_release(micro_run, "micro-29", tmp_path / "weights"))
    assert head is not None
    torch.testing.assert_close(head.offset, GainHead.load(RunFolder(micro_run).gain_head).offset, rtol=0, atol=0)


def test_a_release_of_before_predicts_no_gain() -> None:
    with pytest.raises(ValueError, match=r"least_gain needs weights that predict.*face-align calibrate"):
        FaceAligner.from_pretrained("synthetic-68", least_gain=0.1)
