"""The nodes and constants of an ONNX graph under construction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from face_align_env.extras import needs

if TYPE_CHECKING:
    import onnx

OPSET = 17  # of ONNX Runtime 1.12 and later
_IR = 8  # the format of files of that opset

Value = str | npt.NDArray[Any] | np.generic
"""The name of a tensor, or what becomes a constant."""


Tensor = tuple[str, npt.DTypeLike, tuple[int | str, ...]]
"""Name, type and shape of what goes into or comes out of a graph; sides that may vary have a name."""


class Graph:
    """Nodes in the order in which they were added, and constants.

    :param outer: the graph of which this is a body (of ``Loop`` or ``If``): constants are kept there, and its tensors
        may be used here
    :raises MissingExtraError: ``onnx`` is not installed
    """

    def __init__(self, outer: Graph | None = None) -> None:
        with needs("export", "The making of an ONNX file"):
            import onnx  # noqa: F401
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = [] if outer is None else outer.constants
        self._names: list[int] = [0] if outer is None else outer._names
        self._is_body = outer is not None

    def several(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """A node with several outputs."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A node with one output, of a name of its own; returns that name."""
        self.several(kind, inputs, [output], **attributes)
        return output

    def op(self, kind: str, *inputs: Value, **attributes: Any) -> str:
        """A node with one output; returns the output's name."""
        return self.add(kind, [self._named(value) for value in inputs], self.new_name(kind), **attributes)

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        """A tensor that is part of the file; returns its name."""
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name

    def new_name(self, kind: str) -> str:
        """A name that no other tensor has."""
        self._names[0] += 1
        return f"{kind.lower()}_{self._names[0]}"

    def _named(self, value: Value) -> str:
        return value if isinstance(value, str) else self.constant(self.new_name("constant"), np.asarray(value))

    def made(self, name: str, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> onnx.GraphProto:
        """The graph: that of a model, or the body of ``Loop``, whose constants are the outer graph's."""
        from onnx import helper

        constants = [] if self._is_body else self.constants
        return helper.make_graph(self.nodes, name, _described(inputs), _described(outputs), constants)

    def model(self, name: str, inputs: Iterable[Tensor], outputs: Iterable[Tensor]) -> onnx.ModelProto:
        """The graph as a file has it."""
        from onnx import helper

        imports = [helper.make_opsetid("", OPSET)]
        return helper.make_model(self.made(name, inputs, outputs), opset_imports=imports, ir_version=_IR)

    # What is needed again and again.

    def cast(self, value: Value, dtype: npt.DTypeLike) -> str:
        """The values in another type."""
        from onnx import helper

        return self.op("Cast", value, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def reshape(self, value: Value, *shape: int) -> str:
        """The values in another shape; one side may be -1."""
        return self.op("Reshape", value, np.array(shape, dtype=np.int64))

    def at(self, value: Value, index: Value, axis: int = 0) -> str:
        """``value[index]`` along an axis; an index without axes removes it."""
        return self.op("Gather", value, index, axis=axis)

    def side(self, value: Value, axis: int) -> str:
        """() int64, the length of an axis."""
        return self.at(self.op("Shape", value), np.int64(axis))

    def axis(self, value: Value, axis: int) -> str:
        """The values with a new axis of length 1."""
        return self.op("Unsqueeze", value, np.array([axis], dtype=np.int64))


def _described(tensors: Iterable[Tensor]) -> list[onnx.ValueInfoProto]:
    from onnx import helper

    return [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
        for name, dtype, shape in tensors
    ]
