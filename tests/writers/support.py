"""What the tests of several datasets share beside the writers: the real data, and short cuts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# The research data: beside the checkout, or where the environment says; most machines have none.
REAL_DATA = Path(os.environ.get("FACE_ALIGN_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))

needs_permissions = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="permissions stop neither root nor anybody on Windows"
)


def real_root(name):
    """The folder of a real dataset; the test is skipped where there is none."""
    root = REAL_DATA / name
    if not root.is_dir():
        pytest.skip(f"no copy of the research dataset {name} in '{REAL_DATA}'")
    return root


def ids_of(dataset):
    """The ids of all faces, in the dataset's order."""
    return [dataset.annotation(i).id for i in range(len(dataset))]
