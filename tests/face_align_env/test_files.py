"""Folders with one owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from face_align_env.files import FolderInUseError, locked_folder

HOLD = """
import sys, time
from face_align_env.files import locked_folder
with locked_folder(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_in_use_says_by_whom_and_a_killed_owner_stops_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        try:
            with pytest.raises(FolderInUseError, match=rf"'{folder}' is in use by process {owner.pid} on .*python"):
                locked_folder(folder).__enter__()
        finally:
            owner.send_signal(signal.SIGKILL)
    with locked_folder(folder), pytest.raises(FolderInUseError, match=rf"process {os.getpid()} "):
        locked_folder(folder).__enter__()
    with locked_folder(folder):
        pass  # whoever is done gives it back
