"""The examples run, at toy size, and say what they promise to say."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from writers.release import card_of, micro_gen, micro_lrn, write_bundle

from face_align_env import released
from face_align_env.agents.run_config import RunConfig
from face_align_env.networks import gen as gen_network
from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.pretrain.recipes import Data

EXAMPLES = Path(__file__).parent.parent / "examples"

Run = Callable[..., list[str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("quickstart", "--seed", 0)``: what the script prints, line by line."""

    def run_script(name: str, *arguments: object) -> list[str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run_script


def measured(lines: list[str]) -> tuple[str, str]:
    """What is said of the policy before and after learning."""
    (before,) = (line for line in lines if line.startswith("before: mean return "))
    (after,) = (line for line in lines if line.startswith("after: mean return "))
    return before.removeprefix("before: "), after.removeprefix("after: ")


PPO = ("--timesteps", 64, "--num-envs", 4, "--num-steps", 16, "--size", 12, "--eval-faces", 4, "--epochs", 1)
SAC = ("--timesteps", 64, "--num-envs", 4, "--learning-starts", 16, "--size", 12, "--eval-faces", 4)


@pytest.mark.parametrize(
    ("task", "algorithm"),
    [("FaceAlign/State19-v0", "ppo"), ("FaceAlign/State19-v0", "sac"), ("FaceAlign/Synthetic19-v0", "sac")],
)
def test_a_named_task_is_learnt_with_stable_baselines3(run: Run, task: str, algorithm: str, tmp_path: Path) -> None:
    model = tmp_path / "model.zip"
    budget = ("--timesteps", 64, "--num-envs", 4, "--size", 12, "--eval-faces", 4)
    measured(run("solve_task", task, "--algo", algorithm, *budget, "--output", model))
    assert model.is_file()


def test_quickstart_compares_three_policies_and_draws_an_episode(run: Run, tmp_path: Path) -> None:
    lines = run("quickstart", "--timesteps", 20, "--size", 4, "--output", tmp_path / "episode.png")
    still, random, cheating = (float(line.split("mean return")[1].split(",")[0]) for line in lines[:3])
    assert random < still < cheating
    assert cv2.imread(str(tmp_path / "episode.png")) is not None


def test_processes_share_the_memory_of_their_faces(tmp_path: Path) -> None:
    environment = {**os.environ, "FACE_ALIGN_CACHE": str(tmp_path)}
    script = [sys.executable, str(EXAMPLES / "share_memory.py"), "--size", "12", "--processes", "2"]
    lines = subprocess.run(script, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len([line for line in lines if line.startswith("made and reset in ")]) == 2
    if sys.platform == "linux":
        assert lines[-1].startswith("all 2 processes together: ")


def test_ppo_measures_itself_and_is_deterministic(run: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert measured(run("ppo_single_file", *PPO, "--output", first)) == measured(
        run("ppo_single_file", *PPO, "--output", second)
    )
    assert (first / "curve.csv").read_text().startswith("timesteps,return")
    assert (first / "curve.csv").read_text() == (second / "curve.csv").read_text()
    weights, again = (torch.load(folder / "agent.pt", weights_only=True) for folder in (first, second))
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_ppo_starts_from_a_pretrained_lrn_and_takes_single_coordinates(run: Run, tmp_path: Path) -> None:
    LRN(lrn_network.preset("tiny", 68)).save(tmp_path / "lrn.safetensors")
    measured(run("ppo_single_file", *PPO, "--modes", 0, "--lrn", tmp_path / "lrn.safetensors", "--output", tmp_path))


@pytest.mark.parametrize("pretrained", [False, True])
def test_sac_measures_itself(run: Run, tmp_path: Path, pretrained: bool) -> None:
    LRN(lrn_network.preset("tiny", 19)).save(tmp_path / "lrn.safetensors")
    more = ("--lrn", tmp_path / "lrn.safetensors", "--freeze") if pretrained else ()
    measured(run("sac_with_lrn_features", *SAC, *more, "--output", tmp_path))
    assert (tmp_path / "model.zip").is_file()


def test_sac_in_a_single_file_measures_itself_and_is_deterministic(run: Run, tmp_path: Path) -> None:
    first, second = (measured(run("sac_single_file", *SAC, "--output", tmp_path)) for _ in range(2))
    assert first == second
    assert first[0] != first[1]
    assert (tmp_path / "actor.pt").is_file()


def test_what_was_learnt_of_stopping_stands_beside_fixed_lengths(run: Run) -> None:
    small = ("--timesteps", 64, "--num-envs", 4, "--size", 12, "--faces", 6, "--cost", 0.5, 1)
    first = run("stopping", *small)
    assert run("stopping", *small) == first
    errors = [float(each) for each in first[0].split("iterations: ")[1].split(", ")]
    assert len(errors) == 11
    assert errors == pytest.approx(sorted(errors, reverse=True), abs=0.5), "the pretrained policy aligns faces"
    rows = [line.split(" | ") for line in first[2:]]
    assert [row[0] for row in rows] == ["0.5", "1"]
    for cost, lengths, nme, mixture, told, returns, _ in rows:
        mean = float(lengths.split(",")[0])
        difference, low, high = (float(each) for each in told.replace(" ..", ",").split(", "))
        assert low <= difference <= high
        assert float(nme) - float(mixture) == pytest.approx(difference, abs=2e-3)
        assert float(mixture) == pytest.approx(np.interp(mean, range(11), errors), abs=0.1)
        assert float(returns) == pytest.approx(errors[0] - float(nme) - float(cost) * mean, abs=0.02)


@pytest.fixture
def micro_run(tmp_path: Path) -> Path:
    """The folder of a run whose networks have learned nothing."""
    folder = tmp_path / "micro"
    for stage in ("gen", "dcrn"):
        (folder / stage).mkdir(parents=True)
    mean_shape = torch.linspace(60, 190, 136).view(68, 2)
    GEN(gen_network.preset("tiny", 68), mean_shape).save(folder / "gen" / "weights.safetensors")
    LRN(lrn_network.preset("tiny", 68)).save(folder / "dcrn" / "weights.safetensors")
    RunConfig(preset="tiny", alpha_2=3.0).write(folder)
    return folder


def test_align_photo_draws_a_synthetic_face(run: Run, tmp_path: Path, micro_run: Path) -> None:
    lines = run("align_photo", "--run", micro_run, "--output", tmp_path)
    assert lines[0].startswith("face 0: 68 landmarks")
    photo, aligned = (cv2.imread(str(tmp_path / name)) for name in ("photo.png", "aligned.png"))
    assert photo is not None
    assert aligned is not None
    assert aligned.shape == (2 * photo.shape[0], 2 * photo.shape[1], 3)
    assert (aligned != cv2.resize(photo, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)).any()


def test_align_photo_takes_the_boxes_of_a_photo(run: Run, tmp_path: Path, micro_run: Path) -> None:
    photo = tmp_path / "two faces.png"
    cv2.imwrite(str(photo), np.full((200, 300, 3), 128, dtype=np.uint8))
    boxes = ("--box", 20, 20, 120, 150, "--box", 150, 30, 280, 180)
    lines = run("align_photo", photo, *boxes, "--run", micro_run, "--output", tmp_path)
    assert [line.split(":")[0] for line in lines[:2]] == ["face 0", "face 1"]


def test_align_photo_looks_for_the_faces_of_a_photo(run: Run, tmp_path: Path, micro_run: Path) -> None:
    photo = tmp_path / "nobody.png"
    cv2.imwrite(str(photo), np.full((200, 300, 3), 128, dtype=np.uint8))
    lines = run("align_photo", photo, "--run", micro_run, "--output", tmp_path)
    assert lines[0].startswith("No face was found")
    assert cv2.imread(str(tmp_path / "aligned.png")) is not None


def test_align_photo_takes_released_weights(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(released, "FOLDER", tmp_path)
    path, gen, lrn = tmp_path / "300w-29.safetensors", micro_gen(29), micro_lrn(29)
    write_bundle(path, gen, lrn)
    path.with_suffix(".json").write_text(json.dumps(card_of(path, gen, lrn)))
    lines = run("align_photo", "--pretrained", "300w-29", "--output", tmp_path)
    assert lines[0].startswith("face 0: 29 landmarks")


def test_align_photo_says_which_weights_there_are(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(released, "FOLDER", tmp_path)
    with pytest.raises(SystemExit):
        run("align_photo", "--pretrained", "300w-68", "--output", tmp_path)
    assert "no released weights '300w-68'" in capsys.readouterr().err


def test_align_photo_without_a_run_says_how_to_get_one(run: Run, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run("align_photo", "--run", tmp_path / "none", "--output", tmp_path)


def test_onnx_only_needs_no_more_than_a_file_of_export(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    from face_align_env.aligner import FaceAligner, export
    from face_align_env.datasets import load_dataset

    aligner = FaceAligner.from_pretrained("300w-19")
    (tmp_path / "19.onnx").write_bytes(export.build(aligner))
    face = load_dataset("synthetic", "test", size=3)[2]  # that the cascade finds
    cv2.imwrite(str(tmp_path / "face.png"), face.image[:, :, ::-1])
    files = (tmp_path / "19.onnx", tmp_path / "face.png", "--output", tmp_path / "aligned.png")
    (expected,) = aligner(face.image, np.float32(face.box))
    x, y = expected.landmarks[0]
    assert run("onnx_only", *files, "--box", *face.box.tolist()) == [
        f"face 0: 19 landmarks, {expected.iterations} iterations, the first at ({x:.1f}, {y:.1f})",
        f"1 faces: {tmp_path / 'aligned.png'}",
    ]
    assert (cv2.imread(str(tmp_path / "aligned.png")) != face.image[:, :, ::-1]).any()
    assert len(run("onnx_only", *files)) == 2


def test_video_speed_measures_a_face_that_moves(run: Run) -> None:
    lines = run("video_speed", "--frames", 8)
    told = [
        re.fullmatch(r"(.*): .* frames/s, .* found in 8 of 8 frames, NME (.*) %, jitter .* iterations", x)
        for x in lines
    ]
    assert [each and each[1] for each in told] == ["tracker", "tracker, smooth", "frame by frame"]
    assert all(each and float(each[2]) < 8 for each in told)


def test_video_speed_puts_dlib_beside_the_tracker(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("dlib")
    lines = run("video_speed", "--frames", 4, "--dlib", tmp_path)
    assert re.match(r"dlib: .* ms of processor time, found in \d of 4 frames", lines[-1])


def test_video_speed_wants_a_face(run: Run, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "nobody.png"), np.full((90, 120, 3), 128, np.uint8))
    with pytest.raises(SystemExit):
        run("video_speed", "--photo", tmp_path / "nobody.png")


def test_compare_peers_puts_dlib_beside_the_run(run: Run, tmp_path: Path, micro_run: Path) -> None:
    pytest.importorskip("dlib")
    (micro_run / "config.json").unlink()
    RunConfig(Data(options={"size": 6}), preset="tiny", alpha_2=3.0).write(micro_run)
    small = ("--run", micro_run, "--peers", tmp_path / "peers", "--faces", 4, "--trees", 2, "--oversampling", 2)
    lines = run("compare_peers", *small)
    assert lines[0].startswith(f"dlib: {tmp_path / 'peers' / 'dlib.dat'}, ")
    assert [row["method"] for row in json.loads((micro_run / "peers.json").read_text())["rows"]] == [
        "GEN", "DCRN", "dlib",
    ]  # fmt: skip
    assert run("compare_peers", *small)[0].endswith("was there")


def test_an_algorithm_of_ones_own_learns_from_a_runs_policy(run: Run, micro_run: Path) -> None:
    (micro_run / "config.json").unlink()
    RunConfig(Data(options={"size": 6}), preset="tiny", alpha_2=3.0).write(micro_run)
    source = micro_run / "dcrn" / "weights.safetensors"
    (micro_run / "gen-lrn4").mkdir(exist_ok=True)
    (micro_run / "gen-lrn4" / "weights.safetensors").write_bytes(source.read_bytes())
    small = ("--run", micro_run, "--timesteps", 40, "--num-envs", 4, "--eval-faces", 4)
    first = measured(run("own_algorithm", *small))
    assert measured(run("own_algorithm", *small)) == first
    assert measured(run("own_algorithm", *small, "--seed", 1))[0] == first[0], "nothing has been learnt yet"


def test_a_simulated_cluster_has_each_photo_once(run: Run) -> None:
    """Though one of its nodes is killed."""
    pytest.importorskip("ray", reason="the extra cluster is not installed")
    small = ("--nodes", 2, "--photos", 12, "--side", 160, "--weights", "synthetic-68", "--kill")
    lines = run("simulated_cluster", *small)
    assert "a node killed after 4 photos" in lines
    assert "each photo once: True (12 records of 12 photos)" in lines


@pytest.mark.parametrize("script", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_every_example_says_how_it_is_run(run: Run, capsys: pytest.CaptureFixture[str], script: str) -> None:
    with pytest.raises(SystemExit) as stop:
        run(script, "--help")
    assert stop.value.code == 0
    assert f"python examples/{script}.py" in capsys.readouterr().out
