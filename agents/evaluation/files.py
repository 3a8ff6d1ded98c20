"""The files of an evaluation: the figures as JSON, and what was measured of each face."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.agents.evaluation.measure import Outcome, Row
from face_align_env.files import write_arrays, write_json
from face_align_env.metrics import mean_over_faces
from face_align_env.prepared import PreparedFaces

# What an evaluation's JSON file says of each method: the fields that every method has.
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


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of an ``evaluation.json``."""
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    names = {field.name for field in fields(Row)}
    return [Row(**{key: value for key, value in row.items() if key in names}) for row in document["rows"]]


def read_faces(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """What was measured of each face: the arrays beside an ``evaluation.json``.

    :param path: the JSON file
    :raises FileNotFoundError: there is none
    """
    with np.load(Path(path).with_suffix(".npz")) as file:
        return dict(file)
