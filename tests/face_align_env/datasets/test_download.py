"""A dataset is downloaded whole or not at all: where it goes, what is checked, and full disks."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import stat
import zipfile
from contextlib import contextmanager
from datetime import datetime, timedelta

import numpy as np
import pytest
from writers.downloads import (
    FILES,
    LARGE,
    NOTHING_KEPT,
    Toy,
    assert_is_whole,
    beside,
    folder_files,
    ranges,
    served,
    tarred,
    zipped,
)
from writers.images import shape_of
from writers.support import ids_of
from writers.w300 import STEMS, write_300w
from writers.ytf import write_ytf

from face_align_env.datasets import DatasetNotFoundError
from face_align_env.datasets import download as module
from face_align_env.datasets.base import Archive
from face_align_env.datasets.download import ArchiveError, DownloadError, download
from face_align_env.datasets.w300 import W300
from face_align_env.datasets.ytf import YouTubeFaces

# -- the whole way


def test_300w_is_read_from_the_archive_as_dlib_publishes_it(server, tmp_path):
    folder = write_300w(tmp_path / "original")
    data = tarred(folder_files(folder, "ibug_300W_large_face_landmark_dataset"))
    kind = served(server, data, "ibug_300W_large_face_landmark_dataset.tar.gz", W300)
    with pytest.warns(UserWarning, match="300w train: 9 of the protocol's 3,148 faces"):
        root = download(kind, tmp_path / "data" / "300w", progress=False)
    assert root == tmp_path / "data" / "300w"
    assert (root / "afw").is_dir()
    with pytest.warns(UserWarning, match="protocol"):
        dataset = W300("challenging", root)
    assert ids_of(dataset) == [f"ibug/{stem}" for stem in STEMS]
    np.testing.assert_allclose(dataset[0].landmarks, shape_of(STEMS[0]), atol=1e-3)
    assert dataset[0].image.shape == (48, 60, 3)


def test_ytf_is_read_from_the_archive_as_github_makes_it(server, tmp_path):
    folder = write_ytf(tmp_path / "original" / "data").parent
    kind = served(server, zipped(folder_files(folder, "P1_Facial_Keypoints-master")), "master.zip", YouTubeFaces)
    server.validators, server.tells_length = {"ETag": 'W/"1"'}, False
    root = download(kind, tmp_path / "ytf", progress=False)
    assert (root / "data" / "training").is_dir()
    faces, original = YouTubeFaces("full", root), YouTubeFaces("full", folder)
    assert ids_of(faces) == ids_of(original)
    np.testing.assert_array_equal(faces[0].landmarks, original[0].landmarks)
    np.testing.assert_array_equal(faces[0].image, original[0].image)


@pytest.mark.parametrize("name", ["toy.zip", "toy.tar.gz", "toy.tgz", "toy.tar"])
@pytest.mark.parametrize("top", ["", "top/"])
def test_every_kind_of_archive_is_unpacked_without_its_top_folder(name, top, server, place):
    files = {f"{top}{path}": data for path, data in FILES.items()}
    data = zipped(files) if name == "toy.zip" else tarred(files)
    data = gzip.decompress(data) if name == "toy.tar" else data
    assert download(served(server, data, name), place, progress=False) == place
    assert_is_whole(place)
    for path in place.rglob("*"):
        assert not path.stat().st_mode & (stat.S_ISUID | (0 if path.is_dir() else 0o111))


def test_a_top_folder_that_belongs_to_the_dataset_stays(server, place):
    files = {name: data for name, data in FILES.items() if name.startswith("train")}
    download(served(server, zipped(files)), place, progress=False)
    assert len(Toy("train", place)) == 2


def test_litter_of_macos_is_left_out(server, place):
    litter = ["__MACOSX/train/._a.txt", ".DS_Store", "train/.DS_Store", "train/._a.txt"]
    download(served(server, zipped({**FILES, **dict.fromkeys(litter, b"litter")})), place, progress=False)
    assert_is_whole(place)


def test_paths_with_backslashes_are_paths(server, place):
    files = {name.replace("/", "\\"): data for name, data in FILES.items()}
    download(served(server, tarred(files), "toy.tar.gz"), place, progress=False)
    assert_is_whole(place)


def test_the_folder_says_where_it_is_from(server, place):
    dataset = served(server)
    download(dataset, place, progress=False)
    record = json.loads((place / "download.json").read_text())
    assert datetime.fromisoformat(record.pop("date")).utcoffset() == timedelta(0)
    assert record == {
        "dataset": "toy",
        "url": dataset.archive.url,
        "file_name": "toy.zip",
        "num_bytes": len(server.data),
        "sha256": hashlib.sha256(server.data).hexdigest(),
    }


def test_the_default_place_is_the_first_in_which_the_reader_looks(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FACE_ALIGN_DATA", raising=False)
    dataset = served(server)
    assert download(dataset, progress=False) == tmp_path / "home" / ".cache" / "face-align" / "toy"
    monkeypatch.setenv("FACE_ALIGN_DATA", str(tmp_path / "data"))
    assert download(dataset, progress=False) == tmp_path / "data" / "toy"
    assert_is_whole(tmp_path / "data" / "toy")


def test_bars_show_how_far_it_is(server, place, capsys):
    download(served(server), place)
    shown = capsys.readouterr().err
    size = f"{len(server.data) / 1000:.2f}k"
    assert f"toy: {size} of {size}" in shown
    assert "toy: unpacking" in shown


def test_a_kept_archive_is_not_fetched_again(server, place):
    dataset = served(server)
    download(dataset, place, progress=False, keep_archive=True)
    assert (place.parent / ".toy.download" / "toy.zip").read_bytes() == server.data
    shutil.rmtree(place)
    download(dataset, place, progress=False)
    assert len(server.requests) == 1
    assert_is_whole(place)


def test_an_archive_that_the_server_calls_a_compressed_transfer_stays_an_archive(server, place):
    server.headers = {"Content-Encoding": "gzip", "Content-Type": "application/x-tar"}
    data = tarred(FILES)
    sha256 = hashlib.sha256(data).hexdigest()
    download(served(server, data, "toy.tar.gz", known_hash=f"sha256:{sha256}"), place, progress=False)
    assert_is_whole(place)


def test_the_proxy_of_the_environment_is_asked(server, place, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("http_proxy", server.url)
    dataset = served(server)
    dataset.archive = Archive("http://faces.invalid/toy.zip")
    download(dataset, place, progress=False)
    assert [(path, headers["Host"]) for path, headers in server.requests] == [
        ("http://faces.invalid/toy.zip", "faces.invalid")
    ]
    assert_is_whole(place)


# -- where it may not go


def test_a_folder_that_holds_something_is_not_touched(server, place):
    place.mkdir(parents=True)
    (place / "mine.txt").write_text("mine")
    with pytest.raises(DownloadError, match=r"toy' is there already and is not touched\. .* rename or remove it"):
        download(served(server), place, progress=False)
    assert beside(place) == ["toy/mine.txt"]
    assert not server.requests


def test_an_empty_folder_is_filled(server, place):
    place.mkdir(parents=True)
    download(served(server), place, progress=False)
    assert_is_whole(place)


def test_a_folder_filled_while_the_archive_came_is_not_touched(server, place, monkeypatch):
    def find(*args):
        place.mkdir()
        (place / "mine.txt").write_text("mine")
        return found(*args)

    found = module._find_data
    monkeypatch.setattr(module, "_find_data", find)
    with pytest.raises(DownloadError, match="is there already"):
        download(served(server), place, progress=False)
    assert beside(place) == [".toy.download/lock", ".toy.download/toy.zip", "toy/mine.txt"]


def test_a_dataset_without_archive_says_how_to_get_it(place):
    with pytest.raises(DatasetNotFoundError, match=r"'toy' has no archive to download\. Ask around\."):
        download(Toy, place)
    assert not place.parent.exists()


def test_an_archive_of_another_kind_is_refused_before_it_is_fetched(server, place):
    with pytest.raises(ValueError, match=r"toy\.rar.*expected a file \.tar\.gz"):
        download(served(server, b"", "toy.rar"), place)


@pytest.mark.skipif(os.name == "nt", reason="there is no lock on Windows")
def test_two_processes_do_not_fetch_to_the_same_place(server, place):
    import fcntl

    folder = place.parent / ".toy.download"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="Another process is fetching 'toy'"):
            download(served(server), place, progress=False)
    download(served(server), place, progress=False)
    assert_is_whole(place)


# -- checks


def test_another_hash_is_refused_with_both_hashes(server, place):
    expected = "0" * 64
    dataset = served(server, known_hash=f"sha256:{expected}")
    with pytest.raises(ArchiveError) as caught:
        download(dataset, place, progress=False)
    assert expected in str(caught.value)
    assert hashlib.sha256(server.data).hexdigest() in str(caught.value)
    assert beside(place) == NOTHING_KEPT


@pytest.mark.parametrize("tells_length", [True, False])
def test_another_size_is_refused(tells_length, server, place):
    server.tells_length = tells_length
    dataset = served(server, num_bytes=12_345)
    with pytest.raises(ArchiveError, match=rf"has {len(server.data):,} bytes instead of 12,345"):
        download(dataset, place, progress=False)
    assert beside(place) == NOTHING_KEPT


def test_another_hash_than_last_time_is_refused_unless_it_is_accepted(server, place):
    dataset = served(server)
    for _ in range(2):
        download(dataset, place, progress=False)
        shutil.rmtree(place)
    before, server.data = hashlib.sha256(server.data).hexdigest(), zipped(LARGE)
    now = hashlib.sha256(server.data).hexdigest()
    message = rf"'toy' has changed: its SHA-256 is {now}, and was {before} on 20.*--accept-changed"
    for _ in range(2):  # it does not become the known one by being asked for again
        with pytest.raises(ArchiveError, match=message):
            download(dataset, place, progress=False)
        assert not place.exists()
    download(dataset, place, progress=False, accept_changed=True)
    assert_is_whole(place, LARGE)
    shutil.rmtree(place)
    download(dataset, place, progress=False)  # what is known now is the new one


def test_a_hash_that_the_class_knows_can_be_overridden(server, place):
    dataset = served(server, known_hash="sha256:" + "0" * 64, num_bytes=5)
    with pytest.raises(ArchiveError, match="--accept-changed"):
        download(dataset, place, progress=False)
    download(dataset, place, progress=False, accept_changed=True)
    assert_is_whole(place)


def test_an_archive_without_the_dataset_is_refused(server, place):
    with pytest.raises(ArchiveError, match=r"lacks the data of 'toy'.*toy\.zip.* has no test\. Ask around"):
        download(served(server, zipped({"top/readme.txt": b"moved"})), place, progress=False)
    assert beside(place) == NOTHING_KEPT


def test_a_dataset_with_a_bad_face_stays_and_the_face_is_told(server, place):
    with pytest.warns(UserWarning, match=re.escape(f"'{place / 'train' / 'c.txt'}' is empty.")):
        download(served(server, zipped({**FILES, "train/c.txt": b""})), place, progress=False)
    assert len(Toy("test", place)) == 2


# -- disks that are full, and runs that end


@contextmanager
def files_of_at_most(num_bytes):
    """A quota of the system: a file grows to ``num_bytes``, and no further."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_while_the_archive_comes_keeps_what_there_is(server, place):
    dataset = served(server, zipped(LARGE))
    needed = f"{(2 * len(server.data) - 100_000) / 1e3:.1f} kB more"
    with (
        files_of_at_most(100_000),
        pytest.raises(DownloadError, match=rf"cannot be written to .*{needed} in '.*data'.*100\.0 kB are kept"),
    ):
        download(dataset, place, progress=False)
    assert not place.exists()
    download(dataset, place, progress=False)
    assert ranges(server) == [None, "bytes=100000-"]
    assert_is_whole(place, LARGE)


