"""FaceAlign-v0 on faces that are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from face_align_env import FaceAlignEnv
from face_align_env.datasets import FaceDataset
from face_align_env.prepared import FaceSource

Toy = Callable[..., FaceDataset]
A = 136  # 2K


def make(dataset: FaceDataset | FaceSource, **options: Any) -> FaceAlignEnv:
    env = gym.make("FaceAlign-v0", dataset=dataset, **{"initializer": "mean", **options}).unwrapped
    assert isinstance(env, FaceAlignEnv)
    return env


def corner(crops: np.ndarray) -> np.ndarray:
    """An initializer that needs no training split."""
    return np.zeros((len(crops), 68, 2), dtype=np.float32)


def small_action() -> np.ndarray:
    """Its L1 length is under alpha_2 K = 3 x 68."""
    return np.full(A, 1.0, dtype=np.float32)


def large_action(sign: float = 1.0) -> np.ndarray:
    return np.full(A, sign * 4.0, dtype=np.float32)
