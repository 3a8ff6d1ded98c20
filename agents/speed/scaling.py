"""How time and memory grow: with faces at once, landmarks, patch size and the dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from face_align_env.agents.speed.environments import random_cycle
from face_align_env.agents.speed.measure import Baseline, Entry, Limit, timed
from face_align_env.agents.speed.memory import of_player
from face_align_env.agents.speed.workbench import COPY, Workbench
from face_align_env.datasets import load_dataset
from face_align_env.extras import needs
from face_align_env.files import replacing
from face_align_env.mdp import MAX_ITERATIONS
from face_align_env.patches import PATCH_SIZE
from face_align_env.prepared import FaceSource, PreparedFaces, prepare_on_disk
from face_align_env.store import CONTEXT_SHAPE, cache_folder
from face_align_env.vector_env import FaceAlignVectorEnv

with needs("plots", "A figure"):
    import matplotlib

    matplotlib.use("Agg")  # no screen is needed
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STEPS = MAX_ITERATIONS + 1  # of a cycle of random_cycle
_FACES, _LANDMARKS, _PATCHES, _DATASET = "faces at once", "landmarks", "patch size", "dataset size"


def measure_scaling(bench: Workbench) -> Iterator[Entry]:
    """FaceAlignVectorEnv with random actions; the memory of a process that has looked at every face."""
    at_once = bench.choose(16, 2)
    sizes = bench.choose((1, 4, 16, 64, 256), (1, 2))
    yield from _curve(bench, _FACES, sizes, [_env(bench.source, n) for n in sizes], sizes[0])

    landmarks = (19, 29, 68)
    sources = [FaceSource(bench.prepared if k == 68 else bench.prepare(k)) for k in landmarks]
    yield from _curve(bench, _LANDMARKS, landmarks, [_env(source, at_once) for source in sources], 68)

    patches = (15, PATCH_SIZE, 45)
    yield from _curve(bench, _PATCHES, patches, [_env(bench.source, at_once, size) for size in patches], PATCH_SIZE)

    if cache_folder() is None:
        return  # what is kept in no file has no size on disk to compare with, and 20,000 faces need not fit in memory
    counts = [n for n in bench.choose((100, 1000, 5000, 20_000), (4, 8)) if n <= bench.settings.max_faces]
    datasets = []
    for count in counts:
        prepared = PreparedFaces(load_dataset("synthetic", "train", size=count))
        prepare_on_disk(prepared, os.cpu_count() or 1, progress=False)
        datasets.append(FaceSource(prepared))
    if datasets:
        yield from _curve(bench, _DATASET, counts, [_env(source, at_once) for source in datasets], counts[0])
        yield from _memory(counts)


def _env(source: FaceSource, n: int, patch_size: int = PATCH_SIZE) -> FaceAlignVectorEnv:
    return FaceAlignVectorEnv(n, dataset=source, initializer="mean", patch_size=patch_size)


def _curve(
    bench: Workbench, series: str, points: Sequence[int], envs: Sequence[FaceAlignVectorEnv], reference: int
) -> Iterator[Entry]:
    """Time of a step of a face at each point, against that at the reference."""
    cycles: list[Callable[[], object]] = [random_cycle(env) for env in envs]
    num_bytes = [_STEPS * sum(space.nbytes for space in _observation(env)) for env in envs]
    times = bench.compare(*cycles, *map(bench.copying, num_bytes))
    plays, copies = times[: len(points)], times[len(points) :]
    # Times of one face's step, that curves over the number of faces can be compared.
    per_face = [type(play)(play.seconds / (_STEPS * env.num_envs)) for play, env in zip(plays, envs, strict=True)]
    first = per_face[points.index(reference)]
    for point, play, copy, env in zip(points, per_face, copies, envs, strict=True):
        limit = Limit(COPY, copy, 1 / (_STEPS * env.num_envs))
        baseline = Baseline(f"{series}: {reference:,}", first)
        yield timed("scaling", f"{series}: {point:,}", play, 1, "step", limit, baseline, series, float(point))
        env.close()


def _observation(env: FaceAlignVectorEnv) -> list[np.ndarray]:
    return list(env.reset(seed=0)[0].values())


def _memory(counts: Sequence[int]) -> Iterator[Entry]:
    """A fresh process for each size: its own pages, and those of the file of faces."""
    first: dict[str, int] | None = None
    for count in counts:
        sizes = of_player(count)
        if sizes is None:
            return
        first = first or sizes
        name = f"memory, {_DATASET}: {count:,}"
        yield Entry(
            "scaling",
            f"own {name}",
            bytes=float(sizes["own"]),
            ratio=sizes["own"] / first["own"],
            ratio_to=f"{_DATASET}: {counts[0]:,}",
            series="own memory",
            x=float(count),
        )
        yield Entry(
            "scaling",
            f"mapped {name}",
            bytes=float(sizes["mapped"]),
            ratio=sizes["mapped"] / (count * int(np.prod(CONTEXT_SHAPE))),
            ratio_to="its faces on disk",
            series="mapped memory",
            x=float(count),
        )


def draw_scaling(entries: Sequence[Entry]) -> Figure:
    """The curves of the group ``scaling``: time of a face's step, and memory.

    :param entries: of any groups
    """
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained")
    for place, series in zip(axes.flat[:3], (_FACES, _LANDMARKS, _PATCHES), strict=True):
        _draw_times(place, entries, series)
    memory: Axes = axes.flat[3]
    counts: list[float] = []
    for series in ("own memory", "mapped memory"):
        points = [(e.x, e.bytes / 1e6) for e in entries if e.series == series and e.x and e.bytes]
        if points:
            memory.plot(*zip(*points, strict=True), marker="o", label=series)
            memory.legend(fontsize=8, loc="upper left")
            counts = [x for x, _ in points]
    memory.set(title="memory of a process, MB", xlabel=f"{_DATASET}, faces", xscale="log", yscale="log")
    memory.set_xticks(counts, [f"{count:,.0f}" for count in counts])
    memory.minorticks_off()
    memory.grid(alpha=0.3)
    times = [(e.x, e.seconds) for e in entries if e.series == _DATASET and e.x and e.seconds]
    if times:
        beside = memory.twinx()
        beside.plot([x for x, _ in times], [1e6 * s for _, s in times], marker="s", color="gray", linestyle=":")
        beside.set(ylabel="µs a face's step (dotted)", ylim=(0, 1.5e6 * max(s for _, s in times)))
    return figure


def _draw_times(axes: Axes, entries: Sequence[Entry], series: str) -> None:
    chosen = [e for e in entries if e.series == series]
    x = [e.x or 0 for e in chosen]
    low, middle, high = ([1e6 * (getattr(e, key) or 0) for e in chosen] for key in ("low", "seconds", "high"))
    axes.plot(x, middle, marker="o")
    axes.fill_between(x, low, high, alpha=0.2)
    axes.set(title="FaceAlignVectorEnv", xlabel=series, ylabel="µs a face's step", ylim=(0, None))
    if series == _FACES:
        axes.set_xscale("log", base=2)
    axes.set_xticks(x, [f"{point:g}" for point in x])
    axes.grid(alpha=0.3)


def save_scaling(entries: Sequence[Entry], path: Path) -> None:
    """Write :func:`draw_scaling` as PNG, complete or not at all."""
    figure = draw_scaling(entries)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)
