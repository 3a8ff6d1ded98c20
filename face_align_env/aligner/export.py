"""An aligner as one ONNX file: GEN, the cascade's loop and Eq. 3 are inside, so that a runtime of ONNX is all it needs.

There are two kinds of files:

``"photo"``
    ``photo`` (H, W, 3) uint8 RGB and ``boxes`` (N, 4) float32 x0, y0, x1, y1 of its faces, from eyebrow to chin and
    from ear to ear -> ``landmarks`` (N, K, 2) float32, pixels of the photo, and ``iterations`` (N,) int64
``"crop"``
    ``crops`` (N, 256, 256, 3) uint8 RGB -> ``landmarks`` (N, K, 2) float32, pixels of the crop, and ``iterations``

Where the aligner predicts errors, there is a third output, ``confidence`` (N,) float32, see ``Alignment.confidence``.
Where it looks at mirrored faces as well (``mirror=True``), the graph does: both looks are faces of one batch.

The graph follows :mod:`face_align_env.crops`, :mod:`face_align_env.patches` and :mod:`face_align_env.networks.cascade`
line by line, down to how OpenCV rounds pixels. What remains is the rounding of sums, less than 1e-4 pixels of the crop;
where a landmark lies so near to the border of a pixel that this moves its patch by one, some tenths of a pixel follow.
Faces of more than twice the crop's size are reduced first, which may change single pixels by one grey level.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from face_align_env.aligner.aligner import FaceAligner
from face_align_env.aligner.onnx_crops import cut_faces, transforms
from face_align_env.aligner.onnx_graph import Graph
from face_align_env.aligner.onnx_graph import Tensor as Named
from face_align_env.aligner.onnx_networks import ExportError, linear, numpy_of, remember, start
from face_align_env.checks import check_choice
from face_align_env.crops import CROP_SIZE
from face_align_env.extras import needs
from face_align_env.files import write_bytes
from face_align_env.landmarks import get_scheme
from face_align_env.mdp import HISTORY_SIZE
from face_align_env.networks.confidence import LEAST_DISTANCE, ErrorHead
from face_align_env.networks.lrn import LRN

KINDS = ("photo", "crop")

TOLERANCE = 1e-3
"""Pixels by which landmarks may differ from PyTorch's."""


