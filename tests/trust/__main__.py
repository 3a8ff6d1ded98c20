"""All promises of docs/trust.md at length: ``python -m tests.trust --thorough``, from the top of the repository.

Without ``--thorough`` it is what CI runs: ``pytest tests/trust``. ``--table`` prints every bad input with its message.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
sys.path.insert(1, str(FOLDER.parent))  # after the top of the repository

from trust import kills  # noqa: E402
from trust.work import WORK  # noqa: E402

KILLS = 20  # of each piece of work, at least
AT_ONCE = 7  # in one of its runs
EPISODES, EXAMPLES = "10000", "10"
_TEMPORARY = re.compile(r"(/[^ '\"]*)?/pytest-\d+/[^/\s]+/")  # of a test; says nothing


class Properties:
    """A plugin of pytest that keeps what passed tests have said with ``record_property``.

    :ivar said: property -> (module, name of the test, value)
    """

    def __init__(self) -> None:
        self.said: dict[str, list[tuple[str, str, str]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest."""
        if report.when == "call" and report.passed:
            path, _, test = report.nodeid.partition("::")
            name = test.partition("[")[2].rstrip("]") or test.removeprefix("test_").replace("_", " ")
            module = Path(path).stem.removeprefix("test_")
            for key, value in report.user_properties:
                self.said.setdefault(key, []).append((module, name, str(value)))


def main() -> int:
    """Run; the exit status is 0 where every promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.trust", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--thorough", action="store_true", help="many kills, 10,000 episodes, 10 times the mutations")
    parser.add_argument("--only", choices=("kills", "tests"), help="with --thorough: the kills, or all else")
    parser.add_argument("--table", action="store_true", help="every bad input and its message, as Markdown")
    parser.add_argument("--output", type=Path, help="file for the summary, or the table, as Markdown")
    arguments = parser.parse_args()
    if arguments.table:
        status, lines = _table()
    elif arguments.thorough:
        status, lines = _thorough(arguments.only)
    else:
        return int(pytest.main(["-q", str(FOLDER)]))
    text = "\n".join(lines)
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(f"{text}\n", encoding="utf-8")
    return status


def _pytest(*options: str) -> tuple[int, Properties]:
    """Run the tests; what pytest prints goes to standard error."""
    found = Properties()
    with contextlib.redirect_stdout(sys.stderr):
        status = pytest.main(["-q", "-p", "no:cacheprovider", *options, str(FOLDER)], plugins=[found])
    return int(status), found


def _table() -> tuple[int, list[str]]:
    """Every bad input, and the message that it gets."""
    status, found = _pytest("-m", "bad_input")
    rows = [
        f"| {module} | {_cell(name)} | {_cell(_TEMPORARY.sub('', message))} |"
        for module, name, message in found.said.get("message", [])
    ]
    return status, ["| of | input | message |", "|---|---|---|", *rows, "", f"{len(rows)} bad inputs."]


def _cell(text: str) -> str:
    """Short enough for a table, and without what Markdown would take for its own."""
    text = text.replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= 300 else f"{text[:297]}..."


def _thorough(only: str | None) -> tuple[int, list[str]]:
    began, failed = time.monotonic(), False
    lines: list[str] = []
    for name, part in {"kills": _kills, "tests": _tests}.items():
        if only in (None, name):
            bad, found = part()
            failed, lines = failed or bad, [*lines, *found]
    verdict = "NOT every promise was kept" if failed else "every promise was kept"
    return int(failed), [*lines, f"In {(time.monotonic() - began) / 60:.0f} minutes: {verdict}."]


def _kills() -> tuple[bool, list[str]]:
    lines = ["| command | kills | runs | result | left behind | seconds |", "|---|---|---|---|---|---|"]
    total, failed = 0, False
    for name in WORK:
        count, same, line = _kill(name)
        total, failed, lines = total + count, failed or not same, [*lines, line]
        print(line, file=sys.stderr, flush=True)
    return failed, [*lines, "", f"{total} kills.", ""]


def _tests() -> tuple[bool, list[str]]:
    os.environ["FACE_ALIGN_TRUST_EPISODES"] = EPISODES
    os.environ["FACE_ALIGN_TRUST_EXAMPLES"] = EXAMPLES
    status, found = _pytest("-o", "timeout=7200", f"--deselect={FOLDER / 'test_kills.py'}")
    bad_inputs = Counter(module for module, _, _ in found.said.get("message", []))
    mutations = [(name, counts) for _, name, counts in found.said.get("mutations", [])]
    total = sum(int(counts.partition(" |")[0].replace(",", "")) for _, counts in mutations)
    return status != 0, [
        *("| bad inputs of | refused with one message |", "|---|---|"),
        *(f"| {module} | {count} |" for module, count in bad_inputs.items()),
        *("", f"{bad_inputs.total()} bad inputs.", ""),
        *("| damaged file | mutations | refused | read |", "|---|---|---|---|"),
        *(f"| {name} | {counts} |" for name, counts in mutations),
        *("", f"{total:,} mutations.", ""),
        *("| episodes | growth of memory | allowed |", "|---|---|---|"),
        *(f"| {counts} |" for _, _, counts in found.said.get("episodes", [])),
        "",
    ]


def _kill(name: str) -> tuple[int, bool, str]:
    """Kill a piece of work at least :data:`KILLS` times: how often, whether its results were as without, and a row."""
    began, killed, same, runs = time.monotonic(), 0, True, 0
    with tempfile.TemporaryDirectory() as folder:
        expected = kills.run(name, Path(folder) / "unbroken")
        while killed < KILLS:
            place = Path(folder) / f"killed-{runs}"
            outcome = kills.run(name, place, AT_ONCE, seed=runs, seconds=expected.seconds)
            killed, same, runs = killed + outcome.kills, same and outcome.digest == expected.digest, runs + 1
        left = kills.leftovers(Path(folder))
    result = "equal" if same else "DIFFERENT"
    row = f"| `{name}` | {killed} | {runs} | {result} | {len(left)} | {time.monotonic() - began:.0f} |"
    return killed, same and not left, row


if __name__ == "__main__":
    raise SystemExit(main())
