"""How long an environment takes to start, and what memory its processes take when all map the same prepared faces.

    face-align data prepare synthetic --split train --option size=20000
    python examples/share_memory.py --size 20000 --processes 4

Each process makes the environment, looks at every face once, and tells three sizes (Linux): the pages that are its
own, the pages of the file of faces that it has mapped and has in memory, and its share of all pages (a page that four
processes have in memory counts as a quarter in each: "PSS"). The sum of the shares is what the machine really gives.

Measured with these commands on two shared cores (preparing took 2 min 8 s and 7.45 GB of disk): one process was ready
in 0.17 s, with 88 MB of its own and 7,130 MB mapped. Four at once were ready in 0.5 to 0.9 s, with 88 MB of their own
and a share of 1,869 MB each; together they had 7,478 MB, where one had 7,208.
"""

from __future__ import annotations

import multiprocessing
import re
import time
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

import gymnasium as gym
import numpy as np

import face_align_env  # noqa: F401 - registers FaceAlign-v0
from face_align_env.agents.common.arguments import parse_arguments


def sizes() -> dict[str, float]:
    """This process's memory in MB, as the kernel counts it; empty where it does not tell."""
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.is_file():
        return {}
    lines = dict(re.findall(r"^(\w+): +(\d+) kB$", rollup.read_text(), re.MULTILINE))
    kilobytes = {name: int(value) for name, value in lines.items()}
    return {
        "own": kilobytes["Anonymous"] / 1024,
        "mapped": (kilobytes["Rss"] - kilobytes["Anonymous"]) / 1024,
        "share": kilobytes["Pss"] / 1024,
    }


def play(size: int, barrier: Barrier, answers: multiprocessing.SimpleQueue[dict[str, float]]) -> None:
    """Start, look at each face, wait until the others have done so, and tell."""
    began = time.perf_counter()
    env = gym.make("FaceAlign-v0", dataset_options={"size": size}, initializer="mean")
    env.reset(seed=0)
    start = time.perf_counter() - began
    prepared = env.unwrapped.faces.prepared
    for index in range(len(prepared)):
        np.asarray(prepared.context(index))
    barrier.wait()
    told = {"start": start, **sizes()}
    barrier.wait()  # nobody leaves before all have been measured
    answers.put(told)


@dataclass
class Args:
    """Everything that can be changed from the command line."""

    size: int = 2000
    """number of faces"""
    processes: int = 4
    """environments, each in a process of its own"""


def main(args: Args) -> None:
    """Start the processes and print what they tell."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(args.processes), context.SimpleQueue()
    processes = [context.Process(target=play, args=(args.size, barrier, answers)) for _ in range(args.processes)]
    for process in processes:
        process.start()
    told = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    for answer in told:
        memory = "".join(f", {name} {megabytes:,.0f} MB" for name, megabytes in answer.items() if name != "start")
        print(f"made and reset in {answer['start']:.2f} s{memory}")
    if "share" in told[0]:
        print(f"all {len(told)} processes together: {sum(answer['share'] for answer in told):,.0f} MB")


if __name__ == "__main__":
    main(parse_arguments(Args, __doc__))
