"""The convolutions of LRN's patch encoder: over bytes, and as matrix products where a CPU trains faster so."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_COPIES = 3  # of each pixel, at most: as columns, windows that overlap more cost more than they save


def _side(size: int, kernel: int, stride: int) -> int:
    """How many windows fit side by side."""
    return (size - kernel) // stride + 1


class _Columns(torch.autograd.Function):
    """A convolution as one matrix product: of its windows, laid out as rows (im2col), and its weights."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        kernel = weight.shape[2]
        windows = images.permute(0, 2, 3, 1).unfold(1, kernel, stride).unfold(2, kernel, stride)
        rows = windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, kernel * kernel * images.shape[1])
        ctx.save_for_backward(rows, weight)
        ctx.shape, ctx.stride = images.shape, stride
        sides = [_side(size, kernel, stride) for size in images.shape[2:]]
        # No view, for what follows may be done in place.
        shape = (len(images), len(weight), *sides)
        maps = torch.empty(shape, dtype=rows.dtype, memory_format=torch.channels_last)
        products = maps.permute(0, 2, 3, 1).view(-1, len(weight))
        torch.addmm(bias, rows, weight.permute(0, 2, 3, 1).flatten(1).T, out=products)
        return maps

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        (of_maps,) = gradients
        rows, weight = ctx.saved_tensors
        channels, inputs, kernel, _ = weight.shape
        of_maps = of_maps.contiguous(memory_format=torch.channels_last)
        gradient = of_maps.permute(0, 2, 3, 1).view(-1, channels)
        of_weight = (gradient.T @ rows).view(channels, kernel, kernel, inputs).permute(0, 3, 1, 2)
        of_images = None
        if ctx.needs_input_grad[0]:
            # This half of a convolution's backward pass is fast as it is.
            stride = [ctx.stride] * 2
            # Only its shape counts.
            images = torch.empty(ctx.shape, dtype=rows.dtype, memory_format=torch.channels_last)
            of_images, _, _ = torch.ops.aten.convolution_backward(
                of_maps, images, weight, None, stride, [0, 0], [1, 1], False, [0, 0], 1, [True, False, False]
            )
        return of_images, of_weight, gradient.sum(0), None


def convolve(images: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """A convolution without padding.

    On a CPU, oneDNN takes several times as long for the gradient of a bfloat16 convolution's weights, where it has few
    channels or strides, as for the convolution; one matrix product gives the same.

    :param images: (N, C, H, W) in channels-last memory
    :param weight: (C', C, k, k)
    :param bias: (C',)
    :param stride: pixels from window to window
    :return: (N, C', H', W') in channels-last memory
    """
    kernel = weight.shape[2]
    learns = torch.is_grad_enabled() and weight.requires_grad
    if not (learns and images.device.type == "cpu" and images.dtype == torch.bfloat16):
        return nn.functional.conv2d(images, weight, bias, stride)
    if kernel**2 > _COPIES * stride**2:
        return nn.functional.conv2d(images, weight, bias, stride)
    maps: Tensor = _Columns.apply(images, weight, bias, stride)  # type: ignore[no-untyped-call]
    return maps


class PatchConv2d(nn.Conv2d):
    """A convolution without padding, by :func:`convolve`."""

    def forward(self, images: Tensor) -> Tensor:
        """(N, C', H', W') of (N, C, H, W) images."""
        dtype = _dtype(self.weight)
        assert self.bias is not None
        return convolve(images.to(dtype), self.weight.to(dtype), self.bias.to(dtype), self.stride[0])


class PixelConv2d(PatchConv2d):
    """A convolution without padding over pixels 0..255, normalised to (p - 128) / 64.

    The division is done on the weights and the subtraction on bytes: the patches of a batch are 23 MB, and each pass
    over them in floating point would cost as much as the convolution.
    """

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, C', H', W') of (N, C, H, W) uint8 or floating-point pixels."""
        dtype = _dtype(self.weight)
        assert self.bias is not None
        # Flipping the highest bit of a byte and reading it as signed subtracts 128.
        centred = (pixels ^ 128).view(torch.int8) if pixels.dtype == torch.uint8 else pixels - 128
        return convolve(centred.to(dtype), (self.weight / 64).to(dtype), self.bias.to(dtype), self.stride[0])


def _dtype(weight: Tensor) -> torch.dtype:
    """The type that is calculated in: autocast's, where that is on."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
