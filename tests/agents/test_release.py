"""``face-align release``: from a run's folder to a file and its card."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from face_align_env import released
from face_align_env.agents.cli.studies import evaluate as evaluate_command
from face_align_env.agents.cli.studies import release as release_command
from face_align_env.agents.dcrn.config import AgentConfig
from face_align_env.agents.evaluation.files import read_rows
from face_align_env.agents.release import describe_command, describe_recipe, make_release, run_of_release
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.run_folder import RunFolder
from face_align_env.aligner.aligner import FaceAligner
from face_align_env.datasets import load_dataset
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN, LRNConfig
from face_align_env.networks.weights import WeightsError
from face_align_env.pretrain.recipes import Data
from face_align_env.released import find_release, load_networks, released_names

CONFIG = RunConfig(
    data=Data("synthetic", None, 29, {"size": 12}),
    preset="tiny",
    gen_epochs=3,
    agent=AgentConfig(timesteps=640, augment=False),
    alpha_2=3.0,
)


def row(method: str, nme: float) -> dict[str, Any]:
    return {
        "method": method, "nme": nme, "nme_low": nme - 0.5, "nme_high": nme + 0.5, "nme_inter_pupil": 2 * nme,
        "failure_rate": 5.0, "auc": 0.4, "iterations": 2.5, "ms_per_face": 1.0,
    }  # fmt: skip


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run that is finished, of networks that have learnt nothing."""
    folder = tmp_path / "runs" / "micro"
    CONFIG.write(folder)
    torch.manual_seed(0)
    GEN(GENConfig(29, 16, 4, 16, batch_norm=True), 60 + 130 * torch.rand(29, 2)).save(
        folder / "gen/weights.safetensors"
    )
    LRN(LRNConfig(29, encoder=((4, 10, 10, 1),), bottleneck=4)).save(folder / "dcrn/weights.safetensors")
    document = {
        "dataset": "synthetic",
        "split": "test",
        "num_faces": 600,
        "seed": 0,
        "rows": [row("GEN", 8.0), row("LRN-8", 7.0), row("DCRN", 5.0)],
    }
    (folder / "evaluation.json").write_text(json.dumps(document))
    return folder


def test_a_release_holds_the_networks_of_the_run(run_folder: Path, tmp_path: Path) -> None:
    made = make_release(run_folder, "synthetic-29", tmp_path / "weights")
    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == [
        "synthetic-29.json",
        "synthetic-29.safetensors",
    ]
    gen, lrn = load_networks(made)
    originals = GEN.load(run_folder / "gen/weights.safetensors"), LRN.load(run_folder / "dcrn/weights.safetensors")
    for network, original in zip((gen, lrn), originals, strict=True):
        for tensor, expected in zip(network.parameters(), original.parameters(), strict=True):
            torch.testing.assert_close(tensor, expected.half().float(), rtol=0, atol=0)
        for tensor, expected in zip(network.buffers(), original.buffers(), strict=True):
            torch.testing.assert_close(tensor, expected, rtol=0, atol=0)


def test_the_card_says_what_the_run_was(run_folder: Path, tmp_path: Path) -> None:
    card = make_release(run_folder, "synthetic-29", tmp_path / "weights").card
    assert (card.name, card.landmarks, card.preset, card.seed, card.alpha_2) == ("synthetic-29", 29, "tiny", 0, 3.0)
    assert card.data.datasets == {"synthetic": 12}
    assert card.data.missing == ()
    assert "3 epochs" in card.recipe
    assert [(metric.method, metric.nme, metric.faces) for metric in card.metrics] == [
        ("GEN", 8.0, 600),
        ("DCRN", 5.0, 600),
    ]
    assert card.license.startswith("weights: MIT; synthetic: ")
    assert "synthetic: splits test" in card.not_trained_on


