"""Small pieces of long work that :mod:`tests.trust.kills` interrupts: ``python tests/trust/work.py NAME FOLDER``.

Each writes checkpoints as often as it can, so that a kill hits one while it is written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from face_align_env.agents.dcrn.config import AgentConfig
from face_align_env.agents.dcrn.training import train_dcrn
from face_align_env.datasets import load_dataset
from face_align_env.networks.lrn import LRN, LRNConfig
from face_align_env.prepared import PreparedFaces, prepare_on_disk
from face_align_env.pretrain.loop import make_fabric
from face_align_env.pretrain.recipes import Data, TrainingConfig
from face_align_env.pretrain.stages import FacesOnDevice, pretrain_gen, pretrain_lrn

DATA = Data("synthetic", options={"size": 16})
QUICK = TrainingConfig(epochs=20, batch_size=8, checkpoint_seconds=0)


def gen(folder: Path) -> None:
    """GEN, 40 steps."""
    pretrain_gen(FacesOnDevice(DATA, "cpu"), "tiny", QUICK, folder, make_fabric("cpu"))


def lrn(folder: Path) -> None:
    """LRN-2 from the mean shape, 40 steps."""
    pretrain_lrn(FacesOnDevice(DATA, "cpu"), "tiny", QUICK, folder, make_fabric("cpu"), None, 2)


def dcrn(folder: Path) -> None:
    """DCRN, 240 transitions."""
    weights = folder.with_name(f"{folder.name}-lrn") / "weights.safetensors"
    if not weights.is_file():
        torch.manual_seed(0)
        LRN(LRNConfig(encoder=((4, 10, 10, 1),), bottleneck=4)).save(weights)
    config = AgentConfig(
        timesteps=240, num_envs=4, batch_size=8, checkpoint_timesteps=8, overrides={"learning_starts": 16}
    )
    train_dcrn(weights, config, folder, "cpu", dataset="synthetic", dataset_options={"size": 16}, initializer="mean")


def prepare(folder: Path) -> None:
    """40 faces, prepared on disk; $FACE_ALIGN_CACHE says where."""
    prepare_on_disk(PreparedFaces(load_dataset("synthetic", size=40)))
    folder.mkdir(exist_ok=True)
    (folder / "done").write_text("40", encoding="utf-8")


WORK: dict[str, Callable[[Path], None]] = {"gen": gen, "lrn": lrn, "dcrn": dcrn, "prepare": prepare}

if __name__ == "__main__":
    torch.set_num_threads(1)
    WORK[sys.argv[1]](Path(sys.argv[2]))
