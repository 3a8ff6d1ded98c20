"""Weights on disk."""

from __future__ import annotations

import stat
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from writers.networks import MICRO_LRN, history, images, micro_gen, micro_lrn, num_parameters

from face_align_env.networks import weights
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.networks.weights import WeightsError, load_weights, save_weights


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_gen_survives_its_file(tmp_path: Path, half: bool) -> None:
    gen = micro_gen(batch_norm=True, dropout=0.3)
    gen.train()(images(4, 16, 16, 3))  # the running means move
    path = tmp_path / "new" / "gen.safetensors"
    gen.eval().save(path, {"epochs": 3}, half=half)
    again = GEN.load(path).eval()
    assert again.config == gen.config
    crops = images(2, 256, 256, 3)
    tolerance = {"rtol": 2e-3, "atol": 0.2} if half else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(again(crops), gen(crops), **tolerance)
    assert next(again.parameters()).dtype == torch.float32
    assert load_weights(path, "gen")[2] == {"epochs": 3}


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_lrn_survives_its_file(tmp_path: Path, half: bool) -> None:
    lrn = micro_lrn()
    path = tmp_path / "lrn.safetensors"
    lrn.save(path, half=half)
    again = LRN.load(path)
    assert again.config == lrn.config
    patches, d = images(2, 68, 30, 30, 3), history(2)
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if half else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(again(patches, d), lrn(patches, d), **tolerance)
    assert path.stat().st_size == pytest.approx(num_parameters(lrn) * (2 if half else 4), rel=0.02)


def test_the_same_weights_are_the_same_file(tmp_path: Path) -> None:
    lrn = micro_lrn()
    for i in range(6):
        lrn.save(tmp_path / f"{i}.safetensors", {"seed": 0})
    assert len({(tmp_path / f"{i}.safetensors").read_bytes() for i in range(6)}) == 1


def test_weights_can_be_read_by_everyone_who_may_read_the_folder(tmp_path: Path) -> None:
    micro_lrn().save(tmp_path / "lrn.safetensors")
    (tmp_path / "ordinary").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_missing_weights_say_how_to_train_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="face-align pretrain lrn"):
        LRN.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_damaged_weights_are_an_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "gen.safetensors"
    micro_gen().save(path)
    data = path.read_bytes()
    path.write_bytes({"truncated": data[:-100], "garbage": b"\xff" * 200, "empty": b""}[damage])
    with pytest.raises(WeightsError, match=r"gen.safetensors' is damaged"):
        GEN.load(path)


def test_weights_of_the_other_network_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "gen.safetensors"
    micro_gen().save(path)
    with pytest.raises(WeightsError, match="holds gen, not weights of the network 'lrn'"):
        LRN.load(path)


def test_tensors_of_somebody_else_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(WeightsError, match="holds something else"):
        LRN.load(path)


def test_tensors_of_another_scheme_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "lrn.safetensors"
    save_weights(path, "lrn", {**asdict(MICRO_LRN), "num_landmarks": 29}, micro_lrn().state_dict())
    with pytest.raises(WeightsError, match="does not fit its own configuration"):
        LRN.load(path)


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lrn.safetensors"
    micro_lrn().save(path)
    before = path.read_bytes()

    def half_of_it(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(weights.Path, "write_bytes", half_of_it)
    with pytest.raises(KeyboardInterrupt):
        micro_lrn(2.0).save(path)
    assert path.read_bytes() == before
    monkeypatch.undo()
    micro_lrn(2.0).save(path)
    assert path.read_bytes() != before
