"""face-align tradeoff: what is read off one roll-out is what the aligner does, and the files say it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from face_align_env.agents.cli.app import app
from face_align_env.agents.common.crop_rollout import roll_out
from face_align_env.agents.common.rollout import Rollout
from face_align_env.agents.evaluation.measure import evaluate_method
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.run_folder import RunFolder
from face_align_env.agents.studies.tradeoff import (
    ALPHAS,
    LEAST_GAINS,
    measure,
    run_tradeoff,
    tradeoff_table,
)
from face_align_env.aligner.aligner import FaceAligner
from face_align_env.datasets import FaceDataset
from face_align_env.datasets.base import read_image
from face_align_env.mdp import MDPParameters
from face_align_env.metrics import against_fixed_lengths
from face_align_env.networks.cascade import MeanStart
from face_align_env.networks.gain import GainHead, GainHeadConfig
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN
from face_align_env.prepared import PreparedFaces
from face_align_env.pretrain.recipes import Data


class ComingToRest(LRN):
    """Every step is shorter than the last one: by how much, depends on the face. d_t counts the steps."""

    def forward(self, patches: torch.Tensor, history: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        actions, _ = super().forward(patches, torch.zeros_like(history))
        fading = 0.3 + 0.6 * torch.sigmoid(actions[:, :1])
        return actions * fading ** history[:, :1], history + 1


@pytest.fixture
def prepared(toy_dataset: Callable[..., FaceDataset]) -> PreparedFaces:
    return PreparedFaces(toy_dataset("test", size=7))


@pytest.fixture
def aligner(new_lrn: Callable[..., LRN], mean_shape: np.ndarray) -> FaceAligner:
    """Takes steps of different lengths on different faces; three faces at a time."""
    lrn = ComingToRest(new_lrn().config)
    lrn.load_state_dict(new_lrn(gain=40).state_dict())
    return FaceAligner(MeanStart(torch.from_numpy(mean_shape)), lrn, None, 6, batch_size=3)


def test_eq_3_afterwards_is_eq_3_on_the_way(aligner: FaceAligner, prepared: PreparedFaces) -> None:
    rollout = roll_out(aligner, prepared)
    assert rollout.actions is not None
    assert rollout.errors.shape == (7, 7)
    assert rollout.actions.shape == (6, 7, 136)
    lengths = np.sort((np.abs(rollout.actions).sum(-1) / 68).ravel())
    seen = set()
    for alpha_2 in [0.5 * lengths[0], *((lengths[1:] + lengths[:-1]) / 2)[::5], 2 * lengths[-1]]:
        aligner.alpha_2 = float(alpha_2)
        outcome = evaluate_method("DCRN", aligner, prepared)
        stopped = rollout.under("blind", MDPParameters(alpha_2=float(alpha_2)))
        assert stopped.lengths.tolist() == outcome.iterations.tolist()
        # in batches of other sizes the convolutions may round differently
        np.testing.assert_allclose(stopped.nme, outcome.errors, rtol=1e-5)
        seen |= set(stopped.lengths.tolist())
    assert len(seen) == 6, "the test proves too little"


def test_fixed_lengths_are_the_cascade_without_eq_3(aligner: FaceAligner, prepared: PreparedFaces) -> None:
    measured = measure({"DCRN": roll_out(aligner, prepared)}, [1.0])
    points = measured.curve("DCRN, fixed length")
    assert [point.iterations for point in points] == [1, 2, 3, 4, 5, 6]
    for point in points:
        aligner.max_iterations = int(point.iterations)
        row = evaluate_method("", aligner, prepared).row
        found = (point.nme, point.nme_low, point.nme_high, point.failure_rate)
        assert found == pytest.approx((row.nme, row.nme_low, row.nme_high, row.failure_rate), rel=1e-5)


def test_an_aligner_that_stops_by_gain_is_rolled_out_as_it_works(aligner: FaceAligner, prepared: PreparedFaces) -> None:
    aligner.gain_head = GainHead(GainHeadConfig(68, 6))
    aligner.gain_head.slopes[:, 0] = 1.0
    lengths = np.linalg.norm(np.diff(roll_out(aligner, prepared, "limit").shapes, axis=0), axis=-1).mean(-1)
    aligner.least_gain, aligner.alpha_2 = float(np.median(lengths[:4].min(axis=0))), 1e9
    rollout = roll_out(aligner, prepared)
    found, iterations = aligner.align_crops(np.stack([prepared.crop(i) for i in range(7)]))
    assert rollout.lengths.tolist() == iterations.tolist()
    assert len(set(iterations.tolist())) > 1, "Eq. 3 would stop all after one"
    np.testing.assert_allclose(rollout.shapes[-1], found[:, -1], atol=1e-3)


def rollout_of(errors: np.ndarray, lengths: np.ndarray) -> Rollout:
    """Errors (T + 1, N), and actions all of whose landmarks have an L1 length (T, N)."""
    actions = np.repeat(lengths[..., None] / 2, 8, axis=-1).astype(np.float32)
    played = np.full(lengths.shape[1], len(lengths))
    return Rollout.of_path(errors, played, played > 0, MDPParameters(), actions=actions)


@pytest.fixture
def rollout() -> Rollout:
    """Two faces: the first has settled after its second step, the other never."""
    errors = np.array([[0.2, 0.2], [0.06, 0.12], [0.04, 0.10], [0.05, 0.08]])
    return rollout_of(errors, np.array([[8.0, 8.0], [1.0, 6.0], [4.0, 5.0]]))


def test_a_face_stops_at_its_first_small_step_or_at_the_limit(rollout: Rollout) -> None:
    for alpha_2, expected in ((0.5, [3, 3]), (1.0, [3, 3]), (1.1, [2, 3]), (5.5, [2, 3]), (7.0, [2, 2]), (9.0, [1, 1])):
        assert rollout.under("blind", MDPParameters(alpha_2=alpha_2)).lengths.tolist() == expected, alpha_2
    assert rollout.under("blind", MDPParameters(alpha_2=1.1)).nme.tolist() == [0.04, 0.08]


def test_points_and_what_they_say(rollout: Rollout) -> None:
    measured = measure({"DCRN": rollout}, [1.1, 9.0], own=7.0)
    assert [(point.alpha_2, point.own) for point in measured.curve("DCRN")] == [(1.1, False), (7.0, True), (9.0, False)]
    first, own, last = measured.curve("DCRN")
    assert (first.iterations, own.iterations, last.iterations) == (2.5, 2.0, 1.0)
    assert (first.nme, own.nme, last.nme) == pytest.approx((6.0, 7.0, 9.0))
    assert (first.failure_rate, last.failure_rate) == (0, 50)
    assert last.change == pytest.approx(3.0)  # 2 % and 4 %
    assert (last.change_low, last.change_high) == pytest.approx((2.0, 4.0))
    assert (first.change, first.change_low, first.change_high) == (0, 0, 0)
    (gen,) = measured.curve("GEN")
    assert (gen.iterations, gen.nme) == (0, pytest.approx(20.0))
    assert measured.curves == ["DCRN", "DCRN, fixed length"]
    assert measured.best("DCRN") == first
    assert measured.cheapest("DCRN") == own, "one face is as good as at best: two faces do not tell them apart"
    assert [point.iterations for point in measured.curve("DCRN, fixed length")] == [1, 2, 3]
    lines = measured.conclusions()
    assert lines[0].startswith("DCRN: the lowest NME is 6.00 % (alpha_2 = 1.1 pixels, 2.50 iterations)")
    assert "7.00 % (alpha_2 = 7 pixels, 2.00 iterations)" in lines[0]
    rows = tradeoff_table(measured, "title").rows
    assert rows[0] == ("GEN", "", "0.00", "20.00", "20.00 .. 20.00", "100.0", "", "")
    assert rows[2][:2] == ("DCRN", "7 (the run)")


def test_what_choosing_the_faces_is_worth(rollout: Rollout) -> None:
    """Eq. 3 at 1.1: two iterations for the first face, three for the second; a mixture has half of both for each."""
    errors, lengths = rollout.errors, rollout.under("blind", MDPParameters(alpha_2=1.1)).lengths
    assert lengths.tolist() == [2, 3]
    mean, low, high = against_fixed_lengths(errors, lengths)
    mixture = (errors[2] + errors[3]) / 2
    assert mean == pytest.approx((0.04 + 0.08) / 2 - mixture.mean())
    assert low <= mean <= high
    # Resampled, both faces may be the same one: then there is nothing to choose.
    assert high == pytest.approx(0, abs=1e-12)
    for same in (0, 1, 3):
        assert against_fixed_lengths(errors, np.full(2, same)) == pytest.approx((0, 0, 0))
    (point, *_) = measure({"DCRN": rollout}, [1.1]).curve("DCRN")
    assert (point.choice, point.choice_low) == pytest.approx((100 * mean, 100 * low))
    fixed = measure({"DCRN": rollout}, [1.1]).curve("DCRN, fixed length")
    assert {each.choice for each in fixed} == {None}


def test_stopping_by_the_predicted_gain(rollout: Rollout) -> None:
    head = GainHead(GainHeadConfig(68, 3))
    head.slopes[:, 0] = 1.0  # the landmarks of a fixture's face all go as far
    head.offset[1] = -10.0
    measured = measure({"DCRN": rollout}, [1.1], gain_head=head, least_gains=[9.0, 1.5, 0.0, -20.0])
    points = measured.curve("DCRN, predicted gain")
    assert [point.least_gain for point in points] == [9.0, 1.5, 0.0, -20.0]
    assert [point.iterations for point in points] == [1, 2, 2, 3]
    assert {point.alpha_2 for point in points} == {None}
    assert points[0].nme == pytest.approx(9.0)
    assert "gains of 1.5 points, 2.00 iterations" in points[1].setting
    lines = "\n".join(measured.conclusions())
    assert "DCRN, predicted gain, significantly better than fixed lengths of the same mean: nowhere" in lines
    rows = {row[1]: row for row in tradeoff_table(measured, "title").rows if row[0] == "DCRN, predicted gain"}
    assert set(rows) == {"gain 9", "gain 1.5", "gain 0", "gain -20"}


@pytest.mark.parametrize("alpha_2", [0.0, -1.0, np.nan, np.inf])
def test_a_bound_must_be_positive(rollout: Rollout, alpha_2: float) -> None:
    with pytest.raises(ValueError, match="alpha_2 must be positive"):
        measure({"DCRN": rollout}, [alpha_2])


def test_bounds_that_are_tried_go_from_half_a_pixel_to_eight() -> None:
    assert (ALPHAS[0], ALPHAS[-1], len(ALPHAS)) == (0.5, 8.0, 13)
    np.testing.assert_allclose(np.diff(np.log(ALPHAS)), np.log(16) / 12, atol=0.01)


@pytest.fixture
def micro_run(tmp_path: Path, new_lrn: Callable[..., LRN]) -> Path:
    """The folder of a run whose networks have learned nothing."""
    folder = tmp_path / "micro"
    torch.manual_seed(0)
    mean_shape = torch.linspace(60, 190, 136).view(68, 2)
    GEN(GENConfig(input_size=16, width=4, hidden=16), mean_shape).save(RunFolder(folder).gen)
    for seed, path in enumerate((RunFolder(folder).policy, RunFolder(folder).cascade(8), RunFolder(folder).agent)):
        new_lrn(seed, 20).save(path)
    RunConfig(Data(options={"size": 4}), preset="tiny", alpha_2=3.0).write(folder)
    return folder


def test_a_run_is_measured_and_the_files_say_so(micro_run: Path) -> None:
    before = set(micro_run.rglob("*"))
    measured = run_tradeoff(micro_run)
    names = ("tradeoff.json", "tradeoff.md", "figures/tradeoff.png")
    assert measured.paths == tuple(micro_run / name for name in names)
    assert set(micro_run.rglob("*")) - before == {*measured.paths, micro_run / "figures"}, "no temporary file is left"
    document = json.loads(measured.paths[0].read_text())
    assert (document["dataset"], document["split"], document["num_faces"]) == ("synthetic", "test", 4)
    assert document["alpha_2"] == 3.0
    counts = {name: len(measured.curve(name)) for name in dict.fromkeys(point["curve"] for point in document["points"])}
    assert counts == {
        "GEN": 1, "LRN+Eq.3": 14, "DCRN": 14, "LRN, fixed length": 10, "DCRN, fixed length": 10, "GEN-LRN8": 1,
    }  # fmt: skip
    assert [point["alpha_2"] for point in document["points"] if point["own"]] == [3.0, 3.0]
    text = measured.paths[1].read_text()
    assert all(line in text for line in measured.conclusions())
    assert read_image(measured.paths[2]).std() > 5, "not empty"
    assert measured.curve("GEN-LRN8")[0].iterations == 8

    GainHead(GainHeadConfig(68)).save(RunFolder(micro_run).gain_head)
    short = run_tradeoff(micro_run, "train", [1.0, 2.0])
    assert [point.least_gain for point in short.curve("DCRN, predicted gain")] == list(LEAST_GAINS)
    assert [path.name for path in short.paths] == ["tradeoff-train.json", "tradeoff-train.md", "tradeoff-train.png"]
    assert [point.alpha_2 for point in short.curve("DCRN")] == [1.0, 2.0, 3.0]


def test_networks_that_are_not_there_are_left_out(micro_run: Path) -> None:
    (RunFolder(micro_run).agent).unlink()
    (RunFolder(micro_run).cascade(8)).unlink()
    measured = run_tradeoff(micro_run, alphas=[1.0])
    assert measured.curves == ["LRN+Eq.3", "LRN, fixed length"]
    RunFolder(micro_run).policy.unlink()
    with pytest.raises(FileNotFoundError, match="neither a pretrained LRN nor DCRN"):
        run_tradeoff(micro_run)


def test_the_command(micro_run: Path) -> None:
    result = CliRunner().invoke(app, ["tradeoff", str(micro_run), "--alpha-2", "2", "--alpha-2", "4"])
    assert result.exit_code == 0, result.output
    points = json.loads((micro_run / "tradeoff.json").read_text())["points"]
    assert [point["alpha_2"] for point in points if point["curve"] == "DCRN"] == [2.0, 3.0, 4.0]
    assert "the lowest NME is" in result.output


def test_the_best_point_is_the_cheapest_of_equals(rollout: Rollout) -> None:
    measured = measure({"DCRN": rollout}, [1.1])
    point = measured.curve("DCRN")[0]
    equal = replace(measured, points=(point, replace(point, iterations=1.0)))
    assert equal.best("DCRN").iterations == 1
