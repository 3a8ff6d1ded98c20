"""From a photo and boxes to crops, in ONNX: :mod:`face_align_env.crops`, with the pixels that OpenCV gives.

A crop is not turned, so each of its pixels is a weighted mean of rows and columns: two matrix products.
"""

from __future__ import annotations

import numpy as np

from face_align_env.aligner.onnx_graph import Graph
from face_align_env.crops import CROP_SIZE

_FIXED = 1024  # cv2.warpAffine: coordinates are whole numbers of 1/1024 pixel,
_STEPS = 32  # and weights whole numbers of 1/32


def transforms(graph: Graph, boxes: str, margin: float) -> tuple[str, str]:
    """(N,) scale s and (N, 2) shift t of ``crop_transform``: a point p of the photo is at s p + t in the crop."""
    low, high = (graph.at(boxes, np.array(columns), 1) for columns in ([0, 1], [2, 3]))
    size = graph.op("ReduceMax", graph.op("Sub", high, low), axes=[1], keepdims=1)
    scale = graph.op("Div", np.float64(CROP_SIZE), graph.op("Mul", size, np.float64(1 + 2 * margin)))
    centre = graph.op("Div", graph.op("Mul", scale, graph.op("Add", low, high)), np.float64(2))
    shift = graph.op("Sub", np.float64((CROP_SIZE - 1) / 2), centre)
    return graph.op("Squeeze", scale, np.array([1])), shift


def cut_faces(graph: Graph, photo: str, scales: str, shifts: str) -> str:
    """(N, 256, 256, 3) uint8: ``cut`` of each face, in a loop, as faces are of different sizes."""
    body = Graph(graph)
    number = body.new_name("face")
    scale, shift = body.at(scales, number), body.at(shifts, number)
    columns = _Side(body, scale, body.at(shift, np.int64(0)), graph.side(photo, 1), columns=True)
    rows = _Side(body, scale, body.at(shift, np.int64(1)), graph.side(photo, 0), columns=False)
    region = body.op("Slice", photo, _pair(body, rows.start, columns.start), _pair(body, rows.end, columns.end),
                     np.array([0, 1]))  # fmt: skip
    pixels = body.cast(body.op("Transpose", region, perm=[2, 0, 1]), np.float32)
    # OpenCV rounds a half to the even number, but up where it takes means over 2 x 2 pixels.
    halves = body.cast(body.op("And", rows.is_halved, columns.is_halved), np.float32)
    pixels = _resampled(body, pixels, rows.reduction, columns.reduction)
    pixels = body.op("Round", body.op("Add", pixels, body.op("Mul", halves, np.float32(1 / 8))))
    pixels = _resampled(body, pixels, rows.interpolation, columns.interpolation)
    pixels = body.op("Floor", body.op("Add", pixels, np.float32(0.5)))
    crop = body.op("Transpose", body.cast(pixels, np.uint8), perm=[1, 2, 0])
    going, still = body.new_name("going"), body.new_name("going")
    body.add("Identity", [going], still)
    loop = body.made(
        "cut",
        [(number, np.int64, ()), (going, np.bool_, ())],
        [(still, np.bool_, ()), (crop, np.uint8, (CROP_SIZE, CROP_SIZE, 3))],
    )
    return graph.op("Loop", graph.side(scales, 0), np.bool_(True), body=loop)


def _resampled(graph: Graph, pixels: str, rows: str, columns: str) -> str:
    """(3, H, W) pixels as (3, h, w), by (h, H) and (w, W) weights."""
    return graph.op("MatMul", rows, graph.op("MatMul", pixels, graph.op("Transpose", columns, perm=[1, 0])))


def _pair(graph: Graph, first: str, second: str) -> str:
    return graph.op("Concat", graph.axis(first, 0), graph.axis(second, 0), axis=0)


