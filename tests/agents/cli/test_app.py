"""The command line, and the run that it makes."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from face_align_env.agents.cli import app as cli
from face_align_env.agents.cli import options
from face_align_env.agents.cli.app import app, main
from face_align_env.agents.run_config import RunConfig
from face_align_env.pretrain import recipes
from face_align_env.pretrain.loop import TrainingConfig
from face_align_env.pretrain.objectives import StartJitter
from face_align_env.pretrain.recipes import Recipe
from typer.testing import CliRunner

from face_align_env.augmentation import Augmentation
from face_align_env.networks import gen as gen_network
from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.gen import GENConfig
from face_align_env.networks.lrn import LRNConfig
from face_align_env.prepared import FaceSource

METHODS = ["GEN", "LRN-2", "LRN-4", "LRN-8", "GEN-LRN4", "GEN-LRN8", "LRN+Eq.3", "DCRN"]
STAGES = ["gen", "lrn-2", "lrn-4", "lrn-8", "gen-lrn4", "gen-lrn8", "dcrn"]
COMMON = ("--dataset", "--root", "--preset", "--device", "--seed")
RUN = [
    *("run", "--dataset", "synthetic", "--option", "size=8", "--preset", "micro", "--name", "toy"),
    *("--gen-epochs", "1", "--lrn-epochs", "1", "--timesteps", "40", "--num-envs", "4", "--batch-size", "8"),
    *("--device", "cpu"),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and networks called micro."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(gen_network.PRESETS, "micro", GENConfig(input_size=16, width=4, hidden=16))
    monkeypatch.setitem(lrn_network.PRESETS, "micro", LRNConfig(encoder=((4, 10, 10, 1),), bottleneck=4))
    quick = TrainingConfig(epochs=2, batch_size=8)
    monkeypatch.setitem(recipes.RECIPES, "micro", Recipe("micro", "micro", quick, quick))
    monkeypatch.setattr(cli.console, "width", 200)
    return tmp_path


def call(*arguments: str) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result


def fail(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What the entry point says on standard error before it exits with 1."""
    monkeypatch.setattr(sys, "argv", ["face-align", *arguments])
    monkeypatch.delenv("FACE_ALIGN_DEBUG", raising=False)
    with pytest.raises(SystemExit) as error:
        main()
    assert error.value.code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error:")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("", ("pretrain", "train", "evaluate", "run")),
        ("pretrain", ("gen", "lrn")),
        *((command, COMMON) for command in ("pretrain gen", "pretrain lrn", "train", "run")),
        ("evaluate", ("--split", "--root", "--device")),
    ],
)
def test_help_says_what_there_is(command: str, named: tuple[str, ...]) -> None:
    output = call(*command.split(), "--help").output
    assert "Usage:" in output
    assert [name for name in named if name not in output] == []


