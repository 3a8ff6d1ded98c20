"""Resumed downloads: broken connections, files that change on the server, servers that are silent or absent."""

from __future__ import annotations

import hashlib
import random

import pytest
from writers.downloads import LARGE, NOTHING_KEPT, assert_is_whole, beside, ranges, served, serving, zipped

from face_align_env.datasets import resuming
from face_align_env.datasets.base import Archive
from face_align_env.datasets.download import DownloadError, download


def break_off(server, dataset, place, at=100_000):
    """A first call that gets ``at`` bytes."""
    server.cut = at
    with pytest.raises(DownloadError, match=r"broke off.*100\.0 kB are kept in '.*\.part'; the same command goes on"):
        download(dataset, place, progress=False)
    server.cut = None
    assert not place.exists()
    assert (place.parent / ".toy.download" / "toy.zip.part").read_bytes() == server.data[:at]


def test_a_broken_download_goes_on_where_it_stopped(server, place):
    data = zipped(LARGE)
    dataset = served(server, data, known_hash="md5:" + hashlib.md5(data).hexdigest(), num_bytes=len(data))
    break_off(server, dataset, place)
    download(dataset, place, progress=False)
    assert ranges(server) == [None, "bytes=100000-"]
    assert server.requests[1][1]["If-Range"] == '"1"'
    assert_is_whole(place, LARGE)


def test_without_a_strong_etag_the_date_is_compared(server, place):
    server.validators["ETag"] = 'W/"1"'
    dataset = served(server, zipped(LARGE))
    break_off(server, dataset, place)
    download(dataset, place, progress=False)
    assert server.requests[1][1]["If-Range"] == server.validators["Last-Modified"]
    assert ranges(server) == [None, "bytes=100000-"]
    assert_is_whole(place, LARGE)


@pytest.mark.parametrize("compares", [True, False], ids=["server compares", "server does not"])
def test_a_file_that_changed_on_the_server_is_fetched_anew(compares, server, place):
    dataset = served(server, zipped({**LARGE, "notes.bin": random.Random(1).randbytes(300_000)}))
    break_off(server, dataset, place)
    server.data, server.compares = zipped(LARGE), compares
    server.validators = {"ETag": '"2"'}
    download(dataset, place, progress=False)
    assert ranges(server) == [None, "bytes=100000-", *([] if compares else [None])]
    assert_is_whole(place, LARGE)


def test_a_file_of_another_size_is_fetched_anew(server, place):
    dataset = served(server, zipped({**LARGE, "more.bin": b"more"}))
    break_off(server, dataset, place)
    server.data = zipped(LARGE)
    download(dataset, place, progress=False)
    assert ranges(server) == [None, "bytes=100000-", None]
    assert_is_whole(place, LARGE)


def test_a_server_without_ranges_sends_the_file_anew(server, place):
    dataset = served(server, zipped(LARGE))
    break_off(server, dataset, place)
    server.ignores_range = True
    download(dataset, place, progress=False)
    assert ranges(server) == [None, "bytes=100000-"]
    assert_is_whole(place, LARGE)


def test_an_archive_at_another_address_is_fetched_anew(server, place):
    break_off(server, served(server, zipped(LARGE)), place)
    dataset = served(server, zipped(LARGE))
    dataset.archive = Archive(f"{server.url}/other/toy.zip")
    download(dataset, place, progress=False)
    assert ranges(server) == [None, None]
    assert_is_whole(place, LARGE)


def test_nothing_is_kept_of_a_file_that_the_server_cannot_tell_from_another(server, place):
    server.validators, server.cut = {}, 100_000
    dataset = served(server, zipped(LARGE))
    with pytest.raises(DownloadError, match=r"broke off.*Nothing is kept; the same command begins again"):
        download(dataset, place, progress=False)
    assert beside(place) == NOTHING_KEPT


@pytest.mark.parametrize("longer", [0, 5], ids=["whole", "longer"])
def test_a_part_with_no_rest_is_taken_if_it_is_the_whole_file(longer, server, place):
    dataset = served(server, zipped(LARGE))
    break_off(server, dataset, place)
    part = place.parent / ".toy.download" / "toy.zip.part"
    part.write_bytes(server.data + b"x" * longer)
    download(dataset, place, progress=False)
    assert ranges(server) == [None, f"bytes={len(server.data) + longer}-", *([None] if longer else [])]
    assert_is_whole(place, LARGE)


@pytest.mark.parametrize("status", [404, 503])
def test_an_answer_that_is_no_archive_keeps_what_there_is(status, server, place):
    dataset = served(server, zipped(LARGE))
    server.status = status
    cure = "get it by hand. Ask around" if status == 404 else "Try again later"
    with pytest.raises(DownloadError, match=rf"answers {status} .*toy\.zip.*{cure}.*Nothing is kept"):
        download(dataset, place, progress=False)
    assert beside(place) == NOTHING_KEPT
    server.status = None
    break_off(server, dataset, place)
    server.status = status
    with pytest.raises(DownloadError, match=rf"answers {status} .*100\.0 kB are kept"):
        download(dataset, place, progress=False)
    server.status = None
    download(dataset, place, progress=False)
    assert_is_whole(place, LARGE)


def test_a_server_that_falls_silent_is_left(server, place, monkeypatch):
    monkeypatch.setattr(resuming, "_TIMEOUT", (10, 0.2))
    server.hangs, server.cut = True, 100_000
    with pytest.raises(DownloadError, match=r"broke off \(.*timed out.*65\.5 kB are kept"):
        download(served(server, zipped(LARGE)), place, progress=False)


def test_a_server_that_is_not_there_is_one_clear_error(place, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with serving() as server:
        dataset = served(server)
    with pytest.raises(DownloadError, match=r"cannot be reached .*Nothing is kept"):
        download(dataset, place, progress=False)
    assert beside(place) == NOTHING_KEPT


def test_a_state_that_cannot_be_read_begins_anew(server, place):
    dataset = served(server, zipped(LARGE))
    break_off(server, dataset, place)
    (place.parent / ".toy.download" / "toy.zip.part.json").write_bytes(b"\0\0")
    download(dataset, place, progress=False)
    assert ranges(server) == [None, None]
    assert_is_whole(place, LARGE)
