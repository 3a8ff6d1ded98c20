"""GEN and LRN in whole numbers of 8 bits, by ONNX Runtime: the engine ``int8`` of ``FaceAligner``.

Convolutions and the layers of GEN's head take bytes instead of floating-point numbers: weights by channel, activations
by tensor, in the ranges that they have on drawn faces. Everything between stays as it is: the reduction of crops,
patches, d_t, Eq. 3 and the loop are PyTorch's.

It is about twice as fast as PyTorch's floating point on a CPU. On 300W's full set it moves landmarks by 0.35 pixels of
the crop on average, which raises the NME of ``300w-68`` from 3.453 to 3.461 %.

The quantised networks are made once for each set of weights, in a few seconds, and kept in the folder of caches.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from face_align_env.aligner.onnx_graph import Graph
from face_align_env.aligner.onnx_graph import Tensor as Named
from face_align_env.aligner.onnx_networks import estimate, linear, remember
from face_align_env.extras import needs
from face_align_env.files import write_bytes
from face_align_env.mdp import HISTORY_SIZE
from face_align_env.networks.cascade import MeanStart, cascade
from face_align_env.networks.gen import GEN, network_input
from face_align_env.networks.lrn import LRN
from face_align_env.store import cache_folder

_FACES = 64  # drawn ones, whose activations are looked at
_AT_ONCE = 8
_ITERATIONS = 4  # of the cascade on them
_VERSION = 2  # of what is kept


class _Int8:
    """A network from its quantised graph.

    :param model: ONNX file
    """

    def __init__(self, model: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # FaceAligner shares the faces
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Int8GEN(_Int8):
    """:class:`~face_align_env.networks.gen.GEN` in whole numbers."""

    def __init__(self, model: bytes, network: GEN) -> None:
        super().__init__(model)
        self.config, self.num_landmarks = network.config, network.num_landmarks  # what others ask of its sizes

    def __call__(self, crops: Tensor) -> Tensor:
        """(N, K, 2) shapes of (N, 256, 256, 3) crops."""
        (shapes,) = self._session.run(None, {"images": network_input(crops, self.config.input_size).numpy()})
        return torch.from_numpy(shapes)


class Int8LRN(_Int8):
    """:class:`~face_align_env.networks.lrn.LRN` in whole numbers."""

    def __init__(self, model: bytes, network: LRN) -> None:
        super().__init__(model)
        self.config, self.num_landmarks = network.config, network.num_landmarks  # what others ask of its sizes

    def __call__(self, patches: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 2K) a_t and (N, 512) d_{t+1} of (N, K, P, P, 3) patches and (N, 512) d_t."""
        seen = {"patches": patches.flatten(0, 1).numpy(), "history": history.numpy()}
        actions, next_history = self._session.run(None, seen)
        return torch.from_numpy(actions), torch.from_numpy(next_history)


def quantized(start: GEN | MeanStart, lrn: LRN | None) -> tuple[Int8GEN | MeanStart, Int8LRN | None]:
    """The networks with whole numbers inside; they run on the CPU, each in the thread that asks it.

    :param start: GEN without batch normalisation, in float32; the mean shape stays what it is
    :param lrn: in float32
    :raises MissingExtraError: ``onnx`` or ``onnxruntime`` is not installed
    """
    with needs("export", "The engine 'int8'"):
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    made = _Maker(start, lrn)
    quick_start = Int8GEN(made.gen(), start) if isinstance(start, GEN) else start
    return quick_start, None if lrn is None else Int8LRN(made.lrn(), lrn)


