"""Bad inputs are counted: a test that asks for ``refused`` is one, and says there which message it has got."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trust.refusals import Refused, bad_inputs


@pytest.hookimpl(tryfirst=True)  # before some are left out by name or mark
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    counts: Counter[str] = Counter()
    for item in items:
        if item.path.parent == Path(__file__).parent:
            is_bad = "refused" in getattr(item, "fixturenames", ())
            counts[item.path.name] += is_bad
            if is_bad:
                item.add_marker("bad_input")
    config.stash[bad_inputs] = dict(counts)


@pytest.fixture
def refused(record_property: Callable[[str, object], None]) -> Iterator[Refused]:
    """``refused(error)``: the message that a bad input has got; ``python -m tests.trust --table`` shows all of them."""
    messages: list[str] = []

    def tell(error: object) -> None:
        message = " ".join(str(error).split())
        assert message
        assert "Traceback" not in message
        messages.append(message)
        record_property("message", message)

    yield tell
    assert len(messages) == 1, "a bad input, and it was not refused"
