"""Killing work at random moments, and what is left when it is resumed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("work.py")
MOST_SECONDS = 600.0  # of one start; longer means that it hangs


@dataclass(frozen=True)
class Outcome:
    """What a piece of work has left.

    :param digest: of its result
    :param kills: how often it was killed on the way
    """

    digest: str
    kills: int


def start(name: str, folder: Path) -> subprocess.Popen[bytes]:
    """The work in a process of its own, with prepared faces beside its folder."""
    environment = {**os.environ, "FACE_ALIGN_CACHE": str(folder.with_name(f"{folder.name}-cache"))}
    output = folder.with_name(f"{folder.name}.log").open("ab")
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), name, str(folder)], env=environment, stdout=output, stderr=subprocess.STDOUT
    )


def run(name: str, folder: Path, kills: int = 0, seed: int = 0) -> Outcome:
    """Do a piece of work, killed ``kills`` times at random moments of what it takes from its first file on.

    :raises AssertionError: a start that is not killed fails, or hangs
    """
    rng = random.Random(f"{name}-{seed}")
    done = 0
    while done < kills:
        process = start(name, folder)
        _wait_until_it_works(process, folder)
        # Mostly soon, so that there is something left to kill; now and then in the middle of much.
        time.sleep(rng.expovariate(1 / 0.25))
        finished = process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        done += 1
        if finished:
            assert process.returncode == 0, _log(folder)
            break
    process = start(name, folder)
    assert process.wait(MOST_SECONDS) == 0, _log(folder)
    return Outcome(digest(name, folder), done)


def _wait_until_it_works(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Until a file of the work is touched: imports alone are not worth a kill."""
    began, deadline = time.time(), time.monotonic() + MOST_SECONDS
    places = (folder, folder.with_name(f"{folder.name}-cache"))
    while process.poll() is None and time.monotonic() < deadline:
        if max(map(_touched_at, places)) > began:
            return
        time.sleep(0.01)


def _touched_at(folder: Path) -> float:
    """When a file below was last written to; 0: there is none."""
    latest = 0.0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            latest = max(latest, path.stat().st_mtime)
    return latest


def digest(name: str, folder: Path) -> str:
    """SHA-256 of the result: the weights, or every prepared face."""
    if name == "prepare":
        cache = folder.with_name(f"{folder.name}-cache")
        (contexts,) = cache.rglob("contexts.raw")
        return hashlib.sha256(contexts.read_bytes()).hexdigest()
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


def leftovers(folder: Path) -> list[Path]:
    """Temporary files that are still there."""
    return [path for path in folder.rglob(".*") if path.name.endswith(".tmp")]


def _log(folder: Path) -> str:
    return folder.with_name(f"{folder.name}.log").read_text(encoding="utf-8", errors="replace")[-3000:]
