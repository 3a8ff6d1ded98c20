"""Memory as the kernel counts it; Linux only, None elsewhere.

Nothing heavy is imported here: :func:`player` runs in processes whose own memory is the figure.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import re
from collections.abc import Callable
from pathlib import Path

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_ROLLUP = Path("/proc/self/smaps_rollup")


def begin_peak() -> Callable[[], int | None]:
    """Forget the highest memory so far.

    :return: a function that gives the highest since, in bytes, or None where the kernel does not tell. Processes that
        this one has started do not count
    """
    try:
        _CLEAR.write_text("5")  # resets VmHWM, see proc(5)
    except OSError:
        return lambda: None
    return _high_water_mark


def _high_water_mark() -> int | None:
    return _kilobytes(_STATUS).get("VmHWM")


def resident() -> dict[str, int] | None:
    """This process's memory in bytes: ``own`` pages, and ``mapped`` pages of files; None where the kernel is silent."""
    sizes = _kilobytes(_ROLLUP)
    if not {"Rss", "Anonymous"} <= sizes.keys():
        return None
    return {"own": sizes["Anonymous"], "mapped": sizes["Rss"] - sizes["Anonymous"]}


def _kilobytes(path: Path) -> dict[str, int]:
    """The lines ``name: n kB`` of a file under /proc, in bytes."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return {}
    return {name: 1024 * int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def of_player(num_faces: int) -> dict[str, int] | None:
    """The memory of a fresh process that has looked at each of the synthetic training faces.

    :param num_faces: faces of the dataset, prepared on disk before
    :return: :func:`resident`, but for what was mapped before the first look (libraries, mostly)
    """
    context = multiprocessing.get_context("spawn")  # a fork would begin with this process's memory
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=player, args=(num_faces, there))
    process.start()
    there.close()
    try:
        sizes: dict[str, int] | None = here.recv()
    except EOFError:
        raise RuntimeError(f"The process that looks at {num_faces} faces has died (exit {process.exitcode}).") from None
    finally:
        process.join()
    return sizes


def player(num_faces: int, answer: multiprocessing.connection.Connection) -> None:
    """Make the environment, look at every face, and tell what memory that takes."""
    import numpy as np

    from face_align_env.env import FaceAlignEnv

    env = FaceAlignEnv(dataset_options={"size": num_faces}, initializer="mean")
    env.reset(seed=0)
    prepared = env.faces.prepared
    before = resident()
    for index in range(len(prepared)):
        np.asarray(prepared.context(index)).sum()
    after = resident()
    if before is not None and after is not None:
        after["mapped"] -= before["mapped"]
    answer.send(after)
