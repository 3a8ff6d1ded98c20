"""What ``face-align data download`` fetches is what it was, or the user says otherwise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from face_align_env.agents.cli.app import app
from face_align_env.datasets import REGISTRY, dataset_class
from face_align_env.datasets import download as module


def test_the_archive_of_a_repository_is_that_of_a_commit() -> None:
    """A branch moves; the archive of a commit stays."""
    archives = {name: dataset_class(name).archive for name in REGISTRY}
    urls = {name: archive.url for name, archive in archives.items() if archive is not None}
    of_repositories = {name: url for name, url in urls.items() if "github.com" in url}
    assert of_repositories.keys() == {"ytf"}
    for url in of_repositories.values():
        assert re.fullmatch(r"https://github\.com/[^/]+/[^/]+/archive/[0-9a-f]{40}\.zip", url)


@pytest.mark.parametrize("accepted", [False, True])
def test_the_option_reaches_the_download(accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def download(*_: Any, **options: Any) -> Path:
        given.update(options)
        return tmp_path

    monkeypatch.setattr(module, "download", download)
    options = ["--accept-changed"] if accepted else []
    result = CliRunner().invoke(app, ["data", "download", "ytf", *options])
    assert result.exit_code == 0, result.output
    assert given["accept_changed"] is accepted
