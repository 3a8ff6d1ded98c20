"""The distributions: what is in them, that they work once installed, and that what they import is declared."""

from __future__ import annotations

import ast
import importlib.metadata
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from face_align_env.extras import MissingExtraError, needs

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {"face_align_env": "face_align_env", "agents": "face_align_env.agents", "pretrain": "face_align_env.pretrain"}
MAX_WHEEL_BYTES = 20_000_000
TIMEOUT = 600  # seconds; a machine may be busy

pytestmark = [pytest.mark.timeout(2 * TIMEOUT), pytest.mark.xdist_group("packaging")]

# What is imported under another name than that of its distribution.
DISTRIBUTIONS = {
    "cv2": "opencv-python", "PIL": "pillow", "dlib": "dlib-bin", "sb3_contrib": "sb3-contrib",
    "stable_baselines3": "stable-baselines3",
}  # fmt: skip


def source_files(*folders: str) -> Iterator[tuple[Path, str]]:
    """The source files of the package, and the module that each is installed as."""
    for folder in folders or FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            inner = path.relative_to(ROOT / folder).with_suffix("").parts
            yield path, ".".join([FOLDERS[folder], *inner]).removesuffix(".__init__")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the distributions are built from: building writes into the folder."""
    copy = tmp_path_factory.mktemp("source") / "face-align-env"
    copy.mkdir()
    unwanted = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd", "*.tmp")
    for name in [*FOLDERS, "tests", "examples", "docs"]:
        shutil.copytree(ROOT / name, copy / name, ignore=unwanted)
    for name in ("pyproject.toml", "setup.cfg", "MANIFEST.in", "README.md", "LICENSE", "Makefile", "constraints.txt"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*pip, "wheel", *options, str(source)], check=True, timeout=TIMEOUT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh environment with the wheel; all other packages are those of the environment that tests."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True, timeout=TIMEOUT)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.check_output([python, "-c", ask], text=True).strip())
    # A .pth file that only names folders: those of the editable installation there are not read.
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "zz_others.pth").write_text("\n".join(others), encoding="utf-8")
    return python


def run(python: Path | str, code: str, cwd: Path) -> str:
    """What a script prints that runs in a folder; what it imports is looked up there first."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_listed_packages_are_those_that_there_are() -> None:
    there = {
        ".".join([name, *path.parent.relative_to(ROOT / folder).parts])
        for folder, name in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(there)


def test_the_wheel_has_one_top_level_all_modules_and_fits(wheel: Path) -> None:
    names = {PurePosixPath(name) for name in zipfile.ZipFile(wheel).namelist()}
    (information,) = {name.parts[0] for name in names} - {"face_align_env"}
    assert information.endswith(".dist-info")
    modules = {".".join(name.with_suffix("").parts).removesuffix(".__init__") for name in names if name.suffix == ".py"}
    assert modules == {module for _, module in source_files()}
    assert {str(name) for name in names if name.name == "py.typed"} >= {"face_align_env/py.typed"}
    assert wheel.stat().st_size < MAX_WHEEL_BYTES
    kept = {(name.parent.name, name.stem) for name in names if name.suffix == ".safetensors"}
    agents = {("trained", path.stem) for path in (ROOT / "agents" / "trained").glob("*.safetensors")}
    assert kept == {("weights", name) for name in ("300w-68", "300w-19", "synthetic-68", "synthetic-19")} | agents
    cards = {name.stem for name in names if name.parent.name == "weights" and name.suffix == ".json"}
    assert cards == {path.stem for path in (ROOT / "face_align_env" / "weights").glob("*.json")}


def test_one_wheel_serves_all_versions_of_python(wheel: Path) -> None:
    assert wheel.name.split("-")[2:4] == ["cp311", "abi3"]


@pytest.mark.slow
def test_the_source_distribution_builds_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    build = f"from setuptools import build_meta; print(build_meta.build_sdist({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, stdout=subprocess.DEVNULL, timeout=TIMEOUT)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    weights = {path.name for path in (unpacked / "face_align_env" / "weights").iterdir()}
    assert weights == {path.name for path in (ROOT / "face_align_env" / "weights").iterdir()}
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel", "--no-deps", "--no-index"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--wheel-dir", str(tmp_path), str(unpacked)], check=True, timeout=TIMEOUT
    )
    (again,) = tmp_path.glob("*.whl")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


