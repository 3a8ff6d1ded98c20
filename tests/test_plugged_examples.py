"""The examples that plug in other libraries, or no library: they run, at toy size, and say what they promise to say."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import gymnasium as gym
import numpy as np
import pytest

from face_align_env.agents.common.policies import import_policy
from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.lrn import LRN

ROOT = Path(__file__).parent.parent

Run = Callable[..., list[str]]

OFFLINE = ("--episodes", 8, "--size", 8, "--eval-faces", 4, "--updates", 4, "--batch-size", 8)
RLLIB = (
    *("--timesteps", 32, "--batch-size", 32, "--epochs", 1, "--num-envs", 2, "--size", 6, "--eval-faces", 4),
    *("--modes", 4),
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """``run("rllib_ppo", "--seed", 0)`` from the repository's root: what the script prints, line by line."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))

    def run_script(name: str, *arguments: object) -> list[str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return run_script


@pytest.fixture
def handwritten(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as others import it."""
    monkeypatch.chdir(ROOT)
    import_policy("examples.handwritten_policy:policy")
    return sys.modules["examples.handwritten_policy"]


def measured(lines: list[str]) -> tuple[str, str]:
    """What is said of the policy before and after learning."""
    (before,) = (line for line in lines if line.startswith("before: mean return "))
    (after,) = (line for line in lines if line.startswith("after: mean return "))
    return before.removeprefix("before: "), after.removeprefix("after: ")


def test_a_trained_agent_collects_a_dataset_of_its_task(run: Run) -> None:
    minari = pytest.importorskip("minari", reason="the extra minari is not installed")
    lines = run("collect_task", "--episodes", 3)
    dataset = minari.load_dataset("face-align/FaceAlign-State19-ppo-v0")
    transitions = sum(len(episode.actions) for episode in dataset.iterate_episodes())
    assert lines[0] == f"{dataset.id}: 3 episodes, {transitions} transitions"
    for episode in dataset.iterate_episodes():
        assert episode.observations.shape == (len(episode.actions) + 1, 11)
        assert episode.terminations.tolist() == [False] * (len(episode.actions) - 1) + [True]
    assert dataset.recover_environment(eval_env=True).spec.kwargs["split"] == "test"


def final_nme(said: str) -> float:
    """``... NME 30.6 % -> 20.5 %, ...``: percent."""
    return float(said.split("-> ")[1].split(" %")[0])


def test_the_handwritten_policy_is_better_than_doing_nothing(run: Run) -> None:
    before, after = measured(run("handwritten_policy", "--landmarks", 19, "--size", 300, "--eval-faces", 20))
    assert final_nme(after) < 0.9 * final_nme(before)


def test_the_handwritten_policy_takes_one_observation_or_many(
    handwritten: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    descent = handwritten.SupervisedDescent.fit(num_faces=8, landmarks=19)
    monkeypatch.setattr(handwritten, "fitted", {19: descent}.__getitem__)
    envs = gym.make_vec("FaceAlign-v0", num_envs=3, landmarks=19, dataset_options={"size": 3}, initializer="mean")
    observations, _ = envs.reset(seed=0)
    for _ in range(descent_length := len(descent.regressions)):
        together = handwritten.policy(observations)
        assert together.shape == (3, 38)
        for j in range(3):
            alone = handwritten.policy({key: value[j] for key, value in observations.items()})
            np.testing.assert_allclose(alone, together[j], rtol=1e-4, atol=1e-3)
        observations, *_ = envs.step(together)
    assert descent_length == handwritten.STAGES


def test_the_history_tells_the_handwritten_policy_which_regression_is_next(handwritten: ModuleType) -> None:
    stages = [np.zeros((36 * 19 + 1, 38)) for _ in range(3)]
    for number, regression in enumerate(stages, 1):
        regression[-1] = number  # of the constant feature
    descent = handwritten.SupervisedDescent(stages)
    env = gym.make("FaceAlign-v0", landmarks=19, dataset_options={"size": 1}, initializer="mean", alpha_1=1e-9)
    observation, _ = env.reset(seed=0)
    played = []
    for _ in range(5):
        action = descent(observation)
        played.append(float(action[0]))
        observation, *_ = env.step(action)
    assert played == [1, 2, 3, 3, 3]


@pytest.mark.parametrize("alpha", [0, 1])
def test_offline_learning_measures_itself_and_is_deterministic(run: Run, tmp_path: Path, alpha: float) -> None:
    pytest.importorskip("minari", reason="Minari is not installed")
    arguments = (*OFFLINE, "--policy", "random", "--alpha", alpha, "--output", tmp_path)
    first = run("offline_minari", *arguments)
    assert first[0].startswith("collected face-align/synthetic-19-handwritten-v0: 8 episodes")
    again = run("offline_minari", *arguments)
    assert not any(line.startswith("collected") for line in again), "the dataset is there"
    assert measured(first) == measured(again)
    LRN.load(tmp_path / "actor.safetensors")


def test_cloning_comes_near_to_the_actions_of_the_dataset(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("minari", reason="Minari is not installed")
    (tmp_path / "constant.py").write_text(
        "import numpy as np\n\n\ndef policy(observation):\n    return np.full(38, 4.0)\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        arguments = (*OFFLINE, "--policy", "constant:policy", "--alpha", 0, "--updates", 60, "--output", tmp_path)
        run("offline_minari", *arguments)
    finally:
        sys.path.remove(str(tmp_path))
    actor = LRN.load(tmp_path / "actor.safetensors")
    env = gym.make("FaceAlign-v0", landmarks=19, dataset_options={"size": 8}, initializer="mean")
    import torch

    observation, _ = env.reset(seed=0)
    state = (torch.from_numpy(observation[key])[None] for key in ("patches", "history"))
    with torch.no_grad():
        action, _ = actor(*state)
    assert action.mean() == pytest.approx(4.0, abs=1.0)


def test_rllib_measures_itself(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    LRN(lrn_network.preset("tiny", 19)).save(tmp_path / "lrn.safetensors")
    lines = run("rllib_ppo", *RLLIB, "--lrn", tmp_path / "lrn.safetensors", "--output", tmp_path / "checkpoint")
    measured(lines)
    assert any(line.split()[1:2] == ["steps"] for line in lines)
    assert (tmp_path / "checkpoint" / "rllib_checkpoint.json").is_file()


@pytest.mark.parametrize(
    ("script", "library", "extra"), [("rllib_ppo", "ray", "rllib"), ("offline_minari", "minari", "minari")]
)
def test_what_is_missing_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], script: str, library: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SystemExit, match=rf'pip install "face-align-env\[{extra}\]"'):
        run(script)
    with pytest.raises(SystemExit) as stop:
        run(script, "--help")
    assert not stop.value.code
    assert f"python examples/{script}.py" in capsys.readouterr().out


FEW = ("--size", 8, "--eval-faces", 4)
LIBRARIES = {
    "skrl_ppo": ("skrl", ("--timesteps", 64, "--num-envs", 2, "--rollout", 16)),
    "torchrl_ppo": ("torchrl", ("--timesteps", 64, "--batch-size", 32, "--minibatch-size", 16, "--epochs", 1)),
    "tianshou_ppo": ("tianshou.algorithm", ("--timesteps", 64, "--num-envs", 2, "--batch-size", 32)),
    "sb3_crossq": ("sb3_contrib", ("--timesteps", 64, "--num-envs", 4, "--learning-starts", 16)),
}


@pytest.mark.parametrize("script", LIBRARIES)
def test_another_library_learns_and_measures_itself(run: Run, script: str) -> None:
    module, arguments = LIBRARIES[script]
    pytest.importorskip(module, exc_type=ImportError)
    before, after = measured(run(script, *arguments, *FEW))
    assert before != after


def test_d3rlpy_learns_from_a_minari_dataset(run: Run, tmp_path: Path) -> None:
    for module in ("minari", "d3rlpy"):
        pytest.importorskip(module, exc_type=ImportError)
    arguments = ("--episodes", 8, "--policy", "random", "--updates", 8, "--batch-size", 8, "--output", tmp_path)
    before, after = measured(run("d3rlpy_offline", *arguments, *FEW))
    assert final_nme(before) != final_nme(after)
    assert (tmp_path / "model.d3").is_file()


def test_subprocesses_need_no_import_of_this_package() -> None:
    arguments = ["--timesteps", "32", "--num-envs", "2", "--num-steps", "16", *map(str, FEW)]
    script = [sys.executable, str(ROOT / "examples" / "sb3_subproc.py"), *arguments]
    measured(subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines())
