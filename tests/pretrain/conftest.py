"""Networks that are trained in a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.prepared import PreparedFaces
from face_align_env.pretrain.faces import DeviceFaces


@pytest.fixture(scope="session")
def device_faces(toy_dataset: Callable[..., Any]) -> Callable[..., DeviceFaces]:
    """``device_faces(split, num_faces, crop_size)``."""

    def make(split: str = "train", num_faces: int = 6, size: int = 256) -> DeviceFaces:
        return DeviceFaces(PreparedFaces(toy_dataset(split, size=num_faces)), size, progress=False)

    return make


@pytest.fixture(scope="session")
def new_gen() -> Callable[..., GEN]:
    """``new_gen(faces, seed=0, **config)``."""

    def make(faces: DeviceFaces, seed: int = 0, **config: Any) -> GEN:
        torch.manual_seed(seed)
        return GEN(GENConfig(**{"input_size": 16, "width": 4, "hidden": 16, **config}), faces.prepared.mean_shape())

    return make
