"""``face-align tradeoff``: what an iteration buys. Accuracy over iterations, for rules to stop with many bounds.

The rules are Eq. 3 with its alpha_2, of which the paper shows one point (Table 6); and, where ``face-align calibrate``
has fitted it, the predicted gain of the next iteration. Whether a rule stops at the right faces is seen in comparison
with fixed lengths of the same mean. A network is played once, for as long as any point needs it, and what a bound does
is read off afterwards (:meth:`face_align_env.agents.common.rollout.Rollout.until`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from face_align_env.agents.common.crop_rollout import roll_out
from face_align_env.agents.common.rollout import Rollout
from face_align_env.agents.evaluation.figures import style, write_figures
from face_align_env.agents.evaluation.run_evaluation import methods
from face_align_env.agents.evaluation.tables import Table, number, write_tables
from face_align_env.agents.run_folder import GEN_CASCADE, POLICY_CASCADE, RunFolder
from face_align_env.extras import needs
from face_align_env.files import write_json
from face_align_env.mdp import MAX_ITERATIONS, MDPParameters
from face_align_env.metrics import against_fixed_lengths, bootstrap_interval, failure_rate
from face_align_env.networks.gain import GainHead

with needs("plots", "A figure"):
    import matplotlib

    matplotlib.use("Agg")  # no screen is needed
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALPHAS = tuple(np.geomspace(0.5, 8, 13).round(2).tolist())  # pixels; Table 2 has 1.5, 2.0 and 3.0
LEAST_GAINS = tuple(each / 100 for each in (40, 30, 25, 20, 18, 16, *range(15, -1, -1)))  # points of percent
FIXED = ", fixed length"  # of a curve's name: no rule is asked
GAIN = ", predicted gain"  # of a curve's name: what the next iteration gains is asked, not Eq. 3
_NETWORKS = {"LRN+Eq.3": "LRN", "DCRN": "DCRN"}  # method of a run -> what its network is called without Eq. 3
_LONG = f"GEN-LRN{GEN_CASCADE}"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A method under one way to stop it.

    :param curve: ``"LRN+Eq.3"`` and ``"DCRN"``, stopped by Eq. 3; ``"DCRN, predicted gain"``, stopped by that; ``"LRN,
        fixed length"`` and ``"DCRN, fixed length"``, the same networks for a number of iterations; ``"GEN"``;
        ``"GEN-LRN8"``
    :param alpha_2: Eq. 3's bound, pixels of the crop; None: it is not asked
    :param least_gain: what an iteration must be predicted to gain, points of percent; None: it is not asked
    :param own: whether it is the bound that the run was trained with
    :param nme: mean NME, percent
    :param nme_low: lower end of its 95 % bootstrap interval over faces, percent
    :param nme_high: upper end, percent
    :param failure_rate: faces with an NME above 0.1, percent
    :param iterations: mean number of iterations of LRN
    :param change: mean difference of NME to the curve's lowest, face by face, points of percent
    :param change_low: lower end of its 95 % bootstrap interval
    :param change_high: upper end
    :param choice: mean difference of NME to a mixture of fixed lengths of the same mean (the two whole numbers next to
        it), face by face, points of percent: what choosing the faces is worth; None: a fixed length
    :param choice_low: lower end of its 95 % bootstrap interval
    :param choice_high: upper end
    """

    curve: str
    alpha_2: float | None
    least_gain: float | None
    own: bool
    nme: float
    nme_low: float
    nme_high: float
    failure_rate: float
    iterations: float
    change: float
    change_low: float
    change_high: float
    choice: float | None = None
    choice_low: float | None = None
    choice_high: float | None = None

    @property
    def setting(self) -> str:
        """How it was stopped, in words."""
        if self.least_gain is not None:
            return f"gains of {self.least_gain:g} points, {self.iterations:.2f} iterations"
        if self.alpha_2 is None:
            return f"{self.iterations:g} iterations"
        return f"alpha_2 = {self.alpha_2:g} pixels, {self.iterations:.2f} iterations"


