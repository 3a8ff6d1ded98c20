"""A server on this machine, and a place for what it sends."""

from __future__ import annotations

import pytest
from writers.downloads import serving


@pytest.fixture
def server(monkeypatch):
    """A server on this machine, which no proxy of the environment comes before."""
    for name in ("HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with serving() as server:
        yield server


@pytest.fixture
def place(tmp_path):
    """Where the dataset is to go, in a folder of its own."""
    return tmp_path / "data" / "toy"
