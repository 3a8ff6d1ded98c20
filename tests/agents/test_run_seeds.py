"""A run of several seeds: a folder for each, and the summary of all."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from face_align_env.agents import run_seeds as run_seeds_module
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.run_seeds import run_seeds
from face_align_env.pretrain.recipes import Data


def test_a_run_of_several_seeds_is_a_run_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def run(config: RunConfig, folder: Path, device: str, console: Console, stages: list[str] | None) -> None:
        assert stages == (None if folder.name == "one" else ["gen"])
        ran.append((config.seed, folder.name))
        replace(config, alpha_2=3.0).write(folder)
        rows = [{"method": "GEN"}]
        document = {"dataset": "300w", "split": "full", "num_faces": 3, "seed": config.seed, "rows": rows}
        (folder / "evaluation.json").write_text(json.dumps(document))
        arrays = {"ids": np.arange(3), "normalizer": np.array("inter_ocular"), "GEN/nme": np.full(3, 0.05)}
        np.savez(folder / "evaluation.npz", **arrays)  # type: ignore[arg-type]

    monkeypatch.setattr(run_seeds_module, "run", run)
    console, config = Console(file=io.StringIO()), RunConfig(Data("300w"), seed=4)
    run_seeds(config, tmp_path / "many", 3, "cpu", console, ["gen"])
    assert ran == [(4, "seed-4"), (5, "seed-5"), (6, "seed-6")]
    assert json.loads((tmp_path / "many" / "seeds.json").read_text())["seeds"] == [4, 5, 6]
    run_seeds(config, tmp_path / "one", 1, "cpu", console)
    assert ran[3:] == [(4, "one")]
    assert not (tmp_path / "one" / "seeds.json").exists()
    with pytest.raises(ValueError, match="several seeds"):
        run_seeds(config, tmp_path / "many", 1, "cpu", console)
    with pytest.raises(ValueError, match="one seed"):
        run_seeds(config, tmp_path / "one", 2, "cpu", console)
    with pytest.raises(ValueError, match="at least 1"):
        run_seeds(config, tmp_path / "none", 0, "cpu", console)