def test_a_run_does_all_of_it_and_goes_on_where_it_stopped(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = call(*RUN).output
    folder = here / "runs" / "toy"
    for stage in STAGES:
        assert (folder / stage / "weights.safetensors").is_file(), stage
    assert (folder / "config.json").is_file()
    assert (folder / "dcrn" / "model.zip").is_file()
    document = json.loads((folder / "evaluation.json").read_text())
    assert (document["dataset"], document["split"], document["num_faces"]) == ("synthetic", "test", 8)
    assert [row["method"] for row in document["rows"]] == METHODS
    iterations = {row["method"]: row["iterations"] for row in document["rows"]}
    assert [iterations[f"LRN-{m}"] for m in (2, 4, 8)] == [2, 4, 8]
    assert (iterations["GEN"], iterations["GEN-LRN8"]) == (0, 8)
    assert 1 <= iterations["DCRN"] <= 10
    assert len(list((folder / "figures" / "test").glob("*.png"))) == 8
    assert all(method in output for method in METHODS)
    assert str(Path("runs") / "toy") in output, "it says where the results are"
    assert "complete" not in output

    weights = {stage: (folder / stage / "weights.safetensors").stat().st_mtime_ns for stage in STAGES}
    (folder / "dcrn" / "weights.safetensors").unlink()
    output = call(*RUN).output
    assert output.count("complete") == len(STAGES) - 1
    for stage in STAGES[:-1]:
        assert (folder / stage / "weights.safetensors").stat().st_mtime_ns == weights[stage]
    assert (folder / "dcrn" / "weights.safetensors").is_file()

    message = fail(capsys, monkeypatch, *RUN, "--seed", "7")
    assert "seed: 0 before, 7 now" in message
    assert "--name" in message

    (folder / "evaluation.json").unlink()
    call("evaluate", "runs/toy", "--split", "train")
    assert json.loads((folder / "evaluation-train.json").read_text())["split"] == "train"
    assert not (folder / "evaluation.json").exists()
    assert "seed" in fail(capsys, monkeypatch, "run", "--name", "toy", "--preset", "micro", "--seed", "7")


def test_a_run_of_some_stages_is_finished_later(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = here / "runs" / "toy"
    assert "needs gen" in fail(capsys, monkeypatch, *RUN, "--stage", "gen-lrn4")
    assert "gen-lrn8" in fail(capsys, monkeypatch, *RUN, "--stage", "gen-lrn5")
    assert "stage gen comes first" in call(*RUN, "--stage", "lrn-2").output
    call(*RUN, "--stage", "gen-lrn4", "--stage", "gen")
    assert {path.parent.name for path in folder.glob("*/weights.safetensors")} == {"gen", "gen-lrn4", "lrn-2"}
    document = json.loads((folder / "evaluation.json").read_text())
    assert [row["method"] for row in document["rows"]] == ["GEN", "LRN-2", "GEN-LRN4", "LRN+Eq.3"]
    assert call(*RUN).output.count("complete") == 3
    assert all((folder / stage / "weights.safetensors").is_file() for stage in STAGES)


def test_the_environment_of_the_training_is_looked_at_first(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no keyword 'rewards'" in fail(capsys, monkeypatch, *RUN, "--env", "rewards=dense")
    assert "reward must be one of" in fail(capsys, monkeypatch, *RUN, "--env", "reward=dens")
    assert not (here / "runs").exists(), "before anything is trained"


def test_the_stages_by_themselves(here: Path) -> None:
    common = ["--dataset", "synthetic", "--option", "size=4", "--device", "cpu"]
    assert "runs/gen" in call("pretrain", "gen", "--preset", "micro", "--epochs", "1", *common).output
    call("pretrain", "lrn", "--preset", "micro", "--epochs", "1", "--iterations", "2", *common)
    call(
        "pretrain", "lrn", "--preset", "micro", "--epochs", "1", "--iterations", "1", "--from", "mean",
        "--output", "runs/mean", *common,
    )  # fmt: skip
    call("train", "--timesteps", "8", "--num-envs", "2", *common)
    call("train", "--timesteps", "8", "--num-envs", "2", "--env", "reward=dense", "--output", "runs/dense", *common)
    settings = json.loads((here / "runs" / "dense" / "settings.json").read_text())
    assert settings["environment"]["reward"] == "dense"
    for stage in ("gen", "lrn", "mean", "dcrn"):
        assert (here / "runs" / stage / "weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --dataset 301w", "Unknown dataset '301w'"),
        ("run --dataset 300w --root nowhere", "'nowhere'"),
        ("run --preset huge", "Unknown preset 'huge'; there are paper, compact"),
        ("run --option size=0", "size of at least 1"),
        ("pretrain gen --preset huge", "Unknown preset 'huge'"),
        ("pretrain gen --device abacus", "Unknown device 'abacus'"),
        ("pretrain lrn --preset micro --device cpu --option size=2", "face-align pretrain gen"),
        ("train", "face-align pretrain lrn"),
        ("evaluate nothing", "'nothing' is no folder of a run"),
    ],
)
def test_mistakes_end_in_one_readable_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert message in fail(capsys, monkeypatch, *arguments.split())


def test_what_looks_like_markup_is_printed_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "'[red]faces[/red]'" in fail(capsys, monkeypatch, "run", "--dataset", "[red]faces[/red]")


@pytest.mark.parametrize("arguments", ["run --option size", "pretrain lrn --from nose", "fly"])
def test_mistyped_options_are_usage_errors(arguments: str) -> None:
    assert CliRunner().invoke(app, arguments.split()).exit_code == 2


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["face-align", "evaluate", "nothing"])
    monkeypatch.setenv("FACE_ALIGN_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main()


def test_options_of_datasets_are_numbers_where_they_look_like_it() -> None:
    data = options.data_of("synthetic", None, 29, ["size=5", "scale=0.5", "boxes=detector", "note=a=b"])
    assert data.options == {"size": 5, "scale": 0.5, "boxes": "detector", "note": "a=b"}
    assert data.landmarks == 29
    assert options.data_of("synthetic", None, None, None).options is None


def test_a_runs_configuration_survives_its_file(here: Path) -> None:
    config = RunConfig(data=recipes.Data("pts", "x", 29, {"boxes": "detector"}), seed=3, alpha_2=2.5)
    config.write(here / "runs" / "a")
    assert RunConfig.read(here / "runs" / "a") == config
    config.write(here / "runs" / "a")  # the same again is no conflict


def test_ranges_of_the_training_are_options(here: Path) -> None:
    common = ("--epochs", "1", "--option", "size=4", "--preset", "micro", "--device", "cpu")
    call("pretrain", "gen", *common, "--augmentation", "rotation=3", "--batch-size", "2", "--output", "gen")
    settings = torch.load(here / "gen" / "checkpoint.pt", weights_only=False)["identity"]
    assert (settings["augmentation"]["rotation"], settings["augmentation"]["blur"]) == (3, 3.0)
    assert settings["batch_size"] == 2
    weights = "gen/weights.safetensors"
    chosen = ("--jitter", "shift=0", "--visited", "depth=2", "--iterations", "1")
    call("pretrain", "lrn", *common, "--gen", weights, *chosen, "--output", "lrn")
    settings = torch.load(here / "lrn" / "checkpoint.pt", weights_only=False)["identity"]
    assert settings["jitter"]["shift"] == 0
    assert settings["visited"] == {"share": 0.6, "depth": 2}


def test_ranges_of_a_run_are_those_of_every_stage(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    batch = FaceSource.batch

    def watched(self: FaceSource, *arguments: Any, **keywords: Any) -> Any:
        seen.append(self.augmentation)
        return batch(self, *arguments, **keywords)

    monkeypatch.setattr(FaceSource, "batch", watched)
    stages = ("--stage", "gen", "--stage", "gen-lrn4", "--stage", "dcrn")
    narrow = ("--augmentation", "shift=0.01", "--augmentation", "blur=0", "--jitter", "scale=0", "--visited", "share=0")
    call(*RUN, *stages, *narrow)
    views = Augmentation(shift=0.01, blur=0)
    for stage in ("gen", "gen-lrn4"):
        settings = torch.load(here / "runs" / "toy" / stage / "checkpoint.pt", weights_only=False)["identity"]
        assert settings["augmentation"] == asdict(views)
    assert settings["jitter"] == asdict(StartJitter(scale=0))
    assert settings["visited"] is None
    assert views in seen, "DCRN's episodes"
    assert Augmentation() not in seen
    settings = json.loads((here / "runs" / "toy" / "dcrn" / "settings.json").read_text())
    assert settings["augmentation"] == asdict(views)
    result = CliRunner().invoke(app, [*RUN, *stages])
    assert "augmentation" in str(result.exception), "another run"


def test_ranges_that_are_the_defaults_are_not_spelt_out(here: Path) -> None:
    """Folders that were made before the ranges could be chosen go on."""
    RunConfig().write(here / "runs" / "a")
    document = json.loads((here / "runs" / "a" / "config.json").read_text())
    older = {key: value for key, value in document.items() if key not in ("augmentation", "jitter", "visited")}
    (here / "runs" / "a" / "config.json").write_text(json.dumps(older))
    assert RunConfig.read(here / "runs" / "a") == RunConfig()
    RunConfig().write(here / "runs" / "a")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --augmentation shift=wide", "shift must be a number, got 'wide'"),
        ("train --augmentation blur=nan", "blur must be a number, got 'nan'"),
        ("run --jitter scale=True", "scale must be a number, got 'True'"),
        ("run --jitter blur=3", "'blur' is none of shift, scale, rotation"),
        ("pretrain gen --augmentation spin=3", "'spin' is none of rotation, scale"),
        ("pretrain lrn --from mean --jitter shift=0", "with --from mean there is no x_0"),
        ("pretrain lrn --jitter blur=3", "'blur' is none of shift, scale, rotation"),
        ("pretrain lrn --visited far=3", "'far' is none of share, depth"),
        ("train --set noise", "'noise' is not KEY=VALUE"),
    ],
)
def test_unknown_keywords_are_usage_errors(arguments: str, message: str) -> None:
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
