"""GEN and LRN, layer by layer, in ONNX."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from face_align_env.aligner.onnx_graph import Graph
from face_align_env.crops import CROP_SIZE
from face_align_env.networks.convolution import PixelConv2d
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN


class ExportError(ValueError):
    """An aligner that cannot be exported, or whose file does not do the same; the message says why."""


def numpy_of(tensor: Tensor) -> npt.NDArray[np.float32]:
    """The values, as an array of their own or not."""
    return np.asarray(tensor.detach().cpu().contiguous().numpy(), dtype=np.float32)


def _layers(graph: Graph, layers: nn.Sequential, x: str, centred: bool = False) -> str:
    """The layers that GEN and LRN consist of.

    :param centred: whether 128 has been subtracted from pixels
    :raises ExportError: there is another one
    """
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            weight, size, pad = numpy_of(layer.weight), list(layer.kernel_size), int(layer.padding[0])
            if isinstance(layer, PixelConv2d):
                x, weight = x if centred else graph.op("Sub", x, np.float32(128)), weight / np.float32(64)
            bias = () if layer.bias is None else (numpy_of(layer.bias),)
            x = graph.op("Conv", x, weight, *bias, kernel_shape=size, strides=list(layer.stride), pads=[pad] * 4)
        elif isinstance(layer, nn.ReLU):
            x = graph.op("Relu", x)
        elif isinstance(layer, nn.MaxPool2d):
            x = graph.op("MaxPool", x, kernel_shape=[layer.kernel_size] * 2, strides=[layer.stride] * 2)
        elif isinstance(layer, nn.Flatten):
            x = graph.op("Flatten", x)
        elif isinstance(layer, nn.Linear):
            x = linear(graph, layer, x)
        elif not isinstance(layer, nn.Dropout):  # which does nothing in evaluation
            raise ExportError(f"A layer of the kind {type(layer).__name__} cannot be exported.")
    return x


def linear(graph: Graph, layer: nn.Linear, x: str) -> str:
    """(N, out) of (N, in)."""
    return graph.op("Gemm", x, numpy_of(layer.weight), numpy_of(layer.bias), transB=1)


def start(graph: Graph, network: nn.Module, crops: str) -> str:
    """(N, K, 2) x_0: GEN's, or the mean shape."""
    if not isinstance(network, GEN):
        mean_shape = numpy_of(network.mean_shape)  # type: ignore[arg-type]
        shape = graph.op("Concat", graph.axis(graph.side(crops, 0), 0), np.array(mean_shape.shape), axis=0)
        return graph.op("Expand", mean_shape, shape)
    size = network.config.input_size
    images = graph.cast(graph.op("Transpose", crops, perm=[0, 3, 1, 2]), np.float32)
    if CROP_SIZE % size == 0:
        factor = [CROP_SIZE // size] * 2
        images = graph.op("AveragePool", images, kernel_shape=factor, strides=factor)
    else:
        means = _adaptive_means(size)
        images = graph.op("MatMul", means, graph.op("MatMul", images, means.T))
    return estimate(graph, network, graph.op("Div", graph.op("Sub", images, np.float32(127.5)), np.float32(64)))


def estimate(graph: Graph, gen: GEN, images: str) -> str:
    """(N, K, 2) GEN's shapes of its normalised input (N, 3, size, size)."""
    mean_shape = numpy_of(gen.mean_shape)
    offsets = _layers(graph, gen.head, _layers(graph, gen.features, images))
    moved = graph.op("Mul", graph.reshape(offsets, -1, len(mean_shape), 2), np.float32(CROP_SIZE / 8))
    return graph.op("Add", moved, mean_shape)


def _adaptive_means(size: int) -> npt.NDArray[np.float32]:
    """(size, 256): the means that torch's ``adaptive_avg_pool2d`` takes."""
    matrix = np.zeros((size, CROP_SIZE), dtype=np.float32)
    for i in range(size):
        low, high = i * CROP_SIZE // size, -(-(i + 1) * CROP_SIZE // size)
        matrix[i, low:high] = 1 / (high - low)
    return matrix


def remember(graph: Graph, lrn: LRN, patches: str, d: str, centred: bool = False) -> str:
    """(M, 512) d_{t+1}: the trunk of LRN.

    :param patches: (M K, 3, P, P) pixels
    :param d: (M, 512) d_t
    :param centred: whether 128 has been subtracted from the pixels
    """
    trunk = lrn.trunk
    features = _layers(graph, trunk.encoder, patches, centred)
    features = graph.reshape(features, -1, trunk.recurrent.in_features - lrn.config.hidden)
    return graph.op("Tanh", linear(graph, trunk.recurrent, graph.op("Concat", features, d, axis=1)))
