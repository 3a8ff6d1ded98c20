"""Shared work: all of it once, errors not lost, and after a fork too."""

from __future__ import annotations

import multiprocessing
import threading

import numpy as np
import pytest

from face_align_env import threads
from face_align_env.threads import share


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "CORES", 4)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 17])
@pytest.mark.parametrize("wanted", [0, 1, 2, 3, 4, 100])
def test_every_part_is_done_once(count: int, wanted: int) -> None:
    done = np.zeros(count, dtype=np.int64)

    def work(some: slice) -> None:
        done[some] += 1

    share(work, count, wanted)
    assert (done == 1).all()


def test_several_threads_work_at_the_same_time() -> None:
    meeting = threading.Barrier(3)
    share(lambda some: meeting.wait(timeout=30), 3, 3)


def test_no_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "CORES", 2)
    parts: list[slice] = []
    share(parts.append, 10, 100)
    assert len(parts) == 2


@pytest.mark.parametrize("faulty", [0, 9])
def test_an_error_is_raised_after_all_have_ended(faulty: int) -> None:
    done = np.zeros(10, dtype=np.int64)

    def work(some: slice) -> None:
        if faulty in range(10)[some]:
            raise KeyError("here")
        done[some] = 1

    with pytest.raises(KeyError, match="here"):
        share(work, 10, 2)
    assert done.sum() == 5


def _child(answers: multiprocessing.SimpleQueue[int]) -> None:
    parts: list[slice] = []
    share(parts.append, 10, 2)
    answers.put(len(parts))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    share(lambda some: None, 10, 2)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=_child, args=(answers,))
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 0
    assert answers.get() == 2
