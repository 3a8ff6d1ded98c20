"""What an iteration is predicted to gain, and stopping by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from face_align_env.networks.gain import GainHead, GainHeadConfig, increment_lengths, little_gain
from face_align_env.networks.weights import WeightsError


def head(slopes: list[list[float]], offset: list[float]) -> GainHead:
    made = GainHead(GainHeadConfig(68, len(offset) + 1))
    made.slopes.copy_(torch.tensor(slopes))
    made.offset.copy_(torch.tensor(offset))
    return made


def actions(*lengths: float) -> Tensor:
    """(1, 136) increments; the landmarks' lengths, over and over."""
    repeated = torch.tensor([lengths[i % len(lengths)] for i in range(68)])
    return torch.stack([0.6 * repeated, -0.8 * repeated], -1).view(1, 136)


def test_lengths_are_those_of_the_landmarks() -> None:
    mean, largest, spread = increment_lengths(actions(1.0, 3.0))[0].tolist()
    assert (mean, largest, spread) == pytest.approx((2.0, 3.0, 1.0))
    assert increment_lengths(torch.zeros(4, 136)).abs().max() == 0


def test_a_prediction_is_linear_and_of_its_iteration() -> None:
    made = head([[1.0, 0.0, 0.0], [0.0, 1.0, 2.0]], [0.5, -1.0])
    assert made(1, actions(1.0, 3.0)).item() == pytest.approx(2.5)
    assert made(2, actions(1.0, 3.0)).item() == pytest.approx(4.0)
    assert made(9, actions(1.0, 3.0)).item() == pytest.approx(4.0), "of the last that is known"


def test_a_face_stops_where_little_is_to_be_gained() -> None:
    stops = little_gain(head([[1.0, 0.0, 0.0]], [0.0]), least=2.0)
    both = torch.cat([actions(1.9), actions(2.1)])
    assert stops(1, both).tolist() == [True, False]


def test_it_is_kept_in_a_file(tmp_path: Path) -> None:
    made = head([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], [7.0, 8.0])
    made.save(tmp_path / "gain.safetensors", {"fit": "by hand"})
    again = GainHead.load(tmp_path / "gain.safetensors")
    assert again.config == made.config
    np.testing.assert_array_equal(again.slopes, made.slopes)
    np.testing.assert_array_equal(again.offset, made.offset)
    (tmp_path / "gain.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"gain\.safetensors"):
        GainHead.load(tmp_path / "gain.safetensors")


def test_one_iteration_has_no_next_one() -> None:
    with pytest.raises(ValueError, match="iterations must be at least 2, got 1"):
        GainHeadConfig(68, 1)
