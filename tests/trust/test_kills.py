"""Work that is killed and resumed ends with the same result, to the bit, and leaves no temporary files."""

from __future__ import annotations

from pathlib import Path

import pytest
from trust import kills
from trust.work import WORK


@pytest.mark.slow
@pytest.mark.timeout(1200)  # several starts, which a busy machine makes slow
@pytest.mark.parametrize("name", WORK)
def test_killed_work_ends_as_if_it_had_not_been_killed(name: str, tmp_path: Path) -> None:
    unbroken = kills.run(name, tmp_path / "unbroken")
    killed = kills.run(name, tmp_path / "killed", kills=2, seconds=unbroken.seconds)
    assert killed.kills >= 1
    assert killed.digest == unbroken.digest
    assert kills.leftovers(tmp_path / "killed") == []