USE = """
import warnings
import cv2, gymnasium as gym, numpy as np, torch
import face_align_env
from face_align_env import released
from face_align_env.aligner.aligner import FaceAligner
from face_align_env.datasets import load_dataset
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN, LRNConfig

warnings.simplefilter("error")
env = gym.make("FaceAlign-v0", dataset_options={"size": 4})
observation, info = env.reset(seed=0)
assert observation["patches"].shape == (68, 30, 30, 3)
env.step(env.action_space.sample())

face = load_dataset("synthetic", "test", size=4)[0]
found = FaceAligner.from_pretrained("synthetic-68")(face.image, face.box[None])
assert np.abs(found[0].landmarks - face.landmarks).mean() < 0.1 * (face.box[2] - face.box[0])

try:
    released.find_release("synthetic-29")
except ValueError as error:
    assert "--landmarks 29" in str(error), error
else:
    raise AssertionError("synthetic-29 is not in the wheel")
"""

NETWORKS = """
import numpy as np
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN, LRNConfig

mean = np.linspace(60, 200, 38).reshape(19, 2).astype(np.float32)
GEN(GENConfig(num_landmarks=19, input_size=16, width=4, hidden=16), mean).save("pretrained/gen/weights.safetensors")
lrn = LRN(LRNConfig(num_landmarks=19, encoder=((4, 10, 10, 1),), bottleneck=4))
for stage in ("gen-lrn4", "lrn-4"):
    lrn.save(f"pretrained/{stage}/weights.safetensors")
"""


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A working directory of somebody whose own packages are called ``agents`` and ``pretrain``."""
    for name in ("agents", "pretrain"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('somebody else')\n")
    return tmp_path


@pytest.mark.slow
def test_the_installed_package_works_beside_other_packages_called_agents_and_pretrain(
    installed: Path, crowded: Path
) -> None:
    where = run(installed, "import face_align_env.agents, face_align_env.pretrain as p; print(p.__file__)", crowded)
    assert Path(where.strip()).is_relative_to(installed.parent.parent)
    run(installed, USE, crowded)


@pytest.mark.slow
def test_the_installed_benchmark_trains_beside_other_packages_called_agents_and_pretrain(
    installed: Path, crowded: Path
) -> None:
    pytest.importorskip("rliable", reason="the extra benchmark is not installed")
    run(installed, NETWORKS, crowded)
    options = (
        "benchmark --algos a2c --seeds 1 --start features --timesteps 40 --evaluations 1 --eval-faces 4 --landmarks 19 "
        "--option size=6 --run pretrained --modes 3 --workers 1 --name tiny"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [installed.with_name("face-align" + installed.suffix), *options.split()],
        cwd=crowded, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (crowded / "runs" / "tiny" / "report.html").is_file()


# Dependencies by use ------------------------------------------------------------------------------


def declared(extra: str | None = None) -> set[str]:
    """Names of the distributions that the project, or an extra of it with all that it names, asks for."""
    project = PROJECT["project"]
    found: set[str] = set()
    for line in project["dependencies"] if extra is None else project["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if requirement.name == project["name"]:
            found = found.union(*(declared(name) for name in requirement.extras))
        else:
            found.add(canonicalize_name(requirement.name))
    return found


def roots(node: ast.AST) -> list[str]:
    """First parts of the modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [(node.module or "").partition(".")[0]]
    return []


def third_party(tree: ast.AST) -> set[str]:
    """Distributions that a file imports from, wherever in it, but for imports that only type checkers see."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names = {name for node in ast.walk(tree) if id(node) not in typing_only for name in roots(node)}
    own = {*sys.stdlib_module_names, *FOLDERS, "writers"}
    return {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in names - own}


def guarded(tree: ast.AST) -> set[tuple[str, str]]:
    """The extra and the distribution of each import under ``with needs(extra, ...)``."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.With):
            continue
        for item in node.items:
            call = item.context_expr
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "needs":
                assert isinstance(call.args[0], ast.Constant)
                extra = str(call.args[0].value)
                found |= {(extra, name) for statement in node.body for name in third_party(statement)}
    return found


def test_what_is_imported_is_declared() -> None:
    """A dependency, or in the extra that the file names once: ``with needs("data", ...): import h5py``."""
    wrong: dict[str, set[str]] = {}
    for path, module in source_files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {name for extra, name in guarded(tree) if name in declared(extra)}
        if missing := third_party(tree) - declared() - named:
            wrong[module] = missing
    assert wrong == {}


