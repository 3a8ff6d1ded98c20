"""Values of keywords: each function gives the value back, or says by name what is wrong with it."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Collection
from typing import Any


def check_number(
    name: str, value: Any, above: float = -math.inf, least: float = -math.inf, most: float = math.inf
) -> float:
    """A finite number.

    :param name: of the keyword
    :param above: it must be strictly above this
    :param least, most: it must be in between
    :raises ValueError: it is not
    """
    try:
        found = math.nan if isinstance(value, bool) or not isinstance(value, numbers.Real) else float(value)
    except OverflowError:  # a whole number of hundreds of digits
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"{name} must be a finite number, got {value!r}.")
    if not (above < found and least <= found <= most):
        bounds = {"above": above, "at least": least, "at most": most}
        wanted = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound))
        raise ValueError(f"{name} must be {wanted}, got {value!r}.")
    return found


def check_integer(name: str, value: Any, least: int) -> int:
    """A whole number of at least ``least``.

    :raises ValueError: it is not
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")
    return number


def check_flag(name: str, value: Any) -> bool:
    """True or False.

    :raises ValueError: it is neither
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}.")
    return value


def check_choice(name: str, value: Any, known: Collection[str]) -> str:
    """One of the known strings.

    :raises ValueError: it is not
    """
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")
    return value
