"""Imports run one way: face_align_env <- pretrain <- agents."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import face_align_env
from face_align_env import pretrain


def imported(path: Path) -> set[str]:
    """The packages that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [(face_align_env, {"pretrain", "agents", "stable_baselines3", "lightning"}), (pretrain, {"agents"})],
    ids=["face_align_env", "pretrain"],
)
def test_packages_import_downwards_only(package: object, forbidden: set[str]) -> None:
    files = sorted(Path(package.__path__[0]).rglob("*.py"))  # type: ignore[attr-defined]
    assert len(files) > 3
    offenders = {path.name: found for path in files if (found := imported(path) & forbidden)}
    assert offenders == {}


def test_the_check_sees_imports() -> None:
    files = Path(face_align_env.agents.__path__[0]).rglob("*.py")
    assert {"pretrain", "face_align_env"} <= set().union(*(imported(path) for path in files))