@dataclass(frozen=True)
class Tradeoff:
    """What was measured.

    :param points: in the order of the table
    :param paths: the files that were written
    """

    points: tuple[Point, ...]
    paths: tuple[Path, ...] = ()

    def curve(self, name: str) -> list[Point]:
        """The points of a curve, see :class:`Point`."""
        return [point for point in self.points if point.curve == name]

    @property
    def curves(self) -> list[str]:
        """The names of the curves of several points."""
        names = dict.fromkeys(point.curve for point in self.points)
        return [name for name in names if len(self.curve(name)) > 1]

    def best(self, name: str) -> Point:
        """The point of a curve with the lowest NME; of equal ones that with the fewest iterations."""
        return min(self.curve(name), key=lambda point: (point.nme, point.iterations))

    def cheapest(self, name: str) -> Point:
        """The point of a curve with the fewest iterations among those that are not significantly worse than its best.

        Significantly: the 95 % interval of the difference, face by face, lies above zero.
        """
        return min((p for p in self.curve(name) if p.change_low <= 0), key=lambda point: (point.iterations, point.nme))

    def conclusions(self) -> list[str]:
        """Of each curve, where its NME is lowest, and with how few iterations it is no worse than that.

        Of a rule to stop, also whether it stops at the right faces.
        """
        lines = []
        for name in self.curves:
            best, cheapest = self.best(name), self.cheapest(name)
            lines.append(
                f"{name}: the lowest NME is {best.nme:.2f} % ({best.setting}); the fewest iterations that are not "
                f"significantly worse: {cheapest.nme:.2f} % ({cheapest.setting})"
            )
            better = [p.iterations for p in self.curve(name) if p.choice_high is not None and p.choice_high < 0]
            worse = [p.iterations for p in self.curve(name) if p.choice_low is not None and p.choice_low > 0]
            if any(point.choice is not None for point in self.curve(name)):
                lines.append(
                    f"{name}, significantly better than fixed lengths of the same mean: {_spread(better)}; worse: "
                    f"{_spread(worse)}"
                )
        return lines


def _spread(iterations: Sequence[float]) -> str:
    """Where points lie, in words."""
    if not iterations:
        return "nowhere"
    return f"at {len(iterations)} of its points, from {min(iterations):.2f} to {max(iterations):.2f} iterations"


def measure(
    rollouts: dict[str, Rollout],
    alphas: Sequence[float] = ALPHAS,
    own: float | None = None,
    seed: int = 0,
    gain_head: GainHead | None = None,
    least_gains: Sequence[float] = LEAST_GAINS,
) -> Tradeoff:
    """The figures of all points.

    :param rollouts: of ``"LRN+Eq.3"``, ``"DCRN"`` and ``"GEN-LRN8"``, or of some of them, played to the limit
    :param alphas: bounds to try, pixels of the crop
    :param own: the bound that the run was trained with, tried too
    :param seed: of the bootstrap intervals
    :param gain_head: predicts what DCRN's next iteration gains; None: nothing does
    :param least_gains: bounds of that to try, points of percent
    :raises ValueError: a bound that is not positive
    """
    bounds = sorted({*alphas, *([] if own is None else [own])})
    if not bounds or not 0 < bounds[0] <= bounds[-1] < np.inf:
        raise ValueError(f"alpha_2 must be positive, in pixels of the crop; got {', '.join(map(str, bounds))}.")
    points: list[Point] = []

    def add(
        curve: str,
        settings: Sequence[float | None],
        errors: Sequence[Floats],
        iterations: Sequence[float],
        of_gain: bool = False,
        choices: Sequence[tuple[float, float, float]] | None = None,
    ) -> None:
        best = errors[int(np.argmin([values.mean() for values in errors]))]
        for i, (bound, values, steps) in enumerate(zip(settings, errors, iterations, strict=True)):
            low, high = bootstrap_interval(values, seed=seed)
            change = values - best
            change_low, change_high = bootstrap_interval(change, seed=seed)
            figures = [values.mean(), low, high, failure_rate(values), change.mean(), change_low, change_high]
            mean, low, high, failures, *difference = (100 * float(figure) for figure in figures)
            alpha_2, least = (None, bound) if of_gain else (bound, None)
            is_own = alpha_2 is not None and alpha_2 == own
            choice = () if choices is None else (100 * value for value in choices[i])
            points.append(Point(curve, alpha_2, least, is_own, mean, low, high, failures, steps, *difference, *choice))

    def add_rule(
        curve: str, settings: Sequence[float], whole: Rollout, stopped: Sequence[Rollout], of_gain: bool
    ) -> None:
        choices = [against_fixed_lengths(whole.errors, each.lengths, seed=seed) for each in stopped]
        nmes, means = [each.nme for each in stopped], [float(each.lengths.mean()) for each in stopped]
        add(curve, settings, nmes, means, of_gain, choices)

    first = next(iter(rollouts.values()))
    add("GEN", [None], [first.errors[0]], [0.0])
    dynamic = {name: rollout for name, rollout in rollouts.items() if name in _NETWORKS}
    for name, rollout in dynamic.items():
        # The paper's rule for testing: NME is taken as 0.
        stopped = [rollout.under("blind", MDPParameters(alpha_2=alpha_2)) for alpha_2 in bounds]
        add_rule(name, bounds, rollout, stopped, of_gain=False)
    if gain_head is not None and "DCRN" in dynamic:
        predicted = _predicted_gains(gain_head, dynamic["DCRN"])
        parameters = MDPParameters(max_iterations=len(predicted))
        stopped = [dynamic["DCRN"].until(predicted < least, parameters) for least in least_gains]
        add_rule("DCRN" + GAIN, least_gains, dynamic["DCRN"], stopped, of_gain=True)
    for name, rollout in dynamic.items():
        lengths = range(1, len(rollout.errors))
        add(
            _NETWORKS[name] + FIXED, [None] * len(lengths), [rollout.errors[m] for m in lengths], [*map(float, lengths)]
        )
    if _LONG in rollouts:
        add(_LONG, [None], [rollouts[_LONG].errors[GEN_CASCADE]], [float(GEN_CASCADE)])
    return Tradeoff(tuple(points))


