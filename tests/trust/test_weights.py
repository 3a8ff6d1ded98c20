"""Weights files that are damaged, crafted or of a failed training: one WeightsError names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trust.refusals import Refused

from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN, LRNConfig
from face_align_env.networks.weights import FORMAT, WeightsError, save_weights

SMALL = LRNConfig(num_landmarks=19, encoder=((4, 10, 10, 1),), bottleneck=4, hidden=16)

Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], None]


def _config(**values: Any) -> Change:
    return lambda config, tensors: config.update(values)


def _fill(name: str, value: float) -> Change:
    return lambda config, tensors: tensors[name].fill_(value)


# What is wrong -> what the message says. Each is written with the network's own writer, so that only this is wrong.
CRAFTED: dict[str, tuple[Change, str]] = {
    "NaN in a weight": (_fill("action.weight", float("nan")), "'action.weight' holds values that are not finite"),
    "infinity in a bias": (_fill("action.bias", float("inf")), "'action.bias' holds values that are not finite"),
    "negative limit": (_config(action_limit=-1.0), "action_limit"),
    "limit of zero": (_config(action_limit=0.0), "action_limit"),
    "limit beyond the crop": (_config(action_limit=1e7), "action_limit"),
    "limit that is no number": (_config(action_limit="32"), "action_limit"),
    "limit NaN": (_config(action_limit=float("nan")), "action_limit"),
    "patch of zero pixels": (_config(patch_size=0), "patch_size"),
    "patch larger than the crop": (_config(patch_size=100_000), "patch_size"),
    "hidden layer of 10^9": (_config(hidden=10**9), "does not fit its own configuration"),
    "negative hidden layer": (_config(hidden=-4), "hidden"),
    "encoder of 10^8 channels": (_config(encoder=[[10**8, 10, 10, 1]]), "does not fit its own configuration"),
    "kernel larger than the patch": (_config(encoder=[[4, 31, 1, 1]]), "encoder"),
    "stride of zero": (_config(encoder=[[4, 10, 0, 1]]), "encoder"),
    "encoder that is no list": (_config(encoder=7), "encoder"),
    "unknown field": (_config(colour="red"), "colour"),
    "unknown scheme": (_config(num_landmarks=17), "17"),
    "other scheme than the tensors": (_config(num_landmarks=29), "does not fit its own configuration"),
    "tensor missing": (lambda config, tensors: tensors.pop("action.bias"), "action.bias"),  # type: ignore[dict-item]
    "tensor of another shape": (
        lambda config, tensors: tensors.update({"action.bias": torch.zeros(3)}),
        "action.bias",
    ),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_weights_are_refused(case: str, tmp_path: Path, refused: Refused) -> None:
    change, message = CRAFTED[case]
    torch.manual_seed(0)
    config, tensors = asdict(SMALL), {key: value.clone() for key, value in LRN(SMALL).state_dict().items()}
    change(config, tensors)
    path = tmp_path / "crafted.safetensors"
    save_weights(path, "lrn", config, tensors)
    with pytest.raises(WeightsError, match=r"crafted\.safetensors") as error:
        LRN.load(path)
    assert message in str(error.value)
    refused(error.value)


def test_a_mean_shape_that_is_not_finite_is_refused(tmp_path: Path, refused: Refused) -> None:
    mean_shape = np.full((19, 2), np.nan, dtype=np.float32)
    GEN(GENConfig(num_landmarks=19, input_size=16, width=4, hidden=16), mean_shape).save(tmp_path / "gen.safetensors")
    with pytest.raises(WeightsError, match="'mean_shape' holds values that are not finite") as error:
        GEN.load(tmp_path / "gen.safetensors")
    refused(error.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file as it should be."""
    path = tmp_path_factory.mktemp("whole") / "lrn.safetensors"
    torch.manual_seed(0)
    LRN(SMALL).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '"lrn"', "null", '{"hidden": {}}'])
def test_a_configuration_that_is_no_configuration_is_refused(
    text: str, whole: bytes, tmp_path: Path, refused: Refused
) -> None:
    header_end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:header_end])
    assert header["__metadata__"]["format"] == FORMAT
    header["__metadata__"]["config"] = text
    raw = json.dumps(header).encode()
    raw = raw.ljust(-(-len(raw) // 8) * 8)
    path = tmp_path / "config.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + whole[header_end:])
    with pytest.raises(WeightsError, match=r"config\.safetensors") as error:
        LRN.load(path)
    refused(error.value)
