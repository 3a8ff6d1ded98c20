"""Photos on the nodes of a Ray cluster: Ray Data hands them out, actors that hold the networks align them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.agents.common.cluster import connected
from face_align_env.aligner import FaceAligner
from face_align_env.aligner.folders import Input, align_files
from face_align_env.aligner.parquet import Record, record
from face_align_env.extras import needs

AT_ONCE = 16  # photos that go through an actor together

Boxes = Mapping[Path, npt.NDArray[np.float64]]


class AlignPhotos:
    """An actor: the networks, read once, and one thread.

    :param make: makes the aligner
    :param boxes: see :func:`~face_align_env.aligner.folders.align_files`
    """

    def __init__(self, make: Callable[[], FaceAligner], boxes: Boxes | None) -> None:
        import torch

        torch.set_num_threads(1)
        self._aligner, self._boxes = make(), boxes

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, list[str]]:
        """Records, as JSON, of the photos of a batch."""
        photos = [Input(Path(path), Path(Path(path).name)) for path in batch["photo"]]
        found = align_files(self._aligner, photos, self._boxes, workers=1)
        return {"record": [json.dumps(record(photo, each)) for photo, each in found]}


@contextmanager
def aligned_on_cluster(
    make: Callable[[], FaceAligner], photos: Sequence[Input], cluster: str, boxes: Boxes | None = None
) -> Iterator[Iterator[Record]]:
    """Records of photos, in whatever order they are ready; a node that dies costs the photos that it was at, once.

    The photos must be on each node under the same path.

    :param make: makes the aligner, on the nodes; it can be pickled
    :param photos: the files
    :param cluster: see :func:`~face_align_env.agents.common.cluster.connected`
    :param boxes: see :func:`~face_align_env.aligner.folders.align_files`
    :raises MissingExtraError, ValueError: see :func:`~face_align_env.agents.common.cluster.connected`
    """
    with connected(cluster):
        with needs("cluster", "A cluster"):
            import ray
            import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        cores = max(1, int(resources.get("CPU", 1)))
        paths = [{"photo": os.path.abspath(photo.path)} for photo in photos]
        names = {path["photo"]: str(photo.path) for path, photo in zip(paths, photos, strict=True)}
        blocks = max(1, min(len(paths), max(4 * cores, len(paths) // (8 * AT_ONCE))))
        aligned = ray.data.from_items(paths, override_num_blocks=blocks).map_batches(
            AlignPhotos,
            fn_constructor_args=(make, boxes),
            batch_size=AT_ONCE,
            concurrency=(1, cores),
            num_cpus=1,
        )

        def records() -> Iterator[Record]:
            for row in aligned.iter_rows():
                found: Record = json.loads(row["record"])
                yield {**found, "photo": names[found["photo"]]}

        yield records()
