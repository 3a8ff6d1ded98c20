"""Writes released weights of networks that have learnt nothing, and their card."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from face_align_env.networks.confidence import ErrorHead
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN, LRNConfig
from face_align_env.networks.weights import file_digest, save_bundle

METRIC = {
    "dataset": "300w", "split": "full", "faces": 689, "method": "DCRN", "nme": 4.5, "nme_low": 4.3, "nme_high": 4.8,
    "failure_rate": 3.0, "iterations": 2.1,
}  # fmt: skip


def micro_gen(num_landmarks: int = 68) -> GEN:
    """Coordinates of the mean shape that float16 does not have, running statistics that it does not reach."""
    torch.manual_seed(0)
    gen = GEN(GENConfig(num_landmarks, 16, 4, 16, batch_norm=True), 128 + 50 * torch.rand(num_landmarks, 2))
    norm = gen.features[1]
    assert isinstance(norm, torch.nn.BatchNorm2d)
    assert norm.running_var is not None
    norm.running_var.fill_(1e6)
    return gen.eval()


def micro_lrn(num_landmarks: int = 68) -> LRN:
    torch.manual_seed(1)
    return LRN(LRNConfig(num_landmarks, encoder=((4, 10, 10, 1),), bottleneck=4)).eval()


def card_of(path: Path, gen: GEN, lrn: LRN, **changes: Any) -> dict[str, Any]:
    """The document of a card that describes a file."""
    document = {
        "name": path.stem,
        "landmarks": gen.num_landmarks,
        "data": {"datasets": {"300w": 3148}, "boxes": "landmarks", "missing": []},
        "recipe": "none",
        "command": "face-align run",
        "preset": "micro",
        "parameters": {name: sum(p.numel() for p in net.parameters()) for name, net in (("gen", gen), ("lrn", lrn))},
        "seed": 0,
        "alpha_2": 2.5,
        "margin": 0.2,
        "action_limit": lrn.config.action_limit,
        "metrics": [METRIC],
        "license": "MIT",
        "intended_use": "tests",
        "not_trained_on": "any face",
        "sha256": file_digest(path),
        "created_with": "0.1.0",
    }
    return {**document, **changes}


def write_bundle(path: Path, gen: GEN, lrn: LRN, head: ErrorHead | None = None) -> None:
    """Both networks as a release, with the head of the confidence if there is one."""
    parts: dict[str, Any] = {"gen": gen, "lrn": lrn} | ({} if head is None else {"confidence": head})
    save_bundle(path, {key: (asdict(net.config), net.state_dict()) for key, net in parts.items()}, half=True)
