"""The measurements of a benchmark as one table, and what the seeds say together (with rliable)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import trim_mean

from face_align_env.agents.benchmark.baselines import FIXED, NOT_TRAINED
from face_align_env.agents.benchmark.settings import STARTS, TrialKey
from face_align_env.agents.benchmark.trial import COLUMNS, FACES, RESULTS, is_complete
from face_align_env.agents.common.rollout import MEASURES
from face_align_env.extras import needs
from face_align_env.files import read_arrays, write_bytes

with needs("benchmark", "A comparison of algorithms"):
    import pandas as pd

Floats = npt.NDArray[np.float64]
COMPLETE = "complete"  # a column of results.csv
RESAMPLES = 2000
PROFILE_RESAMPLES = 500  # rliable draws the seeds of every face by themselves, which takes its time


def _rliable() -> Any:
    """Its module ``library``; importing it takes seconds, so not before it is used."""
    with needs("benchmark", "A comparison of algorithms"):
        from rliable import library
    return library


@dataclass(frozen=True)
class Interval:
    """Interquartile mean over seeds, with its 95 % bootstrap interval (Agarwal et al. 2021).

    :param iqm: (...) the mean of the middle half
    :param low: (...) lower end
    :param high: (...) upper end
    """

    iqm: Floats
    low: Floats
    high: Floats


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """rliable draws seeds and faces by numpy's global generator, also where it is given another one."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)


