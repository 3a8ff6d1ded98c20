"""Pictures of an evaluation: CED curves, iterations, and how the error falls."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # no screen is needed
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from agents.evaluation import Outcome
from face_align_env.files import atomic_path
from face_align_env.metrics import FAILURE_THRESHOLD, cumulative_error_distribution

_MAX_BINS = 6  # of initial error


def ced_curves(outcomes: Sequence[Outcome], title: str) -> Figure:
    """Share of faces below each error, a curve a method."""
    thresholds = np.linspace(0, FAILURE_THRESHOLD, 200)
    figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    for outcome in outcomes:
        curve = cumulative_error_distribution(outcome.errors, thresholds)
        axes.plot(100 * thresholds, 100 * curve, label=f"{outcome.row.method} (AUC {outcome.row.auc:.3f})")
    axes.set(title=title, xlabel="NME, %", ylabel="faces, %", xlim=(0, 100 * FAILURE_THRESHOLD), ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def iteration_histogram(outcomes: Sequence[Outcome], title: str) -> Figure:
    """How many faces stopped after how many iterations."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    most = max(int(outcome.iterations.max()) for outcome in outcomes)
    width = 0.8 / len(outcomes)
    for i, outcome in enumerate(outcomes):
        counts = np.bincount(outcome.iterations, minlength=most + 1)[1:] / len(outcome.iterations)
        label = f"{outcome.row.method} (mean {outcome.row.iterations:.2f})"
        axes.bar(np.arange(1, most + 1) + (i - (len(outcomes) - 1) / 2) * width, 100 * counts, width, label=label)
    axes.set(title=title, xlabel="iterations", ylabel="faces, %", xticks=range(1, most + 1))
    axes.legend(fontsize=8)
    return figure


def iterations_by_initial_error(outcomes: Sequence[Outcome], title: str) -> Figure:
    """Mean number of iterations of faces with equal numbers in each bin of NME(x_0), with 95 % intervals."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for outcome in outcomes:
        initial = 100 * outcome.error_path[0]
        bins = np.array_split(np.argsort(initial), min(_MAX_BINS, len(initial)))
        centres = [float(np.median(initial[b])) for b in bins]
        means = [float(outcome.iterations[b].mean()) for b in bins]
        spread = [1.96 * float(outcome.iterations[b].std()) / np.sqrt(len(b)) for b in bins]
        axes.errorbar(centres, means, yerr=spread, marker="o", capsize=3, label=outcome.row.method)
    axes.set(title=title, xlabel="NME of x_0, %", ylabel="iterations")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def error_by_iteration(outcomes: Sequence[Outcome], title: str) -> Figure:
    """Mean NME of x_t; a face that has stopped keeps its error."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for outcome in outcomes:
        means = 100 * outcome.error_path.mean(axis=1)
        axes.plot(np.arange(len(means)), means, marker="o", markersize=3, label=outcome.row.method)
    axes.set(title=title, xlabel="iteration", ylabel="mean NME, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def save_figures(outcomes: Sequence[Outcome], title: str, folder: str | os.PathLike[str]) -> list[Path]:
    """Write all figures of an evaluation as PNG.

    :param outcomes: its rows
    :param title: of each figure
    :param folder: where they go
    :return: their paths
    """
    dynamic = [o for o in outcomes if o.row.mean_return is not None]
    moving = [o for o in outcomes if len(o.error_path) > 1]
    figures = {"ced": ced_curves(outcomes, title)}
    if dynamic:
        figures["iterations"] = iteration_histogram(dynamic, title)
        figures["iterations-by-initial-error"] = iterations_by_initial_error(dynamic, title)
    if moving:
        figures["error-by-iteration"] = error_by_iteration(moving, title)
    paths = []
    for name, figure in figures.items():
        temporary, final = atomic_path(Path(folder) / f"{name}.png")
        figure.savefig(temporary, dpi=130, format="png")
        plt.close(figure)
        os.replace(temporary, final)
        paths.append(final)
    return paths
