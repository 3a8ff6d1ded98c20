"""A dataset is downloaded whole or not at all: over broken connections, from hostile archives, to full disks."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import re
import shutil
import stat
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from writers.images import shape_of
from writers.support import ids_of
from writers.w300 import STEMS, write_300w
from writers.ytf import write_ytf

from face_align_env.datasets import Annotation, BadFaceError, DatasetNotFoundError, FaceDataset, resuming
from face_align_env.datasets import download as module
from face_align_env.datasets.base import Archive, landmarks_box
from face_align_env.datasets.download import ArchiveError, DownloadError, Limits, download
from face_align_env.datasets.w300 import W300
from face_align_env.datasets.ytf import YouTubeFaces

KEPT = [".toy.download/download.json", ".toy.download/lock"]
NOTHING_KEPT = [".toy.download/lock"]


class Toy(FaceDataset):
    """One face for each ``<split>/<name>.txt``, which holds its 136 coordinates."""

    name = "toy"
    description = "faces in text files"
    licence = "MIT"
    how_to_get = "Ask around."
    splits = ("train", "test")

    def __init__(self, split="train", root=None, landmarks=None):
        super().__init__(split, landmarks)
        self.files = sorted((root / split).glob("*.txt"))
        if not self.files:
            raise DatasetNotFoundError(f"'{root}' has no {split}. {self.how_to_get}")
        for file in self.files:
            if not file.stat().st_size:
                raise BadFaceError(f"'{file}' is empty.")

    def __len__(self):
        return len(self.files)

    def annotation(self, index):
        points = np.loadtxt(self.files[index], dtype=np.float32).reshape(68, 2)
        return Annotation(points, landmarks_box(points), np.ones(68, dtype=np.bool_), self.files[index].stem)

    def image(self, index):
        return np.zeros((60, 60, 3), dtype=np.uint8)


def points_of(name):
    """The contents of a face's file."""
    np.savetxt(text := io.StringIO(), shape_of(name).ravel())
    return text.getvalue().encode()


FILES = {f"{split}/{name}.txt": points_of(name) for split in ("train", "test") for name in ("a", "b")}
# Enough of what cannot be compressed that a connection has a middle to break off in.
LARGE = {**FILES, "notes.bin": random.Random(0).randbytes(300_000)}


def zipped(files):
    """A zip of name -> bytes, or of ``ZipInfo`` -> bytes."""
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


def tarred(files, *others):
    """A .tar.gz of name -> bytes, and of further members."""
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w:gz") as file:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o4777
            file.addfile(info, io.BytesIO(data))
        for info in others:
            file.addfile(info)
    return buffer.getvalue()


