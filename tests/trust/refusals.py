"""What tests of bad inputs have in common; see ``conftest.py``."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Refused = Callable[[object], None]
bad_inputs = pytest.StashKey[dict[str, int]]()
"""How many bad inputs each module of this folder has, as far as it was collected."""
