"""Sizes of the networks: presets, and what cannot be."""

from __future__ import annotations

import pytest
import torch
from writers.networks import num_parameters

from face_align_env.networks import gen as gen_network
from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN, LRNConfig


@pytest.mark.parametrize(
    ("network", "name", "millions"),
    [("gen", "compact", 2.3), ("lrn", "compact", 1.5), ("lrn", "paper", 1.5), ("lrn", "mdm", 40.5)],
)
def test_presets_have_the_size_that_is_promised(network: str, name: str, millions: float) -> None:
    with torch.device("meta"):
        built = GEN(gen_network.preset(name, 68)) if network == "gen" else LRN(lrn_network.preset(name, 68))
    assert num_parameters(built) / 1e6 == pytest.approx(millions, rel=0.05)


def test_tiny_presets_are_smaller_than_compact_ones() -> None:
    with torch.device("meta"):
        for network, module in ((GEN, gen_network), (LRN, lrn_network)):
            tiny, compact = (network(module.preset(name, 68)) for name in ("tiny", "compact"))  # type: ignore[operator]
            assert num_parameters(tiny) < num_parameters(compact)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GENConfig(input_size=100), "multiple of 16"),
        (lambda: GENConfig(input_size=512), "multiple of 16 up to 256"),
        (lambda: GENConfig(num_landmarks=5), "5 points"),
        (lambda: LRNConfig(num_landmarks=5), "5 points"),
        (lambda: gen_network.preset("huge", 68), "Unknown GEN preset 'huge'.*compact"),
        (lambda: lrn_network.preset("huge", 68), "Unknown LRN preset 'huge'.*mdm"),
    ],
)
def test_a_network_that_cannot_be_is_an_error(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
