"""A dataset in an archive, and a server that sends it, as faithfully as a test wants."""

from __future__ import annotations

import io
import random
import re
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from face_align_env.datasets import Annotation, BadFaceError, DatasetNotFoundError, FaceDataset
from face_align_env.datasets.base import Archive, landmarks_box
from writers.images import shape_of
from writers.support import ids_of

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
