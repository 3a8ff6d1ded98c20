"""The benchmark as a whole: groups run one after the other, tables, and a JSON document."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from face_align_env.agents.speed.environments import measure_env, measure_memory, measure_patches
from face_align_env.agents.speed.measure import Entry
from face_align_env.agents.speed.memory import begin_peak
from face_align_env.agents.speed.networks import measure_aligner, measure_networks
from face_align_env.agents.speed.scaling import measure_scaling, save_scaling
from face_align_env.agents.speed.training import measure_replay, measure_training
from face_align_env.agents.speed.workbench import Settings, Workbench
from face_align_env.files import write_json

GROUPS: dict[str, Callable[[Workbench], Iterator[Entry]]] = {
    "memory": measure_memory,
    "patches": measure_patches,
    "env": measure_env,
    "replay": measure_replay,
    "networks": measure_networks,
    "aligner": measure_aligner,
    "training": measure_training,
    "scaling": measure_scaling,
}
_ON_REQUEST = ("scaling",)
_NOTE = (
    "Weights are random: times do not depend on them, except for the number of iterations, which is fixed. "
    "share: of a limit of the machine, more is better. ratio: of the time to the baseline's, less is better. "
    "Both are medians of ratios of measurements made in turn."
)
_WIDTH = 100  # columns of a table, at most
_PREFIXED = {"byte": "B", "FLOP": "FLOP"}
_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def run(
    settings: Settings,
    output: Path,
    console: Console,
    only: Sequence[str] | None = None,
    scaling: bool = False,
    before: Path | None = None,
) -> list[Path]:
    """Measure, print a table after each group, and write the document (with ``scaling``, a figure beside it).

    :param settings: how to measure
    :param output: the JSON file
    :param console: where the tables go
    :param only: names of groups; None: all but ``scaling``
    :param scaling: that one too
    :param before: the document of another run, as of an older version, whose times stand beside the new ones
    :return: the files that it has written
    :raises ValueError: there is no such group, preset or device
    """
    names = chosen_groups(only, scaling)
    earlier = {} if before is None else read_times(before)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    bench = Workbench(settings)
    machine = describe_machine(bench.device)
    console.print(escape(f"{machine['cpu']}, {machine['cores']} cores, {machine['torch_threads']} threads of torch, "
                         f"networks on {machine['device']}; preset {settings.preset}, "
                         f"{settings.repeats} repeats"), highlight=False)  # fmt: skip
    entries: list[Entry] = []
    peaks: dict[str, int | None] = {}
    for name in names:
        peak = begin_peak()
        with console.status(f"Measuring {name} ..."):
            found = list(GROUPS[name](bench))
        peaks[name] = peak()
        entries += found
        console.print(table(name, found, peaks[name], earlier), width=min(_WIDTH, console.width))
    console.print(_NOTE, highlight=False)
    write_json(
        output,
        {
            "machine": machine,
            "settings": {**asdict(settings), "groups": names},
            "note": _NOTE,
            "peak_memory": peaks,
            "entries": [asdict(entry) for entry in entries],
        },
    )
    if "scaling" not in names:
        return [output]
    curves = output.with_name(f"{output.stem}-scaling.png")
    save_scaling(entries, curves)
    return [output, curves]


def chosen_groups(only: Sequence[str] | None, scaling: bool) -> list[str]:
    """The groups to measure, in the order in which they are.

    :raises ValueError: there is no such group
    """
    for name in only or ():
        if name not in GROUPS:
            raise ValueError(f"Unknown group '{name}'; there are {', '.join(GROUPS)}.")
    wanted = set(only or (name for name in GROUPS if name not in _ON_REQUEST)) | ({"scaling"} if scaling else set())
    return [name for name in GROUPS if name in wanted]


def read_times(path: Path) -> dict[tuple[str, str], float]:
    """Seconds of each figure of a document that :func:`run` has written, in this version or an older one.

    :return: by group and name
    :raises ValueError: it is no such document
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["entries"]
        return {(each["group"], each["name"]): each["seconds"] for each in entries if each["seconds"]}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}' is no document of face-align speed --output ({error}).") from error


def describe_machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "gymnasium": gymnasium.__version__,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(
    group: str, entries: Sequence[Entry], peak: int | None, before: Mapping[tuple[str, str], float] | None = None
) -> Table:
    """A group's figures.

    :param group: its name
    :param entries: its figures
    :param peak: the highest memory of the process meanwhile, bytes; None: unknown
    :param before: seconds of earlier figures, by group and name
    """
    limits = dict.fromkeys(entry.limit for entry in entries if entry.limit)
    caption = [f"share: of {limit}" for limit in limits]
    if peak is not None:
        caption.append(f"peak memory of the process: {_rounded(peak)}B")
    view = Table(title=group, caption="\n".join(caption) or None, title_justify="left", caption_justify="left")
    view.add_column("what", no_wrap=True)
    view.add_column("time", justify="right", no_wrap=True)
    view.add_column("rate", justify="right", no_wrap=True)
    if limits:
        view.add_column("share", justify="right", no_wrap=True)
    earlier = before or {}
    told = any((group, entry.name) in earlier for entry in entries)
    if told:
        view.add_column("before", justify="right", no_wrap=True)
        view.add_column("gain", justify="right", no_wrap=True)
    compared = any(entry.ratio_to for entry in entries)
    if compared:
        view.add_column("ratio", justify="right", no_wrap=True)
        view.add_column("to")
    for entry in entries:
        share = [] if not limits else ["" if entry.share is None else f"{100 * entry.share:.1f} %"]
        ratio = ["" if entry.ratio is None else f"{entry.ratio:.3g}", escape(entry.ratio_to or "")] if compared else []
        gain = _gain(entry, earlier.get((group, entry.name))) if told else []
        amount = f"{_rounded(entry.bytes)}B" if entry.bytes is not None else _seconds(entry.seconds)
        view.add_row(escape(entry.name), amount, _rate(entry), *share, *gain, *ratio)
    return view


def _gain(entry: Entry, before: float | None) -> list[str]:
    """The time before, and how many times as fast it is now."""
    if before is None or not entry.seconds:
        return ["", ""]
    return [_seconds(before), f"{before / entry.seconds:.2f} x"]


def _rate(entry: Entry) -> str:
    if not entry.seconds or not entry.count or entry.per is None:
        return ""
    if entry.per == "face":
        return f"{_seconds(entry.seconds / entry.count)}/face"
    rate = entry.count / entry.seconds
    if entry.per in _PREFIXED:
        return f"{_rounded(rate)}{_PREFIXED[entry.per]}/s"
    return f"{rate:,.0f} {entry.per}s/s" if abs(rate) >= 10 else f"{rate:.2g} {entry.per}s/s"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if abs(seconds) >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{1e6 * seconds:.3g} µs"


def _rounded(value: float) -> str:
    """Three digits and a prefix: ``12.3 G``."""
    for prefix, size in reversed(_UNITS.items()):
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g} "