class _Side:
    """The rows, or the columns, of the photo that a crop is made of, and the two matrices that make it.

    :param graph: of one face
    :param scale: () float64
    :param shift: () float64, of this side
    :param size: () int64, of the photo
    :param columns: whether these are the columns
    """

    start: str
    """() int64, first pixel of the part of the photo that is needed."""
    end: str
    """() int64, after its last."""
    is_halved: str
    """() bool, whether means are taken over two pixels each."""
    reduction: str
    """(n, end - start) float32: means over whole pixels, as ``cv2.resize`` takes them with INTER_AREA."""
    interpolation: str
    """(256, n) float32: between two pixels, as ``cv2.warpAffine`` does it with INTER_LINEAR and BORDER_REPLICATE."""

    def __init__(self, graph: Graph, scale: str, shift: str, size: str, columns: bool) -> None:
        factor = graph.op("Max", graph.cast(graph.op("Div", np.float64(1), scale), np.int64), np.int64(1))
        edges = [
            graph.cast(graph.op("Div", graph.op("Sub", np.float64(edge), shift), scale), np.float32)
            for edge in (-0.5, CROP_SIZE - 0.5)
        ]
        first, last = (graph.cast(edge, np.int64) for edge in edges)
        last_start = graph.op("Sub", size, np.int64(1))
        self.start = graph.op("Min", graph.op("Max", graph.op("Sub", first, factor), np.int64(0)), last_start)
        beyond = graph.op("Add", last, graph.op("Mul", factor, np.int64(2)))
        self.end = graph.op("Min", graph.op("Max", beyond, graph.op("Add", self.start, np.int64(1))), size)
        width = graph.op("Sub", self.end, self.start)
        ceiling = graph.op("Sub", graph.op("Add", width, factor), np.int64(1))
        reduced = graph.op("Div", ceiling, factor)
        zoom = graph.op("Div", graph.cast(width, np.float64), graph.cast(reduced, np.float64))
        self.is_halved = graph.op("Equal", zoom, np.float64(2))
        self.reduction = _means(graph, width, reduced, zoom)
        # Pixel q of the reduced part lies at (q + 0.5) zoom - 0.5 + start in the photo.
        centre = graph.op("Sub", graph.op("Mul", zoom, np.float64(0.5)), np.float64(0.5))
        origin = graph.op("Add", centre, graph.cast(self.start, np.float64))
        offset = graph.op("Add", graph.op("Mul", scale, origin), shift)
        self.interpolation = _between(graph, graph.op("Mul", scale, zoom), offset, reduced, columns)


def _means(graph: Graph, width: str, reduced: str, zoom: str) -> str:
    """(reduced, width): how much of each pixel lies in each of ``reduced`` cells of ``zoom`` pixels."""
    pixels = graph.cast(graph.op("Range", np.int64(0), width, np.int64(1)), np.float64)
    cells = graph.cast(graph.op("Range", np.int64(0), reduced, np.int64(1)), np.float64)
    low = graph.axis(graph.op("Mul", cells, zoom), 1)
    high = graph.op("Add", low, zoom)
    inner = graph.op("Sub", graph.op("Min", high, graph.op("Add", pixels, np.float64(1))), graph.op("Max", low, pixels))
    return graph.cast(graph.op("Div", graph.op("Max", inner, np.float64(0)), zoom), np.float32)


def _between(graph: Graph, scale: str, shift: str, size: str, columns: bool) -> str:
    """(256, size): the weights of the two pixels nearest to each of the crop's, in OpenCV's fixed-point numbers."""
    inverse = graph.op("Div", np.float64(1), scale)
    steps = graph.op("Mul", graph.op("Mul", np.arange(CROP_SIZE, dtype=np.float64), inverse), np.float64(_FIXED))
    origin = graph.op("Mul", graph.op("Neg", graph.op("Mul", inverse, shift)), np.float64(_FIXED))
    # OpenCV rounds the two parts of a column's place, and the whole of a row's.
    if columns:
        place = graph.op("Add", graph.op("Round", steps), graph.op("Round", origin))
    else:
        place = graph.op("Round", graph.op("Add", steps, origin))
    half = np.float64(_FIXED / _STEPS / 2)
    fine = graph.op("Floor", graph.op("Div", graph.op("Add", place, half), np.float64(_FIXED / _STEPS)))
    whole = graph.op("Floor", graph.op("Div", fine, np.float64(_STEPS)))
    part = graph.op("Div", graph.op("Sub", fine, graph.op("Mul", whole, np.float64(_STEPS))), np.float64(_STEPS))
    right = graph.axis(graph.cast(part, np.float32), 1)
    left = graph.op("Sub", np.float32(1), right)
    pixels = graph.op("Range", np.int64(0), size, np.int64(1))
    last = graph.op("Sub", size, np.int64(1))
    weights = []
    for neighbour, weight in ((np.int64(0), left), (np.int64(1), right)):
        index = graph.op("Add", graph.cast(whole, np.int64), neighbour)
        inside = graph.op("Min", graph.op("Max", index, np.int64(0)), last)
        here = graph.cast(graph.op("Equal", graph.axis(inside, 1), pixels), np.float32)
        weights.append(graph.op("Mul", here, weight))
    return graph.op("Add", *weights)