def folder_files(folder, inside):
    """What a folder holds, as members of an archive in which it is the folder ``inside``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {f"{inside}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in files}


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.data`` under every path, as faithfully as ``server``'s settings say."""

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        data, begin = server.data, 0
        if server.status is not None:
            self.send_error(server.status)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = not server.compares or self.headers.get("If-Range") in (None, *server.validators.values())
        if wanted and same and not server.ignores_range:
            begin = int(wanted[1])
        if begin >= len(data) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        if server.tells_length:
            self.send_header("Content-Length", str(len(data) - begin))
        for name, value in {**server.validators, **server.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        end = len(data) if server.cut is None else server.cut
        self.wfile.write(data[begin:end])
        if server.hangs:
            self.wfile.flush()
            server.released.wait()

    def log_message(self, *args):
        pass


@contextmanager
def serving():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.data, server.requests, server.headers = b"", [], {}
    server.validators = {"ETag": '"1"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
    server.status, server.cut = None, None
    server.compares, server.tells_length, server.ignores_range = True, True, False
    server.hangs, server.released = False, threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server(monkeypatch):
    """A server on this machine, which no proxy of the environment comes before."""
    for name in ("HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with serving() as server:
        yield server


@pytest.fixture
def place(tmp_path):
    """Where the dataset is to go, in a folder of its own."""
    return tmp_path / "data" / "toy"


def served(server, data=None, name="toy.zip", kind=Toy, **archive):
    """``kind`` with an archive on the server."""
    server.data = zipped(FILES) if data is None else data
    return type(kind.__name__, (kind,), {"archive": Archive(f"{server.url}/files/{name}?download=1", **archive)})


def beside(place):
    """All files in the folder that the dataset's folder is made in."""
    return sorted(path.relative_to(place.parent).as_posix() for path in place.parent.rglob("*") if path.is_file())


def ranges(server):
    return [headers.get("Range") for _, headers in server.requests]


def assert_is_whole(place, files=FILES):
    assert beside(place) == sorted([*KEPT, "toy/download.json", *(f"toy/{name}" for name in files)])
    assert {name: (place / name).read_bytes() for name in files} == files
    for split in Toy.splits:
        faces = Toy(split, place)
        assert ids_of(faces) == ["a", "b"]
        np.testing.assert_allclose(faces[1].landmarks, shape_of("b"), atol=1e-3)


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


# -- connections


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


# -- hostile and damaged archives


def link(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_info(name, mode=0, flags=0):
    info = zipfile.ZipInfo(name)
    info.external_attr, info.flag_bits = mode << 16, flags
    return info


HOSTILE_NAMES = ["../x.txt", "train/../../x.txt", "/tmp/x.txt", "C:/x.txt", "..\\x.txt", "C:\\x.txt", "\\x.txt"]
HOSTILE_MEMBERS = {
    "symbolic link": link("train/l", tarfile.SYMTYPE, "../../x.txt"),
    "hard link": link("train/l", tarfile.LNKTYPE, "train/a.txt"),
    "character device": link("train/l", tarfile.CHRTYPE),
    "block device": link("train/l", tarfile.BLKTYPE),
    "pipe": link("train/l", tarfile.FIFOTYPE),
}


def assert_is_refused(dataset, place, match, **options):
    """Refused, with nothing left, inside or outside of the place."""
    around = sorted(place.parent.parent.iterdir())
    with pytest.raises(ArchiveError, match=match):
        download(dataset, place, progress=False, **options)
    assert sorted(place.parent.parent.iterdir()) == sorted({*around, place.parent})
    assert sorted(path.name for path in place.parent.iterdir()) == [".toy.download"]
    assert beside(place) == NOTHING_KEPT


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_paths_that_lead_out_are_refused(name, kind, server, place):
    data = (zipped if kind == "zip" else tarred)({**FILES, name: b"x"})
    assert_is_refused(served(server, data, f"toy.{kind}"), place, r"x\.txt' leads out of the dataset's folder")


@pytest.mark.parametrize("kind", HOSTILE_MEMBERS)
def test_links_devices_and_pipes_in_a_tar_are_refused(kind, server, place):
    said = kind if "link" in kind else "device or pipe"
    dataset = served(server, tarred(FILES, HOSTILE_MEMBERS[kind]), "toy.tar.gz")
    assert_is_refused(dataset, place, rf"'train/l' is no file or folder, but a {said}")


@pytest.mark.parametrize(("mode", "said"), [(stat.S_IFLNK, "symbolic link"), (stat.S_IFIFO, "device or pipe")])
def test_links_and_pipes_in_a_zip_are_refused(mode, said, server, place):
    dataset = served(server, zipped({**FILES, zip_info("train/l", mode | 0o777): b"../../x.txt"}))
    assert_is_refused(dataset, place, rf"'train/l' is no file or folder, but a {said}")


def test_encrypted_files_are_refused(server, place):
    data = zipped(FILES)
    at = data.index(b"PK\x01\x02") + 8  # the flags of the first entry of the directory
    assert_is_refused(
        served(server, data[:at] + b"\x01" + data[at + 1 :]), place, "is no file or folder, but an encrypted file"
    )


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(members=4), "more than 4 members"),
        (Limits(num_bytes=50_000), r"more than 50\.0 kB"),
        (Limits(ratio_from=1_000_000), "more than 200 times its size"),
    ],
)
def test_archives_above_the_limits_are_refused(limits, said, kind, server, place):
    data = (zipped if kind == "zip" else tarred)({**FILES, "zeros.bin": bytes(10_000_000)})
    assert_is_refused(served(server, data, f"toy.{kind}"), place, said, limits=limits)


def test_a_header_may_not_lie_about_the_size(server, place):
    data = zipped({"train/a.txt": bytes(1_000_000)})
    told = (1_000_000).to_bytes(4, "little")
    assert data.count(told) == 2
    assert_is_refused(served(server, data.replace(told, (10).to_bytes(4, "little"))), place, "is damaged")


def test_a_header_of_a_tar_may_not_fill_the_memory(server, place):
    info = link("x", tarfile.XHDTYPE)
    info.size = 1 << 30
    data = gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + bytes(10_000))
    assert_is_refused(served(server, data, "toy.tar.gz"), place, r"a header claims 1,073,741,824 bytes")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("name", ["TRAIN/A.txt", "train/./a.txt"])
def test_files_that_would_overwrite_each_other_are_refused(name, kind, server, place):
    data = (zipped if kind == "zip" else tarred)({**FILES, name: b"x"})
    assert_is_refused(served(server, data, f"toy.{kind}"), place, "is in it twice, or in another case")


@pytest.mark.parametrize("name", ["train", "train/a.txt/b"])
def test_a_file_that_is_a_folder_too_is_refused(name, server, place):
    dataset = served(server, tarred({**FILES, name: b"x"}), "toy.tar.gz")
    assert_is_refused(dataset, place, rf"'{name}' is a file and a folder")


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar"])
@pytest.mark.parametrize("damage", ["cut", "changed", "page"])
def test_damaged_archives_are_refused_and_fetched_again(damage, kind, server, place):
    good = zipped(LARGE) if kind == "zip" else tarred(LARGE)
    good = gzip.decompress(good) if kind == "tar" else good
    # In the plain tar, which has no checksum of the contents, the header of "notes.bin".
    at = good.index(b"notes.bin") if kind == "tar" else len(good) // 2
    bad = {
        "cut": good[: len(good) // 2],
        "changed": good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :],
        "page": b"<!DOCTYPE html><html>Log in" * 100,
    }
    dataset = served(server, bad[damage], f"toy.{kind}")
    assert_is_refused(dataset, place, "is damaged, or no archive .* the same command fetches it again")
    server.data = good
    download(dataset, place, progress=False)
    assert_is_whole(place, LARGE)


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


def test_a_state_that_cannot_be_read_begins_anew(server, place):
    dataset = served(server, zipped(LARGE))
    break_off(server, dataset, place)
    (place.parent / ".toy.download" / "toy.zip.part.json").write_bytes(b"\0\0")
    download(dataset, place, progress=False)
    assert ranges(server) == [None, None]
    assert_is_whole(place, LARGE)
