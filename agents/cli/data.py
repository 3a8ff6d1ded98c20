"""``face-align data``: which datasets there are, and how to get, check, prepare and look at them."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from face_align_env.agents.cli.options import (
    JsonOption,
    LandmarksOption,
    OptionOption,
    RootOption,
    announce,
    console,
    done,
    print_json,
)
from face_align_env.agents.cli.parameters import dataset_options

NameArgument = Annotated[str, typer.Argument(help="A dataset's name; 'face-align data list' shows them.")]
SplitsOption = Annotated[list[str] | None, typer.Option("--split", help="Repeat for several; default: all.")]

data_app = typer.Typer(name="data", no_args_is_help=True, help="Datasets: list, download, verify, prepare, show.")


@data_app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """What each dataset is, where it was looked for, and how many faces it has."""
    from face_align_env.datasets import REGISTRY
    from face_align_env.store import cache_folder, disk_usage, entries

    found = {name: _look_at(name) for name in REGISTRY}
    if as_json:
        kept = {"folder": _text(cache_folder()), "bytes": sum(map(disk_usage, entries()))}
        print_json({"datasets": found, "prepared": kept})
        return
    view = Table("name", "what it is", "licence", "faces", "where", show_lines=True)
    for name, each in found.items():
        counts = []
        for split, faces in each["faces"].items():
            expected = each["protocol"].get(split)
            if faces is None:
                counts.append(f"{split}: cannot be read")
            elif faces:
                counts.append(f"{split} {faces:,}" + (f" of {expected:,}" if expected not in (None, faces) else ""))
        if each["generated"]:
            where = "generated, nothing to get"
        elif each["root"] is not None:
            note = each["error"] or ("" if counts else "(the folder has none of its faces)")
            where = f"{each['root']}\n{note}".rstrip()
        else:
            where = f"not in {' nor in '.join(each['candidates'])}\n{each['how_to_get']}"
        view.add_row(*map(escape, (name, each["description"], each["licence"], "\n".join(counts) or "-", where)))
    console.print(view)
    _say_what_is_kept()


def _look_at(name: str) -> dict[str, Any]:
    """What a dataset is, and what is there of it; a split whose number of faces is None cannot be read."""
    from face_align_env.datasets import DatasetNotFoundError, dataset_class, load_dataset
    from face_align_env.datasets.base import candidate_roots

    kind, faces, error = dataset_class(name), dict[str, int | None](), None
    for split in kind.splits:
        try:
            with _quietly():
                faces[split] = len(load_dataset(name, split))
        except DatasetNotFoundError:
            faces[split] = 0
        except ValueError as reason:  # a file in it is bad
            faces[split], error = None, str(reason)
    return {
        "description": kind.description,
        "licence": kind.licence,
        "generated": kind.generated,
        "faces": faces,
        "protocol": dict(kind.protocol),
        "root": _text(next((root for root in candidate_roots(kind) if root.is_dir()), None)),
        "candidates": [str(root) for root in candidate_roots(kind)],
        "how_to_get": kind.how_to_get,
        "error": error,
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


@data_app.command()
def verify(
    name: NameArgument,
    split: SplitsOption = None,
    root: RootOption = None,
    landmarks: LandmarksOption = None,
    option: OptionOption = None,
    decode: Annotated[bool, typer.Option(help="Decode the images too, not only their headers.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read every annotation and image header; name each broken file. Exit status 1 if the dataset is not whole."""
    from face_align_env.datasets.verification import verify as verify_dataset

    reports = verify_dataset(
        name, root, landmarks, dataset_options(name, landmarks, option), split, decode, console.is_terminal
    )
    whole = all(report.is_whole for report in reports)
    if as_json:
        print_json({"dataset": name, "whole": whole, "splits": [asdict(report) for report in reports]})
        raise typer.Exit(not whole)
    view = Table("split", "faces", "protocol", "missing", "broken", title=f"{name}: verified")
    for report in reports:
        expected = "-" if report.expected is None else f"{report.expected:,}"
        cells = (report.split, f"{report.num_faces:,}", expected, "\n".join(report.missing), str(len(report.problems)))
        view.add_row(*map(escape, cells))
    console.print(view)
    problems = dict.fromkeys(problem for report in reports for problem in report.problems)
    for problem in problems:
        announce(f"broken: {problem}")
    if not whole:
        missing = sum(bool(report.missing) for report in reports)
        announce(f"{name} is not whole: {len(problems)} broken, {missing} of {len(reports)} splits lack faces.")
        raise typer.Exit(1)
    announce(f"{name} is whole.")


