"""Progress without a terminal: a line now and then."""

from __future__ import annotations

import io

import pytest

from face_align_env import progress
from face_align_env.progress import Progress


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A file in place of a terminal, and a clock that each look at it moves on by two seconds."""
    file, now = io.StringIO(), iter(range(0, 10**6, 2))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    return file


def test_a_log_has_a_line_each_half_minute(log: io.StringIO) -> None:
    with Progress(file=log, total=100, desc="GEN", unit="step", mininterval=0) as bar:
        for step in range(100):
            bar.set_postfix(loss=step)
            bar.update()
    lines = log.getvalue().split("\n")
    assert lines.pop() == ""
    assert 3 <= len(lines) <= 20, "not one for each of 200 updates"
    assert lines[-1].startswith("GEN: 100 of 100, ")
    assert all(line.startswith("GEN: ") and "loss=" in line for line in lines)
    assert "\r" not in log.getvalue()


def test_what_is_not_to_stay_leaves_nothing(log: io.StringIO) -> None:
    assert list(Progress(range(3), file=log, desc="reading", leave=False)) == [0, 1, 2]
    assert log.getvalue() == ""


def test_quiet_shows_nothing(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Progress, "quiet", True)
    with Progress(file=log, total=2, desc="GEN") as bar:
        bar.update(2)
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar(log: io.StringIO) -> None:
    log.isatty = lambda: True  # type: ignore[method-assign]
    with Progress(file=log, total=2, desc="GEN", mininterval=0) as bar:
        bar.update(2)
    assert "\r" in log.getvalue()
    assert "100%" in log.getvalue()
