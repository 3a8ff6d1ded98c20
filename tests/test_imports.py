"""Imports run one way, face_align_env <- pretrain <- agents, and in no circle: in every file, in functions, too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import face_align_env

LAYERS = ("face_align_env", "face_align_env.pretrain", "face_align_env.agents")  # the lower first
ROOT = Path(__file__).parents[1]
FOLDERS = {"face_align_env.pretrain": ROOT / "pretrain", "face_align_env.agents": ROOT / "agents"}
OTHERS = ("tests", "examples", "docs")  # folders whose files are scripts, and may not import the old names either


def layer_of(module: str) -> int:
    """The number of its layer."""
    return max((i for i, name in enumerate(LAYERS) if f"{module}.".startswith(f"{name}.")), default=-1)


def modules() -> dict[str, Path]:
    """Name -> file of everything that is installed."""
    found = {}
    for package, folder in {LAYERS[0]: Path(face_align_env.__path__[0]), **FOLDERS}.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


def statements(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """(module, names that are imported out of it) of every import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "no relative imports"
            yield node.module or "", [alias.name for alias in node.names]


def imported(tree: ast.AST, known: dict[str, Path]) -> set[str]:
    """The files of ours that a file imports: the package's own one where that gives the name."""
    found = set()
    for module, names in statements(tree):
        submodules = {f"{module}.{name}" for name in names} & set(known)
        found |= submodules
        if module in known and len(submodules) < max(len(names), 1):
            found.add(module)
    return found


def graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Each file's imports."""
    known = {name: Path() for name in sources}
    return {name: imported(ast.parse(text), known) - {name} for name, text in sources.items()}


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    found = {name: path.read_text(encoding="utf-8") for name, path in modules().items()}
    assert len(found) > 80
    return found


def circle(imports: dict[str, set[str]]) -> list[str]:
    """The files of one circle; empty where there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def upwards(imports: dict[str, set[str]]) -> list[tuple[str, str]]:
    """(file, what it imports) where that lies in a higher layer."""
    pairs = [(name, other) for name, others in imports.items() for other in others]
    return sorted((name, other) for name, other in pairs if layer_of(other) > layer_of(name))


def test_no_files_import_each_other_in_a_circle(sources: dict[str, str]) -> None:
    assert circle(graph(sources)) == []


def test_no_file_imports_upwards(sources: dict[str, str]) -> None:
    assert upwards(graph(sources)) == []


def test_the_environment_needs_no_library_of_the_agents(sources: dict[str, str]) -> None:
    forbidden = {"stable_baselines3", "lightning", "typer", "rich"}
    offenders = {
        name: found
        for name, text in sources.items()
        if layer_of(name) == 0
        and (found := {module.partition(".")[0] for module, _ in statements(ast.parse(text))} & forbidden)
    }
    assert offenders == {}


def test_nobody_imports_the_folders_by_their_own_names() -> None:
    paths = [*modules().values(), *(path for folder in OTHERS for path in (ROOT / folder).rglob("*.py"))]
    offenders = {
        str(path.relative_to(ROOT))
        for path in paths
        for module, _ in statements(ast.parse(path.read_text(encoding="utf-8")))
        if module.partition(".")[0] in ("agents", "pretrain")
    }
    assert offenders == set()


def test_the_checks_see_circles_arrows_and_functions() -> None:
    low, high = "face_align_env.mdp", "face_align_env.agents.run"
    within = f"def f():\n    from {high} import run\n"
    assert upwards(graph({low: within, high: ""})) == [(low, high)]
    assert circle(graph({low: within, high: f"import {low}\n"}))[0] in (low, high)
    package = "face_align_env.agents.cli"
    assert graph({package: "", f"{package}.app": f"from {package} import app, main\n"})[f"{package}.app"] == {package}
    assert graph({package: "", f"{package}.app": "", high: f"from {package} import app\n"})[high] == {f"{package}.app"}
