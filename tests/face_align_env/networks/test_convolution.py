"""The convolutions of LRN's encoder, over bytes and in bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from writers.networks import images

from face_align_env.networks.convolution import PatchConv2d, PixelConv2d


def test_pixel_convolution_reads_bytes_and_floats_alike() -> None:
    torch.manual_seed(0)
    convolution = PixelConv2d(3, 5, 4, 2)
    pixels = images(3, 3, 12, 12)
    pixels[0, 0, 0] = torch.tensor([0, 1, 127, 128, 129, 255] * 2, dtype=torch.uint8)
    result = convolution(pixels)
    torch.testing.assert_close(result, convolution(pixels.float()), rtol=0, atol=0)
    normalised = (pixels.float() - 128) / 64
    expected = nn.functional.conv2d(normalised, convolution.weight, convolution.bias, stride=2)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def _gradients(
    layer: nn.Conv2d, x: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Output, and gradients of input, weight and bias, where the network's precision is ``dtype``."""
    layer.zero_grad()
    x = x.clone().requires_grad_(x.is_floating_point())
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        y: Tensor = layer(x)
    assert y.dtype == dtype
    y.backward(torch.linspace(-1, 1, y.numel()).view_as(y).to(dtype))
    assert layer.weight.grad is not None
    assert layer.bias is not None
    assert layer.bias.grad is not None
    return y.detach().float(), x.grad, layer.weight.grad, layer.bias.grad


@pytest.mark.parametrize(
    ("layer", "side"),
    [(PixelConv2d(3, 8, 6, 4), 30), (PatchConv2d(8, 4, 3, 2), 5), (PatchConv2d(8, 4, 3, 1), 7)],
    ids=["over bytes", "with a stride", "without"],
)
def test_convolutions_have_the_same_gradients_in_bfloat16(layer: PatchConv2d, side: int) -> None:
    torch.manual_seed(0)
    layer.reset_parameters()
    pixels = isinstance(layer, PixelConv2d)
    x = images(40, 3, side, side) if pixels else torch.randn(40, 8, side, side)
    x = x.contiguous(memory_format=torch.channels_last)
    for half, full in zip(_gradients(layer, x, torch.bfloat16), _gradients(layer, x, torch.float32), strict=True):
        assert (half is None) == (full is None)
        if half is not None and full is not None:
            assert (half - full).norm() < 0.02 * full.norm()


def test_strided_convolutions_train_as_matrix_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 on a CPU; others, and all that do not learn, are convolutions."""
    called: list[int] = []
    convolve = nn.functional.conv2d
    monkeypatch.setattr(
        nn.functional, "conv2d", lambda x, w, b, stride: called.append(int(stride)) or convolve(x, w, b, stride)
    )
    layers = PixelConv2d(3, 8, 6, 4), nn.ReLU(), PatchConv2d(8, 4, 3, 1), PatchConv2d(4, 4, 3, 2)
    encoder = nn.Sequential(*layers)
    pixels = images(2, 3, 30, 30).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        encoder(pixels).sum().backward()
        assert called == [1]
        with torch.no_grad():
            encoder(pixels)
        assert called == [1, 4, 1, 2]
    called.clear()
    encoder(pixels)
    assert called == [4, 1, 2]
