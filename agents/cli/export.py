"""``face-align export``: an aligner for runtimes of ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from face_align_env.agents.cli.options import announce, done
from face_align_env.agents.cli.photos import load_aligner


def export(
    output: Annotated[Path, typer.Option(help="File to write, .onnx.")],
    weights: Annotated[
        str, typer.Argument(help="Released weights (300w-68, 300w-19, synthetic-68, ...), or the folder of a run.")
    ] = "300w-68",
    kind: Annotated[
        str,
        typer.Option("--input", help="photo: a photo and the boxes of its faces; crop: crops of 256 x 256 pixels."),
    ] = "photo",
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Look at each face a second time, mirrored: less error, twice the time.")
    ] = False,
) -> None:
    """One ONNX file from a photo and boxes, or from crops, to landmarks and iterations.

    GEN, the loop of the cascade and Eq. 3 are in the file, and so is the cutting of crops. Before it is written it is
    compared with PyTorch on drawn faces.
    """
    from face_align_env.aligner.export import TOLERANCE, write

    found = write(load_aligner(weights, mirror=mirror), output, kind, _metadata(weights))
    done("Written", output)
    equal, median = int((found < TOLERANCE).sum()), float(np.median(found))
    announce(f"{equal} of {len(found)} drawn faces within {TOLERANCE:g} pixels of PyTorch, the median {median:.1g}.")


def _metadata(weights: str) -> dict[str, Any]:
    """What is known of the weights: a release's card, or a run's configuration."""
    from face_align_env.agents.run_folder import RunFolder
    from face_align_env.released import find_release

    if Path(weights).is_dir():
        return {"name": Path(weights).resolve().name, "config": RunFolder(weights).config.without_root().document()}
    card = find_release(weights).card
    return {"name": card.name, "license": card.license, "intended_use": card.intended_use, "card": card.document()}
