"""A run to study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from writers.release import METRIC

from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.run_folder import RunFolder
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN, LRNConfig
from face_align_env.pretrain.recipes import Data


@pytest.fixture
def micro_run(tmp_path: Path) -> Path:
    """The folder of a run whose networks have learned nothing."""
    folder = tmp_path / "micro"
    torch.manual_seed(0)
    GEN(GENConfig(29, 16, 4, 16), torch.linspace(60, 190, 58).view(29, 2)).save(RunFolder(folder).gen)
    LRN(LRNConfig(29, encoder=((4, 10, 10, 1),), bottleneck=4)).save(RunFolder(folder).agent)
    RunConfig(Data("synthetic", None, 29, {"size": 12}), preset="tiny", alpha_2=3.0).write(folder)
    row = {key: METRIC[key] for key in ("method", "nme", "nme_low", "nme_high", "failure_rate", "iterations")}
    row |= {"nme_inter_pupil": None, "auc": 0.5, "ms_per_face": 1.0}
    document = {"dataset": "synthetic", "split": "test", "num_faces": 12, "rows": [row]}
    (folder / "evaluation.json").write_text(json.dumps(document))
    return folder
