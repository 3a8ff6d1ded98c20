"""Networks and environments that are cheap enough for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import face_align_env
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.agents.dcrn.algorithm import DCRN
from face_align_env.initialization import MeanShape
from face_align_env.networks.lrn import LRN

assert face_align_env  # importing it registers FaceAlign-v0


@pytest.fixture
def lrn(new_lrn: Callable[..., LRN]) -> LRN:
    return new_lrn()


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


@pytest.fixture
def three_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of three nodes of one core, ``three_nodes.nodes``, the head first, all on this machine."""
    pytest.importorskip("ray", reason="the extra cluster is not installed")
    from ray.cluster_utils import Cluster

    # Each asks for more memory than nodes that share this machine's have.
    for module in ("benchmark.cluster", "sweep.tuner"):
        monkeypatch.setattr(f"face_align_env.agents.{module}.MEMORY_OF_A_TRIAL", 1_000_000)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # workers come last by default, and a busy machine starves them
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.nodes = [cluster.head_node, *(cluster.add_node(num_cpus=1) for _ in range(2))]
    yield cluster
    cluster.shutdown()
