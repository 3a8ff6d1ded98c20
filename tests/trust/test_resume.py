"""What a training resumes from: files that hold no code, and only those of the very same training."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trust.refusals import Refused
from typer.testing import CliRunner

from face_align_env import files
from face_align_env.agents.cli.app import app
from face_align_env.networks import gen as gen_network
from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.gen import GENConfig
from face_align_env.networks.lrn import LRNConfig
from face_align_env.pretrain import recipes
from face_align_env.pretrain.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from face_align_env.pretrain.recipes import Recipe, TrainingConfig

DATA = ("--option", "size=6", "--device", "cpu")
GEN_COMMAND = ("pretrain", "gen", "--preset", "micro", *DATA, "--output", "gen")
LRN_COMMAND = (
    *("pretrain", "lrn", "--preset", "micro", "--iterations", "1", *DATA),
    *("--gen", "gen/weights.safetensors", "--output", "lrn"),
)
DCRN_COMMAND = (
    *("train", "--timesteps", "16", "--num-envs", "2", "--batch-size", "8", "--set", "learning_starts=4", *DATA),
    *("--lrn", "lrn/weights.safetensors", "--gen", "gen/weights.safetensors", "--output", "dcrn"),
)
COMMANDS = {"gen": GEN_COMMAND, "lrn": LRN_COMMAND, "dcrn": DCRN_COMMAND}


class Program:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "short": lambda data: data[:-1],
    "changed": lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
    "zeroed": lambda data: bytes(len(data)),
    "program": lambda data: pickle.dumps(Program(Path("ran.txt"))),
    "text": lambda data: b'{"step": 3}',
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with GEN, LRN and DCRN, trained for a moment; ``restore()`` brings it back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gen_network.PRESETS, "micro", GENConfig(input_size=16, width=4, hidden=16))
        patch.setitem(lrn_network.PRESETS, "micro", LRNConfig(encoder=((4, 10, 10, 1),), bottleneck=4))
        quick = TrainingConfig(epochs=1, batch_size=4)
        patch.setitem(recipes.RECIPES, "micro", Recipe("micro", "micro", quick, quick))
        patch.chdir(tmp_path_factory.mktemp("trained"))
        for command in COMMANDS.values():
            call(*command)
        original = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}

        def restore() -> None:
            for path, data in original.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

        yield restore


def call(*arguments: str, status: int = 0) -> str:
    """What a command says, on one line."""
    result = CliRunner(env={"FACE_ALIGN_DEBUG": None}).invoke(app, list(arguments))
    assert result.exit_code == status, result.output + repr(result.exception)
    return " ".join(result.stderr.split())


@pytest.mark.parametrize("damage", list(DAMAGES))
@pytest.mark.parametrize("stage", list(COMMANDS))
def test_a_damaged_checkpoint_is_named_with_its_cure(stage: str, damage: str, trained: Any, refused: Refused) -> None:
    trained()
    path = Path(stage) / "checkpoint.safetensors"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    said = call(*COMMANDS[stage], status=1)
    assert f"Error: The checkpoint '{path}' is damaged" in said
    assert "Remove it to begin the training anew." in said
    assert not Path("ran.txt").exists()
    refused(said)


@pytest.mark.parametrize(("stage", "other"), [("gen", "dcrn"), ("lrn", "dcrn"), ("dcrn", "gen"), ("gen", "lrn")])
def test_a_checkpoint_of_another_training_is_named(stage: str, other: str, trained: Any, refused: Refused) -> None:
    trained()
    path = Path(stage) / "checkpoint.safetensors"
    path.write_bytes((Path(other) / "checkpoint.safetensors").read_bytes())
    said = call(*COMMANDS[stage], status=1)
    assert f"'{path}'" in said
    refused(said)


def test_programs_in_the_places_of_older_checkpoints_do_not_run(trained: Any) -> None:
    trained()
    program = pickle.dumps(Program(Path("ran.txt")))
    for name in ("gen/checkpoint.pt", "lrn/checkpoint.pt", "dcrn/replay_buffer.pkl", "dcrn/model.zip"):
        Path(name).write_bytes(program)
    for command in COMMANDS.values():
        call(*command)  # they have checkpoints of their own
    for stage, command in COMMANDS.items():
        (Path(stage) / "checkpoint.safetensors").unlink()
        assert "older version" in call(*command, status=1)
    assert not Path("ran.txt").exists()
    for name in ("gen/checkpoint.pt", "lrn/checkpoint.pt", "dcrn/replay_buffer.pkl"):
        Path(name).unlink()


@pytest.mark.parametrize(
    ("stage", "change", "named"),
    [
        ("gen", ("--option", "seed=7"), "faces"),
        ("gen", ("--option", "normalizer=face_size"), "faces"),
        ("gen", ("--landmarks", "29"), "faces"),
        ("gen", ("--precision", "bf16-mixed"), "precision: 32-true before, bf16-mixed now"),
        ("gen", ("--seed", "1"), "seed: 0 before, 1 now"),
        ("gen", ("--learning-rate", "0.01"), "learning_rate"),
        ("gen", ("--augmentation", "blur=0"), "augmentation"),
        ("lrn", ("--option", "seed=7"), "faces"),
        ("lrn", ("--jitter", "shift=0"), "jitter"),
        ("lrn", ("--visited", "share=0"), "visited"),
        ("lrn", ("--encoder-share", "1"), "encoder_share: 0.5 before, 1.0 now"),
        ("dcrn", ("--option", "seed=7"), "faces"),
        ("dcrn", ("--env", "reward=dense"), "environment"),
        ("dcrn", ("--set", "tau=0.1"), "overrides"),
        ("dcrn", ("--alpha-2", "2"), "environment"),
        ("dcrn", ("--seed", "1"), "seed: 0 before, 1 now"),
    ],
)
def test_another_training_does_not_go_on_there(
    stage: str, change: tuple[str, ...], named: str, trained: Any, refused: Refused
) -> None:
    trained()
    said = call(*COMMANDS[stage], *change, status=1)
    assert "belongs to a training with other settings" in said
    assert named in said
    assert "Use another folder" in said
    refused(said)


@pytest.mark.parametrize("said", [None, "nothing"])
def test_older_cascades_have_learnt_from_all_patches(said: str | None, trained: Any, refused: Refused) -> None:
    trained()
    path = Path("lrn/checkpoint.safetensors")
    state = load_checkpoint(path)
    state["identity"]["encoder_share"] = None
    if said == "nothing":
        del state["identity"]["encoder_share"]
    save_checkpoint(path, state)
    message = call(*LRN_COMMAND, status=1)
    assert "encoder_share: 1.0 before, 0.5 now" in message
    refused(message)
    call(*LRN_COMMAND, "--encoder-share", "1")


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_damaged_settings_are_named(text: str, trained: Any, refused: Refused) -> None:
    trained()
    Path("dcrn/settings.json").write_text(text)
    said = call(*DCRN_COMMAND, status=1)
    assert "Error: 'dcrn/settings.json' is damaged" in said
    assert "Remove it, or restore it from a copy." in said
    refused(said)


def test_a_folder_in_use_is_left_alone(trained: Any) -> None:
    trained()
    for stage, command in COMMANDS.items():
        before = {path: path.read_bytes() for path in Path(stage).rglob("*.safetensors")}
        with files.locked_folder(stage):
            assert f"'{stage}'" in call(*command, status=1)
        assert {path: path.read_bytes() for path in Path(stage).rglob("*.safetensors")} == before


def test_another_gen_under_the_same_name_is_another_training(trained: Any) -> None:
    trained()
    call(*GEN_COMMAND[:-1], "other", "--seed", "5")
    Path("gen/weights.safetensors").write_bytes(Path("other/weights.safetensors").read_bytes())
    assert "gen_sha256" in call(*LRN_COMMAND, status=1)
    assert "environment" in call(*DCRN_COMMAND, status=1)


@pytest.mark.parametrize("stage", list(COMMANDS))
def test_a_training_that_was_renamed_goes_on(stage: str, trained: Any) -> None:
    trained()
    shutil.rmtree("renamed", ignore_errors=True)
    weights = (Path(stage) / "weights.safetensors").read_bytes()
    Path(stage).rename("renamed")
    (Path("renamed") / "weights.safetensors").unlink()
    given = [
        {stage: "renamed", f"{stage}/weights.safetensors": "renamed/weights.safetensors"}.get(word, word)
        if COMMANDS[stage][number - 1] == "--output"
        else word
        for number, word in enumerate(COMMANDS[stage])
    ]
    call(*given)
    assert (Path("renamed") / "weights.safetensors").read_bytes() == weights


def test_a_checkpoint_holds_what_was_put_into_it(tmp_path: Path) -> None:
    state = {
        "numbers": [1, 2.5, -0.0, float("inf"), True, None, "text", 1 << 100],
        3: {"tensor": torch.arange(6).reshape(2, 3), "scalar": torch.tensor(2.0), "half": torch.ones(2).bfloat16()},
        "tuple": (np.float32(0.1), np.arange(3, dtype=np.uint32), np.zeros((0, 2), bool)),
        "numpy": np.random.get_state(),
        "generator": np.random.default_rng(0).bit_generator.state,
    }
    save_checkpoint(tmp_path / "a", state)
    found = load_checkpoint(tmp_path / "a")
    assert found["numbers"] == state["numbers"]
    assert found["generator"] == state["generator"]
    for key, tensor in state[3].items():  # type: ignore[union-attr]
        assert torch.equal(found[3][key], tensor)
        assert found[3][key].dtype == tensor.dtype
    assert found["tuple"][0] == np.float32(0.1)
    for before, after in zip(state["tuple"][1:], found["tuple"][1:], strict=True):
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype
    np.testing.assert_array_equal(found["numpy"][1], state["numpy"][1])  # type: ignore[index]
    with pytest.raises(TypeError, match=r"not (Posix|Windows)Path"):
        save_checkpoint(tmp_path / "b", {"path": tmp_path})
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    for name in ("fsync", "replace"):
        original = getattr(files.os, name)

        def watched(*arguments: Any, name: str = name, original: Any = original) -> None:
            happened.append(name)
            original(*arguments)

        monkeypatch.setattr(files.os, name, watched)
    files.write_bytes(tmp_path / "a", b"1")
    assert happened == ["fsync", "replace"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "a", {"step": 1})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "a", {"step": 2})
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "a") == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
