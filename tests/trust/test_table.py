"""The bad inputs are at least as many as docs/trust.md says."""

from __future__ import annotations

from pathlib import Path

import pytest
from trust.refusals import bad_inputs

LEAST = 400


def test_there_are_enough_bad_inputs(request: pytest.FixtureRequest) -> None:
    counts = request.config.stash[bad_inputs]
    modules = {path.name for path in Path(__file__).parent.glob("test_*.py")}
    if counts.keys() != modules:
        pytest.skip("only some modules of tests/trust were collected")
    assert sum(counts.values()) >= LEAST, counts
