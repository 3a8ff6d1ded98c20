"""Photos on the nodes of a Ray cluster: Ray Data hands them out, actors that hold the networks align them."""

from __future__ import annotations

import json
import logging
import os
import warnings
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
BLOCK = 8 * AT_ONCE  # photos that an actor is given, at most
RETRIES = 3
"""How often a block of photos begins again because its process or node has died."""

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

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, list[Any]]:
        """Records, as JSON, of the photos of a batch.

        :param batch: ``path``, bytes of the file system, and ``number``
        """
        paths = [Path(os.fsdecode(path)) for path in batch["path"]]
        photos = [Input(path, Path(path.name)) for path in paths]
        try:
            found = [each for _, each in align_files(self._aligner, photos, self._boxes, workers=1)]
        except Exception as error:
            if len(photos) > 1:
                raise  # they come again
            found = [RuntimeError(f"{type(error).__name__}: {error}")]
        records = [json.dumps(record(photo, each)) for photo, each in zip(photos, found, strict=True)]
        return {"number": batch["number"].tolist(), "record": records}


@contextmanager
def aligned_on_cluster(
    make: Callable[[], FaceAligner],
    photos: Sequence[Input],
    cluster: str,
    boxes: Boxes | None = None,
    gpu: bool = False,
) -> Iterator[Iterator[Record]]:
    """Records of photos, one of each, in whatever order they are ready.

    What a node was at when it died is done again elsewhere. A photo that ends the process which reads it is a broken
    one: in the end it is tried alone. The photos must be on each node under the same path.

    :param make: makes the aligner, on the nodes; it can be pickled
    :param photos: the files
    :param cluster: see :func:`~face_align_env.agents.common.cluster.connected`
    :param boxes: see :func:`~face_align_env.aligner.folders.align_files`
    :param gpu: whether each actor has a GPU
    :raises MissingExtraError, ValueError: see :func:`~face_align_env.agents.common.cluster.connected`
    """
    with connected(cluster):
        yield _records(make, photos, boxes, gpu)


def _records(
    make: Callable[[], FaceAligner], photos: Sequence[Input], boxes: Boxes | None, gpu: bool
) -> Iterator[Record]:
    with needs("cluster", "A cluster"):
        import ray

    waiting = dict.fromkeys(range(len(photos)))
    actors = max(1, int(ray.cluster_resources().get("GPU" if gpu else "CPU", 1)))  # type: ignore[no-untyped-call, unused-ignore]
    size = max(AT_ONCE, min(BLOCK, len(photos) // (4 * actors)))  # all actors have something to do
    for block in (size, AT_ONCE, 1):  # what is lost comes again in smaller blocks, until the photo at fault is alone
        for number, found in _aligned(make, photos, list(waiting), boxes, actors, gpu, block):
            if number not in waiting:
                continue  # told twice: a node died after its word
            del waiting[number]
            yield {**found, "photo": record(photos[number], [])["photo"]}
        if not waiting:
            return
    for number in waiting:
        yield record(photos[number], RuntimeError(f"Its process has died {RETRIES + 1} times. Look at the photo."))


def _aligned(
    make: Callable[[], FaceAligner],
    photos: Sequence[Input],
    numbers: Sequence[int],
    boxes: Boxes | None,
    actors: int,
    gpu: bool,
    block: int,
) -> Iterator[tuple[int, Record]]:
    """Numbers and records of those photos whose process lives to tell."""
    with needs("cluster", "A cluster"):
        import pyarrow as pa
        import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.max_errored_blocks = False, -1
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # blocks that are lost are this function's subject
    tables = []
    for start in range(0, len(numbers), block):
        own = numbers[start : start + block]
        paths = [os.fsencode(os.path.abspath(photos[number].path)) for number in own]
        tables.append(pa.table({"number": pa.array(own, pa.int64()), "path": pa.array(paths, pa.binary())}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # max_task_retries goes with Ray 2.64: see pyproject.toml
        aligned = ray.data.from_arrow(tables).map_batches(
            AlignPhotos,
            fn_constructor_args=(make, boxes),
            batch_size=min(AT_ONCE, block),
            # A block that waits for an actor which dies is lost with it: none waits.
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors, max_tasks_in_flight_per_actor=1),
            num_cpus=1,
            num_gpus=int(gpu),
            max_task_retries=RETRIES,
        )
    for row in aligned.iter_rows():
        yield int(row["number"]), json.loads(row["record"])
