"""Image files from anywhere: named formats alone, at most so many pixels, and one message that names the file."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image
from trust.refusals import Refused
from writers.pts import write_pts_folder

from face_align_env.datasets.base import IMAGE_FORMATS, MAX_PIXELS, BadFaceError, read_image, read_image_size
from face_align_env.datasets.verification import verify

NO_IMAGE = r"is no image \(\d+ bytes; JPEG, PNG, WEBP, BMP, TIFF, GIF are read\)\. Get it again"
DAMAGED = r"is no image|Cannot read the image .*Get it again"
TOO_LARGE = r"has .*pixels; at most 67 million are read\. Make it smaller"

NOISE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(NOISE).save(buffer, kind)
    return buffer.getvalue()


def png(width: int, height: int, depth: int = 8, rows: bytes = b"") -> bytes:
    """A PNG that says so, whatever it holds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bmp(width: int, height: int) -> bytes:
    return encoded("BMP")[:18] + struct.pack("<ii", width, height) + encoded("BMP")[26:]


def gif(width: int, height: int) -> bytes:
    return encoded("GIF")[:6] + struct.pack("<HH", width, height) + encoded("GIF")[10:]


def tiff(width: int, height: int) -> bytes:
    data = encoded("TIFF")
    for tag, value in ((256, width), (257, height)):
        at = data.index(struct.pack("<HH", tag, 4)) if struct.pack("<HH", tag, 4) in data else -1
        if at < 0:
            at = data.index(struct.pack("<HHI", tag, 3, 1))
        data = data[:at] + struct.pack("<HHII", tag, 4, 1, value) + data[at + 12 :]
    return data


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 40\n%%EndComments\n"

# name -> (file name, contents, message)
BAD_INPUTS: dict[str, tuple[str, bytes, str]] = {
    "a PostScript program named .png": ("a.png", POSTSCRIPT + b"(x) (w) file\nshowpage\n", NO_IMAGE),
    "a PostScript program without end": ("a.jpg", POSTSCRIPT + b"{} loop\n", NO_IMAGE),
    "PostScript with a binary header": ("a.png", b"\xc5\xd0\xd3\xc6" + bytes(26) + POSTSCRIPT, NO_IMAGE),
    "an empty file": ("a.png", b"", NO_IMAGE),
    "one byte": ("a.jpg", b"\xff", NO_IMAGE),
    "a page of HTML": ("a.jpg", b"<html><body>Not found</body></html>", NO_IMAGE),
    "SVG": ("a.png", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", NO_IMAGE),
    "PDF": ("a.jpg", b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n", NO_IMAGE),
    "a zip archive": ("a.png", b"PK\x03\x04" + bytes(60), NO_IMAGE),
    "a pointer of Git LFS": ("a.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", NO_IMAGE),
    "noise": ("a.jpg", NOISE.tobytes(), NO_IMAGE),
    "zeros": ("a.png", bytes(5000), NO_IMAGE),
    "a PNG of 13,300 x 13,300 pixels": ("a.png", png(13_300, 13_300, 1), TOO_LARGE),
    "a PNG of 100,000 x 100,000 pixels": ("a.png", png(100_000, 100_000), TOO_LARGE),
    "a PNG of one very long row": ("a.png", png(1 << 30, 1), TOO_LARGE),
    "a PNG one pixel above the limit": ("a.png", png(MAX_PIXELS + 1, 1, 1), TOO_LARGE),
    "a BMP of 60,000 x 60,000 pixels": ("a.bmp", bmp(60_000, 60_000), TOO_LARGE),
    "a GIF of 65,535 x 65,535 pixels": ("a.gif", gif(65_535, 65_535), TOO_LARGE),
    "a TIFF of 90,000 x 90,000 pixels": ("a.tiff", tiff(90_000, 90_000), TOO_LARGE),
    "a PNG without pixels": ("a.png", png(40, 40), DAMAGED),
    "a PNG without a row": ("a.png", png(40, 0), DAMAGED),
    "a PNG of an unknown depth": ("a.png", png(40, 40, 7), DAMAGED),
}
for _kind in ("PPM", "TGA", "PCX", "ICO", "ICNS", "SGI", "DDS", "JPEG2000", "IM", "MSP", "XBM", "PDF", "EPS"):
    try:
        _buffer = io.BytesIO()
        Image.fromarray(NOISE).convert("1" if _kind in ("MSP", "XBM") else "RGB").save(_buffer, _kind)
    except (OSError, KeyError):  # this Pillow does not write it
        continue
    BAD_INPUTS[f"{_kind} named .png"] = ("a.png", _buffer.getvalue(), NO_IMAGE)
for _kind in IMAGE_FORMATS:
    for _part in (0.02, 0.1, 0.3, 0.6, 0.9):
        _data = encoded(_kind)
        BAD_INPUTS[f"{_kind} of which {_part:.0%} are there"] = ("a.png", _data[: int(_part * len(_data))], DAMAGED)


pytestmark = pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning", "ignore:Truncated")


@pytest.fixture(autouse=True)
def no_ghostscript(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: object, **options: object) -> None:
        raise AssertionError("Ghostscript was run")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_a_bad_image_is_one_message_that_names_it(name: str, tmp_path: Path, refused: Refused) -> None:
    file_name, data, message = BAD_INPUTS[name]
    path = tmp_path / file_name
    path.write_bytes(data)
    with pytest.raises(BadFaceError, match=message) as caught:
        read_image(path)
    assert f"'{path}'" in str(caught.value)
    refused(caught.value)
    for upright in (False, True):
        with pytest.raises(BadFaceError, match=message):
            read_image(path, upright)


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_the_named_formats_are_read(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(kind))
    assert read_image(tmp_path / "a.png").shape == (40, 50, 3)
    assert read_image_size(tmp_path / "a.png") == (50, 40)


def test_of_a_gif_that_moves_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.new("L", (9, 8), level) for level in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert set(np.unique(read_image(tmp_path / "a.gif"))) == {10}


@pytest.mark.parametrize("read", [read_image, read_image_size])
def test_what_is_too_large_is_refused_before_it_is_decoded(
    read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(png(13_300, 13_300, 1))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(BadFaceError, match=TOO_LARGE):
        read(tmp_path / "a.png")


def test_verification_runs_no_program(tmp_path: Path) -> None:
    write_pts_folder(tmp_path)
    next(tmp_path.rglob("*.jpg")).write_bytes(POSTSCRIPT + b"{} loop\n")
    for decode in (False, True):
        reports = verify("pts", str(tmp_path), decode=decode, progress=False)
        problems = [problem for report in reports for problem in report.problems]
        assert len(problems) == 1
        assert re.search(NO_IMAGE, problems[0])