def interquartile_mean(scores: Floats, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Interquartile mean over seeds, as rliable computes it; without an interval where there is one seed.

    :param scores: (S, T): a row for each seed, a column for each point of a curve
    :param seed: of the bootstrap
    :param resamples: number of bootstrap samples
    """
    library = _rliable()

    def of_columns(values: Floats) -> Floats:
        """rliable's ``aggregate_iqm`` of every column, all at once: it is asked thousands of times."""
        return np.asarray(trim_mean(values[:, 0], 0.25, axis=0))

    if len(scores) == 1:
        return Interval(scores[0], scores[0], scores[0])
    # rliable has runs, tasks and, behind them, whatever the function makes of it; here there is one task.
    with warnings.catch_warnings(), _seeded(seed):
        warnings.simplefilter("ignore", FutureWarning)  # of what rliable hands on to arch
        means, intervals = library.get_interval_estimates({"": scores[:, None, :]}, of_columns, reps=resamples)
    return Interval(means[""], *intervals[""])


def performance_profiles(
    scores: Mapping[str, Floats], thresholds: Floats, seed: int = 0, resamples: int = PROFILE_RESAMPLES
) -> dict[str, Interval]:
    """Share of seeds and faces below each threshold, with pointwise 95 % intervals, as rliable computes them.

    :param scores: for each label (S, N): a row for each seed, a column for each face
    :param thresholds: (T,)
    :param seed: of the bootstrap
    :param resamples: number of bootstrap samples
    """
    library = _rliable()
    with _seeded(seed):
        above, intervals = library.create_performance_profile(dict(scores), thresholds, reps=resamples)
    # rliable counts what lies above, the lower end first.
    return {label: Interval(1 - above[label], 1 - intervals[label][1], 1 - intervals[label][0]) for label in scores}


@dataclass(frozen=True, eq=False)
class Results:
    """All that has been measured.

    :param frame: a row for each measurement, columns :data:`~face_align_env.agents.benchmark.trial.COLUMNS`
    :param faces: the last measurement of each training and baseline: (algorithm, start) -> array's name -> (S, N)
    :param unfinished: trials that have begun and are not complete, their algorithms called as in the frame
    """

    frame: pd.DataFrame
    faces: dict[tuple[str, str], dict[str, Floats]]
    unfinished: tuple[TrialKey, ...]
    _intervals: dict[tuple[str, str], dict[tuple[str, str], Interval]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Results:
        """Everything that a benchmark's folder holds, or its ``results.csv``, which knows nothing of single faces.

        :raises FileNotFoundError: nothing has been measured
        :raises ValueError: it is no such file
        """
        return cls._of_csv(Path(path)) if Path(path).is_file() else cls._of_folder(Path(path))

    @classmethod
    def _of_csv(cls, path: Path) -> Results:
        frame = _read_frame(path, (*COLUMNS, COMPLETE))
        begun = frame[~frame[COMPLETE].astype(bool)][["algorithm", "start", "seed"]].drop_duplicates()
        return cls(
            frame=frame[list(COLUMNS)],
            faces={},
            unfinished=tuple(TrialKey(algorithm, start, int(seed)) for algorithm, start, seed in begun.to_numpy()),
        )

    @classmethod
    def _of_folder(cls, folder: Path) -> Results:
        frames: list[pd.DataFrame] = []
        faces: dict[tuple[str, str], list[Path]] = {}
        unfinished = []
        for path in sorted(folder.glob(f"*/*/{RESULTS}")):
            frame = _read_frame(path, COLUMNS)
            frames.append(frame)
            algorithm, start, seed = frame.iloc[0][["algorithm", "start", "seed"]]
            key = TrialKey(algorithm, start, int(seed))
            if path.parent.parent.name == "trials" and not is_complete(folder, key):
                unfinished.append(key)
            else:
                faces.setdefault((algorithm, start), []).append(path.parent / FACES)
        if not frames:
            raise FileNotFoundError(f"'{folder}' holds no measurement of a benchmark. Make one: face-align benchmark")
        frame = pd.concat(frames, ignore_index=True)
        frame = frame.sort_values(["start", "algorithm", "seed", "step", "termination"], ignore_index=True)
        return cls(frame, {key: _stack(paths) for key, paths in faces.items()}, tuple(unfinished))

    def write(self, path: str | os.PathLike[str]) -> None:
        """All rows as one tidy CSV file, from which :meth:`read` makes the same again, but for single faces.

        A column ``complete`` says which trainings had come to their end.
        """
        keys = self.frame[["algorithm", "start", "seed"]].itertuples(index=False)
        frame = self.frame.assign(**{COMPLETE: [TrialKey(*key) not in self.unfinished for key in keys]})
        write_bytes(path, frame.to_csv(index=False, float_format="%.10g").encode())

    def starts(self) -> list[str]:
        """The starts of trainings, those with the most pretraining first."""
        found = set(self.frame["start"])
        return [start for start in STARTS if start in found]

    def trained(self, start: str) -> list[str]:
        """The algorithms that were trained from a start."""
        rows = self.frame[self.frame["start"] == start]
        return list(rows["algorithm"].unique())

    def baselines(self) -> list[str]:
        """What was not trained, cascades of a fixed length in their order and last."""
        names = list(self.frame[self.frame["start"] == NOT_TRAINED]["algorithm"].unique())
        return sorted(names, key=lambda name: FIXED.index(kind) + 1 if (kind := kind_of(name)) in FIXED else 0)

    def kinds(self, kind: str) -> list[str]:
        """The baselines of a kind: one, but for benchmarks that are compared."""
        return [name for name in self.baselines() if kind_of(name) == kind]

    def curve(self, algorithm: str, start: str, termination: str, measure: str) -> tuple[Floats, Floats]:
        """The measurements of a training.

        :return: (T,) numbers of transitions at which any seed was measured, and (S, T) what each seed's latest
            measurement said then; seeds that are still being trained count only where there is none that is complete
        """
        frame = self.frame
        rows = frame[
            (frame["algorithm"] == algorithm) & (frame["start"] == start) & (frame["termination"] == termination)
        ]
        measured = rows.pivot(index="seed", columns="step", values=measure)
        # An algorithm that plays whole episodes is not measured at the same steps with every seed.
        table = measured.ffill(axis="columns")
        for seed in measured.index[[TrialKey(algorithm, start, seed) in self.unfinished for seed in measured.index]]:
            table.loc[seed, measured.columns > measured.loc[seed].last_valid_index()] = np.nan
        table = table.dropna(axis="index") if len(table.dropna(axis="index")) else table.dropna(axis="columns")
        return table.columns.to_numpy(dtype=np.float64), table.to_numpy(dtype=np.float64)

    def interval(self, algorithm: str, start: str, termination: str, measure: str) -> tuple[Floats, Interval]:
        """What the seeds of a training say together.

        :return: (T,) numbers of transitions, and the interquartile means (T,) with their intervals
        """
        key = (algorithm, start)
        if key not in self._intervals:
            # One bootstrap for all curves of a training: they come from the same seeds, and rliable takes its time.
            frame = self.frame[(self.frame["algorithm"] == algorithm) & (self.frame["start"] == start)]
            found = frame["termination"].unique()
            curves = {(each, name): self.curve(*key, each, name)[1] for each in found for name in MEASURES}
            lengths = np.cumsum([values.shape[1] for values in curves.values()])[:-1]
            together = interquartile_mean(np.concatenate(list(curves.values()), axis=1))
            parts = [np.split(end, lengths) for end in (together.iqm, together.low, together.high)]
            self._intervals[key] = {each: Interval(*ends) for each, *ends in zip(curves, *parts, strict=True)}
        return self.curve(*key, termination, measure)[0], self._intervals[key][termination, measure]


def labelled(name: str, benchmark: str) -> str:
    """What an algorithm of a benchmark is called beside those of others."""
    return f"{name} [{benchmark}]"


def kind_of(name: str) -> str:
    """An algorithm's name without its benchmark's."""
    return name.partition(" [")[0]


def _read_frame(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A file of measurements.

    :param columns: that it must have
    :raises ValueError: it is another file, or damaged; the message names it
    """
    try:
        frame = pd.read_csv(path)
    except (ValueError, pd.errors.ParserError) as error:
        raise ValueError(f"'{path}' is no results.csv of a benchmark: {error}") from error
    lacking = [column for column in columns if column not in frame]
    if lacking or frame.empty:
        raise ValueError(f"'{path}' is no results.csv of a benchmark: it has no {', '.join(lacking) or 'rows'}.")
    names = ("algorithm", "start", "termination", COMPLETE)
    numbers = frame[[column for column in columns if column not in names]]
    if not all(kind.kind in "iuf" for kind in numbers.dtypes) or not np.isfinite(numbers.to_numpy()).all():
        raise ValueError(f"'{path}' is no results.csv of a benchmark: a figure in it is no number.")
    if not all(kind.kind in "iu" for kind in frame[["seed", "step"]].dtypes):
        raise ValueError(f"'{path}' is no results.csv of a benchmark: a seed or step is no whole number.")
    return frame


def _stack(paths: list[Path]) -> dict[str, Floats]:
    """The arrays of several seeds' faces.

    :raises ValueError: a file is damaged, or another one; the message names it
    """
    files = [read_arrays(path) for path in paths]
    first = {key: array.shape for key, array in files[0].items()}
    for path, file in zip(paths, files, strict=True):
        if {key: array.shape for key, array in file.items()} != first or any(
            a.dtype.kind not in "biuf" for a in file.values()
        ):
            raise ValueError(
                f"'{path}' has measured other faces than '{paths[0]}', or is damaged. Remove it to measure again."
            )
    return {key: np.stack([file[key] for file in files]).astype(np.float64) for key in first}


def each(results: Results) -> Iterator[tuple[str, str]]:
    """(algorithm, start) of all rows: trainings by start, then baselines."""
    for start in results.starts():
        yield from ((algorithm, start) for algorithm in results.trained(start))
    yield from ((name, NOT_TRAINED) for name in results.baselines())
