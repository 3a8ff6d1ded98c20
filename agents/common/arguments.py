"""A dataclass as the command line of a script: each field is an option, and the string beneath it its help."""

from __future__ import annotations

import argparse
import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

T = TypeVar("T")


def parse_arguments(kind: type[T], description: str | None, arguments: list[str] | None = None) -> T:
    """Read the fields of a dataclass from the command line.

    ``num_envs: int = 16`` becomes ``--num-envs``; a field without a default must be given; ``bool`` fields become
    ``--flag`` and ``--no-flag``.

    :param kind: a dataclass whose fields are ``int``, ``float``, ``str``, ``bool`` or ``Path`` (or one of these or
        None), each followed by its docstring
    :param description: of the script, its ``__doc__``
    :param arguments: None: those of the process
    """
    helps = dict(re.findall(r'^    (\w+): [^\n]*\n    """(.+?)"""', inspect.getsource(kind), re.MULTILINE | re.DOTALL))
    hints = get_type_hints(kind)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(kind):  # type: ignore[arg-type]
        options: dict[str, Any] = {"help": " ".join(helps[field.name].split())}
        if field.default is MISSING:
            options["required"] = True
        else:
            options["default"] = field.default
            options["help"] += "" if field.default in (None, "") else " (%(default)s)"
        (wanted,) = {hints[field.name], *get_args(hints[field.name])} & {int, float, str, bool, Path}
        options |= {"action": argparse.BooleanOptionalAction} if wanted is bool else {"type": wanted}
        parser.add_argument(f"--{field.name.replace('_', '-')}", **options)
    return kind(**vars(parser.parse_args(arguments)))
