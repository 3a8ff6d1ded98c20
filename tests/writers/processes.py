"""Trainings for tests of several processes: ``torchrun --nproc-per-node 2 processes.py FOLDER`` makes them in two.

A training whose name ends in ``apart`` has a folder for each process, as on machines without a common file system, and
one that ends in ``differing`` other faces in each.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from face_align_env.augmentation import Augmentation
from face_align_env.datasets import load_dataset
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN, LRNConfig
from face_align_env.prepared import PreparedFaces
from face_align_env.pretrain import loop
from face_align_env.pretrain.faces import DeviceFaces
from face_align_env.pretrain.objectives import CascadeObjective, GENObjective, Objective, StartJitter, VisitedStates
from face_align_env.pretrain.recipes import TrainingConfig

KINDS = ("cascade", "gen", "normalised")
CONFIG = TrainingConfig(epochs=4, batch_size=8, learning_rate=1e-3, seed=3, checkpoint_seconds=0)  # eight steps
HALF = 4  # steps


def new_objective(kind: str, prepared: PreparedFaces) -> Objective:
    """A fresh network: a cascade from GEN with everything that draws random numbers, or a GEN without or with some."""
    torch.manual_seed(0)
    normalised = {"batch_norm": True, "dropout": 0.2} if kind == "normalised" else {"batch_norm": False, "dropout": 0.0}
    config = GENConfig(num_landmarks=19, input_size=16, width=4, hidden=16, **normalised)  # type: ignore[arg-type]
    gen = GEN(config, prepared.mean_shape())
    if kind != "cascade":
        return GENObjective(gen)
    lrn = LRN(LRNConfig(num_landmarks=19, encoder=((4, 10, 10, 1),), bottleneck=4))
    return CascadeObjective(lrn, gen, 2, StartJitter(), VisitedStates(share=0.7, depth=3))


def train(kind: str, folder: Path, fabric: Fabric, size: int = 16) -> None:
    """Train on so many faces, or go on training, and leave the checkpoint of half the steps in ``folder/half``."""
    faces = PreparedFaces(load_dataset("synthetic", landmarks=19, size=size))
    on_device = DeviceFaces(faces, 256 if kind == "cascade" else 16, progress=False)
    save = loop.save_checkpoint

    def save_and_keep(path: Path, state: dict[str, Any]) -> None:
        save(path, state)
        if state["step"] == HALF:
            (folder / "half").mkdir(exist_ok=True)
            shutil.copy(path, folder / "half")

    loop.save_checkpoint = save_and_keep  # type: ignore[assignment]
    try:
        loop.fit(new_objective(kind, faces), on_device, on_device, CONFIG, Augmentation(), folder, fabric)
    finally:
        loop.save_checkpoint = save


if __name__ == "__main__":
    torch.set_num_threads(1)
    shared = loop.make_fabric("cpu")
    for path in sorted(Path(sys.argv[1]).iterdir()):
        own = path / str(shared.global_rank) if path.name.endswith("apart") else path
        size = 16 + shared.global_rank if path.name.endswith("differing") else 16
        train(path.name.partition("-")[0], own, shared, size)
