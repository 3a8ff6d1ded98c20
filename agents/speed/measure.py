"""The clockwork: functions timed in turn, so that what slows a shared machine slows all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEAST_SECONDS = 0.03  # of one measurement; a faster function is called several times in it
_MOST_CALLS = 1000


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Spread:
        """Of a value for each repeat."""
        low, median, high = np.percentile(np.asarray(values, dtype=np.float64), [25, 50, 75]).tolist()
        return cls(median, low, high)


@dataclass(frozen=True, eq=False)
class Timing:
    """How long a function took.

    :param seconds: (R,) float64, of one call, in each repeat
    """

    seconds: npt.NDArray[np.float64]

    def over(self, other: Timing) -> Spread:
        """This time divided by another one's, repeat by repeat."""
        return Spread.of(self.seconds / other.seconds)


def interleave(
    functions: Sequence[Callable[[], object]],
    repeats: int,
    least: float = LEAST_SECONDS,
    finish: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Time functions in turn.

    Each repeat measures all of them, one right after the other, in an order that alternates: a neighbour who comes or
    goes changes both sides of a ratio. The first calls pay for memory and kernels; they set how often a function is
    called in a measurement, and are not counted.

    :param functions: what to time
    :param repeats: measurements of each
    :param least: seconds that a measurement takes at least
    :param finish: waits until a device has done what was asked of it
    :param clock: seconds
    :return: a timing for each function
    :raises ValueError: there is nothing to repeat
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}.")

    def elapsed(function: Callable[[], object], calls: int) -> float:
        began = clock()
        for _ in range(calls):
            function()
        finish()
        return (clock() - began) / calls

    calls = []
    for function in functions:
        finish()
        seconds = elapsed(function, 1)
        if seconds < least:
            seconds = elapsed(function, 1)  # without what only a first call does
        calls.append(1 if seconds >= least else min(_MOST_CALLS, math.ceil(least / max(seconds, 1e-9))))
    times = np.empty((len(functions), repeats))
    for repeat in range(repeats):
        order = range(len(functions))
        for i in order if repeat % 2 == 0 else reversed(order):
            times[i, repeat] = elapsed(functions[i], calls[i])
    return [Timing(row) for row in times]


@dataclass(frozen=True)
class Entry:
    """A figure of the report.

    :param group: of measurements
    :param name: what was measured
    :param seconds: median of one call; None where the figure is no time
    :param low: lower quartile
    :param high: upper quartile
    :param count: how many of ``per`` a call does
    :param per: ``"byte"``, ``"face"``, ``"step"``, ``"transition"`` or ``"FLOP"``
    :param share: of the limit: 1 would be as fast as the machine can; median of the repeats' shares
    :param share_low: lower quartile
    :param share_high: upper quartile
    :param limit: what bounds it
    :param ratio: to the baseline: of the times, so that less is better; median of the repeats' ratios
    :param ratio_low: lower quartile
    :param ratio_high: upper quartile
    :param ratio_to: the baseline
    :param bytes: the figure, where it is memory
    :param series: the curve that it is a point of
    :param x: its place on the curve
    """

    group: str
    name: str
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    count: float | None = None
    per: str | None = None
    share: float | None = None
    share_low: float | None = None
    share_high: float | None = None
    limit: str | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    ratio_to: str | None = None
    bytes: float | None = None
    series: str | None = None
    x: float | None = None


@dataclass(frozen=True, eq=False)
class Limit:
    """What a machine can do at most.

    :param name: of the limit
    :param timing: of some work at the limit, measured in turn with what is compared
    :param work: of the compared function, in units of the timed work
    """

    name: str
    timing: Timing
    work: float = 1.0


@dataclass(frozen=True, eq=False)
class Baseline:
    """What something is compared with.

    :param name: of the baseline
    :param timing: measured in turn with what is compared
    """

    name: str
    timing: Timing


def timed(
    group: str,
    name: str,
    timing: Timing,
    count: float,
    per: str,
    limit: Limit | None = None,
    baseline: Baseline | None = None,
    series: str | None = None,
    x: float | None = None,
) -> Entry:
    """The entry of a timing; see :class:`Entry`."""
    seconds = Spread.of(timing.seconds)
    share = None if limit is None else limit.timing.over(timing)
    work = 1.0 if limit is None else limit.work
    ratio = None if baseline is None else timing.over(baseline.timing)
    return Entry(
        group=group,
        name=name,
        seconds=seconds.median,
        low=seconds.low,
        high=seconds.high,
        count=count,
        per=per,
        share=None if share is None else work * share.median,
        share_low=None if share is None else work * share.low,
        share_high=None if share is None else work * share.high,
        limit=None if limit is None else limit.name,
        ratio=None if ratio is None else ratio.median,
        ratio_low=None if ratio is None else ratio.low,
        ratio_high=None if ratio is None else ratio.high,
        ratio_to=None if baseline is None else baseline.name,
        series=series,
        x=x,
    )
