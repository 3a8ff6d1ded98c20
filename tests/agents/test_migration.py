"""docs/migration.md: what it names exists, and what was saved before the move loads."""

from __future__ import annotations

import importlib
import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from face_align_env.agents.common.replay_buffer import FaceReplayBuffer
from face_align_env.agents.dcrn.algorithm import DCRN
from face_align_env.agents.dcrn.policy import DCRNPolicy
from face_align_env.agents.run_config import RunConfig

PAGE = Path(__file__).parents[2] / "docs" / "migration.md"


def test_every_module_that_the_table_names_is_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    section = text[text.index("## Modules") : text.index("## Calls")]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    for _, now in rows:
        for module in re.findall("`([^`]+)`", now):
            importlib.import_module(module)


@pytest.fixture
def saved_before(
    toy_vec_env: Callable[..., Any], new_dcrn: Callable[..., DCRN], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[DCRN, Path]]:
    """``saved_before(**options)``: a model, and its file as the package wrote it when the agent was ``agents``."""

    def save(**options: Any) -> tuple[DCRN, Path]:
        with monkeypatch.context() as patch:
            before = {"agents.policy": DCRNPolicy, "agents.replay_buffer": FaceReplayBuffer}
            patch.setitem(sys.modules, "agents", ModuleType("agents"))
            moved = []
            for name, there in before.items():
                module = ModuleType(name)
                moved.append(type(there.__name__, (there,), {"__module__": name}))
                setattr(module, there.__name__, moved[-1])
                patch.setitem(sys.modules, name, module)
            policy, buffer = moved
            model = new_dcrn(toy_vec_env(2, True), policy=policy, critic_warmup=0, **options)
            if not options["freeze_encoder"]:
                model.replay_buffer_class = buffer
            model.learn(12)
            model.save(tmp_path / "before.zip")
        assert "agents.policy" not in sys.modules
        return model, tmp_path / "before.zip"

    return save


@pytest.mark.parametrize("frozen", [True, False])
def test_a_model_from_before_predicts_alike_and_learns_on(
    saved_before: Callable[..., tuple[DCRN, Path]], toy_vec_env: Callable[..., Any], frozen: bool
) -> None:
    model, path = saved_before(freeze_encoder=frozen)
    with pytest.raises(ModuleNotFoundError, match="agents"):
        super(DCRN, DCRN).load(path, device="cpu")
    env = toy_vec_env(2, True)
    again = DCRN.load(path, env=env, device="cpu")
    assert type(again.policy) is DCRNPolicy
    observation = env.reset()
    np.testing.assert_array_equal(again.predict(observation, deterministic=True)[0], model.predict(observation)[0])
    again.learn(8, reset_num_timesteps=False)
    assert again.num_timesteps == 20
    assert isinstance(again.replay_buffer, FaceReplayBuffer) is not frozen


def test_a_model_loads_from_a_stream_that_stays_open(saved_before: Callable[..., tuple[DCRN, Path]]) -> None:
    _, path = saved_before(freeze_encoder=True)
    stream = io.BytesIO(path.read_bytes())
    assert DCRN.load(stream, device="cpu").num_timesteps == 12
    assert not stream.closed


def test_the_configuration_of_a_run_from_before_is_read(tmp_path: Path) -> None:
    before = {
        "data": {"dataset": "synthetic", "root": None, "landmarks": 19, "options": {"size": 8}},
        "preset": "tiny", "seed": 3, "precision": None, "gen_epochs": 1, "lrn_epochs": None,
        "agent": {
            "timesteps": 64, "num_envs": 4, "gradient_steps": 4, "batch_size": 128, "preset": "paper", "seed": 0,
            "augment": True, "checkpoint_timesteps": 10000, "overrides": {"noise": 2.0},
        },
        "alpha_2": 2.5, "environment": None, "augmentation": None, "jitter": None,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(before))
    config = RunConfig.read(tmp_path)
    assert (config.preset, config.seed, config.gen_epochs, config.lrn_epochs) == ("tiny", 3, 1, None)
    assert (config.alpha_2, config.agent.preset, config.agent.overrides) == (2.5, "paper", {"noise": 2.0})
    assert (config.data.dataset, config.data.landmarks, config.data.options) == ("synthetic", 19, {"size": 8})
    config.write(tmp_path)  # it is the same configuration, in whatever form it is written now


def test_what_is_no_model_is_refused_by_stable_baselines3(tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_text("nothing")
    with pytest.raises(ValueError, match="zip"):
        DCRN.load(tmp_path / "model.zip")
