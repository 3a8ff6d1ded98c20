"""The pictures of an evaluation: all are written, and what they are made of is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from face_align_env.agents.common.rollout import Rollout
from face_align_env.agents.evaluation.face_figures import difficult_faces, face_sheet, pose_bins, save_face_figures
from face_align_env.agents.evaluation.figures import rewards, save_figures
from face_align_env.agents.evaluation.measure import Outcome, Row
from face_align_env.datasets.base import read_image
from face_align_env.metrics import asymmetry, landmark_errors
from face_align_env.prepared import PreparedFaces

FACES = 15


@pytest.fixture
def faces(toy_dataset: Any) -> PreparedFaces:
    return PreparedFaces(toy_dataset("test", size=FACES))


def outcome(method: str, faces: PreparedFaces, noise: float, steps: int = 0, episodes: bool = False) -> Outcome:
    """Ground truth and noise of ``noise`` pixels."""
    rng = np.random.default_rng(0)
    shapes = (faces.landmarks + rng.normal(0, noise, faces.landmarks.shape)).astype(np.float32)
    errors = landmark_errors(shapes, faces.landmarks, faces.d, faces.counted)
    nme = np.nanmean(errors, axis=1)
    row = Row(method, 100 * float(nme.mean()), 0, 0, None, 0, 0, float(steps), 1)
    path = np.stack([nme * (1 + t) for t in range(steps, -1, -1)])
    found = Outcome(row, nme, np.full(len(nme), steps), path, shapes, errors)
    if episodes:
        played = np.stack([rng.choice([1.0, 0.0, -1.0], len(nme)), np.full(len(nme), 10.0)])
        found = found.with_episodes(Rollout(np.stack([nme] * 3), played, np.ones(len(nme), dtype=np.bool_)))
    return found


@pytest.fixture
def outcomes(faces: PreparedFaces) -> list[Outcome]:
    return [
        outcome("GEN", faces, 6),
        outcome("LRN-2", faces, 9, 2),
        outcome("LRN+Eq.3", faces, 4, 3, True),
        outcome("DCRN", faces, 3, 3, True),
    ]


def check(paths: list[Path], folder: Path, names: set[str]) -> None:
    assert {path.stem for path in paths} == names
    for path in paths:
        image = read_image(path)
        assert min(image.shape[:2]) > 300
        assert image.std() > 5, "not empty"
    assert sorted(folder.iterdir()) == sorted(paths), "no temporary file is left"
    assert not plt.get_fignums(), "all are closed"


def test_figures_are_written(outcomes: list[Outcome], tmp_path: Path) -> None:
    names = {"ced", "iterations", "iterations-by-initial-error", "error-by-iteration", "rewards"}
    check(save_figures(outcomes, "toys", tmp_path / "all"), tmp_path / "all", names)
    check(save_figures(outcomes[:1], "toys", tmp_path / "gen"), tmp_path / "gen", {"ced"})


@pytest.mark.parametrize("hidden", [False, True])
def test_figures_of_faces_are_written(
    outcomes: list[Outcome], faces: PreparedFaces, tmp_path: Path, hidden: bool
) -> None:
    if hidden:  # an eye corner in three faces, one point in all
        faces.counted[:3, 36] = False
        faces.counted[:, 50] = False
        outcomes = [outcome("GEN", faces, 6), outcome("DCRN", faces, 3, 3, True)]
    names = {"error-by-pose", "error-by-landmark", "faces"}
    check(save_face_figures(outcomes, faces, "toys", tmp_path / "all"), tmp_path / "all", names)
    paths = save_face_figures(outcomes[:1], faces, "toys", tmp_path / "gen")
    check(paths, tmp_path / "gen", {"error-by-pose", "error-by-landmark"})


def test_few_faces_are_enough(toy_dataset: Any, tmp_path: Path) -> None:
    one = PreparedFaces(toy_dataset("test", size=1))
    found = [outcome("GEN", one, 6), outcome("DCRN", one, 3, 3, True)]
    save_figures(found, "toys", tmp_path)
    assert len(save_face_figures(found, one, "toys", tmp_path)) == 3


def test_the_bars_of_rewards_are_shares_of_all_faces(outcomes: list[Outcome]) -> None:
    figure = rewards(outcomes, "toys")
    panels = {axes.get_title(): axes for axes in figure.axes}
    heights = np.array([bar.get_height() for bar in panels["DCRN"].patches]).reshape(5, 2)  # a row a reward
    assert heights.sum(axis=0) == pytest.approx([100, 100])
    assert heights[0] == pytest.approx([0, 100]), "+10 at the second iteration"
    plt.close(figure)


def test_asymmetry_is_that_of_the_pose_and_of_nothing_else(faces: PreparedFaces) -> None:
    shape = np.zeros((1, 19, 2), dtype=np.float32)
    shape[0, 6], shape[0, 11] = (10, 0), (30, 0)  # the outer eye corners, 20 apart
    shape[0, [13, 16, 18]] = [[26, 20], [25, 40], [24, 60]]  # nose, mouth, chin: 5 off the middle on average
    assert asymmetry(shape) == pytest.approx([0.5])
    counted = np.ones((1, 19), dtype=np.bool_)
    counted[0, [16, 18]] = False
    assert asymmetry(shape, counted) == pytest.approx([0.6])
    counted[0, 13] = False
    assert np.isnan(asymmetry(shape, counted))
    counted[0] = True
    counted[0, 6] = False
    assert np.isnan(asymmetry(shape, counted))
    turned = asymmetry(faces.landmarks)
    assert (turned < 0.2).all(), "the toy faces look ahead, and are only rolled"
    mirrored = faces.landmarks[:, faces.scheme.mirror_permutation] * np.float32([-1, 1])
    angle = 0.7
    rotation = 3 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for same in (mirrored, faces.landmarks @ rotation + 5):
        np.testing.assert_allclose(asymmetry(same), turned, atol=1e-4)


def test_asymmetry_grows_with_the_yaw_of_a_head() -> None:
    """A point on the nose stands out by 0.5 from eyes that are 2 apart."""
    for yaw in (0.2, 0.6, 1.0):
        shape = np.zeros((1, 29, 2))
        shape[0, 8, 0], shape[0, 9, 0] = -np.cos(yaw), np.cos(yaw)
        shape[0, [20, 21, 24, 25, 26, 27, 28], 0] = 0.5 * np.sin(yaw)
        assert asymmetry(shape.astype(np.float32)) == pytest.approx([0.5 * np.tan(yaw)], rel=1e-5)


def test_bins_of_pose_hold_each_face_once() -> None:
    turned = np.array([0.5, np.nan, 0.1, 0.3, 0.2, 0.4, 0.05])
    bins = pose_bins(turned)
    assert [faces.tolist() for _, faces in bins] == [[6, 2], [4], [3], [5], [0], [1]]
    assert bins[0][0] == "0.05 to 0.10\n2 faces"
    assert bins[-1][0] == "eyes not annotated\n1 faces"
    assert [label for label, _ in pose_bins(np.array([np.nan]))] == ["eyes not annotated\n1 faces"]


def test_difficult_faces_are_chosen_by_x_0_and_pose_alone(faces: PreparedFaces) -> None:
    gen = outcome("GEN", faces, 6)
    turned = np.arange(FACES, dtype=np.float64)
    turned[3] = np.nan
    worst, sideways = difficult_faces(gen, turned, 2)
    assert worst == np.argsort(gen.errors)[::-1][:2].tolist()
    expected = [face for face in (3, *range(FACES - 1, 3, -1)) if face not in worst]
    assert sideways == expected[:2], "an eye that is not annotated counts as most turned"
    sheet = face_sheet(gen, outcome("DCRN", faces, 3, 3), faces)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * (512 + 40), 6 * 520 - 8, 3)
