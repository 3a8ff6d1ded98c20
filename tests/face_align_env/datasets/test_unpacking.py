"""Unpacking: hostile and damaged archives are refused, and leave nothing."""

from __future__ import annotations

import gzip
import stat
import tarfile
import zipfile

import pytest
from writers.downloads import FILES, LARGE, NOTHING_KEPT, assert_is_whole, beside, served, tarred, zipped

from face_align_env.datasets.download import ArchiveError, Limits, download


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
