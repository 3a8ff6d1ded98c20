"""Episodes as Minari datasets: what is written is what was played, and it can be played again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from face_align_env.agents.cli.collect import collect as command
from face_align_env.agents.collect import Collected, collect
from face_align_env.agents.common.policies import as_policy, import_policy, lrn_policy
from face_align_env.agents.common.rollout import play
from face_align_env.agents.run_config import RunConfig
from face_align_env.datasets.synthetic.dataset import SyntheticFaces
from face_align_env.networks import gen as gen_network
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.pretrain.recipes import Data
from face_align_env.vector_env import FaceAlignVectorEnv

SMALL: dict[str, Any] = {"landmarks": 19, "dataset_options": {"size": 4}}
ID = "face-align/toy-v0"

app = typer.Typer()
app.command()(command)
app.callback()(lambda: None)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Minari keeps its datasets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


@pytest.fixture
def minari() -> Any:
    return pytest.importorskip("minari", reason="Minari is not installed")


@pytest.fixture
def run_folder(tmp_path: Path, new_lrn: Callable[..., LRN]) -> Path:
    """A run whose networks have learnt nothing, and move a lot."""
    made = tmp_path / "micro"
    for stage in ("gen", "dcrn", "gen-lrn4"):
        (made / stage).mkdir(parents=True)
    torch.manual_seed(0)
    shape = torch.linspace(60, 190, 38).view(19, 2)
    GEN(gen_network.GENConfig(19, input_size=16, width=4, hidden=16), shape).save(made / "gen" / "weights.safetensors")
    for seed, stage in enumerate(("dcrn", "gen-lrn4")):
        lrn = new_lrn(seed=seed, gain=20, num_landmarks=19)
        lrn.save(made / stage / "weights.safetensors")
    RunConfig(Data("synthetic", landmarks=19, options={"size": 4}), preset="tiny", alpha_2=3.0).write(made)
    return made


def small_steps(observation: dict[str, np.ndarray]) -> np.ndarray:
    """To the right where the first patch is bright, else to the left."""
    step = 1.0 if observation["patches"][0].mean() > 128 else -1.0
    return np.full(38, step, dtype=np.float32)


def record(policy: Any = "zero", **options: Any) -> Collected:
    return collect(policy, dataset_id=ID, **{"episodes": 3, **SMALL, **options})


def test_the_environment_plays_a_dataset_again(minari: Any) -> None:
    made = record(as_policy(small_steps), noise=2.0, seed=5)
    dataset = minari.load_dataset(ID)
    assert (dataset.total_episodes, dataset.total_steps) == (made.episodes, made.steps) == (3, made.steps)
    env = dataset.recover_environment()
    assert dataset.observation_space == env.observation_space
    assert dataset.action_space == env.action_space
    metadata = dataset.storage.get_episode_metadata(range(3))
    returns = []
    for episode, about in zip(dataset.iterate_episodes(), metadata, strict=True):
        observation, info = env.reset(seed=about["seed"], options=about["options"])
        for t, action in enumerate(episode.actions):
            assert all((observation[key] == episode.observations[key][t]).all() for key in observation)
            assert info["nme"] == episode.infos["nme"][t]
            assert action in env.action_space
            observation, reward, terminated, truncated, info = env.step(action)
            assert (reward, terminated, truncated) == (
                episode.rewards[t], episode.terminations[t], episode.truncations[t],
            )  # fmt: skip
        assert terminated or truncated
        assert all((observation[key] == episode.observations[key][-1]).all() for key in observation)
        returns.append(episode.rewards.sum())
    assert made.mean_return == pytest.approx(np.mean(returns))


def test_held_out_faces_are_the_evaluation_environment(minari: Any) -> None:
    record(split="train")
    task = minari.load_dataset(ID).recover_environment(eval_env=True).unwrapped.task
    assert task.source.prepared.dataset.split == "test"
    assert (task.termination, task.num_landmarks, task.num_faces) == ("oracle", 19, 4)


def test_datasets_are_compressed(minari: Any) -> None:
    made = record(episodes=4)
    files = {file.name: file.stat().st_size for file in (made.path / "data").iterdir()}
    assert made.size == pytest.approx(sum(files.values()), rel=0.05)
    assert files["main_data.hdf5"] < 0.2 * made.raw_size


def test_steps_are_reached_with_whole_episodes(minari: Any) -> None:
    assert record(steps=1).episodes == 1
    made = record(steps=171, overwrite=True)  # more than are played at a time; each episode of zeros has ten
    assert (made.episodes, made.steps) == (18, 180)
    assert minari.load_dataset(ID).total_steps == 180


def test_passes_play_each_face_once(minari: Any) -> None:
    record(episodes=8)
    faces = [int(episode.infos["image_index"][0]) for episode in minari.load_dataset(ID)]
    assert sorted(faces[:4]) == sorted(faces[4:]) == [0, 1, 2, 3]


@pytest.mark.parametrize("policy", ["random", "zero"])
def test_the_seed_says_what_is_played(minari: Any, policy: str) -> None:
    def actions(seed: int) -> np.ndarray:
        record(policy, noise=1.0, seed=seed, overwrite=True)
        return np.concatenate([episode.actions for episode in minari.load_dataset(ID)])

    first = actions(0)
    assert (actions(0) == first).all()
    assert not (actions(1) == first).all()


def test_noise_has_the_deviation_that_was_asked_for(minari: Any) -> None:
    record(noise=3.0)
    actions = np.concatenate([episode.actions for episode in minari.load_dataset(ID)])
    assert actions.std() == pytest.approx(3.0, rel=0.1)


def test_a_dataset_that_is_there_stays(minari: Any, folder: Path) -> None:
    record()
    with pytest.raises(ValueError, match="--overwrite"):
        record()

    def broken(observations: dict[str, np.ndarray]) -> np.ndarray:
        raise RuntimeError("no idea")

    with pytest.raises(RuntimeError, match="no idea"):
        record(broken, overwrite=True)
    assert minari.load_dataset(ID).storage.metadata["algorithm_name"] == "zero"
    record("random", overwrite=True)
    assert minari.load_dataset(ID).storage.metadata["algorithm_name"] == "random"
    assert sorted(path.name for path in folder.iterdir()) == ["face-align"], "nothing is left over"
    assert list(minari.list_local_datasets()) == [ID]


def test_other_folders_are_not_overwritten(minari: Any, folder: Path) -> None:
    (folder / "face-align" / "toy-v0").mkdir(parents=True)
    (folder / "face-align" / "toy-v0" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="no Minari dataset"):
        record(overwrite=True)
    assert (folder / "face-align" / "toy-v0" / "thesis.txt").is_file()


@pytest.mark.parametrize("name", ["face-align/toy", "toy v0", "../toy-v0", ""])
def test_ids_are_checked_before_anything_is_played(minari: Any, name: str) -> None:
    with pytest.raises(ValueError, match="is no id of Minari's"):
        collect("zero", dataset_id=name, **SMALL)


@pytest.mark.parametrize("wrong", [{"episodes": 0}, {"steps": 0}, {"noise": -1.0}])
def test_nothing_to_collect_is_an_error(minari: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no negative noise"):
        record(**wrong)


def test_keywords_must_be_recoverable(minari: Any) -> None:
    def start(crops: np.ndarray) -> np.ndarray:
        return np.zeros((len(crops), 19, 2), np.float32)

    with pytest.raises(ValueError, match=r"initializer=.* a name or a path"):
        record(initializer=start)


def test_without_minari_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "face-align-env\[minari\]"'):
        record()


def test_photos_of_persons_are_not_to_be_published(minari: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record()
    metadata = minari.load_dataset(ID).storage.metadata
    assert "may be published" in metadata["description"]
    assert metadata["licence"] == "synthetic: MIT (generated by this package)"
    assert metadata["data_budget"] == {"episodes": 3, "steps": 30, "faces": 4}
    assert "code_permalink" not in metadata
    monkeypatch.setattr(SyntheticFaces, "generated", False)  # as photos
    record(overwrite=True)
    assert "do not publish" in minari.load_dataset(ID).storage.metadata["description"]


@pytest.mark.parametrize("agent", ["dcrn", "lrn"])
def test_a_run_plays_with_its_learned_history(minari: Any, run_folder: Path, agent: str) -> None:
    result = CliRunner().invoke(
        app, ["collect", "--run", str(run_folder), "--policy", agent, "--episodes", "4", "--id", ID]
    )
    assert result.exit_code == 0, result.output + repr(result.exception)
    dataset = minari.load_dataset(ID)
    env = dataset.recover_environment()
    assert env.unwrapped.task.learned_history
    assert dataset.action_space.shape == (38 + 512,)
    stage = {"dcrn": "dcrn", "lrn": "gen-lrn4"}[agent]
    lrn = LRN.load(run_folder / stage / "weights.safetensors")
    task = env.unwrapped.task
    envs = FaceAlignVectorEnv(
        3, dataset=task.source, initializer=task.initializer, alpha_2=3.0, termination="oracle", learned_history=True
    )
    played = play(lrn_policy(lrn), envs, range(4))
    for episode in dataset:
        assert (episode.observations["history"][1:] == episode.actions[:, 38:]).all()
        assert episode.rewards.sum() == played.returns[int(episode.infos["image_index"][0])]


def test_the_command_says_what_it_has_written(minari: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_policies.py").write_text(
        "import numpy as np\n\n\ndef left(observation):\n    return np.full(38, -2.0)\n"
    )
    result = CliRunner().invoke(
        app,
        ["collect", "--policy", "my_policies:left", "--landmarks", "19", "--option", "size=4", "--episodes", "2"],
    )
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert "2 episodes, " in result.output
    assert " MB on disk" in result.output
    dataset = minari.load_dataset("face-align/synthetic-19-my_policies-left-v0")
    assert (dataset[0].actions == -2).all()


def test_models_of_stable_baselines3_predict_without_noise(minari: Any) -> None:
    class Model:
        def predict(self, observation: dict[str, np.ndarray], deterministic: bool = False) -> tuple[np.ndarray, None]:
            assert deterministic
            return np.full((len(observation["history"]), 38), 3.0), None

    record(as_policy(Model()), episodes=1)
    assert (minari.load_dataset(ID)[0].actions == 3).all()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("best", ValueError, "Unknown policy 'best'"),
        ("math:", ValueError, "Unknown policy"),
        ("math:fly", ValueError, "'math' has no 'fly'"),
        ("math:pi", ValueError, "a function of an observation"),
        ("no_such_module:policy", ModuleNotFoundError, "no_such_module"),
    ],
)
def test_policies_that_are_none(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        import_policy(name)


def test_actions_of_a_wrong_size_are_an_error(minari: Any, folder: Path) -> None:
    with pytest.raises(ValueError, match="Expected an action of shape"):
        record(as_policy(lambda observation: np.zeros(136)))
    assert list(folder.iterdir()) == []
