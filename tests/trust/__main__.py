"""All promises of docs/trust.md at length: ``python -m tests.trust --thorough``, from the top of the repository.

Without ``--thorough`` it is what CI runs: ``pytest tests/trust``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from trust import kills
from trust.work import WORK

KILLS = 20  # of each piece of work
RUNS = 5  # in so many trainings


def main() -> int:
    """Run; the exit status is 0 where every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--thorough", action="store_true", help="many kills, 10,000 episodes, 50 times the mutations")
    arguments = parser.parse_args()
    if not arguments.thorough:
        return pytest.main(["-q", str(Path(__file__).parent)])
    os.environ["FACE_ALIGN_TRUST_EPISODES"] = "10000"
    os.environ["FACE_ALIGN_TRUST_EXAMPLES"] = "50"
    status = int(pytest.main(["-q", str(Path(__file__).parent), "-p", "no:cacheprovider", "-o", "timeout=7200"]))
    for name in WORK:
        status |= not _survives(name)
    return status


def _survives(name: str) -> bool:
    """Whether a piece of work ends the same after at least :data:`KILLS` kills."""
    began, killed, same = time.monotonic(), 0, True
    with tempfile.TemporaryDirectory() as folder:
        expected = kills.run(name, Path(folder) / "unbroken").digest
        run = 0
        while killed < KILLS:
            outcome = kills.run(name, Path(folder) / f"killed-{run}", KILLS // RUNS, seed=run)
            killed, same, run = killed + outcome.kills, same and outcome.digest == expected, run + 1
        left = kills.leftovers(Path(folder))
    same_or_not = "equal" if same else "DIFFERENT"
    seconds = time.monotonic() - began
    print(f"{name}: {killed} kills in {run} trainings, {same_or_not}, {len(left)} leftovers, {seconds:.0f} s")
    return same and not left


if __name__ == "__main__":
    raise SystemExit(main())
