"""Networks and environments that are cheap enough for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import face_align_env
from face_align_env import LearnedHistory
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.agents.dcrn.algorithm import DCRN
from face_align_env.initialization import MeanShape
from face_align_env.networks.lrn import LRN, LRNConfig
from face_align_env.prepared import PreparedFaces

assert face_align_env  # importing it registers FaceAlign-v0


@pytest.fixture(scope="session")
def new_lrn() -> Callable[..., LRN]:
    """``new_lrn(seed=0, gain=1, **config)``; a higher gain takes larger steps."""

    def make(seed: int = 0, gain: float = 1.0, **config: Any) -> LRN:
        torch.manual_seed(seed)
        lrn = LRN(LRNConfig(**{"encoder": ((4, 10, 10, 1),), "bottleneck": 4, **config})).eval()
        with torch.no_grad():
            lrn.action.weight.mul_(gain)
        return lrn

    return make


@pytest.fixture
def lrn(new_lrn: Callable[..., LRN]) -> LRN:
    return new_lrn()


@pytest.fixture(scope="session")
def mean_shape(toy_dataset: Any) -> np.ndarray:
    """(68, 2) of the toy training faces."""
    return PreparedFaces(toy_dataset()).mean_shape()


@pytest.fixture(scope="session")
def toy_env(toy_dataset: Any, mean_shape: np.ndarray) -> Callable[..., gym.Env[Any, Any]]:
    """``toy_env(learned=False, split="train", **options)``."""

    def make(learned: bool = False, split: str = "train", **options: Any) -> gym.Env[Any, Any]:
        options = {"initializer": MeanShape(mean_shape), **options}
        env = gym.make("FaceAlign-v0", disable_env_checker=True, dataset=toy_dataset(split), **options)
        return LearnedHistory(env) if learned else env

    return make


@pytest.fixture(scope="session")
def toy_vec_env(toy_dataset: Any, mean_shape: np.ndarray) -> Callable[..., FaceAlignVecEnv]:
    """``toy_vec_env(num_envs=2, learned=False, split="train", **options)``."""

    def make(num_envs: int = 2, learned: bool = False, split: str = "train", **options: Any) -> FaceAlignVecEnv:
        options = {"initializer": MeanShape(mean_shape), **options}
        return FaceAlignVecEnv(num_envs, dataset=toy_dataset(split), learned_history=learned, **options)

    return make


@pytest.fixture
def new_dcrn(lrn: LRN) -> Callable[..., DCRN]:
    """``new_dcrn(env, **options)``: small minibatches, updates from the eighth transition on."""

    def make(env: Any, **options: Any) -> DCRN:
        small: dict[str, Any] = {
            "lrn": lrn,
            "learning_starts": 8,
            "batch_size": 8,
            "buffer_size": 100,
            "policy_kwargs": {"net_arch": [16]},
            "seed": 0,
            "device": "cpu",
        }
        return DCRN(env=env, **{**small, **options})

    return make
