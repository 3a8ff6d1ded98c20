"""Two processes learn from a minibatch what one process learns from it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from writers import processes
from writers.processes import KINDS, train

from face_align_env.files import locked_folder
from face_align_env.networks.weights import held_networks, load_weights
from face_align_env.pretrain.checkpoint import load_checkpoint
from face_align_env.pretrain.devices import started_by_torchrun
from face_align_env.pretrain.loop import CHECKPOINT, make_fabric
from face_align_env.pretrain.settings import SettingError

pytestmark = pytest.mark.slow
DATA = ("--dataset", "synthetic", "--landmarks", "19", "--option", "size=16")
COMMAND = ("pretrain", "lrn", *DATA, "--preset", "tiny", "--from", "mean", "--iterations", "2", "--epochs", "2",
           "--batch-size", "8", "--device", "cpu")  # fmt: skip


def flat(state: dict[str, Tensor]) -> Tensor:
    """What is trained, and no statistics."""
    learnt = [name for name in sorted(state) if "running" not in name and "tracked" not in name]
    return torch.cat([state[name].flatten().double() for name in learnt])


def weights(folder: Path) -> Tensor:
    path = folder / "weights.safetensors"
    return flat(load_weights(path, held_networks(path)[0])[1])


def distance(first: Path, second: Path, start: Path) -> float:
    """Between the weights of two trainings, in units of how far one of them has come after half of its steps."""
    half = load_checkpoint(start / "half" / CHECKPOINT)["model"]
    way = weights(first) - flat({name.removeprefix("network."): value for name, value in half.items()})
    return float((weights(first) - weights(second)).norm() / way.norm())


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trainings of one process."""
    folder = tmp_path_factory.mktemp("one")
    for kind in KINDS:
        (folder / kind).mkdir()
        train(kind, folder / kind, make_fabric("cpu"))
    return folder


@pytest.fixture(scope="module")
def two(one: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of two processes that torchrun starts; and two that one process has begun, in a folder or in its own."""
    folder = tmp_path_factory.mktemp("two")
    for name in (*KINDS, "cascade-resumed", "cascade-apart/0", "cascade-apart/1"):
        (folder / name).mkdir(parents=True)
    for name in ("cascade-resumed", "cascade-apart/0"):
        shutil.copy(one / "cascade" / "half" / CHECKPOINT, folder / name)
    done = _torchrun(folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def _torchrun(folder: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*torchrun, processes.__file__, str(folder)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize("kind", ["cascade", "gen"])
def test_two_processes_learn_what_one_does(one: Path, two: Path, kind: str) -> None:
    assert distance(one / kind, two / kind, one / kind) < 0.02


def test_batch_normalisation_is_each_process_its_own(one: Path, two: Path) -> None:
    """That is what the refusal below is for."""
    assert distance(one / "normalised", two / "normalised", one / "normalised") > 0.05


def test_a_cascade_resumes_with_another_number_of_processes(one: Path, two: Path, tmp_path: Path) -> None:
    assert distance(one / "cascade", two / "cascade-resumed", one / "cascade") < 0.02
    resumed = tmp_path / "cascade"
    shutil.copytree(two / "cascade" / "half", resumed)
    train("cascade", resumed, make_fabric("cpu"))
    assert distance(one / "cascade", resumed, one / "cascade") < 0.02


def test_the_checkpoint_of_the_first_process_is_that_of_all(one: Path, two: Path) -> None:
    """Machines may have a file system each: the second one's folder is empty, and stays so."""
    assert distance(one / "cascade", two / "cascade-apart" / "0", one / "cascade") < 0.02
    assert not list((two / "cascade-apart" / "1").rglob("*.safetensors"))


def test_a_damaged_checkpoint_of_the_first_process_stops_all(one: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "cascade-apart" / "0", tmp_path / "cascade-apart" / "1"
    for folder in (first, second):
        folder.mkdir(parents=True)
        shutil.copy(one / "cascade" / "half" / CHECKPOINT, folder)
    (first / CHECKPOINT).write_bytes(b"no checkpoint")
    done = _torchrun(tmp_path, timeout=60)
    assert done.returncode != 0
    assert f"'{first / CHECKPOINT}' is damaged" in done.stderr
    assert str(second) not in done.stderr


def test_other_faces_in_another_process_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "cascade-differing").mkdir()
    done = _torchrun(tmp_path, timeout=60)
    assert done.returncode != 0
    assert "Process 1 is to train with other faces than the first one" in done.stderr


def test_a_folder_in_use_stops_all(tmp_path: Path) -> None:
    with locked_folder(tmp_path):
        done = _face_align(*COMMAND, "--devices", "2", "--output", str(tmp_path))
    assert done.returncode != 0
    assert "is in use by" in " ".join(done.stderr.split())


def test_a_normalised_gen_does_not(two: Path, tmp_path: Path) -> None:
    resumed = tmp_path / "normalised"
    shutil.copytree(two / "normalised" / "half", resumed)
    with pytest.raises(ValueError, match=r"shared by 2 processes.*resume with --devices and --num-nodes as before"):
        train("normalised", resumed, make_fabric("cpu"))


def test_one_command_starts_all_processes_and_speaks_once(tmp_path: Path) -> None:
    done = _face_align(*COMMAND, "--devices", "2", "--output", str(tmp_path / "lrn"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Starting with 2 processes" in done.stderr
    output = done.stdout + done.stderr
    assert output.count("NME on the test split") == 1
    assert len(list((tmp_path / "lrn" / "tensorboard").iterdir())) == 1
    again = _face_align(*COMMAND, "--devices", "2", "--output", str(tmp_path / "lrn"), "--json")
    assert json.loads(again.stdout)["weights"].endswith("weights.safetensors"), "once, and nothing else"
    assert output.count("4 of 4") == 1
    assert (tmp_path / "lrn" / "weights.safetensors").is_file()


def test_where_it_fails_all_processes_end(tmp_path: Path) -> None:
    done = _face_align(*COMMAND, "--devices", "2", "--learning-rate", "1e30", "--output", str(tmp_path / "lrn"))
    assert done.returncode != 0
    assert "lower the learning rate" in " ".join(done.stderr.split()) + " ".join(done.stdout.split())
    assert not (tmp_path / "lrn" / "weights.safetensors").exists()


def _face_align(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("face-align")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, timeout=120)


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}


def test_torchrun_knows_how_many_there_are() -> None:
    assert started_by_torchrun(4, 3, {}) == (4, 3)
    assert started_by_torchrun(1, 1, TORCHRUN) == started_by_torchrun(2, 3, TORCHRUN) == (2, 3)
    with pytest.raises(SettingError, match="started 2 processes on each of 3 machines, not 4 on each of 1"):
        started_by_torchrun(4, 1, TORCHRUN)


def test_one_device_is_not_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("face_align_env.pretrain.loop.find_device", lambda name: name)
    with pytest.raises(SettingError, match="'cuda:1' is one device, and 4 are to train"):
        make_fabric("cuda:1", devices=2, num_nodes=2)
