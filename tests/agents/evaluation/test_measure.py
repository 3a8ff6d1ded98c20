"""Evaluation: numbers that can be checked by hand, and the files that carry them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from face_align_env.agents.common.rollout import Rollout
from face_align_env.agents.evaluation.files import read_faces, read_rows, write_evaluation
from face_align_env.agents.evaluation.measure import (
    Group,
    Outcome,
    Row,
    evaluate_method,
    nme_by_occlusion,
    paired_differences,
)
from face_align_env.agents.evaluation.rewards import reward_counts, reward_tables
from face_align_env.agents.evaluation.tables import Table, method_table, occlusion_table, write_tables
from face_align_env.aligner.aligner import FaceAligner
from face_align_env.mdp import MDPParameters
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
    assert outcome.shapes is not None
    np.testing.assert_array_equal(outcome.shapes, trajectories[:, -1])
    assert outcome.landmark_errors is not None
    assert outcome.landmark_errors.shape == (7, 68)
    np.testing.assert_allclose(outcome.landmark_errors.mean(1), outcome.errors, rtol=1e-6)
    assert outcome.episodes is outcome.returns is None

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
    assert outcome.landmark_errors is not None
    assert np.isnan(outcome.landmark_errors[:, :60]).all()
    np.testing.assert_allclose(outcome.landmark_errors[:, 60:].mean(1), outcome.errors, rtol=1e-6)


def test_episodes_are_the_same_play_under_the_oracle(aligner: FaceAligner, faces: PreparedFaces) -> None:
    """Errors, iterations and times are those of the aligner alone, whatever the episodes need beyond."""
    plain = evaluate_method("DCRN", aligner, faces)
    parameters = MDPParameters(alpha_1=0.12, alpha_2=2.5, max_iterations=4)
    outcome = evaluate_method("DCRN", aligner, faces, parameters=parameters)
    assert replace(outcome.row, ms_per_face=0, mean_return=None, success_rate=None) == replace(plain.row, ms_per_face=0)
    np.testing.assert_array_equal(outcome.error_path, plain.error_path)
    assert outcome.episodes is not None
    assert (outcome.episodes.lengths >= outcome.iterations).all()
    assert (outcome.episodes.lengths > outcome.iterations).any(), "the test proves too little"
    assert outcome.row.mean_return == outcome.episodes.returns.mean()
    assert outcome.row.success_rate == pytest.approx(100 * outcome.episodes.successes.mean())


NO = np.nan


def paid(rewards: np.ndarray, successes: np.ndarray) -> Rollout:
    """Episodes of which only the rewards matter."""
    return Rollout(np.zeros((len(rewards) + 1, rewards.shape[1])), rewards, successes)


# Five episodes: ends at once; improves twice, then ends; stalls once, then ends; worsens, then ends; never ends.
EPISODES = paid(
    np.array([[10, 1, 0, -1, 1], [NO, 1, 10, 10, 0], [NO, 10, NO, NO, -1], [NO, NO, NO, NO, -10]]),
    np.array([True, True, True, True, False]),
)


def test_returns_and_their_ceiling_by_hand() -> None:
    assert EPISODES.returns.tolist() == [10, 12, 10, 9, -10]
    np.testing.assert_allclose(EPISODES.discounted(), [10, 1 + 0.9 + 8.1, 9, -1 + 9, 1 - 0.81 - 7.29], rtol=1e-12)
    assert EPISODES.lengths.tolist() == [1, 3, 2, 2, 4]
    assert EPISODES.saturated.tolist() == [True, True, False, False, False]
    assert EPISODES.discounted().max() <= 10 + 1e-9
    # in the order +10, +1, 0, -1, -10
    assert reward_counts(EPISODES).tolist() == [[1, 2, 1, 1, 0], [2, 1, 1, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 1]]


def test_the_tables_of_rewards_say_what_was_paid() -> None:
    by_iteration, returns = reward_tables(
        "toys", [of_errors([0.1], "GEN"), of_errors([0.1] * 5).with_episodes(EPISODES)]
    )
    assert by_iteration.columns == ("method", "iteration", "rewards", "+10 %", "+1 %", "0 %", "-1 %", "-10 %")
    assert by_iteration.rows[0] == ("DCRN", "1", "5", "20.0", "40.0", "20.0", "20.0", "0.0")
    assert by_iteration.rows[-2] == ("DCRN", "4", "1", "0.0", "0.0", "0.0", "0.0", "100.0")
    assert by_iteration.rows[-1] == ("DCRN", "all", "12", "33.3", "25.0", "16.7", "16.7", "8.3")
    assert returns.rows == (("DCRN", "+6.20", f"{(10 + 10 + 9 + 8 - 7.1) / 5:+.2f}", "40.0", "80.0", "2.40"),)
    long = paid(np.ones((7, 1)), np.array([False]))
    sheet, _ = reward_tables("toys", [of_errors([0.1]).with_episodes(long)])
    assert [row[1:3] for row in sheet.rows[-2:]] == [("5 to 7", "3"), ("all", "7")]
    assert reward_tables("toys", [of_errors([0.1])]) == []


def outcomes(aligner: FaceAligner, faces: PreparedFaces) -> list[Outcome]:
    gen = evaluate_method("GEN", FaceAligner(aligner.start, None), faces)
    dcrn = evaluate_method("DCRN", aligner, faces)
    rewards = np.stack([np.arange(7.0), [NO] * 3 + [0.0] * 4])
    return [gen, dcrn.with_episodes(paid(rewards, np.array([True] * 3 + [False] * 4)))]


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

    arrays = read_faces(path)
    np.testing.assert_array_equal(arrays["DCRN/nme"], measured[1].errors)
    np.testing.assert_array_equal(arrays["DCRN/iterations"], measured[1].iterations)
    assert arrays["ids"].tolist() == faces.ids
    np.testing.assert_array_equal(arrays["DCRN/return"], np.arange(7.0))
    np.testing.assert_array_equal(arrays["DCRN/nme_inter_pupil"], measured[1].inter_pupil_errors)
    assert arrays["DCRN/nme_inter_pupil"].mean() == pytest.approx(measured[1].row.nme_inter_pupil / 100)  # type: ignore[operator]
    assert arrays["DCRN/landmark_nme"].shape == (68,)
    assert arrays["DCRN/landmark_nme"].mean() == pytest.approx(measured[1].errors.mean())
    assert arrays["DCRN/success"].tolist() == [True] * 3 + [False] * 4
    np.testing.assert_array_equal(arrays["DCRN/rewards"], measured[1].episodes.rewards)  # type: ignore[union-attr]
    assert not {"GEN/return", "GEN/rewards", "GEN/success"} & set(arrays)
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


def test_the_inter_pupil_error_is_left_out_where_an_eye_is_not_annotated(
    aligner: FaceAligner, faces: PreparedFaces, tmp_path: Path
) -> None:
    faces.counted[2, 40] = False  # a point of one eye's contour in one face, and no corner
    outcome = evaluate_method("DCRN", aligner, faces)
    assert outcome.row.nme_inter_pupil is None
    assert outcome.row.nme == pytest.approx(100 * outcome.errors.mean())
    write_evaluation(tmp_path / "evaluation.json", faces, 0, [outcome])
    (row,) = json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=pytest.fail)["rows"]
    assert list(row) == ROW_KEYS
    assert row["nme_inter_pupil"] is None
    assert read_rows(tmp_path / "evaluation.json") == [outcome.row]
    sheet = method_table("on toys", [outcome.row])
    assert sheet.rows[0][sheet.columns.index("inter-pupil %")] == ""


def of_errors(errors: list[float], method: str = "DCRN") -> Outcome:
    """An outcome of which only the errors matter."""
    row = Row(method, 100 * float(np.mean(errors)), 0, 0, 0, 0, 0, 0, 0)
    return Outcome(row, np.array(errors), np.zeros(len(errors), dtype=np.int64), np.array([errors]))


@pytest.fixture
def occluded(toy_dataset: Any) -> PreparedFaces:
    """Four faces with 0, 20, 21 and 68 of their 68 points hidden: 0, 29.4, 30.9 and 100 %."""
    faces = PreparedFaces(toy_dataset("test", size=4))
    for face, hidden in enumerate((0, 20, 21, 68)):
        faces.visible[face, :hidden] = False
    return faces


def test_errors_are_told_apart_by_occlusion(occluded: PreparedFaces) -> None:
    outcome = of_errors([0.02, 0.12, 0.05, 0.09])
    few, many = nme_by_occlusion(outcome, occluded)
    assert (few.faces, few.nme, few.failure_rate) == (2, pytest.approx(7), pytest.approx(50))
    assert (many.faces, many.nme, many.failure_rate) == (2, pytest.approx(7), pytest.approx(0))
    few, many = nme_by_occlusion(outcome, occluded, threshold=0.5)
    assert (few.faces, few.nme) == (3, pytest.approx(100 * (0.02 + 0.12 + 0.05) / 3))
    assert (many.faces, many.nme) == (1, pytest.approx(9))
    few, many = nme_by_occlusion(outcome, occluded, threshold=0.0)
    assert few == Group(0, None, None)
    assert many.faces == 4

    outcomes = [outcome, of_errors([0.01, 0.03, 0.2, 0.4], "GEN")]
    sheet = occlusion_table("toys", outcomes, occluded)
    assert sheet is not None
    assert sheet.notes == ("points occluded: fewer than 30 % in 2 faces, 30 % or more in 2 faces",)
    assert sheet.rows == (("DCRN", "7.00", "50.0", "7.00", "0.0"), ("GEN", "2.00", "0.0", "30.00", "100.0"))


def test_points_that_are_not_annotated_are_not_occlusion(occluded: PreparedFaces, faces: PreparedFaces) -> None:
    assert occlusion_table("toys", [of_errors([0.1] * 7)], faces) is None, "every point is visible"
    occluded.counted[:] = occluded.visible
    assert occlusion_table("toys", [of_errors([0.1] * 4)], occluded) is None


ROWS = [
    Row("GEN", 6.123, 6.0, 6.2, 8.8, 12.34, 0.4321, 0.0, 1.25),
    Row("LRN+Eq.3", 14.5, 13.25, 15.5, 16.5, 5.0, 0.5, 2.5, 19.0, mean_return=-10.5, success_rate=90.0),
]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_shows_every_row_whole(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    sheet = method_table("on [toys]", ROWS, ["the protocol has more"])
    console.print(sheet)
    text = console.export_text()
    assert "on [toys]" in text
    assert "the protocol has more" in text
    lines = [" ".join(re.sub("[│┃]", " ", line).split()) for line in text.splitlines()]
    assert "GEN 6.12 6.00 .. 6.20 8.80 12.3 0.432 0.00 1.2" in lines
    assert "LRN+Eq.3 14.50 13.25 .. 15.50 16.50 5.0 0.500 2.50 19.0 -10.50" in lines
    assert max(map(len, text.splitlines())) <= width
    for word in " ".join(sheet.columns).split():
        assert word in text, "no heading is cut"


def test_the_markdown_says_what_the_table_says(tmp_path: Path) -> None:
    sheet = Table(
        "A [b]", ("method", "NME %", "source"), (("GEN", "1.00", "us"), ("DCRN", "", "them")), ("less", "more")
    )
    path = tmp_path / "new" / "tables.md"
    write_tables(path, "A run", [sheet, method_table("B", ROWS)])
    text = path.read_text(encoding="utf-8")
    assert text.startswith(
        "# A run\n\n**A [b]**\n\n| method | NME % | source |\n| --- | ---: | --- |\n"
        "| GEN | 1.00 | us |\n| DCRN |  | them |\n\n- less\n- more\n\n**B**\n"
    )
    assert [path.name for path in path.parent.iterdir()] == ["tables.md"], "no temporary file is left"
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(sheet, method_table("B", ROWS))
    drawn = [re.split(" *[│┃] *", line)[1:-1] for line in console.export_text().splitlines() if line[:1] in "│┃"]
    written = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert drawn == [[cell.strip() for cell in cells] for cells in written if not set("".join(cells)) <= set("-:")]
    assert len(drawn) == 6
