"""The networks against the machine's arithmetic, and the aligner against its networks."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from face_align_env.agents.speed.measure import Baseline, Entry, Limit, timed
from face_align_env.agents.speed.workbench import Workbench
from face_align_env.agents.studies.peers import train_dlib
from face_align_env.aligner.aligner import FaceAligner
from face_align_env.extras import MissingExtraError

MATMUL = "float32 matrix product"
_BARE = "the networks' forward passes"
_TYPICAL_ITERATIONS = 3  # about what Eq. 3 lets a face take


def measure_networks(bench: Workbench) -> Iterator[Entry]:
    """Forward passes of GEN and LRN."""
    side = bench.choose(2048, 64)
    a, b = torch.randn(2, side, side, device=bench.device)
    matmul = partial(torch.mm, a, b)
    (alone,) = bench.compare(matmul)
    yield timed("networks", f"{MATMUL}, {side} x {side}", alone, 2 * side**3, "FLOP")
    for n in bench.choose((1, 8, 64), (1, 2)):
        images = torch.from_numpy(bench.crops(n)).to(bench.device)
        state = bench.states(n)
        forwards = {"GEN": partial(bench.gen, images), "LRN": partial(bench.lrn, *state)}
        for name, forward in forwards.items():
            # The product does as much arithmetic as a forward pass, in units of itself.
            work = count_flops(forward) / (2 * side**3)
            with torch.inference_mode():
                product, timing = bench.compare(matmul, forward)
            limit = Limit(MATMUL, product, work)
            yield timed("networks", f"{name}, batch of {n}", timing, n, "face", limit)


def count_flops(forward: Callable[[], object]) -> int:
    """Floating-point operations of the products and convolutions in a function; a multiply-add counts as two.

    Convolutions count as the sums that define them. A library that knows a shorter way may exceed the limit.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward()
    return int(counter.get_total_flops())


def measure_aligner(bench: Workbench) -> Iterator[Entry]:
    """:meth:`FaceAligner.align_crops` with a fixed number of iterations, which else depends on the weights."""
    few, curve = bench.choose((8, (1, 2, 3, 5, 8)), (2, (1, 2)))
    for n in bench.choose((1, 8, 64), (1, 2)):
        yield from _aligned(bench, n, curve if n == few else (min(_TYPICAL_ITERATIONS, curve[-1]),))
    yield from _dlib(bench)


def _aligned(bench: Workbench, n: int, iterations: tuple[int, ...]) -> Iterator[Entry]:
    crops = bench.crops(n)
    images = torch.from_numpy(crops).to(bench.device)
    state = bench.states(n)
    for steps in iterations:
        aligner = FaceAligner(bench.gen, bench.lrn, None, steps, device=bench.device)

        @torch.inference_mode()
        def bare(steps: int = steps) -> None:
            bench.gen(images)
            for _ in range(steps):
                bench.lrn(*state)

        alone, timing = bench.compare(bare, partial(_align, aligner, crops))
        name = f"{n} face{'' if n == 1 else 's'}, {steps} iteration{'' if steps == 1 else 's'}"
        series = "aligner by iterations" if len(iterations) > 1 else None
        yield from _engines(bench, name, steps, crops, aligner)
        yield timed("aligner", name, timing, n, "face", baseline=Baseline(_BARE, alone), series=series, x=float(steps))


def _dlib(bench: Workbench) -> Iterator[Entry]:
    """dlib's shape predictor on a face, in units of ours; its trees are as many as it makes by default.

    They have learnt next to nothing, from drawn faces, which their time does not depend on.
    """
    few: dict[str, Any] = bench.choose({}, {"cascade_depth": 2, "num_trees_per_cascade_level": 5})
    with tempfile.TemporaryDirectory(prefix="face-align-dlib-") as temporary:
        try:
            dlib = train_dlib(bench.prepared, temporary, faces=8, oversampling_amount=2, **few)
        except MissingExtraError:
            return
        crops = bench.crops(1)
        steps = bench.choose(_TYPICAL_ITERATIONS, 1)
        aligner = FaceAligner(bench.gen, bench.lrn, None, steps, device=bench.device)
        alone, timing = bench.compare(partial(_align, aligner, crops), lambda: dlib.align_crops(crops))
    yield timed("aligner", "1 face, dlib", timing, 1, "face", baseline=Baseline(f"float32, {steps} iterations", alone))


def _engines(bench: Workbench, name: str, steps: int, crops: np.ndarray, aligner: FaceAligner) -> Iterator[Entry]:
    """The same faces by the aligner's other ways to calculate, in units of PyTorch's float32."""
    if bench.device.type != "cpu":
        return
    others = {"bfloat16": {"dtype": torch.bfloat16}, "int8": {"engine": "int8"}}
    for way, options in others.items():
        try:
            quick = FaceAligner(bench.gen, bench.lrn, None, steps, **options)  # type: ignore[arg-type]
        except MissingExtraError:
            continue
        alone, timing = bench.compare(partial(_align, aligner, crops), partial(_align, quick, crops))
        yield timed("aligner", f"{name}, {way}", timing, len(crops), "face", baseline=Baseline("float32", alone))


def _align(aligner: FaceAligner, crops: np.ndarray) -> None:
    aligner.align_crops(crops)
