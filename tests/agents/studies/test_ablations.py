"""face-align ablate: one part changed at a time, measured against the policy that RL never touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from face_align_env.agents.cli.parameters import pairs
from face_align_env.agents.dcrn.algorithm import DCRN
from face_align_env.agents.dcrn.config import AgentConfig
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.run_folder import RunFolder
from face_align_env.agents.studies.ablations import ABLATIONS, Ablation, ablate, find_ablations
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN
from face_align_env.pretrain.recipes import Data


@pytest.fixture
def micro_run(tmp_path: Path, new_lrn: Callable[..., LRN]) -> Path:
    """The folder of a run whose networks have learned nothing."""
    folder = tmp_path / "micro"
    torch.manual_seed(0)
    mean_shape = torch.linspace(60, 190, 136).view(68, 2)
    GEN(GENConfig(input_size=16, width=4, hidden=16), mean_shape).save(RunFolder(folder).gen)
    new_lrn().save(RunFolder(folder).policy)
    agent = AgentConfig(timesteps=24, num_envs=4, batch_size=4, overrides={"learning_starts": 8, "critic_warmup": 1})
    RunConfig(Data(options={"size": 4}), preset="tiny", agent=agent, alpha_2=3.0).write(folder)
    return folder


def test_rows_are_trained_and_measured_against_the_pretrained_policy(micro_run: Path) -> None:
    path = ablate(micro_run, ["as-it-is", "tau-0.8", "dense-reward"])
    document = json.loads((micro_run / "ablations.json").read_text())
    assert [row["method"] for row in document["rows"]] == ["as-it-is", "tau-0.8", "dense-reward"]
    assert document["baseline"]["method"] == "LRN+Eq.3"
    for row in document["rows"]:
        mean, low, high = row["differences"]["NME"]
        assert low <= mean <= high
        assert mean == pytest.approx(row["nme"] - document["baseline"]["nme"], abs=1e-6)
        assert row["differences"]["return"][0] == pytest.approx(
            row["mean_return"] - document["baseline"]["mean_return"], abs=1e-6
        )
    text = path.read_text()
    assert "tau-0.8" in text
    assert "LRN+Eq.3 (no RL)" in text
    trained = {name: DCRN.load(micro_run / "ablations" / name / "model.zip") for name in ("as-it-is", "tau-0.8")}
    assert (trained["as-it-is"].tau, trained["tau-0.8"].tau) == (0.005, 0.8)
    settings = json.loads((micro_run / "ablations" / "dense-reward" / "settings.json").read_text())
    assert settings["environment"]["reward"] == "dense"
    before = [RunFolder(micro_run).ablation(name).stat().st_mtime_ns for name in trained]
    ablate(micro_run, ["tau-0.8"])
    after = [RunFolder(micro_run).ablation(name).stat().st_mtime_ns for name in trained]
    assert after == before, "not trained again"

    ablate(micro_run, ["no-noise", "tau-0.8"], timesteps=32)
    rows = {row["method"]: row for row in json.loads((micro_run / "ablations.json").read_text())["rows"]}
    assert {name: row["timesteps"] for name, row in rows.items()} == {
        "as-it-is": 24, "no-noise": 32, "tau-0.8": 32, "dense-reward": 24,
    }  # fmt: skip
    assert DCRN.load(micro_run / "ablations" / "tau-0.8" / "model.zip").num_timesteps == 32, "it went on"
    assert "dense-reward" in path.read_text(), "rows of earlier calls stay"


def test_what_the_run_has_trained_is_not_trained_again(micro_run: Path) -> None:
    trained = LRN.load(RunFolder(micro_run).policy)
    torch.nn.init.constant_(trained.action.bias, 0.01)
    trained.save(RunFolder(micro_run).agent)
    ablate(micro_run, ["as-it-is"])
    assert not (micro_run / "ablations").exists()
    (row,) = json.loads((micro_run / "ablations.json").read_text())["rows"]
    assert row["differences"]["NME"][0] != 0


@pytest.mark.parametrize("ablation", ABLATIONS, ids=lambda ablation: ablation.name)
def test_a_row_says_which_options_of_run_it_is(ablation: Ablation) -> None:
    words = ablation.options.split()
    given = {flag: pairs([b for a, b in pairwise(words) if a == flag], flag) for flag in ("--set", "--env")}
    if "--no-augment" in words:
        given["--env"]["augment"] = False
    assert given == {"--set": ablation.overrides, "--env": ablation.environment}
    assert [b for a, b in pairwise(words) if a == "--agent"] == [name for name in (ablation.preset,) if name]


def test_each_row_can_be_built() -> None:
    names = [ablation.name for ablation in ABLATIONS]
    assert len(set(names)) == len(names)
    assert find_ablations(None) == ABLATIONS
    with pytest.raises(ValueError, match="no ablation 'nothing'; there are as-it-is"):
        find_ablations(["nothing"])


def test_without_weights_it_says_which(tmp_path: Path) -> None:
    RunConfig(Data(options={"size": 4}), preset="tiny", alpha_2=3.0).write(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"gen/weights.safetensors'\. Train them first: face-align pretrain gen"
    ):
        ablate(tmp_path)