@data_app.command()
def download(
    name: NameArgument,
    root: Annotated[
        Path | None, typer.Option(help="Folder to make. Default: $FACE_ALIGN_DATA/NAME, else ~/.cache/face-align/NAME.")
    ] = None,
    accept_changed: Annotated[
        bool, typer.Option("--accept-changed", help="Take an archive whose hash is not the one that is known.")
    ] = False,
) -> None:
    """Fetch a dataset from where its makers publish it. Goes on where it was cut off."""
    from face_align_env.datasets import dataset_class
    from face_align_env.datasets.download import download as download_dataset

    kind = dataset_class(name)
    announce(f"{name}: {kind.description}. Licence: {kind.licence}.")
    done(f"{name} is there", download_dataset(kind, root, console.is_terminal, accept_changed=accept_changed))


@data_app.command()
def prepare(
    name: NameArgument,
    split: SplitsOption = None,
    root: RootOption = None,
    landmarks: LandmarksOption = None,
    option: OptionOption = None,
    margin: Annotated[float | None, typer.Option(help="Around the box, a fraction of its side; default: 0.15.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one for each core.")] = None,
) -> None:
    """Cut all faces once and keep them on disk, so that everything later starts at once and shares their memory."""
    from face_align_env.crops import MARGIN
    from face_align_env.datasets import DatasetNotFoundError, dataset_splits, load_dataset
    from face_align_env.prepared import PreparedFaces, prepare_on_disk

    options, splits = dataset_options(name, landmarks, option), dataset_splits(name)
    for part in split or splits:
        try:
            faces = load_dataset(name, part, root, landmarks, **options)
        except DatasetNotFoundError as error:
            if split or part == splits[0]:
                raise
            announce(f"{name} {part}: left out. {error}")
            continue
        prepared = PreparedFaces(faces, margin=MARGIN if margin is None else margin)
        count = prepare_on_disk(prepared, workers or os.cpu_count() or 1, console.is_terminal)
        announce(f"{name} {part}: {len(faces):,} faces, {count:,} of them prepared now.")
    _say_what_is_kept()


@data_app.command()
def clear(name: Annotated[str | None, typer.Argument(help="Of one dataset; default: of all.")] = None) -> None:
    """Remove the prepared faces from the disk. The datasets themselves stay."""
    from face_align_env.datasets import dataset_class
    from face_align_env.store import entries

    if name is not None:
        dataset_class(name)  # there is such a dataset
    for folder in entries(name):
        shutil.rmtree(folder)
        announce(f"Removed {folder}")
    _say_what_is_kept()


@data_app.command()
def show(
    name: NameArgument,
    split: Annotated[str | None, typer.Option(help="Default: the training split.")] = None,
    index: Annotated[list[int] | None, typer.Option(help="Number of a face; repeat for several. Default: 0.")] = None,
    root: RootOption = None,
    landmarks: LandmarksOption = None,
    option: OptionOption = None,
    output: Annotated[Path, typer.Option(help="PNG to write.")] = Path("faces.png"),
) -> None:
    """Draw faces with their landmarks, the numbers of the points, and the box."""
    import io

    import numpy as np
    from PIL import Image

    from face_align_env.datasets import dataset_splits, load_dataset
    from face_align_env.files import write_bytes
    from face_align_env.rendering import draw_annotation, side_by_side

    with _quietly():
        faces = load_dataset(
            name, split or dataset_splits(name)[0], root, landmarks, **dataset_options(name, landmarks, option)
        )
    pictures = []
    for number in index or [0]:
        if not 0 <= number < len(faces):
            raise ValueError(f"There is no face {number}: '{name}' {faces.split} has 0 to {len(faces) - 1}.")
        pictures.append(draw_annotation(faces[number], faces.scheme))
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(side_by_side(pictures))).save(buffer, "PNG")
    write_bytes(output, buffer.getvalue())
    done(f"{len(pictures)} of the {len(faces):,} faces of {name} {faces.split}", output)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warnings of a dataset that lacks faces: it has been counted, or does not matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _say_what_is_kept() -> None:
    from face_align_env.store import cache_folder, disk_usage, entries

    folder = cache_folder()
    if folder is None:
        announce("Prepared faces are not kept on disk (FACE_ALIGN_CACHE is off).")
    else:
        size = sum(map(disk_usage, entries()))
        announce(f"Prepared faces on disk: {size / 1e9:.2f} GB in {folder} (FACE_ALIGN_CACHE moves them).")
