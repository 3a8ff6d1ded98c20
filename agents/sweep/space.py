"""The space of a search: which settings of a run are tried, and with which values."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from face_align_env.agents.run_config import RunConfig
from face_align_env.pretrain.recipes import Data
from face_align_env.pretrain.settings import SettingError, Settings, flag_of

FLAG = "--search"
_LOG = "log:"
_WHOLE = re.compile(r"[+-]?\d+")
# A search compares figures of the same faces, and the seeds are its own.
_FIXED = {"seed": "the seeds are those of --seed and --seeds", "held_out": "use --held-out"}

Values = dict[str, Any]
SettingsT = TypeVar("SettingsT", bound=Settings)


@dataclass(frozen=True)
class Dimension:
    """The values that a setting may have: some of a list, or all of a range.

    :param key: the option of ``face-align run`` without its dashes (``lrn-learning-rate``); ``set.noise`` for one that
        takes KEY=VALUE
    :param choices: the list; empty: it is a range
    :param low: of the range, included
    :param high: of the range, included
    :param log: whether the logarithm is uniform, not the value
    :param whole: whether values are whole numbers
    """

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def sample(self, rng: np.random.Generator) -> Any:
        """A value."""
        if self.choices:
            return self.choices[int(rng.integers(len(self.choices)))]
        if self.whole:
            return int(rng.integers(int(self.low), int(self.high) + 1))
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = float(rng.uniform(self.low, self.high))
        return min(max(float(f"{value:.4g}"), self.low), self.high)  # digits that a command can show

    def ends(self) -> tuple[Any, ...]:
        """Values that are all accepted if every value is."""
        return self.choices or ((int(self.low), int(self.high)) if self.whole else (self.low, self.high))


def parse_dimension(text: str) -> Dimension:
    """``KEY=a,b,c``, ``KEY=low:high`` or ``KEY=log:low:high``.

    Ends that are whole numbers make a range of whole numbers, ``2.0:6.0`` one of any; with ``log:`` it is always any.

    :raises SettingError: it is none of these
    """
    key, equals, given = text.partition("=")
    if not equals or not key or not given:
        raise _refused(f"must be KEY=a,b,c, KEY=low:high or KEY=log:low:high, got '{text}'.")
    log = given.startswith(_LOG)
    low, colon, high = given.removeprefix(_LOG).partition(":")
    if not colon:
        if log:
            raise _refused(f"log: takes a range, as in {key}=log:1e-4:1e-2, got '{text}'.")
        return Dimension(key, tuple(dict.fromkeys(_value(each) for each in given.split(","))))
    try:
        ends = float(low), float(high)
    except ValueError:
        raise _refused(f"has a range of '{key}' that is no two numbers: '{given}'.") from None
    if not (all(map(math.isfinite, ends)) and ends[0] < ends[1]):
        raise _refused(f"has a range of '{key}' whose ends must be finite and rise, got '{given}'.")
    if log and ends[0] <= 0:
        raise _refused(f"log: takes positive numbers, got '{text}'.")
    return Dimension(key, (), *ends, log=log, whole=not log and all(_WHOLE.fullmatch(end) for end in (low, high)))


@dataclass(frozen=True)
class Space:
    """All settings that are tried together.

    :param dimensions: each setting once
    """

    dimensions: tuple[Dimension, ...]

    @classmethod
    def parse(cls, given: Sequence[str]) -> Space:
        """The space that the options ``--search`` give.

        :raises SettingError: there is none, one makes no sense, or a setting is there twice
        """
        found = tuple(parse_dimension(text) for text in given)
        keys = [dimension.key for dimension in found]
        if not found:
            raise _refused("must name at least one setting, as in lrn-learning-rate=log:1e-4:3e-3.")
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise _refused(f"has '{twice[0]}' twice.")
        return cls(found)

    def values(self, trial: int, seed: int) -> Values | None:
        """The values of a trial, a function of its number and the seed.

        Lists alone are a grid: each of its points is one trial, in a random order. Ranges are sampled.

        :param trial: from 0 on
        :return: None: the grid has fewer points
        """
        if all(dimension.choices for dimension in self.dimensions):
            points = list(itertools.product(*(dimension.choices for dimension in self.dimensions)))
            if trial >= len(points):
                return None
            point = points[np.random.default_rng(seed).permutation(len(points))[trial]]
            return {dimension.key: value for dimension, value in zip(self.dimensions, point, strict=True)}
        rng = np.random.default_rng([seed, trial])
        return {dimension.key: dimension.sample(rng) for dimension in self.dimensions}

    def check(self, config: RunConfig) -> None:
        """Look at the ends of all settings.

        :param config: of the settings that are not tried
        :raises SettingError: there is no such setting, or it does not take such values
        """
        for dimension in self.dimensions:
            for value in dimension.ends():
                with_values(config, {dimension.key: value}).check()

    def document(self) -> dict[str, str]:
        """The space as JSON has it."""
        return {dimension.key: _text(dimension) for dimension in self.dimensions}


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """A configuration with other values of some settings.

    :param values: see :class:`Dimension` for their keys
    :raises SettingError: there is no such setting, or it does not take such a value
    """
    for key, value in values.items():
        flag, dot, keyword = key.partition(".")
        for fixed, instead in _FIXED.items():
            if fixed in (flag, keyword):
                raise _refused(f"cannot try '{key}': {instead}.")
        found = _changed(config, f"--{flag}", keyword if dot else None, value)
        if found is None:
            known = ", ".join(sorted(flag.removeprefix("--") for flag in _flags(config)))
            raise _refused(f"has no setting '{key}'; there are {known}.")
        config = found
    return config


def _changed(settings: SettingsT, flag: str, keyword: str | None, value: Any) -> SettingsT | None:
    """Settings with another value of an option; None: they have no such option."""
    for own in fields(settings):
        before = getattr(settings, own.name)
        if isinstance(before, Settings):
            if not isinstance(before, Data) and (found := _changed(before, flag, keyword, value)) is not None:
                return replace(settings, **{own.name: found})
        elif flag_of(type(settings), own.name) == flag:
            holds_pairs = "dict[" in str(own.type)
            if holds_pairs != (keyword is not None):
                form = f"{flag.removeprefix('--')}.KEYWORD" if holds_pairs else flag.removeprefix("--")
                raise _refused(f"names this setting '{form}'.")
            return replace(settings, **{own.name: {**(before or {}), keyword: value} if holds_pairs else value})
    return None


def _flags(settings: Settings) -> Iterator[str]:
    for own in fields(settings):
        inner = getattr(settings, own.name)
        if isinstance(inner, Data):
            continue
        if isinstance(inner, Settings):
            yield from _flags(inner)
        elif (flag := flag_of(type(settings), own.name)) and flag != "--seed":
            yield f"{flag}.KEYWORD" if "dict[" in str(own.type) else flag


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    if _WHOLE.fullmatch(text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def _text(dimension: Dimension) -> str:
    if dimension.choices:
        return ",".join(map(str, dimension.choices))
    return (_LOG if dimension.log else "") + ":".join(map(str, dimension.ends()))


def _refused(message: str) -> SettingError:
    return SettingError("search", FLAG, message)
