"""Killing work at random moments, and what is left when it is resumed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from trust.work import WORK, beside, do

MOST_SECONDS = 600.0  # of one start; longer means that it hangs
SOONER = 5  # of how much of the unbroken work a killed start does on average

# Each start is a process of its own, forked from one that has imported the libraries and done nothing else.
_starting = multiprocessing.get_context("forkserver")
_starting.set_forkserver_preload(
    ["face_align_env.agents.run", "face_align_env.agents.benchmark.run", "face_align_env.agents.collect", "minari"]
)


@dataclass(frozen=True)
class Outcome:
    """What a piece of work has left.

    :param digest: of its result
    :param kills: how often it was killed on the way
    :param seconds: from its first file to its end, when it was not killed
    """

    digest: str
    kills: int
    seconds: float


def run(name: str, folder: Path, kills: int = 0, seed: int = 0, seconds: float = 1.0) -> Outcome:
    """Do a piece of work, killed ``kills`` times at random moments of what it takes from its first file on.

    :param name: of :data:`trust.work.WORK`
    :param folder: for its result
    :param kills: how often
    :param seed: of the moments
    :param seconds: that the unbroken work takes
    :raises AssertionError: a start that is not killed fails, or hangs
    """
    rng = random.Random(f"{name}-{seed}")
    done = 0
    while done < kills:
        process = _start(name, folder)
        _wait_until_it_works(process, folder)
        # Mostly soon, so that there is something left to kill; now and then in the middle of much.
        process.join(rng.expovariate(SOONER / seconds))
        finished = not process.is_alive()
        process.kill()
        process.join()
        if finished:
            assert process.exitcode == 0, _log(folder)
            break
        done += 1
    process = _start(name, folder)
    _wait_until_it_works(process, folder)
    began = time.monotonic()
    process.join(MOST_SECONDS)
    assert process.exitcode == 0, _log(folder)
    return Outcome(WORK[name].digest(folder), done, time.monotonic() - began)


def _start(name: str, folder: Path) -> BaseProcess:
    process = _starting.Process(target=do, args=(name, folder))
    process.start()
    return process


def _wait_until_it_works(process: BaseProcess, folder: Path) -> None:
    """Until a file of the work is touched: imports alone are not worth a kill."""
    began, deadline = time.time(), time.monotonic() + MOST_SECONDS
    places = (folder, beside(folder, "cache"))
    while process.is_alive() and time.monotonic() < deadline:
        if max(map(_touched_at, places)) > began:
            return
        time.sleep(0.01)


def _touched_at(folder: Path) -> float:
    """When a file below was last written to; 0: there is none."""
    latest = 0.0
    for place, _, files in os.walk(folder):  # which passes over folders that are renamed meanwhile
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                latest = max(latest, os.stat(os.path.join(place, name)).st_mtime)
    return latest


def leftovers(folder: Path) -> list[Path]:
    """Temporary files and folders that are still there."""
    return [path for path in folder.rglob(".*") if path.name.endswith(".tmp")]


def _log(folder: Path) -> str:
    return beside(folder, "log").read_text(encoding="utf-8", errors="replace")[-3000:]
