"""Prepared faces under real limits and real kills: a face is what its image gives, or it is not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from face_align_env import files
from face_align_env.datasets import load_dataset
from face_align_env.prepared import PreparedFaces

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits and signals of POSIX")

SIZE = 12  # faces


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACE_ALIGN_CACHE", str(tmp_path / "prepared"))
    return tmp_path / "prepared"


def run(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True, env=os.environ.copy()
    )


def expected() -> np.ndarray:
    """The crops as they are without a disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACE_ALIGN_CACHE", "off")
        prepared = PreparedFaces(load_dataset("synthetic", size=SIZE))
        return np.stack([prepared.context(i) for i in range(SIZE)])


def test_a_file_that_may_not_grow_costs_speed_and_no_face(cache: Path) -> None:
    """The kernel's own short write: room for one and a half crops."""
    program = f"""
import resource, sys, warnings
warnings.simplefilter("ignore")
from face_align_env.datasets import load_dataset
from face_align_env.prepared import PreparedFaces
prepared = PreparedFaces(load_dataset("synthetic", size={SIZE}))
limit = int(1.5 * 352 * 352 * 3)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
print([int(prepared.context(i).sum()) for i in range({SIZE})])
"""
    answer, _ = run(program).communicate(timeout=60)
    crops = expected()
    assert answer.strip() == str([int(crop.sum()) for crop in crops])
    again = PreparedFaces(load_dataset("synthetic", size=SIZE))
    assert again.absent() == list(range(1, SIZE)), "the crop that was half written is not there"
    np.testing.assert_array_equal(again.mapped_contexts(), crops)


PREPARE = f"""
import face_align_env.prepared as module
from face_align_env.datasets import load_dataset
module._CHUNK = 1
if __name__ == "__main__":
    prepared = module.PreparedFaces(load_dataset("synthetic", size={SIZE}))
    print("ready", flush=True)
    module.prepare_on_disk(prepared, 2, progress=False)
    print("done", flush=True)
"""


def descendants(process: int) -> set[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return {int(child) for child in children}.union(*(descendants(int(child)) for child in children))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in Linux's /proc")
@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_workers_end_with_the_process_that_started_them(kill: signal.Signals, cache: Path, tmp_path: Path) -> None:
    script = tmp_path / "prepare.py"
    script.write_text(PREPARE)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=os.environ.copy())
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    ends = time.monotonic() + 60
    while not list(cache.rglob("checks.raw")) or not np.fromfile(next(cache.rglob("checks.raw")), np.uint32).any():
        assert time.monotonic() < ends
        time.sleep(0.05)
    workers = descendants(parent.pid)
    assert workers
    parent.send_signal(kill)
    parent.wait(timeout=30)
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < ends, "a worker is left"
        time.sleep(0.05)
    prepared = PreparedFaces(load_dataset("synthetic", size=SIZE))
    np.testing.assert_array_equal(prepared.mapped_contexts(), expected())


def test_a_killed_writer_leaves_the_old_file_and_its_leftover_goes_at_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    program = """
import os, signal, sys
from face_align_env import files
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
files.os.fsync = kill  # in the middle: written, and not renamed
files.write_json(sys.argv[1], {"a": 2})
"""
    for _ in range(3):
        assert run(program, str(path)).wait(timeout=60) == -signal.SIGKILL
    assert path.read_text() == '{\n  "a": 1\n}\n'
    left = [entry.name for entry in tmp_path.iterdir() if entry != path]
    assert len(left) == 1, "each start removes what the one before has left"
    files._swept.discard(tmp_path)
    files.write_json(path, {"a": 3})
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_file_that_cannot_be_written_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"Cannot write the file .*: choose another place: .*a\.json"):
        files.write_json(tmp_path / "file" / "a.json", {})
    program = """
import resource, sys
from face_align_env import files
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    files.write_bytes(sys.argv[1], bytes(100))
except OSError as error:
    print(error)
"""
    answer, _ = run(program, str(tmp_path / "b.bin")).communicate(timeout=60)
    assert "Cannot write the file (File too large): choose another place" in answer
    assert "b.bin" in answer
    assert not list(tmp_path.glob("*b.bin*")), "nor anything temporary"
