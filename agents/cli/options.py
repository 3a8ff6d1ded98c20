"""What the commands of ``face-align`` have in common: options that shape no result, and how they speak."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

DatasetOption = Annotated[
    str, typer.Option(help="synthetic, 300w, cofw, aflw, ytf, pts; several of one landmark scheme joined by '+'.")
]
RootOption = Annotated[
    str | None,
    typer.Option(help="Folder of the data. Without it: $FACE_ALIGN_DATA/NAME, else ~/.cache/face-align/NAME."),
]
PresetOption = Annotated[
    str, typer.Option(help="Networks and recipe: tiny (CPU trials), compact, paper (Table 1), mdm (LRN as in MDM).")
]


def _device(name: str) -> str:
    from face_align_env.pretrain.devices import find_device

    return find_device(name)


DeviceOption = Annotated[str, typer.Option(callback=_device, help="auto, cpu, cuda or mps.")]
DevicesOption = Annotated[
    int, typer.Option(min=1, help="Devices that train together on each machine; on a CPU, so many processes.")
]
NodesOption = Annotated[
    int, typer.Option("--num-nodes", min=1, help="Machines that train together; torchrun, which starts them, knows.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
LandmarksOption = Annotated[
    int | None, typer.Option(help="Number of landmarks, where the dataset offers several (68, 29, 19).")
]
OptionOption = Annotated[
    list[str] | None,
    typer.Option("--option", help="Keyword of the dataset as KEY=VALUE (boxes=detector, size=500); repeat for more."),
]
OutputOption = Annotated[Path, typer.Option(help="Folder for weights, checkpoints and TensorBoard curves.")]

# Piped into a file the tables keep their columns.
console = Console(width=None if sys.stdout.isatty() else 160)


def _json(wanted: bool) -> bool:
    console.quiet = console.quiet or wanted
    return wanted


JsonOption = Annotated[bool, typer.Option("--json", callback=_json, help="Print the result as JSON, and nothing else.")]


def announce(text: str) -> None:
    """Say it as it is."""
    console.print(text, highlight=False, markup=False)


def done(text: str, path: Path) -> None:
    """Say what is done and where it lies."""
    console.print(f"{text}: [bold]{escape(str(path))}[/bold]", highlight=False)


def print_json(document: Mapping[str, Any]) -> None:
    """The result of a command, for other programs."""
    print(json.dumps(document, indent=2))


def written(paths: Iterable[Path], as_json: bool) -> None:
    """Say which files a command has written; as JSON, what those of them hold that are JSON themselves."""
    if as_json:
        print_json({str(path): json.loads(path.read_text("utf-8")) for path in paths if path.suffix == ".json"})
        return
    for path in paths:
        done("Written", path)
