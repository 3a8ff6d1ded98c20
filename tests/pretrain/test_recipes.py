"""Presets, and the two functions behind ``face-align pretrain``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from face_align_env.networks import gen as gen_network
from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN, LRNConfig
from face_align_env.networks.weights import file_digest, load_weights
from face_align_env.pretrain import recipes
from face_align_env.pretrain.loop import make_fabric
from face_align_env.pretrain.recipes import RECIPES, Data, TrainingConfig, recipe
from face_align_env.pretrain.stages import FacesOnDevice, pretrain_gen, pretrain_lrn
from face_align_env.released import find_release, load_networks

CONFIG = TrainingConfig(epochs=1, batch_size=4)


@pytest.fixture
def faces(monkeypatch: pytest.MonkeyPatch, toy_dataset: Any) -> FacesOnDevice:
    """Toy faces in place of the registry's, and presets called micro."""
    monkeypatch.setitem(gen_network.PRESETS, "micro", GENConfig(input_size=16, width=4, hidden=16))
    monkeypatch.setitem(lrn_network.PRESETS, "micro", LRNConfig(encoder=((4, 10, 10, 1),), bottleneck=4))

    def load(name: str, split: str, root: Any, landmarks: Any, size: int = 4) -> Any:
        return toy_dataset(split, size=size)

    monkeypatch.setattr(recipes, "load_dataset", load)
    return FacesOnDevice(Data("synthetic", options={"size": 5}), "cpu")


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_name_networks_that_exist(name: str) -> None:
    assert recipe(name).gen in gen_network.PRESETS
    assert recipe(name).lrn in lrn_network.PRESETS


def test_an_unknown_recipe_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"Unknown preset 'soufflé'.*compact"):
        recipe("soufflé")


def test_the_papers_batches_hold_128_faces() -> None:
    assert recipe("paper").gen_training.batch_size == recipe("paper").lrn_training.batch_size == 128
    assert (recipe("paper").gen, recipe("mdm").lrn) == ("paper", "mdm")


def test_faces_are_read_once(faces: FacesOnDevice) -> None:
    assert faces("train", 256) is faces("train", 256)
    assert faces("train", 16) is not faces("train", 256)
    assert faces("train", 16).prepared is faces("train", 256).prepared
    assert (faces.prepared("train").dataset.split, faces.prepared("test").dataset.split) == ("train", "test")
    assert len(faces("test", 16)) == 5, "options reach the dataset"


def test_gen_then_lrn_from_gen_and_from_the_mean(faces: FacesOnDevice, tmp_path: Path) -> None:
    fabric = make_fabric("cpu")
    error = pretrain_gen(faces, "micro", CONFIG, tmp_path / "gen", fabric)
    assert 0 < error < 1
    gen = tmp_path / "gen" / "weights.safetensors"
    np.testing.assert_array_equal(GEN.load(gen).mean_shape.numpy(), faces.prepared("train").mean_shape())
    assert load_weights(gen, "gen")[2]["dataset"] == "toy"

    for start, origin in ((gen, "gen"), (None, "mean")):
        folder = tmp_path / f"lrn-{origin}"
        assert pretrain_lrn(faces, "micro", CONFIG, folder, fabric, start, iterations=2, action_limit=16.0) > 0
        notes = load_weights(folder / "weights.safetensors", "lrn")[2]
        assert (notes["from"], notes["iterations"], notes["preset"]) == (origin, 2, "micro")
        assert (notes["visited"] is not None) == (start is not None), "Table 6's LRN-m have m iterations, and no more"
        np.testing.assert_array_equal(np.float32(notes["mean_shape"]), faces.prepared("train").mean_shape())
        assert LRN.load(folder / "weights.safetensors").config.action_limit == 16

    with pytest.raises(ValueError, match="iterations: 2 before, 3 now"):
        pretrain_lrn(faces, "micro", CONFIG, tmp_path / "lrn-mean", fabric, None, iterations=3, action_limit=16.0)