def test_a_disk_that_fills_up_while_the_archive_is_unpacked_keeps_only_the_archive(server, place):
    files = {**FILES, "zeros.bin": bytes(1_000_000)}
    dataset = served(server, zipped(files))
    with (
        files_of_at_most(100_000),
        pytest.raises(DownloadError, match=r"cannot be unpacked to '.*toy' .*at least 1\.0 MB.*archive is kept"),
    ):
        download(dataset, place, progress=False)
    assert beside(place) == [".toy.download/lock", ".toy.download/toy.zip"]
    download(dataset, place, progress=False)
    assert len(server.requests) == 1
    assert_is_whole(place, files)


def test_a_disk_without_room_is_told_before(server, place, monkeypatch):
    dataset = served(server, zipped(LARGE))
    free = 400_000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(free, 0, free))
    with pytest.raises(DownloadError, match=r"'toy' takes about 6\d\d\.\d kB in '.*', where 400\.0 kB are free"):
        download(dataset, place, progress=False)
    assert beside(place) == NOTHING_KEPT
    server.tells_length, free = False, 200_000
    with pytest.raises(DownloadError, match=r"toy\.zip' unpacks to takes about 3\d\d\.\d kB .* 200\.0 kB are free"):
        download(dataset, place, progress=False)
    assert beside(place) == [".toy.download/lock", ".toy.download/toy.zip"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_unpacking_leaves_only_the_archive(error, server, place, monkeypatch):
    def read(self, size=-1):
        if self.name == "test/a.txt":
            raise error
        return original(self, size)

    original = zipfile.ZipExtFile.read
    dataset = served(server)
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipExtFile, "read", read)
        with pytest.raises(error):
            download(dataset, place, progress=False)
    assert beside(place) == [".toy.download/lock", ".toy.download/toy.zip"]
    assert not place.exists()
    download(dataset, place, progress=False)
    assert_is_whole(place)


def test_what_killed_runs_have_left_is_removed(server, place):
    unpacking = place.parent / ".toy.unpacking-123" / "train"
    unpacking.mkdir(parents=True)
    (unpacking / "a.txt").write_text("half")
    other = place.parent / ".toy2.unpacking-123"
    other.mkdir()
    folder = place.parent / ".toy.download"
    folder.mkdir()
    (folder / "tmpabc").write_bytes(b"half")
    (folder / "earlier.zip").write_bytes(b"of an earlier address")
    download(served(server), place, progress=False)
    assert_is_whole(place)
    assert sorted(path.name for path in place.parent.iterdir()) == [".toy.download", ".toy2.unpacking-123", "toy"]
