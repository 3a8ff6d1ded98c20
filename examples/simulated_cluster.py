"""Photos on a simulated Ray cluster: nodes of one core each, all on this machine, one of which may be killed.

    python examples/simulated_cluster.py --nodes 8 --photos 4000 --side 64 --kill
    python examples/simulated_cluster.py --nodes 0 --photos 400

What it shows: the time that Ray takes to start, the photos a second that the driver keeps up with (small photos need
hardly any alignment), the size of the tables, and that each photo is there once. What it cannot show: a network, and
more cores than this machine has. ``--nodes 0`` is one process without Ray. Needs the extra cluster.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2

from face_align_env.agents.cli.photos import make_aligner
from face_align_env.agents.common.arguments import parse_arguments
from face_align_env.aligner.folders import align_files, find_photos
from face_align_env.aligner.parquet import ParquetFolder, Record, record
from face_align_env.datasets import load_dataset

SEVERAL = 100  # different faces


@dataclass
class Args:
    """Everything that can be changed from the command line."""

    nodes: int = 8
    """of one core each; 0: one process, without Ray"""
    photos: int = 400
    """how many"""
    side: int = 640
    """of a photo, pixels"""
    weights: str = "300w-68"
    """released weights"""
    kill: bool = False
    """kill a node after a third of the photos"""


@contextmanager
def simulated(nodes: int) -> Iterator[Any]:
    """A cluster of so many nodes of one core."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    added = [cluster.add_node(num_cpus=1) for _ in range(nodes - 1)]
    cluster.killable = added  # not the head
    try:
        yield cluster
    finally:
        cluster.shutdown()


def draw_photos(folder: Path, count: int, side: int) -> int:
    """Write photos of drawn faces, a thousand to a folder; what they take together, bytes."""
    total = 0
    for index, face in enumerate(load_dataset("synthetic", "test", size=min(count, SEVERAL))):
        image = cv2.resize(face.image[:, :, ::-1], (side, side), interpolation=cv2.INTER_AREA)
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        for number in range(index, count, SEVERAL):
            path = folder / f"{number // 1000:03d}" / f"{number:06d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            total += len(data)
    return total


def main(args: Args) -> None:
    """Draw photos, start the cluster, align them, and say how long it took."""
    make = partial(make_aligner, args.weights, "cpu", "auto", None)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder, tables = Path(temporary, "photos"), Path(temporary, "tables")
        size = draw_photos(folder, args.photos, args.side)
        print(f"{args.photos} photos of {args.side} pixels, {size / args.photos / 1000:.1f} kB each")
        began = time.perf_counter()
        cluster = stack.enter_context(simulated(args.nodes) if args.nodes else nullcontext())
        print(f"{args.nodes} nodes after {time.perf_counter() - began:.1f} s")
        photos, results = find_photos([folder]), ParquetFolder(tables)
        began, processor = time.perf_counter(), time.process_time()
        records: Iterator[Record]
        if cluster is None:
            records = (record(photo, found) for photo, found in align_files(make(), photos, workers=1))
        else:
            from face_align_env.agents.photos_cluster import aligned_on_cluster

            records = stack.enter_context(aligned_on_cluster(make, photos, cluster.address))
        started, quarter, seen, tables_s, faces = 0.0, 0.0, 0, 0.0, 0
        for each in records:
            seen, faces = seen + 1, faces + len(each["faces"])
            started = started or time.perf_counter()
            at = time.perf_counter()
            results.write([each])
            if seen == args.photos:
                results.flush()
            tables_s += time.perf_counter() - at
            if seen == args.photos // 4:  # blocks of photos come at once: a rate from the first record is too high
                quarter = time.perf_counter()
            if args.kill and cluster is not None and seen == args.photos // 3:
                cluster.remove_node(cluster.killable[-1], allow_graceful=False)
                print(f"a node killed after {seen} photos")
        ended, processor = time.perf_counter(), time.process_time() - processor
        rate = (seen - args.photos // 4) / (ended - quarter)
        print(f"first record after {started - began:.1f} s, all after {ended - began:.1f} s")
        print(f"{rate:.1f} photos/s after the first quarter")
        size = sum(path.stat().st_size for path in tables.rglob("*.parquet"))
        print(f"{1e3 * processor / seen:.2f} ms of this process's processor time a photo")
        print(f"{faces} faces, {size / max(faces, 1):.0f} bytes each in the tables")
        print(f"{1e6 * tables_s / seen:.0f} us a photo to write them, on the driver")
        once = seen == len(results.done) == args.photos
        print(f"each photo once: {once} ({seen} records of {len(results.done)} photos)")


if __name__ == "__main__":
    main(parse_arguments(Args, __doc__))