def test_lrn_is_fine_tuned_from_given_weights(faces: FacesOnDevice, tmp_path: Path) -> None:
    fabric, older = make_fabric("cpu"), tmp_path / "older.safetensors"
    LRN(lrn_network.preset("micro", 68)).save(older)
    still = replace(CONFIG, learning_rate=1e-12)
    pretrain_lrn(faces, "micro", still, tmp_path / "tuned", fabric, None, iterations=1, init=older)
    _, weights, notes = load_weights(tmp_path / "tuned" / "weights.safetensors", "lrn")
    for name, tensor in load_weights(older, "lrn")[1].items():
        torch.testing.assert_close(weights[name], tensor)
    assert notes["init_sha256"] == file_digest(older)
    with pytest.raises(ValueError, match=r"init_sha256: .* before, None now"):
        pretrain_lrn(faces, "micro", still, tmp_path / "tuned", fabric, None, iterations=1)
    LRN(LRNConfig(encoder=((4, 10, 10, 1),), bottleneck=8)).save(older)
    with pytest.raises(ValueError, match="is not that of preset 'micro' with 68 landmarks"):
        pretrain_lrn(faces, "micro", still, tmp_path / "wider", fabric, None, iterations=1, init=older)
    LRN(lrn_network.preset("micro", 19)).save(older)
    with pytest.raises(ValueError, match=r"older\.safetensors' cannot start this training: 68 landmarks cannot be had"):
        pretrain_lrn(faces, "micro", still, tmp_path / "fewer", fabric, None, iterations=1, init=older)


def test_gen_is_fine_tuned_from_given_weights(faces: FacesOnDevice, tmp_path: Path) -> None:
    fabric, older = make_fabric("cpu"), tmp_path / "older.safetensors"
    before = GEN(gen_network.preset("micro", 68), torch.full((68, 2), 111.0))
    before.save(older)
    still = replace(CONFIG, learning_rate=1e-12)
    pretrain_gen(faces, "micro", still, tmp_path / "tuned", fabric, init=older)
    _, weights, notes = load_weights(tmp_path / "tuned" / "weights.safetensors", "gen")
    for name, tensor in before.state_dict().items():
        torch.testing.assert_close(weights[name], tensor)
    assert notes["init_sha256"] == file_digest(older)
    with pytest.raises(ValueError, match=r"init_sha256: .* before, None now"):
        pretrain_gen(faces, "micro", still, tmp_path / "tuned", fabric)
    GEN(replace(before.config, hidden=8), before.mean_shape).save(older)
    with pytest.raises(ValueError, match=r"The GEN in '.*' is not that of preset 'micro'"):
        pretrain_gen(faces, "micro", still, tmp_path / "narrower", fabric, init=older)


def test_lrn_of_68_landmarks_starts_that_of_19(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lrn_network.PRESETS, "micro", LRNConfig(encoder=((4, 10, 10, 1),), bottleneck=4))
    older = LRN(lrn_network.preset("micro", 68))
    older.save(tmp_path / "older.safetensors")
    still, few = replace(CONFIG, learning_rate=1e-12), FacesOnDevice(Data("synthetic", None, 19, {"size": 8}), "cpu")
    pretrain_lrn(few, "micro", still, tmp_path, make_fabric("cpu"), None, 1, init=tmp_path / "older.safetensors")
    expected = older.for_landmarks(19).state_dict()
    for name, tensor in load_weights(tmp_path / "weights.safetensors", "lrn")[1].items():
        torch.testing.assert_close(tensor, expected[name])


def test_networks_of_a_release_are_found_by_its_name(
    faces: FacesOnDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(lrn_network.PRESETS, "released", load_networks(find_release("300w-68"))[1].config)
    still, fabric = replace(CONFIG, learning_rate=1e-12), make_fabric("cpu")
    pretrain_lrn(faces, "released", still, tmp_path, fabric, "300w-68", iterations=1, init="300w-68")
    _, weights, notes = load_weights(tmp_path / "weights.safetensors", "lrn")
    released = find_release("300w-68").path
    assert notes["gen_sha256"] == notes["init_sha256"] == file_digest(released)
    torch.testing.assert_close(weights["action.weight"], load_weights(released, "lrn")[1]["action.weight"].float())


def test_gen_of_another_scheme_is_an_error(faces: FacesOnDevice, tmp_path: Path) -> None:
    GEN(GENConfig(29, input_size=16, width=4, hidden=16)).save(tmp_path / "gen.safetensors")
    with pytest.raises(ValueError, match="predicts 29 landmarks, the dataset has 68"):
        pretrain_lrn(faces, "micro", CONFIG, tmp_path / "lrn", make_fabric("cpu"), tmp_path / "gen.safetensors")
