"""Going on where something stopped: only with the settings that it was begun with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from face_align_env.files import write_json


def require_same(where: str | os.PathLike[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare the settings of what is there with those of what is about to go on.

    :param where: file or folder, for the message
    :raises ValueError: they differ; the message says in what
    """
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        differences = "; ".join(f"{key}: {before.get(key)} before, {now.get(key)} now" for key in changed)
        raise ValueError(
            f"'{os.fspath(where)}' belongs to a training with other settings ({differences}). "
            "Use another folder (--name, --output), or remove this one."
        )


def _as_text(value: object) -> str:
    return os.fspath(value) if isinstance(value, os.PathLike) else type(value).__qualname__


def settle(path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
    """Write the settings to a file; where there is one already, check that it says the same.

    :raises ValueError: see :func:`require_same`
    """
    # through JSON, where tuples are lists, paths are text, and an object (a dataset, say) is the name of its class
    now = json.loads(json.dumps(settings, default=_as_text))
    if Path(path).is_file():
        require_same(Path(path).parent, json.loads(Path(path).read_text(encoding="utf-8")), now)
    else:
        write_json(path, now)
