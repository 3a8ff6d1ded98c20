"""Evaluation: the rows of Table 6 on a split, with intervals, as table and JSON (figures: :mod:`agents.figures`)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table

from agents.aligner import FaceAligner
from face_align_env.mdp import nme
from face_align_env.metrics import auc, bootstrap_interval, failure_rate
from face_align_env.networks.lrn import LRN
from face_align_env.networks.weights import atomic_path
from face_align_env.prepared import FaceSource, PreparedFaces
from face_align_env.vector_env import FaceAlignVectorEnv
from pretrain.settings import write_json

# Table 6, mean error in percent (and iterations) on 300W full, COFW and AFLW full. Quoted from the paper.
PAPER_TABLE_6: dict[str, dict[str, float]] = {
    "300w": {"GEN": 6.57, "LRN-2": 5.16, "LRN-4": 4.53, "LRN-8": 4.44, "GEN-LRN8": 4.02, "DCRN": 3.92},
    "cofw": {"GEN": 6.37, "LRN-2": 27.32, "LRN-4": 17.17, "LRN-8": 16.73, "GEN-LRN8": 5.07, "DCRN": 5.42},
    "aflw": {"GEN": 2.15, "LRN-2": 3.91, "LRN-4": 3.64, "LRN-8": 3.85, "GEN-LRN8": 1.97, "DCRN": 1.92},
}
PAPER_ITERATIONS = {"300w": 2.61, "cofw": 3.25, "aflw": 2.09}


@dataclass(frozen=True)
class Row:
    """One method on one split.

    :param method: ``GEN``, ``LRN-2``, ..., ``DCRN``
    :param nme: mean NME (Eq. 2) under the dataset's normaliser, percent
    :param nme_low: lower end of its 95 % bootstrap interval over faces, percent
    :param nme_high: upper end, percent
    :param nme_inter_pupil: mean NME under the inter-pupil distance, percent
    :param failure_rate: faces with an NME above 0.1, percent
    :param auc: area under the CED curve up to 0.1, a fraction
    :param iterations: mean number of iterations of LRN
    :param ms_per_face: median over batches of the time from crop to shape, milliseconds a face
    :param mean_return: mean return of an episode under Eq. 3's oracle termination and Eq. 4, not discounted; None
        where the method has no episodes
    :param success_rate: share of those episodes that end in a terminal state, percent
    """

    method: str
    nme: float
    nme_low: float
    nme_high: float
    nme_inter_pupil: float
    failure_rate: float
    auc: float
    iterations: float
    ms_per_face: float
    mean_return: float | None = None
    success_rate: float | None = None


# What evaluation.json says of each method: the fields that every method has.
_JSON_KEYS = tuple(field.name for field in fields(Row) if field.default is MISSING)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method did to each face.

    :param row: the summary
    :param errors: (N,) final NME, fractions
    :param iterations: (N,) int64
    :param error_path: (T + 1, N) NME of x_t; it stands still after a face's last iteration
    :param returns: (N,) return of each face's episode, see :func:`episode_returns`; None: no episodes
    """

    row: Row
    errors: npt.NDArray[np.float64]
    iterations: npt.NDArray[np.int64]
    error_path: npt.NDArray[np.float64]
    returns: npt.NDArray[np.float64] | None = None

    def with_episodes(self, returns: npt.NDArray[np.float64], successes: npt.NDArray[np.bool_]) -> Outcome:
        """The same with what :func:`episode_returns` has found."""
        row = replace(self.row, mean_return=float(returns.mean()), success_rate=100 * float(successes.mean()))
        return replace(self, row=row, returns=returns)


def evaluate_method(method: str, aligner: FaceAligner, prepared: PreparedFaces, seed: int = 0) -> Outcome:
    """Run a method on every face of a split.

    :param method: its name in the table
    :param aligner: the method
    :param prepared: the faces
    :param seed: of the bootstrap interval
    """
    trajectories, iterations, times = [], [], []
    batch = aligner.batch_size
    for start in range(0, len(prepared), batch):
        crops = np.stack([prepared.crop(i) for i in range(start, min(start + batch, len(prepared)))])
        if start == 0:
            aligner.align_crops(crops)  # the first call pays for memory and kernels
        began = time.perf_counter()
        shapes, steps = aligner.align_crops(crops)
        times.append((time.perf_counter() - began) / len(crops))
        trajectories.append(shapes)
        iterations.append(steps)
    path, steps = np.concatenate(trajectories), np.concatenate(iterations)
    errors = np.stack([nme(path[:, t], prepared.landmarks, prepared.d, prepared.counted) for t in range(path.shape[1])])
    pupil = nme(path[:, -1], prepared.landmarks, prepared.distances("inter_pupil"), prepared.counted)
    low, high = bootstrap_interval(errors[-1], seed=seed)
    row = Row(
        method=method,
        nme=100 * float(errors[-1].mean()),
        nme_low=100 * low,
        nme_high=100 * high,
        nme_inter_pupil=100 * float(pupil.mean()),
        failure_rate=100 * failure_rate(errors[-1]),
        auc=auc(errors[-1]),
        iterations=float(steps.mean()),
        ms_per_face=1000 * float(np.median(times)),
    )
    return Outcome(row, errors[-1], steps, errors)


