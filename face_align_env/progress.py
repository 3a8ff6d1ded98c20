"""Progress of long work: a bar on a terminal; elsewhere a line now and then, so that a log stays readable."""

from __future__ import annotations

import sys
import time
from typing import Any, ClassVar

from tqdm import tqdm

LINE_SECONDS = 30.0  # between two lines of a log


class Progress(tqdm):  # type: ignore[misc, type-arg, unused-ignore]  # there may be no stubs
    """tqdm's bar where there is a terminal. Elsewhere it prints a line each half minute and one at its end.

    :cvar quiet: show nothing at all
    """

    quiet: ClassVar[bool] = False

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        file = keywords.get("file") or sys.stderr
        self._lines = not (hasattr(file, "isatty") and file.isatty())
        self._said_at = time.monotonic()
        if self.quiet:
            keywords["disable"] = True
        if self._lines:
            keywords["bar_format"] = "{desc}: {n_fmt} of {total_fmt}, {elapsed} (left: {remaining}){postfix}"
        super().__init__(*arguments, **keywords)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Draw the bar, or print a line if it is time for one."""
        if not self._lines:
            return bool(super().display(msg, pos))
        if time.monotonic() - self._said_at >= LINE_SECONDS:
            self._say()
        return True

    def clear(self, nolock: bool = False) -> None:
        """Make room for other text; lines need none."""
        if not self._lines:
            super().clear(nolock)

    def close(self) -> None:
        """Leave the last state on the screen, where it is to stay."""
        if self._lines and not self.disable:
            if self.leave:
                self._say()
            self.last_print_t = self.start_t - 1  # nothing is drawn that tqdm would have to clear away
        super().close()

    def _say(self) -> None:
        self._said_at = time.monotonic()
        self.fp.write(f"{self}\n")
        self.fp.flush()