class _Maker:
    """Makes the quantised graphs, or finds them where they were made before."""

    def __init__(self, start: GEN | MeanStart, lrn: LRN | None) -> None:
        self._start, self._lrn = start, lrn
        self._states: tuple[list[Tensor], list[tuple[Tensor, Tensor]]] | None = None

    def gen(self) -> bytes:
        gen = self._start
        assert isinstance(gen, GEN)
        size = gen.config.input_size
        graph = Graph()
        graph.add("Identity", [estimate(graph, gen, "images")], "landmarks")
        seen: list[Named] = [("images", np.float32, ("faces", 3, size, size))]
        shapes: list[Named] = [("landmarks", np.float32, ("faces", gen.num_landmarks, 2))]
        model = _serialized(graph, seen, shapes)

        def batches() -> Iterator[dict[str, npt.NDArray[Any]]]:
            for crops in self.states()[0]:
                yield {"images": network_input(crops, size).numpy()}

        return self._kept(model, batches)

    def lrn(self) -> bytes:
        lrn = self._lrn
        assert lrn is not None
        k, side = lrn.num_landmarks, lrn.config.patch_size
        graph = Graph()
        # Pixels are whole numbers of 8 bits as they are: the first convolution takes them, less 128, at a scale of 1.
        images = graph.op("Transpose", "patches", perm=[0, 3, 1, 2])
        centred = graph.op("DequantizeLinear", images, np.float32(1), np.uint8(128))
        graph.add("Identity", [remember(graph, lrn, centred, "history", centred=True)], "next_history")
        bounded = graph.op("Tanh", linear(graph, lrn.action, "next_history"))
        graph.add("Mul", [bounded, graph.constant("limit", np.array(lrn.config.action_limit, np.float32))], "actions")
        state: list[Named] = [
            ("patches", np.uint8, ("windows", side, side, 3)),
            ("history", np.float32, ("faces", HISTORY_SIZE)),
        ]
        outcome: list[Named] = [
            ("actions", np.float32, ("faces", 2 * k)),
            ("next_history", np.float32, ("faces", HISTORY_SIZE)),
        ]
        model = _serialized(graph, state, outcome)

        def batches() -> Iterator[dict[str, npt.NDArray[Any]]]:
            for patches, history in self.states()[1]:
                yield {"patches": patches.flatten(0, 1).numpy(), "history": history.numpy()}

        return self._kept(model, batches)

    def states(self) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Crops of drawn faces, and the states that the cascade visits on them."""
        if self._states is None:
            from face_align_env.datasets import load_dataset
            from face_align_env.prepared import PreparedFaces

            faces = PreparedFaces(load_dataset("synthetic", "train", size=_FACES))
            every = torch.from_numpy(np.stack([faces.crop(i) for i in range(_FACES)]))
            visited: list[tuple[Tensor, Tensor]] = []
            with torch.inference_mode():
                for crops in every.split(_AT_ONCE):  # type: ignore[no-untyped-call]
                    if self._lrn is not None:
                        list(cascade(_Recorder(self._lrn, visited), crops, self._start(crops), _ITERATIONS,
                                     patch_size=self._lrn.config.patch_size))  # fmt: skip
            self._states = list(every.split(_AT_ONCE)), visited  # type: ignore[no-untyped-call]
        return self._states

    def _kept(self, model: bytes, batches: Any) -> bytes:
        """The quantised graph of a graph, from the folder of caches or made now."""
        import onnxruntime

        folder = cache_folder()
        kind = f"{_VERSION} {onnxruntime.__version__} {_FACES} {_ITERATIONS} {saturates()}"
        key = hashlib.sha256(kind.encode() + model)
        path = None if folder is None else folder / "int8" / f"{key.hexdigest()}.onnx"
        if path is not None and path.is_file():
            data = path.read_bytes()
            if data[-32:] == hashlib.sha256(data[:-32]).digest():  # else it is damaged, and is made again
                return data[:-32]
        made = _quantize(model, batches())
        if path is not None:
            try:
                write_bytes(path, made + hashlib.sha256(made).digest())
            except OSError as error:
                warnings.warn(f"The quantised networks are not kept: {error}", stacklevel=2)
        return made


class _Recorder:
    """A regressor that remembers what it was asked."""

    def __init__(self, lrn: LRN, visited: list[tuple[Tensor, Tensor]]) -> None:
        self._lrn, self._visited = lrn, visited

    def __call__(self, patches: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        self._visited.append((patches, history))
        found: tuple[Tensor, Tensor] = self._lrn(patches, history)
        return found


@cache
def saturates() -> bool:
    """Whether this processor adds two products of bytes in 16 bits, and cuts off what is larger.

    Those without VNNI do (AVX2, older AVX-512). Weights of 7 bits instead of 8 keep such sums small enough.
    """
    import onnxruntime
    from onnx import TensorProto, helper

    given = helper.make_tensor_value_info("bytes", TensorProto.UINT8, [1, 64])
    found = helper.make_tensor_value_info("sums", TensorProto.INT32, [1, 64])
    weights = helper.make_tensor(
        "weights", TensorProto.INT8, [64, 64], np.full(64 * 64, 127, np.int8).tobytes(), raw=True
    )
    product = helper.make_node("MatMulInteger", ["bytes", "weights"], ["sums"])
    graph = helper.make_graph([product], "largest", [given], [found], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"bytes": np.full((1, 64), 255, np.uint8)})
    return bool((sums != 64 * 255 * 127).any())


def _serialized(graph: Graph, inputs: list[Named], outputs: list[Named]) -> bytes:
    from onnx import helper

    model = graph.model("network", inputs, outputs)
    # Else ONNX Runtime advises to run its optimizer first, in a message of the logger that belongs to the program.
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    return bytes(model.SerializeToString(deterministic=True))


def _quantize(model: bytes, batches: Iterator[dict[str, npt.NDArray[Any]]]) -> bytes:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
            return next(batches, None)

    with tempfile.TemporaryDirectory(prefix="face-align-int8-") as temporary:
        source, target = Path(temporary) / "float.onnx", Path(temporary) / "int8.onnx"
        source.write_bytes(model)
        quantize_static(
            os.fspath(source),
            os.fspath(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=saturates(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Relu", "MaxPool", "Gemm"],
        )
        return target.read_bytes()