def build(aligner: FaceAligner, kind: str = "photo", metadata: Mapping[str, Any] | None = None) -> bytes:
    """The aligner as an ONNX file.

    :param aligner: with weights in float32
    :param kind: ``"photo"`` or ``"crop"``, see this module
    :param metadata: goes into the file's ``metadata_props``, each value as text or JSON
    :raises ValueError: there is no such kind
    :raises ExportError: the aligner's weights are in another type than float32, or its engine is another than torch
    :raises MissingExtraError: ``onnx`` is not installed
    """
    check_choice("kind", kind, KINDS)
    first, policy = aligner.start, aligner.lrn
    if aligner.least_gain is not None:
        raise ExportError("Only Eq. 3 is exported: make the aligner without least_gain.")
    if not isinstance(first, nn.Module) or not isinstance(policy, LRN | None):
        raise ExportError(f"Only networks of the engine 'torch' are exported, these are of '{aligner.engine}'.")
    for network in (first, policy):
        for parameter in () if network is None else network.parameters():
            if str(parameter.dtype) != "torch.float32":
                raise ExportError(f"Only weights in float32 are exported, these are in {parameter.dtype}.")
    with needs("export", "The export to ONNX"):
        import onnx
        from onnx import helper

    graph = Graph()
    k = aligner.start.num_landmarks
    if kind == "photo":
        boxes = graph.cast("boxes", np.float64)
        scale, shift = transforms(graph, boxes, aligner.margin)
        crops = cut_faces(graph, "photo", scale, shift)
        inputs: list[Named] = [("photo", np.uint8, ("height", "width", 3)), ("boxes", np.float32, ("faces", 4))]
    else:
        crops = "crops"
        inputs = [("crops", np.uint8, ("faces", CROP_SIZE, CROP_SIZE, 3))]
    faces = graph.axis(graph.side(crops, 0), 0)
    if aligner.mirror:
        mirrored = graph.at(crops, np.arange(CROP_SIZE)[::-1].copy(), axis=2)
        crops = graph.op("Concat", crops, mirrored, axis=0)
    landmarks = start(graph, first, crops)
    history = None
    if policy is None:
        iterations = graph.op("Expand", np.int64(0), graph.axis(graph.side(crops, 0), 0))
    else:
        landmarks, history, iterations = _cascade(
            graph, policy, crops, landmarks, aligner.alpha_2, aligner.max_iterations
        )
    confidence = None
    if aligner.mirror:
        shapes = _two_looks(graph, landmarks, faces)
        shapes = shapes[0], _mirrored(graph, shapes[1], k)
        landmarks = graph.op("Div", graph.op("Add", *shapes), np.float32(2))
        iterations = graph.op("Max", *_two_looks(graph, iterations, faces))
        if aligner.error_head is not None and history is not None:
            confidence = _confidence_of_two(graph, aligner.error_head, _two_looks(graph, history, faces), shapes)
    elif aligner.error_head is not None and history is not None:
        confidence = graph.op("Exp", _predicted(graph, aligner.error_head, history))
    if kind == "photo":
        in_crop = graph.op("Sub", graph.cast(landmarks, np.float64), graph.axis(shift, 1))
        landmarks = graph.cast(graph.op("Div", in_crop, graph.axis(graph.axis(scale, 1), 1)), np.float32)
    graph.add("Identity", [landmarks], "landmarks")
    graph.add("Identity", [iterations], "iterations")
    outputs: list[Named] = [("landmarks", np.float32, ("faces", k, 2)), ("iterations", np.int64, ("faces",))]
    if confidence is not None:
        graph.add("Identity", [confidence], "confidence")
        outputs.append(("confidence", np.float32, ("faces",)))
    model = graph.model(f"face-align-{kind}", inputs, outputs)
    model.producer_name, model.doc_string = "face-align-env", __doc__ or ""
    known = {"kind": kind, "landmarks": k, "margin": aligner.margin, "alpha_2": aligner.alpha_2}
    told = {**known, "max_iterations": aligner.max_iterations, **(metadata or {})}
    helper.set_model_props(
        model, {name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()}
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def write(
    aligner: FaceAligner, path: str | os.PathLike[str], kind: str = "photo", metadata: Mapping[str, Any] | None = None
) -> npt.NDArray[np.float64]:
    """Write the aligner as an ONNX file, after it has been compared with the aligner on drawn faces.

    :param aligner: see :func:`build`
    :param path: the file, ``.onnx``; an existing one is replaced
    :param kind: see :func:`build`
    :param metadata: see :func:`build`
    :return: (8,) the largest difference of a coordinate for each of eight faces, pixels
    :raises ValueError: the file is not called .onnx, or see :func:`build`
    :raises ExportError: see :func:`build`; or most of the faces' landmarks differ by more than 1e-3 pixels
    :raises MissingExtraError: ``onnx`` or ``onnxruntime`` is not installed
    :raises OSError: the file cannot be written
    """
    if os.path.splitext(path)[1].lower() != ".onnx":
        raise ValueError(f"The file's name must end with .onnx, got '{os.fspath(path)}'.")
    model = build(aligner, kind, metadata)
    found = differences(model, aligner, kind)
    if not np.median(found) < TOLERANCE:
        raise ExportError(
            f"ONNX Runtime gives other landmarks than PyTorch (by {np.median(found):.2g} pixels): nothing was written. "
            "Try another version of onnxruntime."
        )
    write_bytes(path, model)
    return found


def differences(model: bytes, aligner: FaceAligner, kind: str, faces: int = 8) -> npt.NDArray[np.float64]:
    """How far ONNX Runtime's landmarks are from the aligner's.

    :param model: from :func:`build`
    :param aligner: that it was built from
    :param kind: that it was built for
    :param faces: number of drawn faces
    :return: (faces,) the largest difference of a coordinate, pixels
    :raises MissingExtraError: ``onnxruntime`` is not installed
    """
    with needs("export", "The check of an ONNX file"):
        import onnxruntime

    from face_align_env.datasets import load_dataset

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = []
    for face in load_dataset("synthetic", "test", size=faces):
        box = face.box.astype(np.float32)
        photo = aligner.prepare(face.image, box)
        if kind == "crop":
            trajectories, iterations = aligner.align_crops(photo.crops)
            expected = trajectories[0, iterations[0]]
            inputs: dict[str, npt.NDArray[Any]] = {"crops": photo.crops}
        else:
            expected, inputs = aligner(face.image, box)[0].landmarks, {"photo": face.image, "boxes": box[None]}
        found.append(np.abs(session.run(["landmarks"], inputs)[0][0] - expected).max())
    return np.array(found, dtype=np.float64)


# The cascade: face_align_env.networks.cascade -----------------------------------------------------------------


def _cascade(
    graph: Graph, lrn: LRN, crops: str, x_0: str, alpha_2: float | None, max_iterations: int
) -> tuple[str, str, str]:
    """(N, K, 2) x_T, (N, 512) d_T and (N,) int64 iterations: LRN in a loop, on the faces that Eq. 3 has not stopped."""
    k, faces = lrn.num_landmarks, graph.axis(graph.side(crops, 0), 0)
    pixels = graph.reshape(crops, -1, 3)
    history = graph.op("Expand", np.float32(0), graph.op("Concat", faces, np.array([HISTORY_SIZE]), axis=0))
    iterations, going = graph.op("Expand", np.int64(0), faces), graph.op("Expand", np.bool_(True), faces)

    body = Graph(graph)
    iteration, condition = body.new_name("iteration"), body.new_name("condition")
    x, d, counts, active = (body.new_name(name) for name in ("x", "d", "counts", "active"))
    some = body.op("Squeeze", body.op("NonZero", active), np.array([0]))
    some_x = body.at(x, some)
    next_d = remember(body, lrn, _patches(body, pixels, some, some_x, lrn.config.patch_size), body.at(d, some))
    bounded = body.op("Tanh", linear(body, lrn.action, next_d))
    actions = body.op("Mul", bounded, np.float32(lrn.config.action_limit))
    next_x = body.op("Add", some_x, body.reshape(actions, -1, k, 2))
    # Eq. 3, with NME taken as 0.
    length = body.op("ReduceSum", body.op("Abs", actions), np.array([1]), keepdims=0)
    on = body.op("GreaterOrEqual", length, np.float32(-1 if alpha_2 is None else alpha_2 * k))
    places = body.axis(some, 1)
    carried = [
        body.op("ScatterND", x, places, next_x),
        body.op("ScatterND", d, places, next_d),
        body.op("Add", counts, body.cast(active, np.int64)),
        body.op("ScatterND", active, places, on),
    ]
    left = body.op("ReduceSum", body.cast(carried[3], np.int64), keepdims=0)
    again = body.op("Greater", left, np.int64(0))
    kinds: list[Named] = [
        (x, np.float32, ("faces", k, 2)),
        (d, np.float32, ("faces", HISTORY_SIZE)),
        (counts, np.int64, ("faces",)),
        (active, np.bool_, ("faces",)),
    ]
    loop = body.made(
        "cascade",
        [(iteration, np.int64, ()), (condition, np.bool_, ()), *kinds],
        [(again, np.bool_, ()), *((name, *kind[1:]) for name, kind in zip(carried, kinds, strict=True))],
    )
    outputs = [graph.new_name("cascade") for _ in carried]
    any_face = graph.op("Greater", graph.op("Squeeze", faces, np.array([0])), np.int64(0))
    limit = graph.constant(graph.new_name("limit"), np.array(max_iterations))
    graph.several("Loop", [limit, any_face, x_0, history, iterations, going], outputs, body=loop)
    return outputs[0], outputs[1], outputs[2]


def _patches(graph: Graph, pixels: str, faces: str, x: str, size: int) -> str:
    """(M K, 3, size, size) float32: ``extract_patches`` of the faces (M,) around their shapes (M, K, 2).

    :param pixels: (N 256 256, 3) uint8; beyond a crop its border is repeated
    """
    inside = graph.op("Clip", x, np.float32(0), np.float32(CROP_SIZE - 1))
    centred = graph.op("Sub", inside, np.float32((size - 1) / 2))
    corner = graph.cast(graph.op("Floor", graph.op("Add", centred, np.float32(0.5))), np.int64)
    window = np.arange(size)
    columns, rows = (
        graph.op("Clip", graph.op("Add", graph.axis(graph.at(corner, np.int64(axis), 2), 2), window),
                 np.int64(0), np.int64(CROP_SIZE - 1))
        for axis in (0, 1)
    )  # fmt: skip
    first = graph.reshape(graph.op("Mul", faces, np.int64(CROP_SIZE**2)), -1, 1, 1)
    rows = graph.op("Add", graph.op("Mul", rows, np.int64(CROP_SIZE)), first)
    patches = graph.at(pixels, graph.op("Add", graph.axis(rows, 3), graph.axis(columns, 2)))
    images = graph.op("Transpose", graph.reshape(patches, -1, size, size, 3), perm=[0, 3, 1, 2])
    return graph.cast(images, np.float32)


# Two looks: FaceAligner.refine, with the mirrored faces behind the others in one batch -------------------------------


def _two_looks(graph: Graph, both: str, faces: str) -> tuple[str, str]:
    """(N, ...) and (N, ...) of (2 N, ...).

    :param faces: (1,) N
    """
    end = graph.op("Mul", faces, np.array([2]))
    first, axis = np.array([0]), np.array([0])
    return graph.op("Slice", both, first, faces, axis), graph.op("Slice", both, faces, end, axis)


def _mirrored(graph: Graph, shapes: str, num_landmarks: int) -> str:
    """(N, K, 2) shapes of mirrored crops in the crops."""
    there = graph.at(shapes, get_scheme(num_landmarks).mirror_permutation, axis=1)
    return graph.op(
        "Add", graph.op("Mul", there, np.array([-1, 1], np.float32)), np.array([CROP_SIZE - 1, 0], np.float32)
    )


# The confidence: face_align_env.networks.confidence -------------------------------------------------------------------


def _predicted(graph: Graph, head: ErrorHead, history: str) -> str:
    """(N,) logarithm of what the head predicts from d_T."""
    return graph.op("Add", graph.op("MatMul", history, numpy_of(head.state)), numpy_of(head.offset))


def _confidence_of_two(graph: Graph, head: ErrorHead, histories: tuple[str, str], shapes: tuple[str, str]) -> str:
    """(N,) what the head predicts of the mean of two looks."""

    def length(vectors: str) -> str:
        return graph.op("ReduceL2", vectors, axes=[-1], keepdims=0)

    def middle(points: str, chosen: Sequence[int]) -> str:
        return graph.op("ReduceMean", graph.at(points, np.array(chosen), axis=1), axes=[1], keepdims=0)

    mean = graph.op("Div", graph.op("Add", *shapes), np.float32(2))
    left, right = get_scheme(head.num_landmarks).pupils
    pupils = length(graph.op("Sub", middle(mean, left), middle(mean, right)))
    distance = graph.op("ReduceMean", length(graph.op("Sub", *shapes)), axes=[1], keepdims=0)
    share = graph.op("Div", distance, graph.op("Max", pupils, np.float32(1e-6)))
    disagreement = graph.op("Log", graph.op("Max", share, np.float32(LEAST_DISTANCE)))
    constant, single, apart = numpy_of(head.pair)
    known = graph.op("Div", graph.op("Add", *histories), np.float32(2))
    prediction = graph.op("Mul", _predicted(graph, head, known), single)
    return graph.op("Exp", graph.op("Add", graph.op("Add", prediction, graph.op("Mul", disagreement, apart)), constant))
