"""RunFolder: what is where in the folder of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.run_folder import STAGES, RunFolder
from face_align_env.aligner import FaceAligner
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN


def test_each_stage_says_what_it_starts_from() -> None:
    needs = {name: stage.needs for name, stage in STAGES.items()}
    assert needs["gen"] == needs["lrn-4"] == ()
    assert needs["gen-lrn8"] == ("gen",)
    assert needs["dcrn"] == ("gen", "gen-lrn4")
    assert [stage.iterations for stage in STAGES.values()] == [0, 2, 4, 8, 4, 8, 0]


def test_weights_lie_in_the_folder_of_their_stage(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.gen == tmp_path / "gen" / "weights.safetensors"
    assert run.policy == run.cascade(4) == tmp_path / "gen-lrn4" / "weights.safetensors"
    assert run.cascade(2, from_mean=True) == tmp_path / "lrn-2" / "weights.safetensors"
    assert run.agent == tmp_path / "dcrn" / "weights.safetensors"


def test_a_run_gives_its_aligner(mean_shape: np.ndarray, new_lrn: Callable[..., LRN], tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder of a run"):
        run.aligner()
    replace(RunConfig(), alpha_2=2.5).write(tmp_path)
    with pytest.raises(FileNotFoundError, match="face-align pretrain gen"):
        run.aligner()
    torch.manual_seed(0)
    gen, lrn = GEN(GENConfig(input_size=16, width=4, hidden=16), mean_shape), new_lrn(seed=1, gain=10)
    gen.save(run.gen)
    lrn.save(run.agent)
    aligner = run.aligner()
    assert aligner.alpha_2 == 2.5
    crops = np.random.default_rng(0).integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)
    np.testing.assert_array_equal(aligner.align_crops(crops)[0], FaceAligner(gen, lrn, 2.5).align_crops(crops)[0])
