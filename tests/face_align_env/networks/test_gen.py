"""GEN: Table 1, its input, and the same function in other shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from writers.networks import images, micro_gen, num_parameters

from face_align_env.landmarks import to_19_points
from face_align_env.networks import gen as gen_network
from face_align_env.networks.gen import GEN, GENConfig, reduce_crops


@pytest.mark.parametrize("num_landmarks", [68, 29, 19])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_gen_gives_a_shape_for_each_crop(num_landmarks: int, batch_norm: bool) -> None:
    config = GENConfig(num_landmarks, input_size=16, width=4, hidden=16, batch_norm=batch_norm, dropout=0.5)
    shapes = GEN(config, np.full((num_landmarks, 2), 100.0)).eval()(images(3, 256, 256, 3))
    assert shapes.shape == (3, num_landmarks, 2)
    assert shapes.dtype == torch.float32
    assert (shapes - 100).abs().max() < 100, "a fresh network predicts about the mean shape"
    assert shapes[0].ne(shapes[1]).any(), "the prediction depends on the image"


def test_gen_with_a_zero_output_layer_predicts_the_mean_shape() -> None:
    gen = micro_gen()
    nn.init.zeros_(gen.head[-1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(gen.head[-1].bias)  # type: ignore[arg-type]
    torch.testing.assert_close(gen(images(2, 256, 256, 3)), gen.mean_shape.expand(2, -1, -1), rtol=0, atol=0)


def test_gen_takes_crops_that_are_reduced_already() -> None:
    gen = micro_gen()
    blocks = images(2, 16, 16, 3)
    full = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)
    torch.testing.assert_close(gen(full), gen(blocks))


@pytest.mark.parametrize("size", [16, 48, 64, 112, 256])
def test_reduced_crops_are_means_of_pixels(size: int) -> None:
    crops = images(2, 256, 256, 3)
    crops[1] = 255  # the largest sums that there are
    expected = nn.functional.adaptive_avg_pool2d(crops.permute(0, 3, 1, 2).float(), size)
    for given in (crops, crops.transpose(1, 2).contiguous().transpose(1, 2)):
        reduced = reduce_crops(given, size)
        torch.testing.assert_close(reduced, expected, rtol=0, atol=1e-4)
        assert reduced.dtype == torch.float32
        assert reduced.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_folding_batch_normalisation_changes_nothing(batch_norm: bool) -> None:
    gen = micro_gen(batch_norm=batch_norm, dropout=0.3).train()
    crops = images(4, 256, 256, 3)
    for layer in gen.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, -2, 2)
            nn.init.uniform_(layer.bias, -1, 1)
    gen(crops)  # the running means move
    before = {name: tensor.clone() for name, tensor in gen.state_dict().items()}
    folded = gen.folded()
    assert gen.training
    assert not folded.training
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    torch.testing.assert_close(folded(crops), gen.eval()(crops), rtol=0, atol=1e-3)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    for name, tensor in gen.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} is the network's own"


def test_a_folded_network_survives_its_file(tmp_path: Path) -> None:
    folded = micro_gen(batch_norm=True).folded()
    folded.save(tmp_path / "gen.safetensors")
    crops = images(2, 256, 256, 3)
    torch.testing.assert_close(GEN.load(tmp_path / "gen.safetensors").eval()(crops), folded(crops), rtol=0, atol=0)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_gen_gives_the_19_points_of_its_68(batch_norm: bool) -> None:
    gen, crops = micro_gen(batch_norm=batch_norm), images(3, 256, 256, 3)
    other = gen.for_landmarks(19)
    assert other.config.num_landmarks == 19
    assert not other.training
    np.testing.assert_allclose(
        other(crops).detach().numpy(), to_19_points(gen(crops).detach().numpy()), rtol=0, atol=1e-3
    )
    with pytest.raises(ValueError, match="29 landmarks cannot be had from 68"):
        gen.for_landmarks(29)


def test_gen_paper_preset_is_table_1() -> None:
    with torch.device("meta"):
        gen = GEN(gen_network.preset("paper", 68))
    convolutions = [layer for layer in gen.modules() if isinstance(layer, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert {c.kernel_size for c in convolutions} == {(3, 3)}
    pools = [layer for layer in gen.modules() if isinstance(layer, nn.MaxPool2d)]
    assert [pool.kernel_size for pool in pools] == [2, 2, 2, 2]
    assert [f.out_features for f in gen.modules() if isinstance(f, nn.Linear)] == [512, 2 * 68]
    # a ReLU after each layer but pooling and output
    assert sum(isinstance(layer, nn.ReLU) for layer in gen.modules()) == 8 + 1
    order = [type(layer) for layer in gen.features]
    assert order == 4 * [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    # by hand: convolutions 4,685,376; FC 512 x 16 x 16 x 512 + 512; FC 512 x 136 + 136
    assert num_parameters(gen) == 4_685_376 + 67_109_376 + 69_768
