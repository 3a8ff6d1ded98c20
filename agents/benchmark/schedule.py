"""All trials of a benchmark, a few at a time, each in a process of its own that ends with this one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from face_align_env.agents.benchmark.settings import TrialKey
from face_align_env.agents.benchmark.trial import (
    END_WITH_PARENT,
    ERROR,
    is_complete,
    remove_checkpoints,
    trial_folder,
)
from face_align_env.progress import Progress

MEMORY_OF_A_TRIAL = 1_500_000_000  # bytes: libraries, faces, and a replay buffer of features


def default_workers() -> int:
    """As many processes as there are cores and as the memory that is free allows, at least one."""
    allowed = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    free = _free_memory()
    return max(1, allowed if free is None else min(allowed, free // MEMORY_OF_A_TRIAL))


def _free_memory() -> int | None:
    """Bytes; None where the kernel does not tell."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def run_trials(folder: str | os.PathLike[str], keys: Sequence[TrialKey], workers: int) -> list[TrialKey]:
    """Train what is not complete. A trial that fails does not stop the others.

    :param folder: of the benchmark
    :param keys: the trials
    :param workers: processes at a time, each with one thread unless $OMP_NUM_THREADS says otherwise
    :return: the trials that have failed; why, their ``error.txt`` says
    """
    waiting = [key for key in keys if not is_complete(folder, key)]
    for key in set(keys).difference(waiting):
        remove_checkpoints(trial_folder(folder, key))  # of one that was killed between its end and this
    failed: list[TrialKey] = []
    running: dict[TrialKey, subprocess.Popen[bytes]] = {}
    # The networks are too small to be split: on a busy machine, two threads of a trial wait for each other. Cores are
    # for further trials.
    environment = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **os.environ}
    bar = Progress(total=len(keys), initial=len(keys) - len(waiting), desc="trials", disable=not waiting)
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                key = waiting.pop(0)
                running[key] = _start(folder, key, environment)
                bar.set_postfix_str(", ".join(map(str, running)))
            time.sleep(0.2)
            for key, process in list(running.items()):
                if process.poll() is not None:
                    _let_go(process)
                    del running[key]
                    bar.update()
                    if not is_complete(folder, key):
                        failed.append(key)
    finally:
        for process in running.values():  # the caller was interrupted: what they have done so far stays
            process.terminate()
        for process in running.values():
            process.wait()
            _let_go(process)
        bar.close()
    return failed


def _start(folder: str | os.PathLike[str], key: TrialKey, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    own = trial_folder(folder, key)
    own.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "face_align_env.agents.benchmark.trial",
        str(folder),
        key.algorithm,
        key.start,
        str(key.seed),
        END_WITH_PARENT,
    ]
    with (own / "output.txt").open("ab") as output:
        # Standard input is what the trial knows this process by: it closes when this process ends, however it ends.
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
        )


def _let_go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()


def why_failed(folder: str | os.PathLike[str], key: TrialKey) -> str:
    """The last line of what a failed trial has said."""
    own = trial_folder(folder, key)
    for name in (ERROR, "output.txt"):
        path = own / name
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.is_file() else []
        if lines:
            return f"{lines[-1]} ({path})"
    return f"the process ended without a word ({own})"
