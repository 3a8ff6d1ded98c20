"""The files of an evaluation: the figures as JSON, and what was measured of each face."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.agents.evaluation.measure import Outcome, Row
from face_align_env.files import read_arrays, write_arrays, write_json
from face_align_env.metrics import mean_over_faces
from face_align_env.prepared import PreparedFaces
from face_align_env.pretrain.settings import accepts, read_json

# What an evaluation's JSON file says of each method: the fields that every method has.
_OF_FACES = ("nme", "nme_inter_pupil", "iterations", "return", "success")  # arrays with a number for each face
_JSON_KEYS = tuple(field.name for field in fields(Row) if field.default is MISSING)


def write_evaluation(
    path: str | os.PathLike[str], prepared: PreparedFaces, seed: int, outcomes: Sequence[Outcome]
) -> None:
    """Write ``evaluation.json`` and, beside it, what was measured of each face (``.npz``).

    The arrays of a method are ``METHOD/nme`` and ``METHOD/nme_inter_pupil`` (N,), fractions; ``METHOD/landmark_nme``
    (K,), means over faces; ``METHOD/iterations`` (N,); and of its episodes ``METHOD/return`` and ``METHOD/success``
    (N,), and ``METHOD/rewards`` (T, N), NaN after an episode's end. ``ids`` (N,) names the faces.

    :param path: the JSON file
    :param prepared: the faces that were evaluated
    :param seed: of the training
    :param outcomes: the rows, in the order of the table
    """
    document = {
        "dataset": prepared.dataset.name,
        "split": prepared.dataset.split,
        "num_faces": len(prepared),
        "seed": seed,
        "rows": [{key: getattr(outcome.row, key) for key in _JSON_KEYS} for outcome in outcomes],
    }
    write_json(path, document)
    arrays = {"ids": np.array(prepared.ids), "normalizer": np.array(prepared.normalizer)}
    for outcome in outcomes:
        found: dict[str, npt.NDArray[Any] | None] = {
            "nme": outcome.errors,
            "nme_inter_pupil": outcome.inter_pupil_errors,
            "landmark_nme": None if outcome.landmark_errors is None else mean_over_faces(outcome.landmark_errors),
            "iterations": outcome.iterations,
        }
        if outcome.episodes is not None:
            found["return"] = outcome.episodes.returns
            found["success"] = outcome.episodes.successes
            found["rewards"] = outcome.episodes.rewards.astype(np.float32)
        arrays |= {f"{outcome.row.method}/{key}": array for key, array in found.items() if array is not None}
    write_arrays(Path(path).with_suffix(".npz"), arrays)


def read_evaluation(path: str | os.PathLike[str]) -> dict[str, Any]:
    """An ``evaluation.json``; of its rows only the methods' names are checked, since older versions had fewer figures.

    :raises FileNotFoundError: there is none
    :raises ValueError: it is damaged, or another file; the message names it and the cure
    """
    document = read_json(path)
    known = {"dataset": str, "split": str, "num_faces": int, "rows": list}
    for key, kind in known.items():
        if not isinstance(document, dict) or type(document.get(key)) is not kind:
            raise _damaged(path, f"{key} is missing or makes no sense")
    if not all(isinstance(row, dict) and isinstance(row.get("method"), str) for row in document["rows"]):
        raise _damaged(path, "a row's method is missing or makes no sense")
    made: dict[str, Any] = document
    return made


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of an ``evaluation.json``.

    :raises FileNotFoundError, ValueError: see :func:`read_evaluation`
    """
    return [_row(path, row) for row in read_evaluation(path)["rows"]]


def _row(path: str | os.PathLike[str], row: dict[str, Any]) -> Row:
    """A row of the file; what newer versions may add to it is passed over."""
    values = {}
    for own in fields(Row):
        value = row.get(own.name, own.default)
        if not accepts(own.type, value):
            raise _damaged(path, f"a row's {own.name} is missing or makes no sense")
        values[own.name] = value
    return Row(**values)


def _damaged(path: str | os.PathLike[str], what: object) -> ValueError:
    return ValueError(
        f"'{os.fspath(path)}' is damaged ({what}). Make it again: face-align evaluate {Path(path).parent}"
    )


def read_faces(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """What was measured of each face: the arrays beside an ``evaluation.json``.

    :param path: the JSON file
    :raises FileNotFoundError: there is none
    :raises ValueError: it is damaged; the message names it and the cure
    """
    path = Path(path).with_suffix(".npz")
    try:
        arrays = read_arrays(path)
    except ValueError as error:
        raise ValueError(f"{error} Make it again: face-align evaluate {path.parent}") from error
    lacking = [key for key in ("ids", "normalizer") if key not in arrays]
    if lacking:
        raise _damaged(path, f"{lacking[0]} is missing")
    of_faces = [key for key in arrays if key.rpartition("/")[2] in _OF_FACES]
    wrong = [
        key for key in of_faces if arrays[key].shape != arrays["ids"].shape or arrays[key].dtype.kind not in "biuf"
    ]
    if wrong:
        raise _damaged(path, f"{wrong[0]} is no number for each face")
    return arrays
