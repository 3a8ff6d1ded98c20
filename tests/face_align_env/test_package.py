"""What the package as a whole promises: its names, its imports, and the environment's registration."""

from __future__ import annotations

import doctest
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from writers.every import WRITERS

import face_align_env
from face_align_env import FaceAlignEnv


def test_importing_the_package_is_cheap() -> None:
    program = (
        "import sys, time; start = time.process_time(); import face_align_env; took = time.process_time() - start\n"
        "heavy = {'torch', 'cv2', 'stable_baselines3', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "import face_align_env.env, face_align_env.vector_env\n"
        "print(took, sorted(heavy), 'torch' in sys.modules)"
    )
    outcomes = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split(" ", 1)
        for _ in range(3)
    ]
    assert {rest.strip() for _, rest in outcomes} == {"[] False"}
    assert min(float(took) for took, _ in outcomes) < 0.5


def test_names_of_the_package() -> None:
    for name in face_align_env.__all__:
        assert callable(getattr(face_align_env, name))
        assert name in dir(face_align_env)
    with pytest.raises(AttributeError, match="nothing"):
        _ = face_align_env.nothing


def test_the_spec_can_be_written_as_json(tmp_path: Path) -> None:
    from gymnasium.envs.registration import EnvSpec

    WRITERS["300w"](tmp_path)
    options = {"dataset": "300w", "root": tmp_path, "initializer": "mean", "augment": {"rotation": 5.0}}
    warnings.filterwarnings("ignore", message=".*of the protocol's.*")
    env = gym.make("FaceAlign-v0", **options)
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    np.testing.assert_equal(again.reset(seed=0), env.reset(seed=0))
    envs = gym.make_vec("FaceAlign-v0", num_envs=2, **options)
    assert str(tmp_path) in envs.spec.to_json()


def test_the_module_prefix_registers_the_environment() -> None:
    program = (
        "import gymnasium as gym\n"
        "env = gym.make('face_align_env:FaceAlign-v0', dataset_options={'size': 2}, initializer='mean')\n"
        "print(env.reset(seed=0)[1]['iterations'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_snippets_in_the_docstring_run() -> None:
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner()
    for test in finder.find(FaceAlignEnv, "FaceAlignEnv", globs={}):
        runner.run(test)
    results = runner.summarize(verbose=False)
    assert results.attempted > 0
    assert results.failed == 0
