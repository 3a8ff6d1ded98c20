"""The hyperparameters of examples/rl_zoo run in RL Baselines3 Zoo, at toy size, from its own commands."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from stable_baselines3 import DDPG, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm

import face_align_env
from face_align_env.agents.common.extractor import LRNExtractor
from face_align_env.agents.common.replay_buffer import FaceReplayBuffer

assert face_align_env  # importing it registers FaceAlign-v0
pytestmark = pytest.mark.skipif(find_spec("rl_zoo3") is None, reason="needs RL Zoo: pip install rl_zoo3")

ROOT = Path(__file__).parent.parent
FILES = ROOT / "examples" / "rl_zoo"
ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"ddpg": DDPG, "td3": TD3, "sac": SAC, "ppo": PPO}
FACES = {"dataset": "synthetic", "dataset_options": {"size": 4}, "landmarks": 19, "initializer": "mean"}
OFF_POLICY = {"learning_starts": 100, "batch_size": 4, "buffer_size": 200, "gradient_steps": 1, "n_envs": 8}
ON_POLICY = {"n_steps": 16, "batch_size": 16, "n_epochs": 1, "n_envs": 8}


def algorithm_class(name: str) -> type[BaseAlgorithm]:
    """The class behind a name of RL Zoo; sb3_contrib comes with it."""
    if name == "tqc":
        return getattr(pytest.importorskip("sb3_contrib"), "TQC")  # noqa: B009 - sb3_contrib may be missing
    return ALGORITHMS[name]


def zoo(command: str, *arguments: object) -> str:
    """What ``python -m rl_zoo3.<command>`` prints on FaceAlign-v0."""
    given = ["--env", "FaceAlign-v0", "--gym-packages", "face_align_env", "--device", "cpu", "--seed", 0, *arguments]
    done = subprocess.run(
        [sys.executable, "-m", f"rl_zoo3.{command}", *map(str, given)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def keywords(**options: object) -> list[str]:
    """``key:value``, as RL Zoo wants keywords on its command line."""
    return [f"{key}:{value!r}" for key, value in options.items()]


def train(algorithm: str, folder: Path, *arguments: object) -> Path:
    """Train 200 steps; where the results are."""
    small = ON_POLICY if algorithm == "ppo" else OFF_POLICY
    zoo(
        "train", "--algo", algorithm, "--conf-file", FILES / f"{algorithm}.yml", "--n-timesteps", 200,
        "--log-folder", folder, "--env-kwargs", *keywords(**FACES), "--hyperparams", *keywords(**small), *arguments,
    )  # fmt: skip
    return folder / algorithm / "FaceAlign-v0_1"


@pytest.mark.parametrize("algorithm", ["ddpg", "td3", "sac", "ppo", "tqc"])
def test_it_trains_and_leaves_a_model(algorithm: str, tmp_path: Path) -> None:
    kind = algorithm_class(algorithm)
    results = train(algorithm, tmp_path, "--eval-freq", -1)
    model = kind.load(results / "FaceAlign-v0.zip", device="cpu")
    assert any(isinstance(module, LRNExtractor) for module in model.policy.modules())
    assert model.gamma == 0.9  # type: ignore[attr-defined] # Table 2
    if algorithm != "ppo":
        assert model.replay_buffer_class is FaceReplayBuffer  # type: ignore[attr-defined]
        assert model._n_updates > 0
    env = gym.make("FaceAlign-v0", disable_env_checker=True, **FACES)
    action, _ = model.predict(env.reset(seed=0)[0], deterministic=True)
    assert action.shape == (38,)
    assert np.isfinite(action).all()
    rows = list(csv.DictReader((results / "0.monitor.csv").read_text().splitlines()[1:]))
    assert {"nme", "initial_nme", "iterations", "is_success"} <= rows[0].keys()


def test_it_evaluates_writes_curves_and_plays_the_result(tmp_path: Path) -> None:
    held_out = {**FACES, "split": "test", "termination": "oracle"}
    results = train(
        "sac", tmp_path, "--tensorboard-log", tmp_path / "curves", "--eval-freq", 104, "--eval-episodes", 2,
        "--save-replay-buffer", "--eval-env-kwargs", *keywords(**held_out),
    )  # fmt: skip
    assert len(np.load(results / "evaluations.npz")["timesteps"]) == 1
    assert (results / "best_model.zip").is_file()
    assert list((tmp_path / "curves").glob("FaceAlign-v0/SAC_1/events*"))
    played = zoo("enjoy", "--algo", "sac", "--folder", tmp_path, "--no-render", "--n-timesteps", 25)
    assert "2 Episodes" in played

    train("sac", tmp_path, "--trained-agent", results / "FaceAlign-v0.zip", "--eval-freq", -1)
    assert (tmp_path / "sac" / "FaceAlign-v0_2" / "FaceAlign-v0.zip").is_file(), "it goes on with the stored buffer"


@pytest.mark.parametrize("path", sorted(FILES.glob("*.yml")), ids=lambda path: path.stem)
def test_noise_on_the_actions_is_small_in_pixels(path: Path) -> None:
    settings = yaml.safe_load(path.read_text())["FaceAlign-v0"]
    for key in ("noise_std", "target_policy_noise", "target_noise_clip"):
        assert 32 * settings.get(key, 0) <= 1, "action_limit is 32 pixels"
    if path.stem == "td3":
        assert {"target_policy_noise", "target_noise_clip"} <= settings.keys(), "their defaults are 6 and 16 pixels"
