"""Networks small enough for tests, and what they look at."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor, nn

from face_align_env.mdp import HISTORY_SIZE
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN, LRNConfig

MICRO_GEN = GENConfig(input_size=16, width=4, hidden=16)
MICRO_LRN = LRNConfig(encoder=((4, 10, 10, 1),), bottleneck=4)


def micro_gen(**options: object) -> GEN:
    torch.manual_seed(0)
    shape = np.random.default_rng(0).uniform(60, 200, (68, 2))
    return GEN(GENConfig(**{**asdict(MICRO_GEN), **options}), shape).eval()  # type: ignore[arg-type]


def micro_lrn(gain: float = 1.0) -> LRN:
    torch.manual_seed(1)
    lrn = LRN(MICRO_LRN)
    with torch.no_grad():
        lrn.action.weight.mul_(gain)
    return lrn.eval()


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def history(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, HISTORY_SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def num_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
