"""What a user may do wrong on the command line: one message that names the option or file, and nothing is left behind.

A table: input -> exit status and message.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from trust.refusals import Refused
from typer.testing import CliRunner

from face_align_env.agents.cli.app import app
from face_align_env.agents.dcrn.config import AgentConfig
from face_align_env.agents.run_config import RunConfig
from face_align_env.pretrain.recipes import Data, TrainingConfig
from face_align_env.pretrain.settings import SettingError

USAGE = [
    # run: everything is looked at before anything is trained
    ("run --set nonsense=1", "--set has no keyword 'nonsense'"),
    ("run --set noise=loud", "--set noise must be a finite number, got 'loud'"),
    ("run --set noise=nan", "--set noise must be a finite number"),
    ("run --set tau=2", "--set tau must lie in 0 .. 1, got 2"),
    ("run --set learning_rate=inf", "--set learning_rate must be"),
    ("run --set learning_rate=0", "--set learning_rate must lie in"),
    ("run --set buffer_size=0", "--set buffer_size must lie in"),
    ("run --set seed=3", "--set cannot set 'seed': use --seed"),
    ("run --set preset=paper", "--set cannot set 'preset': use --agent"),
    ("run --set policy_kwargs=3", "--set policy_kwargs must be"),
    ("run --set averaged=1", "--set averaged must be True or False"),
    ("run --set =3", "--set must be KEY=VALUE, got '=3'"),
    ("run --set noise", "--set must be KEY=VALUE, got 'noise'"),
    ("run --set noise=1 --set noise=2", "--set sets 'noise' twice"),
    ("run --agent nonsense", "--agent 'nonsense' is unknown; there are paper, stable"),
    ("run --alpha-2 -1", "--alpha-2 must be above 0, got -1"),
    ("run --alpha-2 0", "--alpha-2 must be above 0"),
    ("run --alpha-2 nan", "--alpha-2 must be a finite number, got 'nan'"),
    ("run --alpha-2 inf", "--alpha-2 must be a finite number, got 'inf'"),
    ("run --alpha-2 wide", "Invalid value for '--alpha-2'"),
    ("run --num-envs 0", "--num-envs must be at least 1, got 0"),
    ("run --num-envs -4", "--num-envs must be at least 1, got -4"),
    ("run --batch-size 0", "--batch-size must be at least 1"),
    ("run --gradient-steps 0", "--gradient-steps must be at least 1"),
    ("run --gradient-steps -1", "--gradient-steps must be at least 1"),
    ("run --gen-epochs 0", "--gen-epochs must be at least 1, got 0"),
    ("run --lrn-epochs -3", "--lrn-epochs must be at least 1, got -3"),
    ("run --timesteps -5", "--timesteps must be at least 1, got -5"),
    ("run --timesteps 0", "--timesteps must be at least 1"),
    ("run --timesteps 1e4", "Invalid value for '--timesteps'"),
    ("run --seed -1", "--seed must be at least 0, got -1"),
    ("run --seeds 0", "Invalid value for '--seeds'"),
    ("run --preset huge", "--preset 'huge' is unknown; there are paper, compact"),
    ("run --precision 8-bit", "--precision must be one of 32-true, bf16-mixed, 16-mixed, got '8-bit'"),
    ("run --dataset 301w", "--dataset '301w' is unknown; there are synthetic, 300w"),
    ("run --dataset 300w+301w", "--dataset '301w' is unknown"),
    ("run --dataset [red]faces[/red]", "--dataset '[red]faces[/red]' is unknown"),
    ("run --landmarks 7", "--landmarks must be one of 68, 29, 19 on synthetic, got 7"),
    ("run --landmarks 0", "--landmarks must be at least 1"),
    ("run --option size", "--option must be KEY=VALUE"),
    ("run --option size=abc", "--option size must be a whole number, got 'abc'"),
    ("run --option size=2.5", "--option size must be a whole number, got '2.5'"),
    ("run --option boxs=detector", "--option has no keyword 'boxs'; there are size, seed, normalizer"),
    ("run --option split=test", "--option cannot set 'split': use --split"),
    ("run --env rewards=dense", "--env makes no sense: FaceAlignEnv has no keyword 'rewards'; did you mean 'reward'?"),
    ("run --env reward=dens", "--env makes no sense: reward must be one of paper, dense"),
    ("run --env reward=3", "--env makes no sense: reward must be one of paper, dense, shaped, got 3"),
    ("run --env alpha_1=abc", "--env makes no sense: alpha_1 must be a finite number, got 'abc'"),
    ("run --env alpha_1=-1", "--env makes no sense: alpha_1 must be above 0, got -1"),
    (f"run --env alpha_1={'9' * 400}", "--env"),
    (f"run --seed {'9' * 400}", "--seed"),
    ("run --env max_iterations=0", "--env makes no sense: max_iterations must be a whole number of at least 1"),
    ("run --env normalizer=nose", "--env makes no sense: normalizer must be one of"),
    ("run --env alpha_2=2", "--env cannot set 'alpha_2': use --alpha-2"),
    ("run --env dataset=300w", "--env cannot set 'dataset': use --dataset"),
    ("run --env termination=never", "--env makes no sense: termination must be one of oracle, blind, limit"),
    ("run --augmentation shift=wide", "--augmentation shift must be a finite number, got 'wide'"),
    ("run --augmentation shift=-1", "--augmentation makes no sense"),
    ("run --augmentation mirror=2", "--augmentation makes no sense"),
    ("run --jitter scale=True", "--jitter scale must be a finite number, got 'True'"),
    ("run --jitter blur=3", "--jitter has no keyword 'blur'; there are shift, scale, rotation"),
    ("run --visited far=3", "--visited has no keyword 'far'; there are share, depth"),
    ("run --visited share=2", "--visited makes no sense: share must be a fraction"),
    ("run --encoder-share 0", "--encoder-share must be above 0, got 0"),
    ("run --stage nose", "--stage 'nose' is unknown; there are gen, lrn-2"),
    ("run --device abacus", "--device 'abacus' is unknown; there are auto, cpu, cuda and mps"),
    ("run --fly", "No such option: --fly"),
    # the same in the other commands
    ("pretrain gen --preset huge", "--preset 'huge' is unknown"),
    ("pretrain gen --epochs 0", "--epochs must be at least 1, got 0"),
    ("pretrain gen --batch-size -1", "--batch-size must be at least 1"),
    ("pretrain gen --learning-rate 0", "--learning-rate must be above 0"),
    ("pretrain gen --learning-rate inf", "--learning-rate must be a finite number, got 'inf'"),
    ("pretrain gen --device abacus", "--device 'abacus' is unknown"),
    ("pretrain gen --devices 0", "Invalid value for '--devices'"),
    ("pretrain gen --augmentation spin=3", "--augmentation has no keyword 'spin'; there are rotation"),
    ("pretrain lrn --from nose", "--from must be one of gen, mean, got 'nose'"),
    ("pretrain lrn --from mean --jitter shift=0", "--jitter moves GEN's x_0, and with --from mean there is none"),
    ("pretrain lrn --jitter blur=3", "--jitter has no keyword 'blur'"),
    ("pretrain lrn --visited depth=0", "--visited makes no sense: depth must be a whole number"),
    ("pretrain lrn --encoder-share 1.5", "--encoder-share must be at most 1, got 1.5"),
    ("pretrain lrn --iterations 0", "--iterations must be at least 1"),
    ("train --preset paper", "No such option: --preset"),
    ("train --agent huge", "--agent 'huge' is unknown; there are paper, stable"),
    ("train --set noise", "--set must be KEY=VALUE, got 'noise'"),
    ("train --augmentation blur=nan", "--augmentation blur must be a finite number, got 'nan'"),
    ("train --timesteps -5", "--timesteps must be at least 1"),
    ("benchmark --algos ,", "--algos must name at least one algorithm"),
    ("benchmark --algos=", "--algos must name at least one algorithm"),
    ("benchmark --algos sac --set nope.foo=1", "--set sets 'nope.foo', and the algorithms are sac"),
    ("benchmark --algos sac --set foo=1", "--set must say whose keyword it is: ALGORITHM.foo=..., got 'foo'"),
    ("benchmark --workers -1", "Invalid value for '--workers'"),
    ("benchmark --workers 0", "Invalid value for '--workers'"),
    ("benchmark --seeds 0", "Invalid value for '--seeds'"),
    ("benchmark --timesteps 0", "--timesteps must be at least 1"),
    ("benchmark --timesteps 3", "--evaluations must be at most --timesteps, 3, got 10"),
    ("benchmark --actions jumps", "--actions must be one of modes, landmarks, got 'jumps'"),
    ("benchmark --initializer nose", "--initializer must be one of gen, mean, got 'nose'"),
    ("benchmark --step 0", "--step must be above 0"),
    ("benchmark --preset huge", "--preset 'huge' is unknown"),
    ("benchmark --gen-epochs 0", "Invalid value for '--gen-epochs'"),
    ("benchmark --env alpha_1=abc", "--env makes no sense: alpha_1 must be a finite number"),
    ("evaluate nothing --device abacus", "--device 'abacus' is unknown"),
    ("data verify synthetic --option boxs=1", "--option has no keyword 'boxs'; there are size, seed, normalizer"),
    ("data show synthetic --option size=abc", "--option size must be a whole number, got 'abc'"),
    ("data show synthetic --landmarks 7", "--landmarks must be one of 68, 29, 19 on synthetic, got 7"),
    ("data prepare 301w", "--dataset '301w' is unknown"),
    ("collect --option boxs=1", "--option has no keyword 'boxs'"),
    ("collect --dataset 301w", "--dataset '301w' is unknown"),
    ("speed --repeats 0", "Invalid value for '--repeats'"),
    ("fly", "No such command 'fly'"),
]

FAILURES = [
    ("run --dataset 300w --root nowhere", "'nowhere'"),
    ("run --option size=0", "size of at least 1"),
    ("run --preset tiny --stage gen-lrn4", "Stage gen-lrn4 needs gen"),
    ("pretrain gen --dataset 300w --root nowhere", "'nowhere'"),
    ("pretrain lrn --preset tiny --device cpu --option size=2", "Train them first: face-align pretrain gen"),
    ("train", "Train them first: face-align pretrain lrn"),
    ("evaluate nothing", "'nothing' is no folder of a run"),
    ("evaluate", "is no folder of a run"),
    ("robustness nothing", "'nothing' is no folder of a run"),
    ("tradeoff nothing", "'nothing' is no folder of a run"),
    ("ablate nothing", "'nothing' is no folder of a run"),
    ("watch nothing", "'nothing' is no folder of a run"),
    ("release nothing --name a-68", "'nothing' is no folder of a run"),
    ("summarize nothing", "is no run of several seeds"),
    ("compare a b", "holds neither a benchmark's"),
    ("collect --noise -1", "no negative noise"),
    ("collect --policy nowhere:nothing", "nowhere"),
    ("data show synthetic --index 100000", "There is no face 100000"),
    ("data download pts", "pts"),
    ("collect --run nothing", "'nothing' is no folder of a run"),
]


def message(*arguments: str, status: int) -> str:
    """What a command says, on one line, before it ends with that status."""
    result = CliRunner(env={"FACE_ALIGN_DEBUG": None, "COLUMNS": "300"}).invoke(app, list(arguments))
    assert result.exit_code == status, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    assert result.stderr.count("Error") == 1, result.stderr
    return " ".join(result.stderr.replace("│", " ").split())


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no data elsewhere."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("FACE_ALIGN_CACHE", "off")
    monkeypatch.delenv("FACE_ALIGN_DATA", raising=False)
    return tmp_path / "work"


MISTAKES = [pytest.param(*case, 2, id=case[0]) for case in USAGE] + [
    pytest.param(*case, 1, id=case[0]) for case in FAILURES
]


@pytest.mark.parametrize(("arguments", "expected", "status"), MISTAKES)
def test_a_mistake_is_one_message_and_leaves_nothing(
    arguments: str, expected: str, status: int, here: Path, refused: Refused
) -> None:
    """Status 2: the words make no sense; 1: what they name is not there."""
    said = message(*arguments.split(), status=status)
    assert expected in said
    refused(said)
    assert list(here.iterdir()) == []


CONFIGURATIONS: list[tuple[Any, str]] = [
    ("", "is damaged"),
    ("{", "is damaged"),
    ("[]", "must hold the settings"),
    ("3", "must hold the settings"),
    ({"nonsense": 1}, "nonsense is no setting"),
    ({"data": 3}, "must hold the settings"),
    ({"data": {"dataset": 3}}, "dataset must be a text, got '3'"),
    ({"data": {"rot": "x"}}, "rot is no setting; there are dataset, root"),
    ({"seed": "zero"}, "seed must be a whole number, got 'zero'"),
    ({"seed": None}, "seed must be a whole number, got 'None'"),
    ({"alpha_2": "3"}, "alpha_2 must be a finite number, got '3'"),
    ({"alpha_2": -1}, "alpha_2 must be above 0, got -1"),
    ({"gen_epochs": 0}, "gen_epochs must be at least 1"),
    ({"gen_epochs": 1.5}, "gen_epochs must be a whole number"),
    ({"precision": 32}, "precision must be"),
    ({"environment": [1]}, "environment must be a dictionary"),
    ({"agent": []}, "must hold the settings timesteps"),
    ({"agent": {"num_envs": True}}, "num_envs must be a whole number, got 'True'"),
    ({"agent": {"augment": 1}}, "augment must be True or False, got '1'"),
]


@pytest.mark.parametrize(("document", "expected"), CONFIGURATIONS, ids=[str(each) for each, _ in CONFIGURATIONS])
def test_a_configuration_that_was_written_by_hand_is_looked_at(
    document: Any, expected: str, here: Path, refused: Refused
) -> None:
    text = document if isinstance(document, str) else json.dumps(document)
    (here / "config.json").write_text(text)
    found = message("evaluate", str(here), status=1)
    assert expected in found
    assert "config.json" in found
    refused(found)


def test_a_configuration_of_an_older_version_is_read(here: Path) -> None:
    """It had a seed in two places, and nothing of what came later."""
    older = {
        "data": {"dataset": "synthetic", "root": None, "landmarks": 29, "options": {"size": 5}},
        "preset": "tiny", "seed": 3, "precision": None, "gen_epochs": 2, "lrn_epochs": None, "alpha_2": 3.0,
        "agent": {
            "timesteps": 40, "num_envs": 4, "gradient_steps": 4, "batch_size": 8, "preset": "paper", "seed": 3,
            "augment": False, "checkpoint_timesteps": 10000, "overrides": {"noise": 2},
        },
        "environment": {"reward": "dense"},
    }  # fmt: skip
    (here / "config.json").write_text(json.dumps(older))
    config = RunConfig(
        data=Data("synthetic", None, 29, {"size": 5}),
        seed=3,
        agent=AgentConfig(40, 4, 4, 8, "paper", False, overrides={"noise": 2}),
        alpha_2=3.0,
        environment={"reward": "dense"},
        preset="tiny",
        gen_epochs=2,
    )
    assert RunConfig.read(here) == config
    config.write(here)  # it goes on


@pytest.mark.parametrize(
    ("made", "name"),
    [
        (lambda: AgentConfig(timesteps=0), "timesteps"),
        (lambda: AgentConfig(batch_size=2.5), "batch_size"),  # type: ignore[arg-type]
        (lambda: TrainingConfig(warmup=2), "warmup"),
        (lambda: RunConfig(seed=-1), "seed"),
        (lambda: Data(options=["size"]), "options"),  # type: ignore[arg-type]
    ],
)
def test_settings_are_looked_at_in_python_as_well(made: Any, name: str, refused: Refused) -> None:
    with pytest.raises(SettingError, match=f"^{name} must") as error:
        made()
    refused(error.value)


@pytest.mark.parametrize(
    ("raised", "status", "expected"),
    [
        (
            FloatingPointError("The gradient is nan at step 3: lower the learning rate."),
            1,
            "Error: The gradient is nan",
        ),
        (OSError(28, "No space left on device", "runs/gen/x"), 1, "Error: 'runs/gen/x': No space left on device. Make"),
        (
            PermissionError(13, "Permission denied", "runs"),
            1,
            "Error: 'runs': Permission denied. Choose another folder",
        ),
        (MemoryError(), 1, "Error: MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory."), 1, "Error: CUDA out of memory."),
        (EOFError("Ran out of input"), 1, "Error: EOFError: Ran out of input. This is a defect of face-align"),
        (KeyError("nose"), 1, "Error: KeyError: 'nose'. This is a defect of face-align"),
        (KeyboardInterrupt(), 130, "Interrupted. The same command goes on where it was."),
    ],
)
def test_what_breaks_in_the_middle_is_one_message(
    raised: BaseException, status: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr("face_align_env.pretrain.stages.pretrain_gen", broken)
    result = CliRunner(env={"FACE_ALIGN_DEBUG": None}).invoke(app, ["pretrain", "gen", "--option", "size=2"])
    assert result.exit_code == status, result.output
    assert result.stderr.startswith(expected)
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["pretrain gen --preset tiny --option size=2 --device cpu --output file/gen"])
def test_a_folder_that_cannot_be_written_is_named_before_the_training(
    command: str, here: Path, refused: Refused
) -> None:
    (here / "file").write_text("no folder")
    said = message(*command.split(), status=1)
    assert "Error: 'file" in said
    refused(said)
