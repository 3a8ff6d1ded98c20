"""Networks that are cheap enough for tests, and faces that a detector sees."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from face_align_env.aligner.haar import SEARCHES, look
from face_align_env.datasets import load_dataset
from face_align_env.networks.gen import GEN, GENConfig


@pytest.fixture
def gen(mean_shape: np.ndarray) -> GEN:
    torch.manual_seed(0)
    return GEN(GENConfig(input_size=16, width=4, hidden=16), mean_shape)


@pytest.fixture(scope="session")
def drawn() -> list[tuple[np.ndarray, np.ndarray]]:
    """Synthetic faces that the first cascade sees, with their boxes; it was made for photos, and sees about half."""
    dataset = load_dataset("synthetic", "test", size=24)
    faces = [(face.image, face.box) for face in map(dataset.__getitem__, range(len(dataset)))]
    seen = [
        (image, box) for image, box in faces if len(look(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), SEARCHES[0])) == 1
    ]
    assert len(seen) >= 4
    return seen[:4]