@torch.inference_mode()
def episode_returns(
    lrn: LRN, prepared: PreparedFaces, initializer: Any, num_envs: int = 64, **options: Any
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Play each face once with LRN as the policy, under oracle termination.

    :param lrn: the policy network
    :param prepared: the faces
    :param initializer: of x_0, see :mod:`face_align_env.initialization`
    :param num_envs: faces at a time
    :param options: further keywords of the environment (``alpha_2``, ...)
    :return: (N,) returns, not discounted, and (N,) whether a terminal state was reached
    """
    device = next(lrn.parameters()).device
    returns, successes = np.zeros(len(prepared)), np.zeros(len(prepared), dtype=np.bool_)
    for start in range(0, len(prepared), num_envs):
        faces = np.arange(start, min(start + num_envs, len(prepared)))
        env = FaceAlignVectorEnv(
            len(faces),
            dataset=FaceSource(prepared),
            initializer=initializer,
            termination="oracle",
            learned_history=True,
            action_limit=lrn.config.action_limit,
            patch_size=lrn.config.patch_size,
            **options,
        )
        observations, _ = env.reset(options={"index": faces})
        going = np.ones(len(faces), dtype=np.bool_)
        while going.any():
            patches = torch.from_numpy(observations["patches"]).to(device)
            actions = torch.cat(lrn(patches, torch.from_numpy(observations["history"]).to(device)), dim=1)
            # Slots whose episode is over begin another one; only the first of each counts.
            observations, rewards, terminated, truncated, _ = env.step(actions.cpu().numpy())
            returns[faces[going]] += rewards[going]
            successes[faces[going & terminated]] = True
            going &= ~(terminated | truncated)
    return returns, successes


def paired_differences(outcome: Outcome, baseline: Outcome, seed: int = 0) -> dict[str, tuple[float, float, float]]:
    """What a method changes on the same faces, with 95 % bootstrap intervals.

    :param outcome: the method
    :param baseline: what it is compared with
    :param seed: of the bootstrap
    :return: mean difference (method minus baseline), lower and upper end, for ``"NME"`` in percent, ``"iterations"``
        and, where both have played episodes, ``"return"``
    """
    differences = {
        "NME": 100 * (outcome.errors - baseline.errors),
        "iterations": (outcome.iterations - baseline.iterations).astype(np.float64),
    }
    if outcome.returns is not None and baseline.returns is not None:
        differences["return"] = outcome.returns - baseline.returns
    return {
        name: (float(values.mean()), *bootstrap_interval(values, seed=seed)) for name, values in differences.items()
    }


def write_evaluation(
    path: str | os.PathLike[str], prepared: PreparedFaces, seed: int, outcomes: Sequence[Outcome]
) -> None:
    """Write ``evaluation.json`` and, beside it, the errors of every face and the returns (``.npz``).

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
        arrays[f"{outcome.row.method}/nme"] = outcome.errors
        arrays[f"{outcome.row.method}/iterations"] = outcome.iterations
        if outcome.returns is not None:
            arrays[f"{outcome.row.method}/return"] = outcome.returns
    temporary, final = atomic_path(Path(path).with_suffix(".npz"))
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    os.replace(temporary, final)


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of an ``evaluation.json``."""
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    names = {field.name for field in fields(Row)}
    return [Row(**{key: value for key, value in row.items() if key in names}) for row in document["rows"]]


def table(title: str, rows: Sequence[Row], paper: Mapping[str, float] | None = None) -> Table:
    """The rows as a table for the terminal, with the paper's figures where there are some.

    :param title: above the table
    :param rows: what was measured
    :param paper: method -> mean error in percent, quoted from Table 6
    """
    columns = [
        "method",
        "NME %",
        "95 % interval",
        "inter-pupil %",
        "failures %",
        "AUC",
        "iterations",
        "ms/face",
        "return",
    ]
    view = Table(*columns, *(["paper, NME %"] if paper else []), title=title)
    for column in view.columns[1:]:
        column.justify = "right"
    for row in rows:
        cells = [
            row.method,
            f"{row.nme:.2f}",
            f"{row.nme_low:.2f} .. {row.nme_high:.2f}",
            f"{row.nme_inter_pupil:.2f}",
            f"{row.failure_rate:.1f}",
            f"{row.auc:.3f}",
            f"{row.iterations:.2f}",
            f"{row.ms_per_face:.1f}",
            "" if row.mean_return is None else f"{row.mean_return:+.2f}",
        ]
        if paper:
            cells.append(f"{paper[row.method]:.2f}" if row.method in paper else "")
        view.add_row(*cells)
    return view
