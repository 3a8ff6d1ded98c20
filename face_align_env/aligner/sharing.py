"""Faces shared among threads, each of which computes the networks of its own in one thread.

The networks are small: sharing each of their layers among threads, as PyTorch does by itself, leaves two threads hardly
faster than one. Sharing the faces leaves nothing to wait for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from face_align_env.threads import share

_LEAST = 8  # faces that are worth a thread


def part_size(count: int, most: int) -> int:
    """Faces of a part of ``count`` faces: at most ``most``, and few enough for each of torch's threads to get a part.

    :param count: N
    :param most: faces that go through the networks together
    """
    return min(most, max(_LEAST, -(-count // torch.get_num_threads())))


def share_inference(work: Callable[[slice], object], parts: int) -> None:
    """Call ``work`` with slices of ``range(parts)``, in as many threads as torch has, each without further threads.

    :param work: computes the networks on the CPU
    :param parts: number of parts
    """
    threads = torch.get_num_threads()
    if min(threads, parts) <= 1:
        work(slice(0, parts))
        return

    def alone(some: slice) -> None:
        torch.set_num_threads(1)
        work(some)

    try:
        share(alone, parts, threads)
    finally:
        torch.set_num_threads(threads)  # of this thread, and of those that are begun later
