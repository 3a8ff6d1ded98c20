"""Perturbed faces: where the crop goes, what becomes of its pixels, and the files that say what it cost."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from face_align_env.agents.evaluation.measure import evaluate_method
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.run_folder import RunFolder
from face_align_env.agents.studies import robustness
from face_align_env.agents.studies.perturbations import PERTURBATIONS, Crop, Perturbation, crop_of, shifted
from face_align_env.agents.studies.robustness import (
    cells,
    measure,
    other_boxes,
    run_robustness,
    write_robustness,
)
from face_align_env.aligner.aligner import FaceAligner
from face_align_env.datasets import DatasetNotFoundError, Face, load_dataset
from face_align_env.datasets.base import read_image
from face_align_env.mdp import nme
from face_align_env.networks import gen as gen_network
from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.cascade import MeanStart
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.prepared import PreparedFaces
from face_align_env.pretrain.recipes import Data

BY_NAME = {perturbation.name: perturbation for perturbation in PERTURBATIONS}


@pytest.fixture
def faces() -> PreparedFaces:
    return PreparedFaces(load_dataset("synthetic", "test", size=5))


@pytest.fixture
def aligner(new_lrn: Callable[..., LRN], mean_shape: np.ndarray) -> FaceAligner:
    start = MeanStart(torch.from_numpy(mean_shape))
    return FaceAligner(start, new_lrn(gain=3.0), alpha_2=2.5, max_iterations=4)


def crop(faces: PreparedFaces, name: str, value: float, index: int = 1, direction: float = 0.7) -> Crop:
    face, perturb = faces.dataset[index], BY_NAME[name].perturb
    assert perturb is not None
    d = faces.d[index] / faces.transforms[index, 0, 0]
    return crop_of(perturb(face, value, direction), face, float(d), faces.margin)


def few(name: str) -> Perturbation:
    kept = BY_NAME[name]
    return replace(kept, values=kept.values[:2], labels=kept.headings[:2])


def side(face: Face) -> float:
    return float(max(face.box[2:] - face.box[:2]))


def test_no_perturbation_is_the_evaluation(aligner: FaceAligner, faces: PreparedFaces) -> None:
    gen = FaceAligner(aligner.start, None)
    measured = measure([("GEN", gen), ("DCRN", aligner)], faces, perturbations=[BY_NAME["scale"], few("jpeg")])
    for name, method in (("GEN", gen), ("DCRN", aligner)):
        expected = evaluate_method(name, method, faces).errors
        for panel in measured.perturbations:
            np.testing.assert_array_equal(
                measured.errors[name][panel.name][panel.values.index(panel.neutral)], expected
            )
    for cell in cells(measured):
        panel = BY_NAME[cell.perturbation]
        if panel.values[panel.headings.index(cell.value)] == panel.neutral:
            assert cell.change == cell.change_low == cell.change_high == 0


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_a_neutral_value_leaves_crop_and_truth_as_they_are(faces: PreparedFaces, name: str) -> None:
    if name == "jpeg":  # a hundred percent is the nearest to none
        found = crop(faces, name, 100)
        assert np.abs(found.image.astype(int) - faces.crop(1)).mean() < 2
    else:
        found = crop(faces, name, BY_NAME[name].neutral)
        np.testing.assert_array_equal(found.image, faces.crop(1))
    np.testing.assert_allclose(found.landmarks, faces.landmarks[1], atol=1e-4)
    assert found.d == pytest.approx(faces.d[1])


@pytest.mark.parametrize("value", [0.05, 0.15])
def test_a_shift_moves_the_crop_by_a_share_of_the_boxs_side(faces: PreparedFaces, value: float) -> None:
    found = crop(faces, "shift", value)
    moved = faces.landmarks[1] - found.landmarks  # the crop goes one way, the face in it the other
    length = value * 256 / (1 + 2 * faces.margin)
    np.testing.assert_allclose(moved, np.tile([length * math.cos(0.7), length * math.sin(0.7)], (68, 1)), atol=1e-3)
    assert found.d == pytest.approx(faces.d[1])


@pytest.mark.parametrize("value", [0.85, 1.2])
def test_a_larger_box_has_a_smaller_face(faces: PreparedFaces, value: float) -> None:
    found = crop(faces, "scale", value)
    np.testing.assert_allclose(found.landmarks - 127.5, (faces.landmarks[1] - 127.5) / value, atol=1e-3)
    assert found.d == pytest.approx(faces.d[1] / value)


@pytest.mark.parametrize(("name", "value"), [("shift", 0.1), ("scale", 1.2), ("resolution", 40), ("jpeg", 8)])
def test_the_error_of_a_shape_does_not_depend_on_the_crop(faces: PreparedFaces, name: str, value: float) -> None:
    """A shape that is 10 photo pixels off has the same NME in every crop."""
    found, scale = crop(faces, name, value), faces.transforms[1, 0, 0]
    off = nme(faces.landmarks[1:2] + np.float32([10 * scale, 0]), faces.landmarks[1:2], faces.d[1:2])
    perturbed = scale * found.d / faces.d[1]
    there = nme(found.landmarks[None] + np.float32([10 * perturbed, 0]), found.landmarks[None], np.array([found.d]))
    np.testing.assert_allclose(there, off, rtol=1e-5)


def test_fewer_pixels_leave_the_face_where_it_is_and_take_its_detail(faces: PreparedFaces) -> None:
    previous = np.inf
    for value in (120, 60, 30):
        assert side(faces.dataset[1]) > value
        found = crop(faces, "resolution", value)
        # the crop is as large as before, up to the rounding of the small photo's size
        np.testing.assert_allclose(found.landmarks, faces.landmarks[1], atol=1.5)
        detail = cv2.Laplacian(found.image, cv2.CV_64F).std()
        assert detail < previous
        previous = detail
        # had the picture been moved by the reduction, it would fit better elsewhere
        reference = cv2.GaussianBlur(faces.crop(1), (0, 0), 128 / value).astype(np.float64)
        shifts = {s: np.abs(np.roll(found.image, s, axis=1) - reference)[20:-20, 20:-20].mean() for s in (-4, 0, 4)}
        assert min(shifts, key=lambda s: shifts[s]) == 0
    assert np.array_equal(crop(faces, "resolution", 10_000).image, faces.crop(1)), "nothing is enlarged"


def test_light_is_changed_as_stated(faces: PreparedFaces) -> None:
    plain = faces.crop(1).astype(np.float64)
    np.testing.assert_allclose(crop(faces, "gain", 0.5).image, plain / 2, atol=2)
    inside = (plain > 5) & (plain < 180)
    np.testing.assert_allclose(crop(faces, "offset", 50).image[inside], plain[inside] + 50, atol=12)
    assert crop(faces, "offset", 100).image.min() >= 98
    assert crop(faces, "gain", 2).image.mean() > plain.mean()


def test_a_face_at_the_edge_of_its_photo_is_perturbed_alike(faces: PreparedFaces) -> None:
    face = faces.dataset[1]
    x0, y0, x1, y1 = face.box.round().astype(int)
    edge = replace(
        face,
        image=face.image[y0:y1, x0:x1],
        box=face.box - np.float32([x0, y0, x0, y0]),
        landmarks=face.landmarks - np.float32([x0, y0]),
    )
    for name, value in (("gain", 1.0), ("offset", 0.0)):
        perturb = BY_NAME[name].perturb
        assert perturb is not None
        found = crop_of(perturb(edge, value, 0.0), edge, 1.0, faces.margin)
        plain = crop_of(shifted(edge, 0.0, 0.0), edge, 1.0, faces.margin)
        np.testing.assert_array_equal(found.image, plain.image)
        np.testing.assert_allclose(found.landmarks, plain.landmarks, atol=1e-3)


def test_directions_are_seeded_and_those_of_the_face(aligner: FaceAligner, faces: PreparedFaces) -> None:
    shift = [BY_NAME["shift"]]
    gen = [("GEN", FaceAligner(aligner.start, None))]
    first, again, other = (measure(gen, faces, perturbations=shift, seed=s) for s in (1, 1, 2))
    some = measure(gen, faces, np.array([1, 4]), perturbations=shift, seed=1)
    errors = first.errors["GEN"]["shift"]
    np.testing.assert_array_equal(errors, again.errors["GEN"]["shift"])
    assert (errors[1:] != other.errors["GEN"]["shift"][1:]).all()
    np.testing.assert_allclose(some.errors["GEN"]["shift"], errors[:, [1, 4]], rtol=1e-5)


class Wider(type(load_dataset("synthetic", "test", size=1))):  # type: ignore[misc]
    """The same faces with boxes that are a tenth larger on the right."""

    def annotation(self, index: int) -> Any:
        annotation = super().annotation(index)
        x0, y0, x1, y1 = annotation.box
        return replace(annotation, box=np.float32([x0, y0, x1 + 0.1 * (x1 - x0), y1]))

    def fingerprint(self) -> None:
        """Not kept on disk, where the plain ones are."""


def test_other_boxes_cut_other_crops_of_the_same_faces(aligner: FaceAligner, faces: PreparedFaces) -> None:
    detected = PreparedFaces(Wider("test", size=5))
    gen = FaceAligner(aligner.start, None)
    measured = measure([("GEN", gen)], faces, boxes=("landmarks", "detector", detected), perturbations=())
    (panel,) = measured.perturbations
    assert panel.headings == ("landmarks", "detector")
    found = measured.errors["GEN"]["boxes"]
    np.testing.assert_array_equal(found[0], evaluate_method("GEN", gen, faces).errors)
    np.testing.assert_allclose(found[1], evaluate_method("GEN", gen, detected).errors, rtol=1e-5)
    fewer = PreparedFaces(Wider("test", size=4))
    with pytest.raises(ValueError, match="detector boxes are not those"):
        measure([("GEN", gen)], faces, boxes=("landmarks", "detector", fewer))


def test_a_dataset_of_one_kind_of_boxes_has_no_others() -> None:
    assert other_boxes(Data("synthetic", options={"size": 3}), "test") is None


def test_boxes_whose_files_are_missing_are_named_in_the_tables(
    micro_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(data: Data, split: str) -> None:
        raise DatasetNotFoundError("bounding_boxes_ibug.mat is not there")

    monkeypatch.setattr(robustness, "other_boxes", missing)
    monkeypatch.setattr(robustness, "PERTURBATIONS", (few("shift"),))
    document = json.loads(run_robustness(micro_run, faces=2)[0].read_text())
    assert "other boxes are left out: bounding_boxes_ibug.mat is not there" in document["notes"]


def test_dlib_that_is_asked_for_is_not_left_out(micro_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(folder: Path) -> None:
        raise ModuleNotFoundError("dlib is not installed", name="dlib")

    monkeypatch.setattr(robustness, "DlibAligner", absent)
    monkeypatch.setattr(robustness, "PERTURBATIONS", (few("shift"),))
    with pytest.raises(ModuleNotFoundError, match="not installed"):
        run_robustness(micro_run, faces=2, peers=micro_run / "peers")
    (micro_run / "peers").mkdir()
    (micro_run / "peers" / robustness.PREDICTOR).touch()
    document = json.loads(run_robustness(micro_run, faces=2)[0].read_text())
    assert "dlib is left out: dlib is not installed" in document["notes"]


def test_figures_are_those_of_the_errors(aligner: FaceAligner, faces: PreparedFaces, tmp_path: Path) -> None:
    panels = [BY_NAME["shift"], replace(BY_NAME["resolution"], values=(math.inf, 1000, 40), labels=("own", "a", "b"))]
    measured = measure([("DCRN", aligner)], faces, perturbations=panels)
    assert measured.smaller == (0, 5, 0)
    tables, paths = write_robustness(tmp_path, measured, faces, "toys", ["a note"], suffix="-x")
    assert paths == [
        tmp_path / "robustness-x.json", tmp_path / "robustness-x.md", tmp_path / "figures" / "robustness-x.png",
    ]  # fmt: skip
    document = json.loads(paths[0].read_text())
    assert [document[key] for key in ("dataset", "split", "num_faces", "notes")] == ["synthetic", "test", 5, ["a note"]]
    errors = measured.errors["DCRN"]["shift"]
    (cell,) = (c for c in document["cells"] if (c["perturbation"], c["value"]) == ("shift", "10"))
    assert cell["nme"] == pytest.approx(100 * errors[2].mean())
    assert cell["nme_low"] <= cell["nme"] <= cell["nme_high"]
    assert cell["failure_rate"] == pytest.approx(100 * (errors[2] > 0.1).mean())
    assert cell["change"] == pytest.approx(100 * (errors[2] - errors[0]).mean())
    assert tables[0].columns == ("method", "0", "5", "10", "15")
    assert tables[0].rows[0][3] == f"{cell['nme']:.2f} ({cell['failure_rate']:.1f})"
    assert "left as they are: a: 5" in paths[1].read_text()
    picture = read_image(paths[2])
    assert min(picture.shape[:2]) > 200
    assert picture.std() > 5, "not empty"
    assert len(list(tmp_path.rglob("*"))) == 4, "no temporary file is left"


@pytest.fixture
def micro_run(tmp_path: Path) -> Path:
    """The folder of a run whose networks have learned nothing."""
    folder = tmp_path / "micro"
    for stage in ("gen", "lrn-2", "gen-lrn4", "gen-lrn8", "dcrn"):
        (folder / stage).mkdir(parents=True)
    mean_shape = torch.linspace(60, 190, 136).view(68, 2)
    GEN(gen_network.preset("tiny", 68), mean_shape).save(RunFolder(folder).gen)
    for stage in ("gen-lrn4", "gen-lrn8", "dcrn"):
        LRN(lrn_network.preset("tiny", 68)).save(RunFolder(folder).weights(stage))
    RunConfig(Data(options={"size": 4}), preset="tiny", alpha_2=3.0).write(folder)
    return folder


@pytest.mark.parametrize("with_dlib", [False, True])
def test_a_run_is_measured(micro_run: Path, monkeypatch: pytest.MonkeyPatch, with_dlib: bool) -> None:
    monkeypatch.setattr(robustness, "PERTURBATIONS", (few("shift"), few("jpeg")))
    if with_dlib:
        pytest.importorskip("dlib")
        from face_align_env.agents.studies.peers import train_dlib

        train = Data(options={"size": 4}).prepare("train")
        train_dlib(train, micro_run / "peers", cascade_depth=1, num_trees_per_cascade_level=2)
    paths = run_robustness(micro_run, faces=3)
    assert paths == [
        micro_run / "robustness.json", micro_run / "robustness.md", micro_run / "figures" / "robustness.png",
    ]  # fmt: skip
    document = json.loads(paths[0].read_text())
    methods = list(dict.fromkeys(cell["method"] for cell in document["cells"]))
    assert methods == ["GEN", "GEN-LRN4", "GEN-LRN8", "LRN+Eq.3", "DCRN", *(["dlib"] if with_dlib else [])]
    assert document["num_faces"] == 3
    assert "3 of 4 faces" in document["notes"]
    assert any(note.startswith("dlib: ") for note in document["notes"]) == with_dlib
    assert run_robustness(micro_run, "train", faces=2)[0] == micro_run / "robustness-train.json"


def test_a_folder_of_peers_that_is_named_must_have_a_predictor(micro_run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="compare_peers"):
        run_robustness(micro_run, faces=1, peers=tmp_path / "none")


def test_the_command_measures_a_run(micro_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer
    from typer.testing import CliRunner

    from face_align_env.agents.cli.studies import robustness as command

    monkeypatch.setattr(robustness, "PERTURBATIONS", (few("shift"),))
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(micro_run), "--faces", "1"])
    assert result.exit_code == 0, result.output
    assert (micro_run / "robustness.md").is_file()
