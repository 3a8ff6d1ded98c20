"""The command line, and the run that it makes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.main import get_command
from typer.testing import CliRunner
from writers.command_line import understood

from face_align_env.agents.cli import options
from face_align_env.agents.cli.app import app
from face_align_env.agents.cli.examples import EXAMPLES
from face_align_env.agents.cli.parameters import pairs
from face_align_env.agents.run_config import RunConfig
from face_align_env.augmentation import Augmentation
from face_align_env.networks import gen as gen_network
from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN, LRNConfig
from face_align_env.networks.weights import file_digest
from face_align_env.prepared import FaceSource
from face_align_env.pretrain import recipes
from face_align_env.pretrain.checkpoint import load_checkpoint
from face_align_env.pretrain.loop import CHECKPOINT
from face_align_env.pretrain.objectives import StartJitter
from face_align_env.pretrain.recipes import Recipe, TrainingConfig
from face_align_env.pretrain.settings import SettingError

METHODS = ["GEN", "LRN-2", "LRN-4", "LRN-8", "GEN-LRN4", "GEN-LRN8", "LRN+Eq.3", "DCRN"]
STAGES = ["gen", "lrn-2", "lrn-4", "lrn-8", "gen-lrn4", "gen-lrn8", "dcrn"]
COMMON = ("--dataset", "--root", "--preset")
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
    monkeypatch.setattr(options.console, "width", 200)
    return tmp_path


def call(*arguments: str) -> Any:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result


def fail(*arguments: str, status: int = 1) -> str:
    """What a command says before it fails: one line."""
    result = CliRunner(env={"FACE_ALIGN_DEBUG": None}).invoke(app, list(arguments))
    assert result.exit_code == status, result.output + repr(result.exception)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    return line


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("", ("pretrain", "train", "evaluate", "run")),
        ("pretrain", ("gen", "lrn")),
        *((command, COMMON) for command in ("pretrain gen", "pretrain lrn", "run", "benchmark")),
        *((command, ("--dataset", "--agent", "--seed", "--set", "--num-envs")) for command in ("train", "run")),
        ("evaluate", ("--split", "--root", "--device")),
    ],
)
def test_help_says_what_there_is(command: str, named: tuple[str, ...]) -> None:
    output = call(*command.split(), "--help").output
    assert "Usage:" in output
    assert [name for name in named if name not in output] == []


@pytest.mark.parametrize("command", list(EXAMPLES))
def test_examples_can_be_read(command: str) -> None:
    for line in EXAMPLES[command]:
        assert line.startswith(command)
        understood(line.split())
    shown = " ".join(call(*command.split(), "--help").output.split())
    assert f"face-align {EXAMPLES[command][0]}" in shown


def test_every_command_has_examples_and_a_group() -> None:
    def names(group: Any, prefix: str = "") -> list[str]:
        if not hasattr(group, "commands"):
            return [prefix.strip()]
        return [name for key, inner in group.commands.items() for name in names(inner, f"{prefix} {key}")]

    assert sorted(names(get_command(app))) == sorted(EXAMPLES)
    output = call("--help").output
    assert [title for title in ("Data", "Training", "Study of a run", "Benchmark") if f" {title} " not in output] == []


def test_it_says_its_version_and_can_be_quiet(here: Path) -> None:
    assert call("--version").output == f"face-align-env {version('face-align-env')}\n"
    command = ("pretrain", "gen", "--preset", "micro", "--epochs", "1", "--option", "size=2", "--device", "cpu")
    loud = call(*command)
    assert "NME on the test split" in loud.stdout
    assert "GEN: 1 of 1" in loud.stderr
    quiet = call("--quiet", *command)
    assert (quiet.stdout, quiet.stderr) == ("", "")
    printed = call(*command, "--json")
    assert json.loads(printed.stdout)["weights"] == "runs/gen/weights.safetensors"
    assert "NME on the test split" in call(*command).stdout, "the next command speaks again"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from face_align_env.agents.cli.app import app; app(['--help'], standalone_mode=False); "
        "print([name for name in ('torch', 'cv2', 'stable_baselines3', 'lightning', 'matplotlib', 'pandas', 'scipy') "
        "if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert found.stdout.splitlines()[-1] == "[]"


def test_a_run_takes_over_a_gen(here: Path) -> None:
    gen, other = (GEN(GENConfig(k, 16, 4, 16), torch.full((k, 2), 128.0)) for k in (68, 29))
    gen.save(here / "gen.safetensors")
    other.save(here / "other.safetensors")
    words = ("run", "--preset", "micro", "--option", "size=8", "--stage", "gen", "--device", "cpu")
    call(*words, "--name", "taken", "--gen", "gen.safetensors")
    taken = GEN.load(here / "runs" / "taken" / "gen" / "weights.safetensors")
    for tensor, expected in zip(taken.state_dict().values(), gen.state_dict().values(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0)
    call(*words, "--name", "fewer", "--landmarks", "19", "--gen", "gen.safetensors")
    taken = GEN.load(here / "runs" / "fewer" / "gen" / "weights.safetensors")
    torch.testing.assert_close(taken.mean_shape, torch.full((19, 2), 128.0))
    message = fail(*words, "--name", "wrong", "--gen", "other.safetensors")
    assert "predicts 29 landmarks, the dataset has 68, and 68 landmarks cannot be had from 29" in message


def test_a_run_fine_tunes_a_gen(here: Path) -> None:
    GEN(GENConfig(68, 16, 4, 16), torch.full((68, 2), 128.0)).save(here / "gen.safetensors")
    words = ("run", "--preset", "micro", "--option", "size=8", "--stage", "gen", "--device", "cpu", "--name", "tuned",
             "--gen-init", "gen.safetensors", "--gen-epochs", "1", "--gen-learning-rate", "1e-12")  # fmt: skip
    call(*words)
    tuned = GEN.load(here / "runs" / "tuned" / "gen" / "weights.safetensors").state_dict()
    for name, tensor in GEN.load(here / "gen.safetensors").state_dict().items():
        torch.testing.assert_close(tuned[name], tensor)
    call(*words)
    GEN(GENConfig(68, 16, 4, 16), torch.full((68, 2), 120.0)).save(here / "gen.safetensors")
    assert "has learnt from other weights (--gen-init, --lrn-init) than there is now" in fail(*words)
    assert "is of GEN's training, and with --gen one is taken over" in fail(*words, "--gen", "300w-68", status=2)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--gen", "The GEN in 'other.safetensors' predicts 29 landmarks, the dataset has 68"),
        ("--gen-init", "The GEN in 'other.safetensors' cannot start this training: 68 landmarks cannot be had from 29"),
        ("--lrn-init", "The LRN in 'lrn.safetensors' is not that of preset 'micro'"),
    ],
)
def test_networks_that_do_not_fit_leave_no_folder(here: Path, option: str, message: str) -> None:
    GEN(GENConfig(29, 16, 4, 16)).save(here / "other.safetensors")
    LRN(LRNConfig(encoder=((4, 10, 10, 1),), bottleneck=8)).save(here / "lrn.safetensors")
    file = "lrn.safetensors" if option == "--lrn-init" else "other.safetensors"
    words = ("run", "--preset", "micro", "--option", "size=8", "--device", "cpu", "--name", "wrong")
    assert message in fail(*words, option, file)
    assert not (here / "runs").exists()


def test_a_run_does_all_of_it_and_goes_on_where_it_stopped(
    here: Path,
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

    message = fail(*RUN, "--seed", "7")
    assert "seed: 0 before, 7 now" in message
    assert "--name" in message

    (folder / "evaluation.json").unlink()
    printed = json.loads(call("evaluate", "runs/toy", "--split", "train", "--json").stdout)
    assert list(printed) == ["runs/toy/evaluation-train.json"]
    assert [row["method"] for row in printed["runs/toy/evaluation-train.json"]["rows"]] == METHODS
    assert json.loads((folder / "evaluation-train.json").read_text())["split"] == "train"
    assert not (folder / "evaluation.json").exists()
    assert "seed" in fail("run", "--name", "toy", "--preset", "micro", "--seed", "7")


def test_a_run_of_some_stages_is_finished_later(
    here: Path,
) -> None:
    folder = here / "runs" / "toy"
    assert "needs gen" in fail(*RUN, "--stage", "gen-lrn4")
    assert "gen-lrn8" in fail(*RUN, "--stage", "gen-lrn5", status=2)
    assert "stage gen comes first" in call(*RUN, "--stage", "lrn-2").output
    call(*RUN, "--stage", "gen-lrn4", "--stage", "gen")
    assert {path.parent.name for path in folder.glob("*/weights.safetensors")} == {"gen", "gen-lrn4", "lrn-2"}
    document = json.loads((folder / "evaluation.json").read_text())
    assert [row["method"] for row in document["rows"]] == ["GEN", "LRN-2", "GEN-LRN4", "LRN+Eq.3"]
    assert call(*RUN).output.count("complete") == 3
    assert all((folder / stage / "weights.safetensors").is_file() for stage in STAGES)


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


def test_debugging_shows_the_traceback() -> None:
    result = CliRunner().invoke(app, ["--debug", "evaluate", "nothing"])
    assert isinstance(result.exception, FileNotFoundError)
    result = CliRunner(env={"FACE_ALIGN_DEBUG": "1"}).invoke(app, ["evaluate", "nothing"])
    assert isinstance(result.exception, FileNotFoundError)


def test_values_are_what_they_look_like() -> None:
    given = ["size=5", "scale=0.5", "boxes=detector", "note=a=b", "flag=True", "version=1.0.0"]
    made = {"size": 5, "scale": 0.5, "boxes": "detector", "note": "a=b", "flag": True, "version": "1.0.0"}
    assert pairs(given, "--option") == made
    assert pairs(None, "--option") == {}
    assert pairs(['kwargs={"net_arch": [64, 64], "std": -1.5}'], "--set") == {
        "kwargs": {"net_arch": [64, 64], "std": -1.5}
    }
    with pytest.raises(SettingError, match=r"'kwargs' that is no JSON"):
        pairs(["kwargs={net_arch: 64}"], "--set")


def test_a_runs_configuration_survives_its_file(here: Path) -> None:
    config = RunConfig(data=recipes.Data("pts", "x", 29, {"boxes": "detector"}), seed=3, alpha_2=2.5)
    config.write(here / "runs" / "a")
    assert RunConfig.read(here / "runs" / "a") == config
    config.write(here / "runs" / "a")  # the same again is no conflict


def test_ranges_of_the_training_are_options(here: Path) -> None:
    common = ("--epochs", "1", "--option", "size=4", "--preset", "micro", "--device", "cpu")
    call("pretrain", "gen", *common, "--augmentation", "rotation=3", "--batch-size", "2", "--output", "gen")
    settings = load_checkpoint(here / "gen" / CHECKPOINT)["identity"]
    assert (settings["augmentation"]["rotation"], settings["augmentation"]["blur"]) == (3, 3.0)
    assert settings["batch_size"] == 2
    weights = "gen/weights.safetensors"
    call("pretrain", "gen", *common, "--init", weights, "--output", "gen-tuned")
    settings = load_checkpoint(here / "gen-tuned" / CHECKPOINT)["identity"]
    assert settings["init_sha256"] == file_digest(here / weights)
    chosen = ("--jitter", "shift=0", "--visited", "depth=2", "--encoder-share", "0.25", "--iterations", "1")
    call("pretrain", "lrn", *common, "--gen", weights, *chosen, "--output", "lrn")
    settings = load_checkpoint(here / "lrn" / CHECKPOINT)["identity"]
    assert settings["jitter"]["shift"] == 0
    assert settings["visited"] == {"share": 0.6, "depth": 2}
    assert settings["encoder_share"] == 0.25
    assert settings["init_sha256"] is None
    call(
        "pretrain", "lrn", *common, "--gen", weights, *chosen, "--init", "lrn/weights.safetensors", "--output", "tuned"
    )
    settings = load_checkpoint(here / "tuned" / CHECKPOINT)["identity"]
    assert settings["init_sha256"] == file_digest(here / "lrn" / "weights.safetensors")


def test_ranges_of_a_run_are_those_of_every_stage(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    crops = FaceSource.crops

    def watched(self: FaceSource, *arguments: Any, **keywords: Any) -> Any:
        seen.append(self.augmentation)
        return crops(self, *arguments, **keywords)

    monkeypatch.setattr(FaceSource, "crops", watched)
    stages = ("--stage", "gen", "--stage", "gen-lrn4", "--stage", "dcrn")
    narrow = ("--augmentation", "shift=0.01", "--augmentation", "blur=0", "--jitter", "scale=0", "--visited", "share=0")
    narrow += ("--encoder-share", "0.125")
    call(*RUN, *stages, *narrow)
    views = Augmentation(shift=0.01, blur=0)
    for stage in ("gen", "gen-lrn4"):
        settings = load_checkpoint(here / "runs" / "toy" / stage / CHECKPOINT)["identity"]
        assert settings["augmentation"] == asdict(views)
    assert settings["jitter"] == asdict(StartJitter(scale=0))
    assert settings["visited"] is None
    assert settings["encoder_share"] == 0.125
    assert views in seen, "DCRN's episodes"
    assert Augmentation() not in seen
    settings = json.loads((here / "runs" / "toy" / "dcrn" / "settings.json").read_text())
    assert settings["augmentation"] == asdict(views)
    assert "augmentation" in fail(*RUN, *stages), "another run"


def test_ranges_that_are_the_defaults_are_not_spelt_out(here: Path) -> None:
    """Folders that were made before the ranges could be chosen go on."""
    RunConfig().write(here / "runs" / "a")
    document = json.loads((here / "runs" / "a" / "config.json").read_text())
    newer = ("augmentation", "jitter", "visited", "encoder_share")
    older = {key: value for key, value in document.items() if key not in newer}
    (here / "runs" / "a" / "config.json").write_text(json.dumps(older))
    assert RunConfig.read(here / "runs" / "a") == RunConfig()
    RunConfig().write(here / "runs" / "a")