def _predicted_gains(head: GainHead, rollout: Rollout) -> npt.NDArray[np.float32]:
    """(T, N) after each iteration, what the next one is predicted to gain, points of percent."""
    assert rollout.actions is not None
    steps = enumerate(torch.from_numpy(rollout.actions), 1)
    with torch.inference_mode():
        return np.stack([head(iteration, actions).cpu().numpy() for iteration, actions in steps])


def tradeoff_table(tradeoff: Tradeoff, title: str, notes: Sequence[str] = ()) -> Table:
    """All points as a table.

    :param tradeoff: what was measured
    :param title: above it
    :param notes: under it
    """

    def line(point: Point) -> tuple[str, ...]:
        bound = "" if point.alpha_2 is None else f"{point.alpha_2:g}{' (the run)' if point.own else ''}"
        if point.least_gain is not None:
            bound = f"gain {point.least_gain:g}"
        choice = ""
        if point.choice is not None:
            choice = f"{point.choice:+.3f} ({point.choice_low:+.3f} .. {point.choice_high:+.3f})"
        alone = len(tradeoff.curve(point.curve)) == 1
        change = "" if alone else f"{point.change:+.3f} ({point.change_low:+.3f} .. {point.change_high:+.3f})"
        interval = f"{point.nme_low:.2f} .. {point.nme_high:.2f}"
        cells = (number(point.iterations), number(point.nme), interval, number(point.failure_rate, 1))
        return point.curve, bound, *cells, change, choice

    columns = ("method", "alpha_2", "iterations", "NME %", "95 % interval", "failures %", "NME: to the curve's lowest",
               "to fixed lengths")  # fmt: skip
    return Table(title, columns, tuple(map(line, tradeoff.points)), (*tradeoff.conclusions(), *notes))


def tradeoff_figure(tradeoff: Tradeoff, title: str) -> Figure:
    """The mean NME over the mean number of iterations: all points, closer, and against fixed lengths of the same mean.

    A curve is a rule with one bound after the other; the star is the run's own, dotted is the same network for a fixed
    number of iterations. The bars are 95 % intervals over faces, on the left those of the NME, which all curves share;
    on the right those of the differences, which tell whether a rule stops at the right faces.
    """
    figure, (whole, close, choice) = plt.subplots(1, 3, figsize=(15, 4.4), layout="constrained")
    for name in tradeoff.curves:
        _draw_curve(whole, name, tradeoff.curve(name), bars=True)
        _draw_curve(close, name, tradeoff.curve(name), bars=False)
    for point in (p for p in tradeoff.points if p.curve in ("GEN", _LONG)):
        look = {"color": style(point.curve)["color"], "marker": "s", "linestyle": "none", "label": point.curve}
        whole.errorbar([point.iterations], [point.nme], yerr=_bars([point]), capsize=3, **look)
        close.plot(point.iterations, point.nme, **look)
    dynamic = [point for point in tradeoff.points if point.alpha_2 is not None]
    for point in dynamic:
        place = (3, 4) if point.curve == "DCRN" else (3, -9)
        text = f"{point.alpha_2:g}"
        close.annotate(text, (point.iterations, point.nme), place, textcoords="offset points", size=6)
    fewest, most = min(p.iterations for p in dynamic), max(p.iterations for p in dynamic)
    shown = [p.nme for p in tradeoff.points if p.curve in tradeoff.curves and fewest <= p.iterations <= most]
    for set_limits, low, high in ((close.set_xlim, fewest, most), (close.set_ylim, min(shown), max(shown))):
        margin = 0.08 * (high - low) or 0.1
        set_limits(low - margin, high + margin)
    for axes in (whole, close):
        axes.set(xlabel="mean iterations", ylabel="mean NME, %")
        axes.grid(alpha=0.3)
    whole.set_title("with 95 % intervals over faces", fontsize=9)
    close.set_title("closer; the numbers are alpha_2, pixels", fontsize=9)
    whole.legend(fontsize=8)
    for name in tradeoff.curves:
        _draw_choice(choice, name, tradeoff.curve(name))
    choice.axhline(0, color="0.4", linewidth=1, linestyle=":")
    choice.set(xlabel="mean iterations", ylabel="NME minus that of fixed lengths, points of %")
    choice.set_title("below zero: it stops at the right faces", fontsize=9)
    choice.grid(alpha=0.3)
    choice.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_curve(axes: Axes, name: str, points: Sequence[Point], bars: bool) -> None:
    fixed = name.endswith(FIXED)
    look = {**_look(name), "marker": "x" if fixed else "o"}
    if fixed:
        look["linestyle"] = ":"
    x, y = [point.iterations for point in points], [point.nme for point in points]
    axes.errorbar(x, y, _bars(points) if bars and not fixed else None, markersize=4, elinewidth=0.5, alpha=0.8, **look)
    for point in points:
        if point.own:
            axes.plot(point.iterations, point.nme, marker="*", markersize=13, color=look["color"], markeredgecolor="k")


