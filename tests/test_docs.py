"""What README and docs show works: links lead somewhere, commands are understood, examples in Python run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from writers.command_line import understood
from writers.support import REAL_DATA

from face_align_env.datasets import load_dataset
from face_align_env.datasets.pts import write_pts

HERE = Path(__file__).parent.parent
PAGES = sorted(
    path
    for path in (*HERE.glob("*.md"), *(HERE / "docs").rglob("*.md"), *(HERE / ".github").rglob("*.md"))
    if "_generated" not in path.parts and "_build" not in path.parts
)
RUN = [HERE / "README.md", HERE / "docs/get-started.md", *sorted((HERE / "docs/tutorials").glob("*.md"))]


def name_of(page: Path) -> str:
    return page.relative_to(HERE).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)


# -- links -------------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists() or "_generated" in path, f"{target}: no such file"
        if anchor and linked.suffix == ".md":
            assert anchor in anchors(linked), f"{target}: no such heading"


# -- commands ----------------------------------------------------------------------------------------------------------


def command_lines(block: str) -> Iterator[list[str]]:
    """The words of each command, which may go over several lines."""
    pending = ""
    for line in re.sub(r"\\\n\s*", " ", block).splitlines():
        pending += line + "\n"
        try:
            words = [word for word in shlex.split(pending, comments=True) if word != "..."]
        except ValueError:  # a quotation that goes on
            continue
        pending = ""
        if words:
            yield words
    assert not pending, f"no closing quotation: {pending}"


def shown_commands() -> Iterator[Any]:
    for page in PAGES:
        for block in blocks(page, "bash"):
            for words in command_lines(block):
                yield pytest.param(words, id=f"{name_of(page)}: {' '.join(words)[:60]}")


@pytest.mark.parametrize("words", list(shown_commands()))
def test_commands_are_understood(words: list[str]) -> None:
    while "=" in words[0]:  # OMP_NUM_THREADS=1 face-align ...
        words = words[1:]
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (HERE / "Makefile").read_text(encoding="utf-8"), re.M)
    elif words[0] == "face-align":
        end = next((i for i, word in enumerate(words) if word in ("|", ">", "&&")), len(words))
        understood(words[1:end])
    elif words[0] == "python" and words[1].endswith(".py"):
        code = (HERE / words[1]).read_text(encoding="utf-8")
        for flag in (word.partition("=")[0] for word in words[2:] if word.startswith("--")):
            field = flag.removeprefix("--").replace("-", "_")  # of a dataclass that is the command line
            there = f'"{flag}"' in code or re.search(rf"^    {field}: ", code, re.M)
            assert there, f"{words[1]} has no {flag}"


# -- examples in Python ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the examples are run: photo.jpg, a folder of annotated photos, and 300W where there is a copy."""
    faces = load_dataset("synthetic", "test", size=24)
    cv2.imwrite(str(tmp_path / "photo.jpg"), faces[2].image[:, :, ::-1])
    (tmp_path / "path/to/folder").mkdir(parents=True)
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"path/to/folder/{i}.png"), faces[i].image[:, :, ::-1])
        write_pts(tmp_path / f"path/to/folder/{i}.pts", faces[i].landmarks)
    if (REAL_DATA / "300w").is_dir():
        (tmp_path / "path/to/300w").symlink_to(REAL_DATA / "300w")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in RUN if blocks(page, "python")], ids=name_of)
def test_examples_in_python_run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as a reader would; only how long is learnt is shortened."""
    from stable_baselines3 import PPO

    learn = PPO.learn
    monkeypatch.setattr(PPO, "learn", lambda self, total_timesteps, **more: learn(self, 32, **more))
    monkeypatch.setattr(PPO, "train", lambda self: None)
    names: dict[str, Any] = {"__name__": "__main__"}
    for code in blocks(page, "python"):
        exec(compile(code, name_of(page), "exec"), names)
    if "faces" in names:
        assert names["faces"][0].landmarks.shape == (68, 2)
    if "env" in names and "initializer" in page.read_text(encoding="utf-8"):
        assert np.isfinite(names["env"].reset(seed=0)[0]["history"]).all()


@pytest.mark.parametrize("words", [["nonsense"], ["run", "--nonsense", "1"], ["data", "show"], ["align", "a", "--csv"]])
def test_what_is_not_understood_is_noticed(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"no command|No such option|Missing (argument|parameter)|requires an argument"):
        understood(words)
