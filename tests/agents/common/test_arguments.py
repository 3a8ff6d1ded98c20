"""A dataclass as a command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from face_align_env.agents.common.arguments import parse_arguments


@dataclass
class Args:
    """Of a script."""

    run: Path
    """folder of a run"""
    num_envs: int = 16
    """faces
    at once"""
    step: float = 0.5
    """of an action"""
    faces: int | None = None
    """how many; default: all"""
    freeze: bool = False
    """keep the encoder"""


def test_fields_are_options() -> None:
    assert parse_arguments(Args, None, ["--run", "a"]) == Args(Path("a"))
    given = ["--run", "a", "--num-envs", "2", "--step", "1e-3", "--faces", "5", "--freeze"]
    assert parse_arguments(Args, None, given) == Args(Path("a"), 2, 1e-3, 5, True)


def test_docstrings_are_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(Args, "What it does.", ["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "What it does." in said
    for line in (
        "folder of a run",
        "faces at once (16)",
        "how many; default: all --freeze",
        "keep the encoder (False)",
    ):
        assert line in said


@pytest.mark.parametrize("given", [[], ["--run", "a", "--num-envs", "few"], ["--run", "a", "--nonsense", "1"]])
def test_what_does_not_fit_is_a_usage_error(given: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_arguments(Args, None, given)
    assert stop.value.code == 2