def _draw_choice(axes: Axes, name: str, points: Sequence[Point]) -> None:
    """What choosing the faces is worth, over the mean number of iterations; nothing of fixed lengths."""
    found = [(p.iterations, p.choice, p.choice_low, p.choice_high) for p in points]
    x, mean, low, high = np.array([each for each in found if None not in each], dtype=float).reshape(-1, 4).T
    if len(x):
        axes.errorbar(x, mean, (mean - low, high - mean), marker="o", markersize=4, elinewidth=0.8, **_look(name))


def _look(name: str) -> dict[str, Any]:
    """How a curve is drawn: as its method; stopped by the predicted gain, in another colour."""
    if name.endswith(GAIN):
        return {"color": "tab:red", "label": name}
    method = {network + FIXED: method for method, network in _NETWORKS.items()}.get(name, name)
    return {**style(method), "label": name}


def _bars(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """Lengths of error bars, downwards and upwards."""
    return [p.nme - p.nme_low for p in points], [p.nme_high - p.nme for p in points]


def run_tradeoff(
    folder: str | os.PathLike[str],
    split: str | None = None,
    alphas: Sequence[float] | None = None,
    root: str | None = None,
    device: str = "cpu",
    seed: int = 0,
    console: Console | None = None,
) -> Tradeoff:
    """Measure the networks of a run under many bounds, and write ``tradeoff.json``, ``.md`` and ``figures/*.png``.

    :param folder: the run's folder; the files of another split than the test split have its name
    :param split: None: the dataset's test split
    :param alphas: bounds to try beside the run's own, pixels of the crop; None: :data:`ALPHAS`
    :param root: of the data, where it is not where the run found it
    :param device: where the networks run
    :param seed: of the bootstrap intervals
    :param console: where the table goes
    :return: the points and the files
    :raises FileNotFoundError: it is no run's folder, it has neither the pretrained LRN nor DCRN, or there is no data
    :raises ValueError: a bound that is not positive
    """
    console = console or Console()
    run = RunFolder(folder)
    config, data = run.config, run.data(root)
    split = split or data.test_split
    aligners = [(name, aligner) for name, aligner in methods(run, device) if name in (*_NETWORKS, _LONG)]
    if not any(name in _NETWORKS for name, _ in aligners):
        raise FileNotFoundError(f"'{run.path}' has neither a pretrained LRN nor DCRN. Train them: face-align run")
    prepared = data.prepare(split)
    own = prepared.dataset.alpha_2 if config.alpha_2 is None else config.alpha_2
    rollouts = {name: roll_out(aligner, prepared, "limit", progress=console.is_terminal) for name, aligner in aligners}
    head = GainHead.load(run.gain_head) if run.gain_head.is_file() else None
    measured = measure(rollouts, alphas or ALPHAS, own, seed, head)
    title = f"{data.dataset} {split}, {len(prepared)} faces, preset {config.preset}, seed {config.seed}"
    notes = [
        "NME: to the curve's lowest, and to fixed lengths of the same mean: face by face, with 95 % bootstrap "
        "intervals",
        f"Eq. 3 with NME taken as 0, at most {MAX_ITERATIONS} iterations; LRN: the cascade of {POLICY_CASCADE} that "
        "DCRN starts from",
        "a bound that is chosen by these faces is to be reported on others",
    ]
    suffix = "" if split == data.test_split else f"-{split}"
    table = tradeoff_table(measured, title, notes)
    console.print(table)
    document = {
        "dataset": prepared.dataset.name,
        "split": split,
        "num_faces": len(prepared),
        "seed": seed,
        "alpha_2": own,
        "conclusions": measured.conclusions(),
        "points": [asdict(point) for point in measured.points],
    }
    paths = [run.path / f"tradeoff{suffix}.json", run.path / f"tradeoff{suffix}.md"]
    write_json(paths[0], document)
    write_tables(paths[1], f"{run.path.resolve().name}: accuracy and iterations", [table])
    paths += write_figures({f"tradeoff{suffix}": tradeoff_figure(measured, title)}, run.path / "figures")
    return replace(measured, paths=tuple(paths))
