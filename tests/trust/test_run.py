"""``face-align run`` takes a stage for complete only where it has learnt from what is there now."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from trust.refusals import Refused
from writers.pts import write_pts_folder

from face_align_env.agents import run as module
from face_align_env.agents.dcrn.config import AgentConfig
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.run_folder import RunFolder
from face_align_env.datasets.pts import read_pts, write_pts
from face_align_env.networks import gen as gen_network
from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.gen import GENConfig
from face_align_env.networks.lrn import LRNConfig
from face_align_env.networks.weights import load_weights, save_weights
from face_align_env.pretrain import recipes
from face_align_env.pretrain.recipes import Data, Recipe, TrainingConfig

STAGES = ("gen", "lrn-2", "gen-lrn4", "dcrn")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run (``toy``), trained for a moment, and the faces that it has learnt from (``faces``)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gen_network.PRESETS, "micro", GENConfig(input_size=16, width=4, hidden=16))
        patch.setitem(lrn_network.PRESETS, "micro", LRNConfig(encoder=((4, 10, 10, 1),), bottleneck=4))
        quick = TrainingConfig(epochs=1, batch_size=4)
        patch.setitem(recipes.RECIPES, "micro", Recipe("micro", "micro", quick, quick))
        patch.setattr(module, "evaluate", lambda *arguments, **options: None)  # what was trained is looked at before
        folder = tmp_path_factory.mktemp("original")
        write_pts_folder(folder / "faces")
        train(folder)
        yield folder


@pytest.fixture
def there(original: Path, tmp_path: Path) -> Path:
    """A copy of both, in another place."""
    shutil.copytree(original, tmp_path / "there")
    return tmp_path / "there"


def train(folder: Path, name: str = "toy", faces: str = "faces") -> None:
    """Run, or go on with, what the fixture has begun."""
    agent = AgentConfig(timesteps=16, num_envs=2, batch_size=8, overrides={"learning_starts": 4})
    data = Data("pts", str(folder / faces))
    module.run(RunConfig(data, agent=agent, preset="micro"), folder / name, "cpu", stages=STAGES)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/weights.safetensors")}


def test_a_run_that_was_renamed_and_whose_data_was_moved_goes_on(there: Path) -> None:
    before = contents(there / "toy")
    (there / "toy").rename(there / "renamed")
    (there / "faces").rename(there / "moved")
    (there / "renamed" / "dcrn" / "weights.safetensors").unlink()
    train(there, "renamed", "moved")
    assert contents(there / "renamed") == before


def test_stages_of_older_versions_are_complete(there: Path) -> None:
    """They have not written down what they have learnt from."""
    (there / "toy" / "dcrn" / "settings.json").unlink()
    assert RunFolder(there / "toy").learnt_from("dcrn") == {"faces": None, "policy": None, "gen": None}
    train(there)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_has_learnt_from_other_faces_is_not_complete(stage: str, there: Path, refused: Refused) -> None:
    for name in STAGES:
        if name != stage:
            shutil.rmtree(there / "toy" / name)
    path = sorted((there / "faces" / "train").glob("*.pts"))[0]
    points = read_pts(path)
    points[8] += 1
    write_pts(path, points)
    with pytest.raises(ValueError, match=f"{stage}' has learnt from other faces than there is now") as error:
        train(there)
    assert not (there / "toy" / "gen" / "checkpoint.safetensors").exists() or stage == "gen", "nothing was trained"
    refused(error.value)


@pytest.mark.parametrize(
    ("source", "stage", "expected"),
    [
        ("gen", "gen-lrn4", "has learnt from another GEN than"),
        ("gen", "dcrn", "has learnt from another GEN than"),
        ("gen-lrn4", "dcrn", "has learnt from another pretrained policy than"),
    ],
)
def test_a_stage_that_began_with_other_weights_is_not_complete(
    source: str, stage: str, expected: str, there: Path, refused: Refused
) -> None:
    path = RunFolder(there / "toy").weights(source)
    kind = "gen" if source == "gen" else "lrn"
    config, tensors, notes = load_weights(path, kind)
    tensors[next(iter(tensors))] += 0.001
    save_weights(path, kind, config, tensors, notes)
    if (source, stage) == ("gen", "dcrn"):
        shutil.rmtree(there / "toy" / "gen-lrn4")
    with pytest.raises(ValueError, match=f"{stage}' {expected}") as error:
        train(there)
    assert "Remove that folder to train the stage again" in str(error.value)
    refused(error.value)
