"""face-align app."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from typer.testing import CliRunner

from face_align_env.agents.cli.app import app

# A shell that puts the tests into the background has them ignore Ctrl-C.
SCRIPT = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from face_align_env.agents.cli.app import app; app(sys.argv[1:])"
)


def test_the_page_is_served_until_it_is_interrupted() -> None:
    pytest.importorskip("gradio", reason="the extra app is not installed")
    command = [sys.executable, "-u", "-c", SCRIPT, "app", "--weights", "synthetic-68"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.match(r"(http://127\.0\.0\.1:\d+)/? \(Ctrl-C ends it\)", line)
            assert found, line
            with urllib.request.urlopen(found[1], timeout=60) as page:
                config = page.read().decode()
            assert '"title":"face-align"' in config
            assert '"analytics_enabled":false' in config
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weights", "300w-70"), "There are no released weights '300w-70'"),
        (("--max-megapixels", "0"), "--max-megapixels must be positive, got 0"),
    ],
)
def test_mistakes_are_one_message(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(app, ["app", *arguments])
    assert result.exit_code == 1
    assert message in result.stderr
