"""Files that are complete or not there: written to a temporary name first, and renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def atomic_path(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The path to write to first, and the final one to rename it to; makes the folder."""
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    return final.with_name(f".{final.name}.{os.getpid()}.tmp"), final


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, complete or not at all; an existing one is replaced.

    :raises OSError: when it cannot be written
    """
    temporary, final = atomic_path(path)
    try:
        temporary.write_bytes(data)
        os.replace(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], document: Mapping[str, Any]) -> None:
    """Write a JSON file, complete or not at all.

    :raises OSError: when it cannot be written
    """
    write_bytes(path, (json.dumps(document, indent=2) + "\n").encode())
