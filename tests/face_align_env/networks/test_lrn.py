"""LRN: d_t and a_t from patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from writers.networks import MICRO_LRN, history, images, micro_gen, micro_lrn

from face_align_env.landmarks import to_19_points
from face_align_env.mdp import HISTORY_SIZE
from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.lrn import LRN, LRNTrunk


def test_lrn_of_68_points_starts_one_of_19() -> None:
    lrn, chin, before = micro_lrn(gain=30), 8, history(2)
    patches = torch.zeros(2, 68, 30, 30, 3, dtype=torch.uint8)
    patches[:, chin] = images(2, 30, 30, 3)  # alone, so that no other point's patch is missed
    with torch.no_grad():  # an encoder that gives nothing for a black patch
        for layer in lrn.trunk.encoder:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.abs_()
                nn.init.zeros_(layer.bias)
    other = lrn.for_landmarks(19)
    fewer = torch.zeros(2, 19, 30, 30, 3, dtype=torch.uint8)
    fewer[:, 18] = patches[:, chin]
    torch.testing.assert_close(other.trunk(fewer, before), lrn.trunk(patches, before))
    moves = lrn.trunk(patches, before) @ lrn.action.weight.T
    means = to_19_points(moves.detach().view(2, 68, 2).numpy())
    fewer_moves = other.trunk(fewer, before) @ other.action.weight.T
    np.testing.assert_allclose(fewer_moves.detach().view(2, 19, 2).numpy(), means, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="68 landmarks cannot be had from 19"):
        other.for_landmarks(68)


@pytest.mark.parametrize("gain", [1.0, 1e4], ids=["fresh", "saturated"])
def test_lrn_keeps_its_bounds(gain: float) -> None:
    lrn = micro_lrn(gain)
    with torch.no_grad():
        lrn.trunk.recurrent.weight.mul_(gain)
        a, d = lrn(images(4, 68, 30, 30, 3), history(4))
    assert a.shape == (4, 136)
    assert d.shape == (4, HISTORY_SIZE)
    limit = lrn.config.action_limit
    assert a.abs().max() <= limit
    assert d.abs().max() <= 1
    if gain > 1:
        assert a.abs().max() > 0.99 * limit, "the bound can be reached"
        assert d.abs().max() > 0.99
    else:
        assert 0 < a.abs().max() < 0.2 * limit, "first increments are small"


def test_lrn_reads_patches_and_history() -> None:
    lrn = micro_lrn()
    patches, d = images(2, 68, 30, 30, 3), history(2)
    a, following = lrn(patches, d)
    changed = patches.clone()
    changed[0, 5] = 255 - changed[0, 5]
    other, other_following = lrn(changed, d)
    assert other[0].ne(a[0]).any(), "one patch is enough to change the action"
    assert other_following[0].ne(following[0]).any()
    torch.testing.assert_close(other[1], a[1])
    assert lrn(patches, -d)[0].ne(a).float().mean() > 0.9


def test_networks_whose_weights_are_bfloat16_speak_float32() -> None:
    gen, lrn = micro_gen(), micro_lrn()
    crops, patches, d = images(2, 256, 256, 3), images(2, 68, 30, 30, 3), history(2)
    expected = gen(crops), *lrn(patches, d)
    for network in (gen, lrn):
        for parameter in network.parameters():
            parameter.data = parameter.data.bfloat16()
    for result, reference in zip((gen(crops), *lrn(patches, d)), expected, strict=True):
        assert result.dtype == torch.float32
        assert result.ne(reference).any()
        torch.testing.assert_close(result, reference, rtol=0.02, atol=0.05)


def test_lrn_sees_all_landmarks_through_the_same_encoder() -> None:
    trunk = LRNTrunk(MICRO_LRN)
    patches = images(1, 68, 30, 30, 3)
    codes = trunk.encode(patches).view(68, -1)
    order = torch.randperm(68)
    torch.testing.assert_close(trunk.encode(patches[:, order]).view(68, -1), codes[order])


@pytest.mark.parametrize("preset", ["tiny", "compact", "paper", "mdm"])
def test_presets_of_lrn_fit_the_patches(preset: str) -> None:
    config = lrn_network.preset(preset, 19)
    a, d = LRN(config)(images(1, 19, 30, 30, 3), torch.zeros(1, HISTORY_SIZE))
    assert (a.shape, d.shape) == ((1, 38), (1, HISTORY_SIZE))
