"""What the commands of ``face-align`` have in common: their options, and how they speak."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from face_align_env.pretrain.loop import TrainingConfig

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
PretrainBatchOption = Annotated[int | None, typer.Option("--batch-size", help="Faces a step; default: the recipe's.")]
LearningRateOption = Annotated[float | None, typer.Option(help="Adam's, at its highest; default: the recipe's.")]
AugmentationOption = Annotated[
    list[str] | None,
    typer.Option(
        "--augmentation", help="Range of the random views as KEY=VALUE (rotation=40, blur=0); repeat for more."
    ),
]
JitterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--jitter",
        help="How GEN's x_0 is moved for the cascades as KEY=VALUE (shift=0, scale, rotation); repeat for more.",
    ),
]
VisitedOption = Annotated[
    list[str] | None,
    typer.Option(
        "--visited",
        help="Faces that GEN's cascades roll forward before the trained iterations, as KEY=VALUE (share=0.6, depth=8); "
        "repeat for more. share=0: none.",
    ),
]
EnvironmentOption = Annotated[
    list[str] | None,
    typer.Option(
        "--env",
        help="Keyword of the environment in which RL trains as KEY=VALUE (reward=dense, iteration_cost=0.1); repeat "
        "for more. Measured is always under the paper's.",
    ),
]
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


def training_of(
    config: TrainingConfig, seed: int, epochs: int | None, batch_size: int | None, learning_rate: float | None
) -> TrainingConfig:
    """A recipe's training with what the options change."""
    changes: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    return replace(config, seed=seed, **{key: value for key, value in changes.items() if value is not None})


def numbers_of(made: Callable[..., object], given: list[str] | None, name: str) -> dict[str, float]:
    """The numbers that an option gave as KEY=VALUE.

    :param made: what they are keywords of, a dataclass of numbers, which judges their values
    :param given: the option's values
    :param name: the option, for messages
    """
    keywords, known = options_of(given, name), list(inspect.signature(made).parameters)
    for key, value in keywords.items():
        if key not in known:
            raise typer.BadParameter(f"'{key}' is none of {', '.join(known)}.", param_hint=name)
        if isinstance(value, (bool, str)) or not math.isfinite(value):
            raise typer.BadParameter(f"{key} must be a number, got '{value}'.", param_hint=name)
    made(**keywords)
    return keywords


def data_of(dataset: str, root: str | None, landmarks: int | None, option: list[str] | None) -> Any:
    """The faces that the options name."""
    from face_align_env.pretrain.recipes import Data

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
