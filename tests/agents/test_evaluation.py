"""Evaluation: numbers that can be checked by hand, and the files that carry them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from agents.aligner import FaceAligner
from agents.evaluation import (
    PAPER_TABLE_6,
    Outcome,
    Row,
    episode_returns,
    evaluate_method,
    paired_differences,
    read_rows,
    table,
    write_evaluation,
)
from agents.figures import save_figures
from face_align_env.datasets.base import read_image
from face_align_env.initialization import MeanShape
from face_align_env.networks.cascade import MeanStart
from face_align_env.networks.lrn import LRN
from face_align_env.prepared import PreparedFaces

ROW_KEYS = [
    "method", "nme", "nme_low", "nme_high", "nme_inter_pupil", "failure_rate", "auc", "iterations", "ms_per_face",
]  # fmt: skip


@pytest.fixture
def faces(toy_dataset: Any) -> PreparedFaces:
    return PreparedFaces(toy_dataset("test", size=7))


@pytest.fixture
def aligner(new_lrn: Callable[..., LRN], mean_shape: np.ndarray) -> FaceAligner:
    start = MeanStart(torch.from_numpy(mean_shape))
    return FaceAligner(start, new_lrn(gain=3.0), alpha_2=2.5, max_iterations=4, batch_size=3)


def by_hand(shapes: np.ndarray, faces: PreparedFaces) -> np.ndarray:
    """(N,) mean landmark distance over the distance of the outer eye corners."""
    truth = faces.landmarks.astype(np.float64)
    eyes = np.hypot(*(truth[:, 36] - truth[:, 45]).T)
    return np.sqrt(((shapes - truth) ** 2).sum(-1)).mean(1) / eyes


def test_a_row_is_what_its_names_say(aligner: FaceAligner, faces: PreparedFaces) -> None:
    outcome = evaluate_method("DCRN", aligner, faces)
    trajectories, iterations = aligner.align_crops(np.stack([faces.crop(i) for i in range(len(faces))]))
    errors = by_hand(trajectories[:, -1], faces)
    np.testing.assert_allclose(outcome.errors, errors, rtol=1e-5)
    np.testing.assert_array_equal(outcome.iterations, iterations)
    assert outcome.error_path.shape == (5, 7)
    np.testing.assert_allclose(outcome.error_path[0], by_hand(trajectories[:, 0], faces), rtol=1e-5)

    row = outcome.row
    assert row.method == "DCRN"
    assert row.nme == pytest.approx(100 * errors.mean(), rel=1e-5)
    assert row.nme_low < row.nme < row.nme_high
    truth = faces.landmarks.astype(np.float64)
    pupils = truth[:, 36:42].mean(1) - truth[:, 42:48].mean(1)
    eyes = truth[:, 36] - truth[:, 45]
    ratio = np.hypot(*eyes.T) / np.hypot(*pupils.T)
    assert row.nme_inter_pupil == pytest.approx(100 * (errors * ratio).mean(), rel=1e-5)
    assert 0 < row.failure_rate < 100, "the toy faces are on both sides of the threshold"
    assert row.failure_rate == pytest.approx(100 * (errors > 0.1).mean())
    assert row.auc == pytest.approx(np.maximum(0, 1 - errors / 0.1).mean(), rel=1e-5)
    assert row.iterations == pytest.approx(iterations.mean())
    assert row.ms_per_face > 0


def test_landmarks_that_are_not_annotated_do_not_count(aligner: FaceAligner, faces: PreparedFaces) -> None:
    faces.counted[:, :60] = False
    outcome = evaluate_method("DCRN", aligner, faces)
    trajectories, _ = aligner.align_crops(np.stack([faces.crop(i) for i in range(len(faces))]))
    truth = faces.landmarks.astype(np.float64)
    distances = np.hypot(*np.moveaxis(trajectories[:, -1] - truth, -1, 0))
    errors = distances[:, 60:].mean(1) / np.hypot(*(truth[:, 36] - truth[:, 45]).T)
    np.testing.assert_allclose(outcome.errors, errors, rtol=1e-5)


@pytest.mark.parametrize("num_envs", [3, 64])
def test_returns_are_those_of_playing_each_face(
    toy_env: Any, new_lrn: Callable[..., LRN], faces: PreparedFaces, mean_shape: np.ndarray, num_envs: int
) -> None:
    lrn, options = new_lrn(gain=1.5), {"alpha_1": 0.12, "max_iterations": 4}
    returns, successes = episode_returns(lrn, faces, MeanShape(mean_shape), num_envs, **options)
    assert returns.shape == successes.shape == (7,)
    env = toy_env(True, "test", termination="oracle", **options)
    for i in range(6):
        observation, _ = env.reset(options={"index": i})
        total, over = 0.0, False
        while not over:
            with torch.inference_mode():
                a, d = lrn(*(torch.from_numpy(observation[key])[None] for key in ("patches", "history")))
            observation, reward, terminated, truncated, _ = env.step(torch.cat([a, d], 1)[0].numpy())
            total, over = total + reward, terminated or truncated
        assert returns[i] == total
        assert successes[i] == terminated
    assert 0 < successes.sum() < 7, "some faces end well, some do not"


def outcomes(aligner: FaceAligner, faces: PreparedFaces) -> list[Outcome]:
    gen = evaluate_method("GEN", FaceAligner(aligner.start, None), faces)
    dcrn = evaluate_method("DCRN", aligner, faces)
    returns, successes = np.arange(7.0), np.array([True] * 3 + [False] * 4)
    return [gen, dcrn.with_episodes(returns, successes)]


def test_the_json_has_the_documented_keys(aligner: FaceAligner, faces: PreparedFaces, tmp_path: Path) -> None:
    measured = outcomes(aligner, faces)
    path = tmp_path / "evaluation.json"
    write_evaluation(path, faces, 11, measured)
    document = json.loads(path.read_text())
    assert list(document) == ["dataset", "split", "num_faces", "seed", "rows"]
    assert [document[key] for key in ("dataset", "split", "num_faces", "seed")] == ["toy", "test", 7, 11]
    assert [list(row) for row in document["rows"]] == [ROW_KEYS, ROW_KEYS]
    for row, outcome in zip(document["rows"], measured, strict=True):
        assert row == {key: getattr(outcome.row, key) for key in ROW_KEYS}
    assert [row.nme for row in read_rows(path)] == [outcome.row.nme for outcome in measured]

    arrays = np.load(tmp_path / "evaluation.npz")
    np.testing.assert_array_equal(arrays["DCRN/nme"], measured[1].errors)
    np.testing.assert_array_equal(arrays["DCRN/iterations"], measured[1].iterations)
    assert arrays["ids"].tolist() == faces.ids
    np.testing.assert_array_equal(arrays["DCRN/return"], np.arange(7.0))
    assert "GEN/return" not in arrays
    assert (measured[1].row.mean_return, measured[1].row.success_rate) == (3.0, pytest.approx(300 / 7))


def test_paired_differences_are_those_of_the_same_faces(aligner: FaceAligner, faces: PreparedFaces) -> None:
    baseline = outcomes(aligner, faces)[1]
    other = replace(baseline, errors=baseline.errors + 0.01, iterations=baseline.iterations + 2)
    changes = paired_differences(other, baseline)
    np.testing.assert_allclose(changes["NME"], (1, 1, 1))
    assert changes["iterations"] == (2, 2, 2)
    assert changes["return"] == (0, 0, 0)
    assert "return" not in paired_differences(other, outcomes(aligner, faces)[0])
    mean, low, high = paired_differences(baseline, replace(baseline, errors=np.zeros(7)))["NME"]
    assert low < mean < high, "faces differ, and so do resamples"


def test_the_table_shows_every_row_beside_the_paper() -> None:
    rows = [
        Row("GEN", 6.123, 6.0, 6.2, 8.8, 12.34, 0.4321, 0.0, 1.25),
        Row("LRN+Eq.3", 4.5, 4.4, 4.6, 6.5, 5.0, 0.5, 2.5, 9.0, mean_return=10.5, success_rate=90.0),
    ]
    console = Console(width=200, record=True, file=io.StringIO())
    for paper in (None, PAPER_TABLE_6["300w"]):
        console.print(table("on toys", rows, paper))
    text = console.export_text()
    for shown in ("on toys", "GEN", "6.12", "6.00 .. 6.20", "12.3", "0.432", "LRN+Eq.3", "+10.50"):
        assert text.count(shown) == 2, shown
    assert text.count("6.57") == 1, "the paper's GEN, once"


def test_the_papers_figures_are_quoted_right() -> None:
    assert PAPER_TABLE_6["300w"]["DCRN"] == 3.92
    assert PAPER_TABLE_6["cofw"]["LRN-2"] == 27.32
    assert PAPER_TABLE_6["aflw"]["GEN-LRN8"] == 1.97
    assert {len(row) for row in PAPER_TABLE_6.values()} == {6}


def test_figures_are_written(aligner: FaceAligner, faces: PreparedFaces, tmp_path: Path) -> None:
    paths = save_figures(outcomes(aligner, faces), "toys", tmp_path)
    assert {path.stem for path in paths} == {
        "ced", "iterations", "iterations-by-initial-error", "error-by-iteration",
    }  # fmt: skip
    for path in paths:
        image = read_image(path)
        assert min(image.shape[:2]) > 300
        assert image.std() > 5, "not empty"
    assert sorted(tmp_path.iterdir()) == sorted(paths), "no temporary file is left"
    only_gen = save_figures(outcomes(aligner, faces)[:1], "toys", tmp_path / "gen")
    assert [path.stem for path in only_gen] == ["ced"]
