"""What the commands of ``face-align`` have in common: their options, and how they speak."""

from __future__ import annotations

import sys
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
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random.")]
LandmarksOption = Annotated[
    int | None, typer.Option(help="Number of landmarks, where the dataset offers several (68, 29, 19).")
]
OptionOption = Annotated[
    list[str] | None,
    typer.Option("--option", help="Keyword of the dataset as KEY=VALUE (boxes=detector, size=500); repeat for more."),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(help="Of supervised training: 32-true, bf16-mixed, ... Default: bf16-mixed on CUDA, else 32-true."),
]
DevicesOption = Annotated[int, typer.Option(help="Number of devices that train together.")]
OutputOption = Annotated[Path, typer.Option(help="Folder for weights, checkpoints and TensorBoard curves.")]

# Piped into a file the tables keep their columns.
console = Console(width=None if sys.stdout.isatty() else 160)


def options_of(given: list[str] | None, name: str = "--option") -> dict[str, Any]:
    """The keywords that an option gave as KEY=VALUE.

    :param given: the option's values
    :param name: the option, for messages
    """
    pairs = {}
    for text in given or []:
        if "=" not in text:
            raise typer.BadParameter(f"'{text}' is not KEY=VALUE.", param_hint=name)
        key, _, value = text.partition("=")
        pairs[key] = _value(value)
    return pairs


def data_of(dataset: str, root: str | None, landmarks: int | None, option: list[str] | None) -> Any:
    """The faces that the options name."""
    from pretrain.recipes import Data

    return Data(dataset, root, landmarks, options_of(option) or None)


def _value(text: str) -> bool | int | float | str:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def announce(text: str) -> None:
    """Say it as it is."""
    console.print(text, highlight=False, markup=False)


def done(text: str, path: Path) -> None:
    """Say what is done and where it lies."""
    console.print(f"{text}: [bold]{escape(str(path))}[/bold]", highlight=False)
