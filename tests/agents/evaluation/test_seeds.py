"""Several seeds: their intervals, their tables, and the folders that they are in."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from face_align_env.agents.evaluation.seeds import estimate, summarize
from face_align_env.agents.run_config import RunConfig
from face_align_env.pretrain.recipes import Data

FACES = 40


def write_seed(folder: Path, seed: int, preset: str = "micro", **config: Any) -> Path:
    path = folder / f"seed-{seed}"
    RunConfig(Data("300w"), preset=preset, seed=seed, alpha_2=3.0, **config).write(path)
    return path


def write_evaluation(
    path: Path, seed: int, split: str = "full", faces: int = FACES, methods: tuple[str, ...] = ("GEN", "GEN-LRN8"),
) -> None:  # fmt: skip
    """Errors of 6, 4 and 5 % and their like, plus 0.1 % for each seed."""
    rng = np.random.default_rng(7)  # faces are equally difficult for all seeds
    difficulty = rng.normal(0, 0.005, faces)
    means = {"GEN": 0.06, "GEN-LRN8": 0.04, "LRN+Eq.3": 0.05, "DCRN": 0.045}
    arrays: dict[str, Any] = {"ids": np.array([f"face-{i}" for i in range(faces)]), "normalizer": "inter_ocular"}
    for method in (*methods, "LRN+Eq.3", "DCRN"):
        arrays[f"{method}/nme"] = means[method] + difficulty + 0.001 * seed
        arrays[f"{method}/nme_inter_pupil"] = 1.4 * arrays[f"{method}/nme"]
        arrays[f"{method}/iterations"] = np.full(faces, 2 + seed) if "LRN8" not in method else np.full(faces, 8)
    arrays["LRN+Eq.3/return"], arrays["DCRN/return"] = np.full(faces, 9.0), np.full(faces, 9.0 + seed)
    document = {"dataset": "300w", "split": split, "num_faces": faces, "seed": seed}
    rows = [{"method": method} for method in (*methods, "LRN+Eq.3", "DCRN")]
    name = "evaluation" if split == "full" else f"evaluation-{split}"
    (path / f"{name}.json").write_text(json.dumps({**document, "rows": rows}))
    np.savez(path / f"{name}.npz", **arrays)


def summary(folder: Path) -> tuple[dict[str, Any], str, str]:
    """The JSON, the Markdown, and what is printed."""
    console = Console(width=200, record=True, file=io.StringIO())
    summarize(folder, console)
    return json.loads((folder / "seeds.json").read_text()), (folder / "seeds.md").read_text(), console.export_text()


def test_seeds_are_put_together(tmp_path: Path) -> None:
    for seed in range(3):
        path = write_seed(tmp_path, seed)
        for split in ("full", "common"):
            write_evaluation(path, seed, split)
    document, markdown, printed = summary(tmp_path)
    assert document["seeds"] == [0, 1, 2]
    assert list(document["evaluations"]) == ["evaluation", "evaluation-common"]
    found = document["evaluations"]["evaluation"]
    assert (found["title"], found["num_faces"], found["seeds"], found["notes"]) == ("300w full", FACES, [0, 1, 2], [])
    dcrn = found["methods"]["DCRN"]
    assert list(dcrn) == ["nme", "nme_inter_pupil", "failure_rate", "auc", "iterations", "return"]
    assert "return" not in found["methods"]["GEN"]
    mean = 100 * (0.046 + np.random.default_rng(7).normal(0, 0.005, FACES).mean())
    assert dcrn["nme"]["mean"] == pytest.approx(mean)
    assert dcrn["nme"]["by_seed"] == pytest.approx([mean - 0.1, mean, mean + 0.1])
    assert dcrn["nme"]["low"] < mean - 0.1, "three seeds that differ by this much leave much open"
    assert dcrn["nme_inter_pupil"]["mean"] == pytest.approx(1.4 * mean)
    assert dcrn["iterations"]["by_seed"] == pytest.approx([2, 3, 4])
    assert dcrn["return"]["mean"] == pytest.approx(10)
    assert dcrn["auc"]["mean"] == pytest.approx(1 - mean / 10)
    compared = found["compared"]
    assert compared["DCRN minus LRN+Eq.3: NME, points of %"]["mean"] == pytest.approx(-0.5)
    assert compared["DCRN minus LRN+Eq.3: NME, points of %"]["high"] == pytest.approx(-0.5), "all faces, all seeds"
    assert compared["DCRN minus LRN+Eq.3: iterations"]["mean"] == pytest.approx(0)
    assert compared["DCRN minus LRN+Eq.3: return"]["by_seed"] == pytest.approx([0, 1, 2])
    ratio = compared["DCRN over GEN: ratio of NME"]
    assert ratio["by_seed"] == pytest.approx([(mean + 0.1 * s) / (mean + 1.5 + 0.1 * s) for s in (-1, 0, 1)])
    assert ratio["low"] < ratio["mean"] < ratio["high"] < 1
    assert compared["DCRN over GEN-LRN8: ratio of NME"]["mean"] > 1
    for text in (markdown, printed):
        assert f"300w full, {FACES} faces, seeds 0, 1, 2" in text
        assert "DCRN over GEN: ratio of NME" in text
    assert f"| DCRN | {mean:.2f} |" in markdown
    assert "| DCRN minus LRN+Eq.3: iterations | +0.000 |" in markdown, "a difference has a sign"


def test_seeds_that_are_not_finished_are_named(tmp_path: Path) -> None:
    for seed in range(3):
        path = write_seed(tmp_path, seed)
        if seed < 2:
            write_evaluation(path, seed)
    write_evaluation(tmp_path / "seed-0", 0, "common")
    document, markdown, _ = summary(tmp_path)
    assert document["evaluations"]["evaluation"]["seeds"] == [0, 1]
    assert "not measured yet: seed 2" in markdown
    alone = document["evaluations"]["evaluation-common"]
    assert alone["notes"] == [
        "not measured yet: seed 1, 2", "one seed: the intervals say nothing of how much seeds differ",
    ]  # fmt: skip
    narrow, wide = (document["evaluations"][name]["methods"]["DCRN"]["nme"] for name in (
        "evaluation-common", "evaluation"
    ))  # fmt: skip
    assert 0 < narrow["high"] - narrow["low"] < wide["high"] - wide["low"]


def test_a_method_that_a_seed_has_not_measured_is_left_out(tmp_path: Path) -> None:
    write_evaluation(write_seed(tmp_path, 0), 0)
    write_evaluation(write_seed(tmp_path, 1), 1, methods=("GEN",))
    document, _, _ = summary(tmp_path)
    found = document["evaluations"]["evaluation"]
    assert list(found["methods"]) == ["GEN", "LRN+Eq.3", "DCRN"]
    assert found["notes"] == ["GEN-LRN8 is left out: seed 1 has not measured it; evaluate again"]
    assert not any("GEN-LRN8" in label for label in found["compared"])


def test_files_of_an_older_evaluation_have_no_inter_pupil_errors(tmp_path: Path) -> None:
    path = write_seed(tmp_path, 0)
    write_evaluation(path, 0)
    with np.load(path / "evaluation.npz") as file:
        arrays = {key: file[key] for key in file if "pupil" not in key}
    np.savez(path / "evaluation.npz", **arrays)
    document, _, _ = summary(tmp_path)
    assert "nme_inter_pupil" not in document["evaluations"]["evaluation"]["methods"]["DCRN"]


def test_other_faces_are_an_error(tmp_path: Path) -> None:
    for seed in range(2):
        write_evaluation(write_seed(tmp_path, seed), seed, faces=FACES + seed)
    with pytest.raises(ValueError, match=r"seed-1.*seed-0.*other faces.*'ids'"):
        summarize(tmp_path, Console(file=io.StringIO()))


def test_other_settings_are_an_error(tmp_path: Path) -> None:
    write_seed(tmp_path, 0)
    write_seed(tmp_path, 1, gen_epochs=7)
    with pytest.raises(ValueError, match="gen_epochs: None before, 7 now"):
        summarize(tmp_path, Console(file=io.StringIO()))


def test_without_seeds_there_is_nothing_to_summarize(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run of several seeds"):
        summarize(tmp_path, Console(file=io.StringIO()))
    write_seed(tmp_path, 0)
    with pytest.raises(FileNotFoundError, match=r"No seed of .* has been evaluated"):
        summarize(tmp_path, Console(file=io.StringIO()))


@pytest.mark.parametrize(("between", "within"), [(0.0, 2.0), (0.5, 2.0), (2.0, 0.5)])
def test_the_interval_covers(between: float, within: float) -> None:
    """Three seeds and 50 faces: 95 % of the intervals hold the mean, whether seeds or faces vary more."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        effects = between * rng.normal(size=(3, 1)) + within * rng.normal(size=(1, 50))
        found = estimate(5 + effects + 0.5 * rng.normal(size=(3, 50)), seed=trial, resamples=500)
        covered += found.low < 5 < found.high
    assert covered >= 0.9 * 200, "resampling the seeds, too, covers about 80 %"


def test_one_seed_has_the_interval_of_its_faces() -> None:
    values = np.random.default_rng(0).normal(5, 1, (1, 100))
    found = estimate(values)
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 10, rel=0.1)
    assert estimate(values) == found
    assert estimate(values, seed=1) != found
