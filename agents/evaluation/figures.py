"""Pictures of an evaluation as curves and bars: errors, iterations, rewards."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from face_align_env.agents.common.rollout import GAMMA
from face_align_env.agents.evaluation.measure import Outcome
from face_align_env.agents.evaluation.rewards import REWARDS, reward_counts
from face_align_env.extras import needs
from face_align_env.files import replacing
from face_align_env.mdp import TERMINAL_REWARD
from face_align_env.metrics import FAILURE_THRESHOLD, cumulative_error_distribution

with needs("plots", "A figure"):
    import matplotlib

    matplotlib.use("Agg")  # no screen is needed
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

_MAX_BINS = 6  # of initial error
_COLORS = {
    "GEN": "tab:gray", "LRN-2": "tab:pink", "LRN-4": "tab:purple", "LRN-8": "tab:red",
    "GEN-LRN4": "tab:olive", "GEN-LRN8": "tab:green", "LRN+Eq.3": "tab:orange", "DCRN": "tab:blue",
}  # fmt: skip
_REWARD_COLORS = ("tab:green", "yellowgreen", "lightgray", "tab:orange", "tab:red")  # of REWARDS


def style(method: str) -> dict[str, Any]:
    """How a method is drawn in all figures. DCRN is dashed: it often lies on the curve of LRN+Eq.3."""
    return {"label": method, "color": _COLORS.get(method), "linestyle": "--" if method == "DCRN" else "-"}


def ced_curves(outcomes: Sequence[Outcome], title: str) -> Figure:
    """Share of faces below each error, a curve a method."""
    thresholds = np.linspace(0, FAILURE_THRESHOLD, 200)
    figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    for outcome in outcomes:
        curve = cumulative_error_distribution(outcome.errors, thresholds)
        label = f"{outcome.row.method} (AUC {outcome.row.auc:.3f})"
        axes.plot(100 * thresholds, 100 * curve, **{**style(outcome.row.method), "label": label})
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
        positions = np.arange(1, most + 1) + (i - (len(outcomes) - 1) / 2) * width
        axes.bar(positions, 100 * counts, width, label=label, color=style(outcome.row.method)["color"])
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
        axes.errorbar(centres, means, yerr=spread, marker="o", capsize=3, **style(outcome.row.method))
    axes.set(title=title, xlabel="NME of x_0, %", ylabel="iterations")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def error_by_iteration(outcomes: Sequence[Outcome], title: str) -> Figure:
    """Mean NME of x_t; a face that has stopped keeps its error."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for outcome in outcomes:
        means = 100 * outcome.error_path.mean(axis=1)
        axes.plot(np.arange(len(means)), means, marker="o", markersize=3, **style(outcome.row.method))
    axes.set(title=title, xlabel="iteration", ylabel="mean NME, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def rewards(outcomes: Sequence[Outcome], title: str) -> Figure:
    """What Eq. 4 paid: above, a panel a method, each reward's share by iteration; below, how large the returns are."""
    played = [(outcome.row.method, outcome.episodes) for outcome in outcomes if outcome.episodes is not None]
    figure = plt.figure(figsize=(9, 6.4), layout="constrained")
    figure.suptitle(title)
    above, below = figure.subfigures(2, 1, squeeze=False)[:, 0]
    panels = above.subplots(1, len(played), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (method, episodes) in zip(panels, played, strict=True):
        shares = 100 * reward_counts(episodes) / len(episodes.successes)
        iterations = np.arange(1, len(shares) + 1)
        floor = np.zeros(len(shares))
        for reward, share, color in zip(REWARDS, shares.T, _REWARD_COLORS, strict=True):
            axes.bar(iterations, share, bottom=floor, color=color, label=f"{reward:+.0f}" if reward else "0")
            floor += share
        axes.set(title=method, xlabel="iteration", xticks=iterations, ylim=(0, 100))
    panels[0].set_ylabel("reward paid, % of all faces")
    panels[-1].legend(title="reward", fontsize=8)  # where fewer and fewer episodes are left

    returns = {
        "return": [episodes.returns for _, episodes in played],
        f"return discounted by {GAMMA}": [episodes.discounted() for _, episodes in played],
    }
    width = 0.8 / len(played)
    for axes, (heading, values) in zip(np.ravel(below.subplots(1, 2, sharey=True)), returns.items(), strict=True):
        whole = [np.round(value).astype(int) for value in values]
        least, most = min(value.min() for value in whole), max(value.max() for value in whole)
        for i, ((method, episodes), value) in enumerate(zip(played, whole, strict=True)):
            counts = np.bincount(value - least, minlength=most - least + 1)
            label = f"{method} ({100 * episodes.saturated.mean():.0f} % the largest)"
            positions = np.arange(least, most + 1) + (i - (len(played) - 1) / 2) * width
            axes.bar(positions, 100 * counts / len(value), width, label=label, color=style(method)["color"])
        axes.set(xlabel=f"{heading}, to the next integer", xticks=range(5 * (least // 5), most + 1, 5))
    axes.axvline(TERMINAL_REWARD + 0.5, color="black", linestyle=":", linewidth=1, label="no episode returns more")
    axes.legend(fontsize=8, loc="upper left")
    below.axes[0].set_ylabel("faces, %")
    return figure


def write_figures(figures: Mapping[str, Figure], folder: str | os.PathLike[str]) -> list[Path]:
    """Write figures as PNG, each complete or not at all, and close them.

    :param figures: name -> figure
    :param folder: where they go
    :return: their paths
    """
    paths = []
    for name, figure in figures.items():
        paths.append(Path(folder) / f"{name}.png")
        with replacing(paths[-1]) as temporary:
            figure.savefig(temporary, dpi=130, format="png")
        plt.close(figure)
    return paths


def save_figures(outcomes: Sequence[Outcome], title: str, folder: str | os.PathLike[str]) -> list[Path]:
    """Write all figures of this module as PNG.

    :param outcomes: the rows of the evaluation
    :param title: of each figure
    :param folder: where they go
    :return: their paths
    """
    dynamic = [o for o in outcomes if o.episodes is not None]
    moving = [o for o in outcomes if len(o.error_path) > 1]
    figures = {"ced": ced_curves(outcomes, title)}
    if dynamic:
        figures["iterations"] = iteration_histogram(dynamic, title)
        figures["iterations-by-initial-error"] = iterations_by_initial_error(dynamic, title)
        figures["rewards"] = rewards(dynamic, title)
    if moving:
        figures["error-by-iteration"] = error_by_iteration(moving, title)
    return write_figures(figures, folder)