def test_what_examples_import_is_declared() -> None:
    known = declared().union(*(declared(extra) for extra in PROJECT["project"]["optional-dependencies"]))
    for path in sorted((ROOT / "examples").rglob("*.py")):
        assert third_party(ast.parse(path.read_text(encoding="utf-8"))) <= known, path.name


def test_extras_ask_for_what_there_is() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    optional = set(extras) - {"all", "zoo", "rllib", "libraries", "d3rlpy", "docs", "test", "dev"}
    assert declared("all") == set().union(*(declared(extra) for extra in optional))


def test_dependencies_have_bounds_below() -> None:
    groups = [PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values()]
    for requirement in map(Requirement, itertools.chain.from_iterable(groups)):
        if requirement.name != PROJECT["project"]["name"]:
            assert any(part.operator == ">=" for part in requirement.specifier), str(requirement)


def test_no_window_is_opened_with_opencv() -> None:
    """opencv-python-headless has no windows, so nothing may ask for one."""
    windows = re.compile(r"cv2\.(imshow|waitKey|namedWindow|destroy\w+|setMouseCallback|selectROI)")
    assert [str(path) for path, _ in source_files() if windows.search(path.read_text(encoding="utf-8"))] == []


def base_closure() -> set[str]:
    """Distributions that an installation without extras brings, as their metadata say."""
    found: set[str] = set()
    left = set(declared())
    while left:
        name = left.pop()
        found.add(name)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # opencv-python-headless may be there instead
            continue
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                left |= {canonicalize_name(requirement.name)} - found
    return found


# Where an installation lacks the packages named in the first line; nothing is loaded before it.
HIDE = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""

BASE = """
import runpy, subprocess, warnings
import gymnasium as gym, numpy as np
import face_align_env
from face_align_env import LearnedHistory
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.agents.dcrn.algorithm import DCRN
from face_align_env.aligner.aligner import FaceAligner
from face_align_env.datasets import load_dataset
from face_align_env.networks.lrn import LRN, LRNConfig
from face_align_env.agents.cli.app import app

env = gym.make("FaceAlign-v0", dataset_options={"size": 4})
env.reset(seed=0)
env.step(env.action_space.sample())
face = load_dataset("synthetic", "test", size=4)[0]
assert FaceAligner.from_pretrained("synthetic-68")(face.image, face.box[None])[0].landmarks.shape == (68, 2)
lrn = LRN(LRNConfig(encoder=((4, 10, 10, 1),), bottleneck=4))
vec_env = FaceAlignVecEnv(2, dataset="synthetic", dataset_options={"size": 4}, learned_history=True)
agent = DCRN(env=vec_env, lrn=lrn, learning_starts=4, batch_size=4, buffer_size=50, device="cpu")
agent.learn(12)
assert not HIDDEN & set(sys.modules), HIDDEN & set(sys.modules)

missing = {}
for module in MODULES:
    try:
        __import__(module)
    except ModuleNotFoundError as error:
        missing[module] = str(error)
import json
print(json.dumps(missing))
"""


@pytest.mark.slow
def test_environment_agent_and_aligner_need_no_extra(tmp_path: Path) -> None:
    hidden = set()
    base = base_closure()
    for name, distributions in importlib.metadata.packages_distributions().items():
        if not {canonicalize_name(each) for each in distributions} & (base | {"face-align-env"}):
            hidden.add(name)
    hidden -= {"opencv-python-headless", "cv2", *sys.stdlib_module_names}
    assert {"lightning", "tensorboard", "matplotlib", "h5py", "pandas"} <= hidden
    modules = [module for _, module in source_files()]
    header = f"HIDDEN = {hidden!r}\nMODULES = {modules!r}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
    messages = json.loads(run(sys.executable, header + HIDE + BASE, tmp_path).splitlines()[-1])
    assert messages, "the supervised training needs Lightning"
    for module, message in messages.items():
        assert re.search(r'pip install "face-align-env\[\w+\]"', message), f"{module}: {message}"
    assert "[train]" in messages["face_align_env.pretrain.loop"]


def test_a_missing_extra_is_named() -> None:
    with (
        pytest.raises(MissingExtraError, match=r'Sorting needs .* not_there, .*: pip install "face-align-env\[sort\]"'),
        needs("sort", "Sorting"),
    ):
        __import__("not_there")