def test_the_command_on_the_card_makes_the_same_run(tmp_path: Path) -> None:
    words = shlex.split(describe_command(CONFIG, load_dataset("synthetic", "train", None, 29, size=12)))
    assert words == shlex.split(
        "face-align run --dataset synthetic --landmarks 29 --option size=12 --timesteps 640 --no-augment "
        "--preset tiny --gen-epochs 3"
    )
    agent = AgentConfig(preset="paper", overrides={"noise": 2})
    ranges: dict[str, Any] = {
        "augmentation": {"shift": 0.02, "blur": 0},
        "jitter": {"scale": 0},
        "visited": {"depth": 4},
        "lrn_init": "weights/older.safetensors",
    }
    changed = replace(CONFIG, seed=4, alpha_2=2.0, agent=agent, environment={"reward": "dense"}, **ranges)
    words = shlex.split(describe_command(changed, load_dataset("synthetic", "train", None, 29, size=12)))
    assert words[8:] == shlex.split(
        "--seed 4 --agent paper --set noise=2 --alpha-2 2.0 --env reward=dense --augmentation shift=0.02 "
        "--augmentation blur=0 --preset tiny --gen-epochs 3 --jitter scale=0 --visited depth=4 "
        "--lrn-init path/to/older.safetensors"
    )
    sentences = (
        "Random views: shift 0.02, blur 0. Moves of x_0: scale 0. Visited states: depth 4. "
        "LRN was fine-tuned from older.safetensors."
    )
    assert sentences in describe_recipe(changed)
    assert "Random views" not in describe_recipe(CONFIG)
    assert "LRN's encoder learnt from 0.5 of the patches in a step." in describe_recipe(CONFIG)
    assert "of the patches" not in describe_recipe(replace(CONFIG, encoder_share=1.0))


def test_a_gen_that_was_taken_over_is_on_the_card() -> None:
    config = replace(
        CONFIG,
        gen_epochs=None,
        gen="weights/older.safetensors",
        lrn_batch_size=32,
        lrn_learning_rate=5e-4,
        lrn_epochs=2,
    )
    words = describe_command(config, load_dataset("synthetic", "train", None, 29, size=12))
    assert words.endswith(
        "--preset tiny --lrn-epochs 2 --lrn-batch-size 32 --lrn-learning-rate 0.0005 --gen path/to/older.safetensors"
    )
    assert describe_recipe(config).startswith(
        "GEN 'tiny', taken from older.safetensors; LRN 'tiny', 2 epochs in batches of 32 at a learning rate of 0.0005"
    )
    assert (config.lrn_training.batch_size, config.lrn_training.learning_rate) == (32, 5e-4)
    with pytest.raises(ValueError, match="with --gen one is taken over"):
        replace(CONFIG, gen="older.safetensors").check()


def test_a_gen_that_was_fine_tuned_is_on_the_card() -> None:
    config = replace(CONFIG, gen_init="300w-68", gen_learning_rate=2e-4, lrn_init="300w-68")
    words = describe_command(config, load_dataset("synthetic", "train", None, 29, size=12))
    networks = "--gen-init 300w-68 --lrn-init 300w-68"
    assert words.endswith(f"--preset tiny --gen-epochs 3 --gen-learning-rate 0.0002 {networks}")
    assert describe_recipe(config).startswith(
        "GEN 'tiny', 3 epochs with Eq. 1, fine-tuned from 300w-68 at a learning rate of 0.0002; LRN 'tiny', "
    )
    assert (config.gen_training.epochs, config.gen_training.learning_rate) == (3, 2e-4)


def test_what_the_caller_says_is_on_the_card(run_folder: Path, tmp_path: Path) -> None:
    texts = {"command": "make it so", "intended_use": "none", "not_trained_on": "you"}
    card = make_release(run_folder, "synthetic-29", tmp_path / "weights", **texts).card
    assert {key: getattr(card, key) for key in texts} == texts


