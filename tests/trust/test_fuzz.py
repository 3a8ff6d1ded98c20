"""Damaged files of every kind are read or refused: no other exception, no hang, no crash, no silent change.

$FACE_ALIGN_TRUST_EXAMPLES multiplies the mutations; ``python -m tests.trust --thorough`` sets it to 10.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from trust.damage import DAMAGE, damaged
from trust.fuzz import LOADERS, Loader

EXAMPLES = int(os.environ.get("FACE_ALIGN_TRUST_EXAMPLES", "1"))
MOST_SECONDS = 30  # of one file; on a busy machine, a whole one of version 7.3 takes half a second


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LOADERS)
def test_a_damaged_file_is_read_or_refused_and_nothing_else(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    loader = LOADERS[name]
    path = loader.make(tmp_path)
    whole, expected, ends = path.read_bytes(), loader.load(path), Counter[str]()

    @settings(
        max_examples=loader.examples * EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(damage=DAMAGE)
    def attempt(damage: list[tuple[int, int, int, int]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damaged(whole, damage))
        began = time.monotonic()
        try:
            found = loader.load(path)
        except loader.errors as error:
            ends["refused"] += 1
            _check(error, loader, path)
        else:
            ends["read"] += 1
            assert not loader.checked or found == expected, "what is read has changed, silently"
        assert time.monotonic() - began < MOST_SECONDS

    attempt()
    record_property("mutations", f"{ends.total():,} | {ends['refused']:,} | {ends['read']:,}")


def _check(error: Exception, loader: Loader, path: Path) -> None:
    """That it is one of the documented classes itself, and names the file or its folder."""
    assert type(error) in loader.errors, repr(error)
    assert not loader.named or path.name in str(error) or path.parent.name in str(error), repr(error)
