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
from face_align_env.agents.dcrn.training import AgentConfig, train_dcrn

from face_align_env.initialization import MeanShape
from face_align_env.networks.lrn import LRN
from face_align_env.networks.weights import load_weights

OVERRIDES = {"learning_starts": 8, "critic_warmup": 0, "buffer_size": 100, "policy_kwargs": {"net_arch": [16]}}


@pytest.fixture
def train(toy_dataset: Any, mean_shape: np.ndarray, new_lrn: Callable[..., LRN], tmp_path: Path) -> Any:
    """``train(timesteps, **config)`` in one and the same folder."""
    new_lrn(action_limit=16.0).save(tmp_path / "lrn.safetensors")

    def call(timesteps: int, **config: Any) -> DCRN:
        settings = AgentConfig(
            timesteps, num_envs=2, batch_size=8, **{"checkpoint_timesteps": 10, "overrides": OVERRIDES, **config}
        )
        return train_dcrn(
            tmp_path / "lrn.safetensors",
            settings,
            tmp_path / "dcrn",
            "cpu",
            dataset=toy_dataset(),
            initializer=MeanShape(mean_shape),
            max_iterations=3,
        )

    return call


def test_it_writes_model_weights_and_curves(train: Any, tmp_path: Path) -> None:
    model = train(20)
    folder = tmp_path / "dcrn"
    assert {"model.zip", "replay_buffer.pkl", "weights.safetensors"} <= {path.name for path in folder.iterdir()}
    assert not list(folder.glob(".*")), "no temporary file is left"
    assert list((folder / "tensorboard").glob("events*"))
    lrn = LRN.load(folder / "weights.safetensors")
    assert lrn.config.action_limit == 16, "the environment takes LRN's limit"
    for name, tensor in model.lrn.state_dict().items():
        assert torch.equal(lrn.state_dict()[name], tensor)
    notes = load_weights(folder / "weights.safetensors", "lrn")[2]
    assert (notes["agent"], notes["preset"], notes["timesteps"]) == ("DCRN", "stable", 20)
    changed = load_weights(tmp_path / "lrn.safetensors", "lrn")[1]["action.weight"]
    assert not torch.equal(lrn.action.weight, changed), "it has learned"


class KilledError(Exception):
    pass


def test_a_killed_training_goes_on(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = training._Checkpoints._on_step

    def until(self: Any) -> bool:
        if self.num_timesteps == 26:
            raise KilledError
        return step(self)

    monkeypatch.setattr(training._Checkpoints, "_on_step", until)
    with pytest.raises(KilledError):
        train(40)
    monkeypatch.undo()
    assert not (tmp_path / "dcrn" / "weights.safetensors").exists()

    begun: list[int] = []
    learn = DCRN.learn

    def watched(self: DCRN, *arguments: Any, **options: Any) -> DCRN:
        begun.append(self.num_timesteps)
        return learn(self, *arguments, **options)

    monkeypatch.setattr(DCRN, "learn", watched)
    model = train(40)
    assert begun == [20], "from the last checkpoint"
    assert model.num_timesteps == 40
    assert model.replay_buffer is not None
    # the transition that a checkpoint falls on is stored after it
    assert model.replay_buffer.size() == pytest.approx(40 / 2, abs=1)
    train(40)
    assert begun == [20], "nothing is left to do"


def test_another_seed_is_another_training(train: Any, tmp_path: Path) -> None:
    weights = []
    for seed in (1, 1, 2):
        shutil.rmtree(tmp_path / "dcrn", ignore_errors=True)
        weights.append(train(14, seed=seed).lrn.action.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
