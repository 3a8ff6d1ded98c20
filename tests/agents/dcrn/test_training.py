"""Training DCRN with checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from face_align_env.agents.dcrn import training
from face_align_env.agents.dcrn.algorithm import DCRN
from face_align_env.agents.dcrn.config import AgentConfig
from face_align_env.agents.dcrn.training import CHECKPOINT, train_dcrn
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN
from face_align_env.networks.weights import load_weights
from face_align_env.pretrain.checkpoint import CheckpointError

OVERRIDES = {"learning_starts": 8, "critic_warmup": 0, "buffer_size": 100, "policy_kwargs": {"net_arch": [16]}}


def new_gen(seed: int = 0) -> GEN:
    torch.manual_seed(seed)
    return GEN(GENConfig(input_size=16, width=4, hidden=16), 60 + 130 * torch.rand(68, 2))


@pytest.fixture
def train(toy_dataset: Any, new_lrn: Callable[..., LRN], tmp_path: Path) -> Any:
    """``train(timesteps, **config)`` in one and the same folder."""
    new_lrn(action_limit=16.0).save(tmp_path / "lrn.safetensors")
    new_gen().save(tmp_path / "gen.safetensors")

    def call(timesteps: int, dataset: Any = None, seed: int = 0, **config: Any) -> DCRN:
        settings = AgentConfig(
            timesteps, num_envs=2, batch_size=8, **{"checkpoint_timesteps": 10, "overrides": OVERRIDES, **config}
        )
        return train_dcrn(
            tmp_path / "lrn.safetensors",
            settings,
            tmp_path / "dcrn",
            "cpu",
            seed=seed,
            dataset=dataset or toy_dataset(),
            initializer=str(tmp_path / "gen.safetensors"),
            max_iterations=3,
        )

    return call


def test_it_writes_model_weights_and_curves(train: Any, tmp_path: Path) -> None:
    model = train(20)
    folder = tmp_path / "dcrn"
    assert {"model.zip", CHECKPOINT, "weights.safetensors"} <= {path.name for path in folder.iterdir()}
    assert not list(folder.glob("*.tmp")), "no temporary file is left"
    assert list((folder / "tensorboard").glob("events*"))
    lrn = LRN.load(folder / "weights.safetensors")
    assert lrn.config.action_limit == 16, "the environment takes LRN's limit"
    for name, tensor in model.lrn.state_dict().items():
        assert torch.equal(lrn.state_dict()[name], tensor)
    notes = load_weights(folder / "weights.safetensors", "lrn")[2]
    assert (notes["agent"], notes["preset"], notes["timesteps"]) == ("DCRN", "stable", 20)
    changed = load_weights(tmp_path / "lrn.safetensors", "lrn")[1]["action.weight"]
    assert not torch.equal(lrn.action.weight, changed), "it has learned"


@pytest.mark.parametrize("begun", [0, 6])
def test_its_progress_ends_where_it_ends(train: Any, capsys: pytest.CaptureFixture[str], begun: int) -> None:
    if begun:
        train(begun)
    train(9)  # two faces at once: ten steps
    assert "DCRN: 10 of 10" in capsys.readouterr().err


class KilledError(Exception):
    pass


def kill_at(timesteps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    step = training._Checkpoints._on_step

    def until(self: Any) -> bool:
        if self.num_timesteps == timesteps:
            raise KilledError
        return step(self)

    monkeypatch.setattr(training._Checkpoints, "_on_step", until)


def same(first: Any, second: Any) -> bool:
    """Whether two states of a training are equal to the bit; episodes' wall clock is left out."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(key == "t" or same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    return bool(first == second)


@pytest.mark.parametrize("preset", ["stable", "paper"])
def test_a_killed_training_ends_like_an_unbroken_one(
    train: Any, preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = training.training_state(train(40, preset=preset))
    (tmp_path / "dcrn").rename(tmp_path / "unbroken")
    for timesteps in (6, 26, 34):
        kill_at(timesteps, monkeypatch)
        with pytest.raises(KilledError):
            train(40, preset=preset)
        monkeypatch.undo()
        np.random.seed(timesteps)  # whatever else happens in between
        torch.manual_seed(timesteps)
        assert (tmp_path / "dcrn" / CHECKPOINT).exists() == (timesteps > 10)
    resumed = training.training_state(train(40, preset=preset))
    assert resumed["counters"] == {"num_timesteps": 40, "_n_updates": 64, "_episode_num": 12}
    assert same(resumed, unbroken)
    weights = [load_weights(tmp_path / name / "weights.safetensors", "lrn")[1] for name in ("unbroken", "dcrn")]
    assert same(*weights)


def test_a_finished_training_goes_on_with_more_timesteps(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train(20)
    assert train(40).num_timesteps == 40
    kill_at(42, monkeypatch)
    assert train(40).num_timesteps == 40, "nothing is left to do"


def test_networks_and_faces_are_told_by_their_contents(
    train: Any, tmp_path: Path, new_lrn: Callable[..., LRN], toy_dataset: Any
) -> None:
    train(10)
    with pytest.raises(ValueError, match=r"faces: .* before, .* now"):
        train(20, dataset=toy_dataset(size=7))
    for name, what in (("gen.safetensors", "environment"), ("lrn.safetensors", "lrn_sha256")):
        before = (tmp_path / name).read_bytes()
        network: Any = new_gen(seed=5) if name == "gen.safetensors" else new_lrn(seed=5, action_limit=16.0)
        network.save(tmp_path / name)
        with pytest.raises(ValueError, match=f"other settings.*{what}"):
            train(20)
        (tmp_path / name).write_bytes(before)
    assert train(20).num_timesteps == 20


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-1], lambda data: data[:-9] + b"\1" * 9])
def test_a_damaged_checkpoint_is_named(train: Any, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    train(10)
    path = tmp_path / "dcrn" / CHECKPOINT
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors' is damaged .* Remove it"):
        train(20)


def test_a_training_of_an_older_version_says_what_to_do(train: Any, tmp_path: Path) -> None:
    (tmp_path / "dcrn").mkdir()
    (tmp_path / "dcrn" / "replay_buffer.pkl").write_bytes(b"code")
    with pytest.raises(CheckpointError, match=r"older version.*Remove the folder"):
        train(20)


def test_another_seed_is_another_training(train: Any, tmp_path: Path) -> None:
    weights = []
    for seed in (1, 1, 2):
        shutil.rmtree(tmp_path / "dcrn", ignore_errors=True)
        weights.append(train(14, seed=seed).lrn.action.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
