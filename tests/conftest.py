"""A small dataset of blurred noise with plausible 68-point shapes: enough for everything that is not learning."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import gymnasium as gym
import numpy as np
import numpy.typing as npt
import pytest
import torch

from face_align_env import LearnedHistory
from face_align_env.datasets import Annotation, FaceDataset
from face_align_env.initialization import MeanShape
from face_align_env.networks.lrn import LRN, LRNConfig
from face_align_env.prepared import PreparedFaces

# Files whose tests take more than a few seconds together (--durations=0), and single tests: they train, run whole
# commands, or read thousands of faces. pytest -m "not slow" leaves them out.
SLOW = {
    "test_ablations.py",
    "test_aflw.py",
    "test_algorithm.py",
    "test_app.py",
    "test_benchmark.py",
    "test_calibration.py",
    "test_cluster.py",
    "test_collect.py",
    "test_commands.py",
    "test_export.py",
    "test_javascript.py",
    "test_contract.py",
    "test_data.py",
    "test_detection.py",
    "test_env_checkers_pass_on_every_dataset",
    "test_examples.py",
    "test_examples_in_python_run",
    "test_figures.py",
    "test_landmarks_are_inside_the_image_and_in_the_box",
    "test_loop.py",
    "test_mat.py",
    "test_memory_does_not_grow_with_the_steps",
    "test_packaging.py",
    "test_paper_tables.py",
    "test_parquet.py",
    "test_peers.py",
    "test_photos.py",
    "test_plugged_examples.py",
    "test_processes_share_the_memory_of_their_faces",
    "test_recipes.py",
    "test_recording.py",
    "test_release.py",
    "test_replay_buffer.py",
    "test_resume.py",
    "test_rl_zoo.py",
    "test_robustness.py",
    "test_run_seeds.py",
    "test_seeds.py",
    "test_speed.py",
    "test_store.py",
    "test_sweep.py",
    "test_synthetic.py",
    "test_tasks.py",
    "test_tradeoff.py",
    "test_training.py",
    "test_vec_env.py",
    "test_verification.py",
    "test_video_speed_puts_dlib_beside_the_tracker",
    "test_watch.py",
    "test_web.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # tests/trust has files of the same names, and says itself what is slow.
        if item.path.parent.name != "trust" and {item.path.name, item.name.partition("[")[0]} & SLOW:
            item.add_marker(pytest.mark.slow)


def _arc(x0: float, x1: float, y: float, height: float, n: int) -> npt.NDArray[np.float64]:
    u = np.linspace(-1, 1, n)
    return np.stack([x0 + (x1 - x0) * (u + 1) / 2, y + height * (1 - u**2)], -1)


def _ring(x: float, y: float, rx: float, ry: float, n: int) -> npt.NDArray[np.float64]:
    angle = np.pi + np.arange(n) * 2 * np.pi / n
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], -1)


# A symmetric face in the 68-point order, about one unit wide.
FACE = np.concatenate(
    [
        _arc(-0.5, 0.5, -0.1, 0.65, 17),
        _arc(-0.42, -0.1, -0.2, -0.07, 5),
        _arc(0.1, 0.42, -0.2, -0.07, 5),
        np.stack([np.zeros(4), np.linspace(-0.12, 0.1, 4)], -1),
        _arc(-0.1, 0.1, 0.15, 0.03, 5),
        _ring(-0.24, -0.1, 0.08, 0.03, 6),
        _ring(0.24, -0.1, 0.08, 0.03, 6),
        _ring(0, 0.32, 0.18, 0.07, 12),
        _ring(0, 0.32, 0.14, 0.03, 8),
    ]
)


class ToyFaces(FaceDataset):
    """Face i of a split is a function of (split, i)."""

    name = "toy"
    description = "blurred noise with 68-point shapes"
    licence = "MIT"
    splits = ("train", "test")

    def __init__(self, split: str = "train", size: int = 6) -> None:
        super().__init__(split)
        self._size = size

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng([self.splits.index(self.split), index])

    def __len__(self) -> int:
        return self._size

    def annotation(self, index: int) -> Annotation:
        rng = self._rng(index)
        angle, size = rng.normal(0, 0.3), rng.uniform(100, 220)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        shape = size * (FACE + rng.normal(0, 0.01, FACE.shape)) @ rotation.T + rng.uniform(140, 180, 2)
        landmarks = shape.astype(np.float32)
        box = np.concatenate([landmarks.min(0), landmarks.max(0)])
        return Annotation(landmarks, box, np.ones(68, dtype=np.bool_), f"{self.split}-{index}")

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        noise = self._rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        return np.asarray(cv2.resize(noise, (320, 320), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


@pytest.fixture(scope="session")
def toy_dataset() -> Callable[..., ToyFaces]:
    """``toy_dataset(split="train", size=6)``."""
    return ToyFaces


@pytest.fixture(scope="session", autouse=True)
def prepared_faces_apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests keep prepared faces, and the key that signs models, in folders of their own, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACE_ALIGN_CACHE", str(tmp_path_factory.mktemp("prepared")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module", autouse=True)
def leaks_stay_where_they_are() -> Iterator[None]:
    """What servers leave open is collected in the module that has started them, not where warnings are counted."""
    yield
    if {"gradio", "ray"} & sys.modules.keys():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()


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
