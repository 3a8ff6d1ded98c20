"""Pictures of a benchmark: learning curves, lengths of episodes, performance profiles."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from face_align_env.agents.benchmark.baselines import NOT_TRAINED, NOTHING, PRETRAINED
from face_align_env.agents.benchmark.results import Results, performance_profiles
from face_align_env.extras import needs
from face_align_env.mdp import MAX_ITERATIONS
from face_align_env.metrics import FAILURE_THRESHOLD

with needs("plots", "A figure"):
    import matplotlib

    matplotlib.use("Agg")  # no screen is needed
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {
    "return": "return",
    "episode_length": "iterations",
    "success": "success, %",
    "nme": "NME, %",
    "failure_rate": "failures, %",
}
CURVES = ("return", "episode_length", "success", "nme")
# Where the axis of the NME ends, in errors of the worst baseline: a policy that tears shapes apart has 200 %.
NME_TOP = 1.5
_BASELINES = {PRETRAINED: "--", NOTHING: ":"}


def _colors(names: Sequence[str]) -> dict[str, Any]:
    palette = plt.get_cmap("tab10" if len(names) <= 10 else "tab20")
    return {name: palette(i) for i, name in enumerate(names)}


def algorithms_of(results: Results) -> list[str]:
    """All trained algorithms, so that each has one colour in all pictures."""
    return list(dict.fromkeys(name for start in results.starts() for name in results.trained(start)))


def learning_curves(results: Results, termination: str) -> Figure:
    """A row for each measure, a column for each start; interquartile means and intervals over seeds.

    Where an algorithm ruins the shapes, the axis of the NME ends at :data:`NME_TOP`, or nothing else could be seen.

    :param results: of a benchmark
    :param termination: under which it was measured
    """
    starts, colors = results.starts(), _colors(algorithms_of(results))
    figure, grid = plt.subplots(
        len(CURVES), len(starts), figsize=(1.5 + 4.2 * len(starts), 2.6 * len(CURVES)), layout="constrained",
        squeeze=False, sharex="col",
    )  # fmt: skip
    for column, start in enumerate(starts):
        for row, measure in enumerate(CURVES):
            axes = grid[row][column]
            for name in results.trained(start):
                steps, mean = results.interval(name, start, termination, measure)
                axes.plot(steps, mean.iqm, color=colors[name], label=name)
                axes.fill_between(steps, mean.low, mean.high, color=colors[name], alpha=0.2, linewidth=0)
            heights = []
            for kind, line in _BASELINES.items():
                for name in results.kinds(kind):
                    _, values = results.curve(name, NOT_TRAINED, termination, measure)
                    heights.append(values.mean())
                    axes.axhline(heights[-1], color="black", linestyle=line, linewidth=1, label=name)
            if measure == "nme" and heights and axes.get_ylim()[1] > NME_TOP * max(heights):
                axes.set_ylim(0, NME_TOP * max(heights))
            axes.grid(alpha=0.3)
            if row == 0:
                axes.set_title(f"from {start}")
            if row == len(CURVES) - 1:
                axes.set_xlabel("transitions")
            if column == 0:
                axes.set_ylabel(LABELS[measure])
    _legend(figure, grid)
    _title(figure, f"Held-out faces, {termination} termination: interquartile mean over seeds, 95 % intervals")
    return figure


def _title(figure: Figure, text: str) -> None:
    """A title in as many lines as the width of the figure asks for, left of the legend."""
    letters = int(9 * figure.get_figwidth()) - 12  # that fit, of 12 points
    figure.suptitle(textwrap.fill(text, letters), x=0.02, ha="left")


def _legend(figure: Figure, grid: Any) -> None:
    """One for all axes: what any of them shows."""
    entries: dict[str, Any] = {}
    for axes in np.ravel(grid):
        entries |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(entries.values(), entries.keys(), loc="outside right upper", fontsize=8)


def episode_lengths(results: Results, termination: str) -> Figure:
    """How many iterations the episodes of the last measurement have, all seeds together.

    :param results: of a benchmark
    :param termination: under which it was measured
    """
    starts, colors = results.starts(), _colors(algorithms_of(results))
    figure, grid = plt.subplots(
        1, len(starts), figsize=(1.5 + 4.6 * len(starts), 3.4), layout="constrained", squeeze=False, sharey=True
    )
    edges = np.arange(0.5, MAX_ITERATIONS + 1)
    for axes, start in zip(grid[0], starts, strict=True):
        for name in results.trained(start):
            if (name, start) in results.faces:
                _lengths(axes, results.faces[name, start], termination, edges, name, colors[name], "-")
        if (PRETRAINED, NOT_TRAINED) in results.faces:
            _lengths(axes, results.faces[PRETRAINED, NOT_TRAINED], termination, edges, PRETRAINED, "black", "--")
        axes.set(title=f"from {start}", xlabel="iterations", xticks=range(1, MAX_ITERATIONS + 1))
        axes.grid(alpha=0.3)
    grid[0][0].set_ylabel("episodes, %")
    _legend(figure, grid)
    _title(figure, f"Lengths of episodes after training, {termination} termination")
    return figure


def _lengths(
    axes: Axes, arrays: Mapping[str, Any], termination: str, edges: np.ndarray, name: str, color: Any, line: str
) -> None:
    lengths = arrays[f"{termination}/episode_length"].ravel()
    share = 100 * np.histogram(lengths, edges)[0] / len(lengths)
    axes.stairs(share, edges, label=name, color=color, linestyle=line, linewidth=1.5)


def profiles(results: Results, termination: str) -> Figure:
    """Share of seeds and faces whose NME after training is below each value.

    :param results: of a benchmark
    :param termination: under which it was measured
    """
    starts, colors = results.starts(), _colors(algorithms_of(results))
    thresholds = np.linspace(0, FAILURE_THRESHOLD, 60)
    figure, grid = plt.subplots(
        1, len(starts), figsize=(1.5 + 4.6 * len(starts), 3.6), layout="constrained", squeeze=False, sharey=True
    )
    key = f"{termination}/nme"
    for axes, start in zip(grid[0], starts, strict=True):
        found = {
            name: results.faces[name, start][key] for name in results.trained(start) if (name, start) in results.faces
        }
        for name, curve in performance_profiles(found, thresholds).items() if found else ():
            axes.plot(100 * thresholds, 100 * curve.iqm, color=colors[name], label=name)
            axes.fill_between(
                100 * thresholds, 100 * curve.low, 100 * curve.high, color=colors[name], alpha=0.2, linewidth=0
            )
        for name, line in _BASELINES.items():
            if (name, NOT_TRAINED) in results.faces:
                values = results.faces[name, NOT_TRAINED][key].ravel()
                below = (values[:, None] <= thresholds).mean(axis=0)
                axes.plot(100 * thresholds, 100 * below, color="black", linestyle=line, linewidth=1, label=name)
        axes.set(title=f"from {start}", xlabel="NME, %", xlim=(0, 100 * FAILURE_THRESHOLD), ylim=(0, 100))
        axes.grid(alpha=0.3)
    grid[0][0].set_ylabel("seeds and faces, %")
    _legend(figure, grid)
    _title(figure, f"Performance profiles of the NME after training, {termination} termination")
    return figure
