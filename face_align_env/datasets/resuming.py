"""Resumable downloads over HTTP."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from face_align_env.datasets.base import Archive, FaceDataset
from face_align_env.datasets.unpacking import ArchiveError, DownloadError, in_bytes
from face_align_env.files import write_json

_PIECE = 1 << 16  # bytes, of connections: a piece that does not come whole is lost
_TIMEOUT = (30.0, 60.0)  # seconds: to connect, and between two pieces
_VALIDATORS = ("etag", "last-modified")  # the first that the server gives is sent back as If-Range


def state_file(part: Path) -> Path:
    """Where the server's answer about a partial file is kept."""
    return part.with_name(f"{part.name}.json")


class Resuming:
    """A downloader for pooch that resumes an interrupted download.

    The bytes are collected in ``part``. The file beside it holds what the server said of the file when they were
    begun; only a server that still says the same is asked for the rest (RFC 9110, sections 13.1.5 and 14).
    """

    def __init__(self, dataset: type[FaceDataset], archive: Archive, part: Path, progress: bool) -> None:
        self._dataset = dataset
        self._archive = archive
        self._part = part
        self._state = state_file(part)
        self._progress = progress

    def __call__(self, url: str, output_file: str, pooch: object, check_only: bool = False) -> None:
        self._fetch()
        os.replace(self._part, output_file)
        self._state.unlink(missing_ok=True)

    def _kept(self) -> tuple[int, dict[str, Any]]:
        """How many bytes can be gone on from, and what the server said of their file; 0: begin."""
        state = read_record(self._state)
        if state.get("url") != self._archive.url or _validator(state) is None or not self._part.is_file():
            return 0, {}
        return self._part.stat().st_size, state

    def _discard(self) -> None:
        self._part.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)

    def _fetch(self) -> None:
        import requests

        offset, state = self._kept()
        # Bytes as they are on the server: a compressed transfer has other positions.
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": _validator(state) or ""}
        try:
            response = requests.get(self._archive.url, headers=headers, stream=True, timeout=_TIMEOUT)
        except requests.RequestException as error:
            raise self._failed(f"{self._archive.url} cannot be reached ({error}).") from error
        with response:
            status, (begin, total) = response.status_code, _place(response)
            if status == 200:
                self._receive(response, 0, total)
            elif offset and status == 206 and begin == offset and _is_same(response, total, state):
                self._receive(response, offset, total)
            elif offset and status in (206, 416):
                # 416 for a whole file: the last call was killed before it could rename it.
                if status == 206 or not total == offset == state.get("num_bytes"):
                    self._discard()
                    self._fetch()
            else:
                raise self._refused(response)

    def _receive(self, response: Any, offset: int, total: int | None) -> None:
        """Append the response's bytes to the part, or begin it anew where ``offset`` is 0.

        :param total: bytes of the whole file; None: not said
        """
        import urllib3

        if not offset:
            self._discard()
            if total is not None and self._archive.num_bytes not in (None, total):
                raise wrong_size(self._dataset, self._archive, total)
        if total is not None:
            # Pictures hardly shrink, so what is unpacked is about as large as the archive.
            check_room(f"Dataset '{self._dataset.name}'", self._part.parent, 2 * total - offset)
        try:
            if not offset:
                said = {name: response.headers.get(name) for name in _VALIDATORS}
                write_json(self._state, {"url": self._archive.url, "num_bytes": total, **said})
            with bytes_bar(self._progress, self._dataset.name, total, offset) as bar, self._part.open("ab") as file:
                # Not iter_content: it would unpack a .tar.gz that the server calls a compressed transfer.
                for chunk in response.raw.stream(_PIECE, decode_content=False):
                    file.write(chunk)
                    bar.update(len(chunk))
        except urllib3.exceptions.HTTPError as error:
            raise self._failed(f"The connection to {self._archive.url} broke off ({error}).") from error
        except OSError as error:  # of the disk: urllib3 gives those of the connection another class
            more = "more" if total is None else f"{in_bytes(2 * total - self._kept()[0])} more"
            raise self._failed(
                f"'{self._part}' cannot be written to ({error.strerror}). Archive and dataset take {more} in "
                f"'{self._part.parent.parent}': make room, or choose another folder."
            ) from error
        size = self._part.stat().st_size
        if total is not None and size < total:
            raise self._failed(
                f"The connection to {self._archive.url} broke off at {in_bytes(size)} of {in_bytes(total)}."
            )

    def _refused(self, response: Any) -> DownloadError:
        status = response.status_code
        cure = (
            "Try again later."
            if status == 429 or status >= 500
            else f"The archive may have moved: get it by hand. {self._dataset.how_to_get}"
        )
        return self._failed(f"The server answers {status} {response.reason} for {self._archive.url}. {cure}")

    def _failed(self, message: str) -> DownloadError:
        kept, _ = self._kept()
        if kept:
            return DownloadError(
                f"{message} {in_bytes(kept)} are kept in '{self._part}'; the same command goes on there."
            )
        self._discard()
        return DownloadError(f"{message} Nothing is kept; the same command begins again.")


def _validator(state: dict[str, Any]) -> str | None:
    """What the server is to compare before it sends a rest; a weak ETag may not be used so (RFC 9110, 13.1.5)."""
    for name in _VALIDATORS:
        value = state.get(name)
        if isinstance(value, str) and value and not value.startswith("W/"):
            return value
    return None


def _place(response: Any) -> tuple[int | None, int | None]:
    """First byte, and size of the whole file, of what a response holds; None where it does not say."""
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", response.headers.get("Content-Range", ""))
    if match is None:
        return None, None
    begin, total = match.groups()
    return None if begin is None else int(begin), None if total is None else int(total)


def _is_same(response: Any, total: int | None, state: dict[str, Any]) -> bool:
    """Whether a rest is of the file that was begun; for servers that send it without having compared."""
    pairs = [(total, state.get("num_bytes")), *((response.headers.get(name), state.get(name)) for name in _VALIDATORS)]
    return all(now is None or then is None or now == then for now, then in pairs)


def wrong_size(dataset: type[FaceDataset], archive: Archive, size: int) -> ArchiveError:
    return ArchiveError(
        f"The archive of '{dataset.name}' is not the expected one: {archive.url} has {size:,} bytes instead of "
        f"{archive.num_bytes:,}. It was not kept. See whether there is a newer version of this package, or add "
        "--accept-changed (accept_changed=True)."
    )


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none that can be read."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def check_room(what: str, folder: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold (a quota shows only when it is met)."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DownloadError(
            f"{what} takes about {in_bytes(needed)} in '{folder}', where {in_bytes(free)} are free. Make room, or "
            "choose another folder; what was fetched so far is kept."
        )


def bytes_bar(progress: bool, what: str, total: int | None = None, done: int = 0) -> Any:
    from face_align_env.progress import Progress

    return Progress(desc=what, total=total, initial=done, unit="B", unit_scale=True, disable=not progress)
