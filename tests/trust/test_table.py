"""The bad inputs are at least as many as docs/trust.md says."""

from __future__ import annotations

from pathlib import Path

import pytest
from trust.refusals import bad_inputs

LEAST = 400


def test_there_are_enough_bad_inputs(request: pytest.FixtureRequest) -> None:
    here = Path(__file__).parent
    asked = [(request.config.invocation_params.dir / arg.partition("::")[0]).resolve() for arg in request.config.args]
    if not any(here.is_relative_to(path) for path in asked):
        pytest.skip("only some modules of tests/trust were asked for")
    counts = request.config.stash[bad_inputs]
    assert counts.keys() == {path.name for path in here.glob("test_*.py")}
    assert sum(counts.values()) >= LEAST, counts
