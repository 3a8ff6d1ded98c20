"""Work on many faces shared by a few threads, for functions that release Python's global lock while they work."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_MOST_THREADS = 4  # what is shared here waits for the memory more than for the cores

# By process: the threads of a pool do not survive a fork, so a child makes its own.
_pools: dict[int, ThreadPoolExecutor] = {}


def share(work: Callable[[slice], object], count: int, threads: int) -> None:
    """Call ``work`` with slices that make up ``range(count)``, at the same time.

    :param work: what to do with the faces of a slice; parts must not touch each other's results
    :param count: number of faces, or whatever is shared
    :param threads: how many to share among where there are as many cores; 1 or less: no thread is started
    :raises Exception: whatever ``work`` raises
    """
    parts = min(threads, CORES, _MOST_THREADS, count)
    if parts <= 1:
        work(slice(0, count))
        return
    pool = _pools.get(os.getpid())
    if pool is None:
        pool = _pools[os.getpid()] = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="face-align")
    ends = [count * part // parts for part in range(parts + 1)]
    others = [pool.submit(work, slice(*ends[part : part + 2])) for part in range(1, parts)]
    try:
        work(slice(ends[0], ends[1]))
    finally:
        for other in others:  # nobody is left writing when this returns or raises
            other.exception()
    for other in others:
        other.result()
