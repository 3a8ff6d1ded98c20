"""Devices by name, what a CPU can do, and what the processes of one training agree on."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from face_align_env.pretrain.settings import SettingError

if TYPE_CHECKING:
    from lightning.fabric import Fabric

ResultT = TypeVar("ResultT")

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # numbers of mallopt(3)
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86-64, and of ARM


def find_device(name: str) -> str:
    """The device of a name: ``"auto"`` is CUDA where there is one, else the CPU.

    :raises SettingError: there is no such device here
    """

    def refuse(message: str) -> SettingError:
        return SettingError("device", "--device", message)

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    found = re.fullmatch(r"(cpu|cuda|mps)(?::(\d+))?", name)
    if found is None:
        raise refuse(f"'{name}' is unknown; there are auto, cpu, cuda and mps.")
    kind, number = found[1], int(found[2] or 0)
    if kind == "cuda" and number >= torch.cuda.device_count():
        raise refuse(f"'{name}': torch finds {torch.cuda.device_count()} CUDA devices here. Use --device cpu.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise refuse("'mps' is not available here. Use --device cpu.")
    return name


def started_by_torchrun(devices: int, num_nodes: int, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Processes on each machine, and machines: as wanted, or as ``torchrun`` has started this process.

    :param devices: wanted; 1 under ``torchrun``: as they are
    :param num_nodes: likewise
    :param environment: variables
    :raises SettingError: ``torchrun`` has started others than are wanted
    """
    if "TORCHELASTIC_RUN_ID" not in environment:
        return devices, num_nodes
    local, world = int(environment["LOCAL_WORLD_SIZE"]), int(environment["WORLD_SIZE"])
    found = (local, world // local)
    if (devices, num_nodes) not in ((1, 1), found):
        raise SettingError(
            "devices",
            "--devices, --num-nodes",
            f"torchrun has started {found[0]} processes on each of {found[1]} machines, not {devices} on each of "
            f"{num_nodes}. Leave --devices and --num-nodes out: torchrun says how many there are.",
        )
    return found


def first_decides(fabric: Fabric, act: Callable[[], ResultT]) -> ResultT:
    """Let the first process act for all: what it gets, or what it fails with, is what they all get or fail with.

    Without this, the others would wait for one that has ended, or go on from another state than its own.

    :param fabric: of the processes
    :param act: what the first one does; its result must be picklable
    :raises Exception: what ``act`` raises, in every process
    """
    result, failure = None, None
    if fabric.global_rank == 0:
        try:
            result = act()
        except Exception as error:
            if fabric.world_size == 1:
                raise
            failure = error
    result, failure = fabric.broadcast((result, failure))
    if failure is not None:
        raise failure
    return result  # type: ignore[return-value]


def emulates_bf16(cpuinfo: str | Path = "/proc/cpuinfo") -> bool:
    """Whether this CPU has to emulate bfloat16, which takes many times as long as float32; False where it is not known.

    :param cpuinfo: the kernel's description of the CPU
    """
    try:
        text = Path(cpuinfo).read_text(encoding="utf-8")
    except OSError:
        return False
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return flags is not None and not _BF16_FLAGS & set(flags[1].split())


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors for the next ones, where glibc's allocator is in use.

    Tensors of more than 32 MB are otherwise handed back to the kernel when they are freed, in every step anew, and
    their pages are zeroed again when they are first written: on a CPU, a quarter of the time of a step of the cascade.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