def test_a_release_gives_its_aligner(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(released, "FOLDER", tmp_path / "weights")
    make_release(run_folder, "synthetic-29", tmp_path / "weights")
    crops = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    ours, theirs = FaceAligner.from_pretrained("synthetic-29"), RunFolder(run_folder).aligner()
    assert (ours.alpha_2, ours.margin) == (theirs.alpha_2, theirs.margin)
    np.testing.assert_allclose(ours.align_crops(crops)[0], theirs.align_crops(crops)[0], atol=0.5)


def test_a_release_may_be_made_again(run_folder: Path, tmp_path: Path) -> None:
    first = make_release(run_folder, "synthetic-29", tmp_path / "weights")
    LRN(LRNConfig(29, encoder=((6, 10, 10, 1),), bottleneck=4)).save(run_folder / "dcrn/weights.safetensors")
    second = make_release(run_folder, "synthetic-29", tmp_path / "weights")
    assert first.card.sha256 != second.card.sha256
    load_networks(second)


@pytest.mark.parametrize("name", ["synthetic-68", "synthetic", "../synthetic-29", ".synthetic-29", ""])
def test_a_name_must_end_in_the_number_of_landmarks(run_folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="A release of 29 landmarks is called SOMETHING-29"):
        make_release(run_folder, name, tmp_path / "weights")


def test_what_is_too_large_is_refused_and_leaves_nothing(run_folder: Path, tmp_path: Path) -> None:
    make_release(run_folder, "synthetic-29", tmp_path / "weights")
    before = {path.name: path.read_bytes() for path in (tmp_path / "weights").iterdir()}
    with pytest.raises(ValueError, match=r"would take [\d.]+ MB, .* 0.0 MB at most"):
        make_release(run_folder, "synthetic-29", tmp_path / "weights", max_bytes=1000)
    assert {path.name: path.read_bytes() for path in (tmp_path / "weights").iterdir()} == before


@pytest.mark.parametrize("missing", ["config.json", "gen/weights.safetensors", "dcrn/weights.safetensors"])
def test_an_unfinished_run_is_refused(run_folder: Path, tmp_path: Path, missing: str) -> None:
    (run_folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match="face-align"):
        make_release(run_folder, "synthetic-29", tmp_path / "weights")
    assert not released_names(tmp_path / "weights")


def test_a_run_without_figures_is_refused(run_folder: Path, tmp_path: Path) -> None:
    path = run_folder / "evaluation.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "rows": document["rows"][:2]}))
    with pytest.raises(ValueError, match=r"has no figures of DCRN.*face-align evaluate"):
        make_release(run_folder, "synthetic-29", tmp_path / "weights")
    path.unlink()
    with pytest.raises(FileNotFoundError, match="face-align evaluate"):
        make_release(run_folder, "synthetic-29", tmp_path / "weights")


def test_a_damaged_run_is_refused(run_folder: Path, tmp_path: Path) -> None:
    path = run_folder / "dcrn/weights.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="is damaged"):
        make_release(run_folder, "synthetic-29", tmp_path / "weights")


def test_the_command_makes_a_release(run_folder: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(release_command)
    arguments = [str(run_folder), "--name", "synthetic-29", "--output", str(tmp_path / "weights")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "synthetic test, 600 faces: DCRN 5.00 % (4.50 .. 5.50), failures 5.0 %" in result.output
    assert released_names(tmp_path / "weights") == ["synthetic-29"]


# -- back to a run -----------------------------------------------------------------------------------------------------


def test_a_release_is_measured_like_a_run(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    made = make_release(run_folder, "micro-29", weights)
    monkeypatch.setattr(released, "FOLDER", weights)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second finds the folder of the first
        evaluate_command(run=Path("micro-29"), split=["test"])
    (folder,) = (tmp_path / "runs").glob("released-micro-29-*")
    assert folder.name.endswith(made.card.sha256[:8])
    rows = {row.method: row for row in read_rows(folder / "evaluation.json")}
    assert list(rows) == ["GEN", "DCRN"]
    run = RunFolder(folder)
    assert run.config.alpha_2 == made.card.alpha_2
    for name, network in zip(("gen", "lrn"), load_networks(made), strict=True):
        loaded = (GEN if name == "gen" else LRN).load(run.gen if name == "gen" else run.agent)
        for key, tensor in network.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], tensor), key


def test_weights_without_reinforcement_learning_are_the_pretrained_policy(tmp_path: Path) -> None:
    run = run_of_release(find_release("synthetic-19"), tmp_path / "run")
    assert run.policy.is_file()
    assert not run.agent.is_file()
