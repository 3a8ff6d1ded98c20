"""dlib's trees: trained on our crops, kept with their settings, measured like every other method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from face_align_env.agents.evaluation.measure import evaluate_method
from face_align_env.agents.studies import peers
from face_align_env.agents.studies.peers import DlibAligner, evenly_spaced, peers_note, train_dlib, training_options
from face_align_env.datasets import load_dataset
from face_align_env.mdp import nme
from face_align_env.prepared import PreparedFaces

SMALL = {"cascade_depth": 5, "num_trees_per_cascade_level": 40, "oversampling_amount": 5}


@pytest.fixture(autouse=True)
def dlib() -> Any:
    return pytest.importorskip("dlib")


@pytest.fixture(scope="module")
def faces() -> PreparedFaces:
    return PreparedFaces(load_dataset("synthetic", "train", size=60))


@pytest.fixture(scope="module")
def folder(faces: PreparedFaces, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where dlib has been trained."""
    pytest.importorskip("dlib")
    folder = tmp_path_factory.mktemp("peers")
    train_dlib(faces, folder, **SMALL)
    return folder


def crops(faces: PreparedFaces) -> np.ndarray:
    return np.stack([faces.crop(i) for i in range(len(faces))])


def test_trees_are_better_than_the_mean_shape(folder: Path, faces: PreparedFaces) -> None:
    test = PreparedFaces(load_dataset("synthetic", "test", size=30))
    outcome = evaluate_method("dlib", DlibAligner(folder), test)
    mean = nme(np.tile(faces.mean_shape(), (len(test), 1, 1)), test.landmarks, test.d)
    assert outcome.errors.mean() < 0.8 * mean.mean()
    assert outcome.row.iterations == 0
    assert outcome.row.ms_per_face > 0
    assert outcome.error_path.shape == (1, 30)


def test_what_is_there_is_not_trained_again(folder: Path, faces: PreparedFaces) -> None:
    before = (folder / "dlib.dat").stat().st_mtime_ns
    again = train_dlib(faces, folder, **SMALL)
    assert (folder / "dlib.dat").stat().st_mtime_ns == before
    images = crops(faces)
    np.testing.assert_array_equal(again.align_crops(images)[0], DlibAligner(folder).align_crops(images)[0])
    assert sorted(path.name for path in folder.iterdir()) == ["dlib.dat", "dlib.json"], "no temporary file is left"


def test_the_same_settings_train_the_same_trees(folder: Path, faces: PreparedFaces, tmp_path: Path) -> None:
    train_dlib(faces, tmp_path, **SMALL)
    images = crops(faces)[:8]
    np.testing.assert_array_equal(
        DlibAligner(tmp_path).align_crops(images)[0], DlibAligner(folder).align_crops(images)[0]
    )


def test_other_settings_are_refused(folder: Path, faces: PreparedFaces) -> None:
    with pytest.raises(ValueError, match=r"other settings .*cascade_depth"):
        train_dlib(faces, folder, **{**SMALL, "cascade_depth": 6})
    with pytest.raises(ValueError, match="num_faces: 60 before, 20 now"):
        train_dlib(faces, folder, faces=20, **SMALL)


def test_a_training_that_was_broken_off_binds_nobody(faces: PreparedFaces, tmp_path: Path) -> None:
    (tmp_path / "dlib.json").write_text('{"num_faces": 7}')
    train_dlib(faces, tmp_path, faces=4, cascade_depth=1, num_trees_per_cascade_level=2)
    settings = json.loads((tmp_path / "dlib.json").read_text())
    assert (settings["num_faces"], settings["num_landmarks"], settings["mirror"]) == (4, 68, False)
    assert settings["dlib"]["num_trees_per_cascade_level"] == 2


def test_options_are_dlibs_own_unless_named(dlib: Any) -> None:
    usual, ours = dlib.shape_predictor_training_options(), training_options(3, nu=0.2)
    assert (ours.num_threads, ours.nu) == (3, 0.2)
    ours.num_threads, ours.nu = usual.num_threads, usual.nu
    assert str(ours) == str(usual)
    with pytest.raises(ValueError, match="no option 'trees'; it has cascade_depth"):
        training_options(trees=3)


def test_the_box_is_where_every_crop_has_it(faces: PreparedFaces) -> None:
    rectangle = peers._rectangle(faces.margin)
    assert (rectangle.left(), rectangle.right()) == (rectangle.top(), rectangle.bottom())
    assert (rectangle.left() + rectangle.right()) / 2 == 127.5
    side = (faces.boxes[:, 2:] - faces.boxes[:, :2]).max(axis=1)
    np.testing.assert_allclose(rectangle.right() - rectangle.left(), side, atol=1)


def test_mirrored_faces_are_learnt_with_left_and_right_exchanged(faces: PreparedFaces, tmp_path: Path) -> None:
    """The mean shape of faces and their mirror images, which next to no trees leave as it is, is symmetric."""
    trained = train_dlib(faces, tmp_path, faces=3, mirror=True, cascade_depth=1, num_trees_per_cascade_level=1, nu=1e-6)
    shape = trained.align_crops(crops(faces)[:1])[0][0, -1]
    flipped = shape[faces.scheme.mirror_permutation] * [-1, 1] + [255, 0]
    np.testing.assert_allclose(shape, flipped, atol=1)
    assert "also mirrored" in peers_note(trained)


def test_landmarks_that_are_not_annotated_are_refused(tmp_path: Path) -> None:
    faces = PreparedFaces(load_dataset("synthetic", "train", size=5))
    faces.counted[3, 10] = False
    with pytest.raises(ValueError, match=r"in 1 of 5 faces of 'synthetic' some are not annotated"):
        train_dlib(faces, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_predictor_that_is_missing_or_broken_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="compare_peers"):
        DlibAligner(tmp_path)
    (tmp_path / "dlib.json").write_bytes((folder / "dlib.json").read_bytes())
    (tmp_path / "dlib.dat").write_bytes((folder / "dlib.dat").read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot read"):
        DlibAligner(tmp_path)


def test_some_faces_are_spread_over_all() -> None:
    assert evenly_spaced(10, None).tolist() == evenly_spaced(10, 99).tolist() == list(range(10))
    assert evenly_spaced(10, 4).tolist() == [0, 3, 6, 9]
    with pytest.raises(ValueError, match="positive"):
        evenly_spaced(10, 0)
