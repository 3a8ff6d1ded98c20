"""Prepared faces on disk: the same pixels, found again only under the same key, and never half there."""

from __future__ import annotations

import errno
import json
import os
import pickle
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from face_align_env import files, store
from face_align_env.datasets import Annotation, BadFaceError, load_dataset
from face_align_env.datasets.joined import JoinedDataset
from face_align_env.datasets.synthetic.dataset import SyntheticFaces
from face_align_env.keywords import Keywords, make_task
from face_align_env.prepared import PreparedFaces, prepare_on_disk


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for prepared faces."""
    folder = tmp_path / "gehütete Gesichter"
    monkeypatch.setenv("FACE_ALIGN_CACHE", str(folder))
    return folder


@pytest.fixture
def kept_faces(toy_dataset: Any) -> Callable[..., Any]:
    """Toy faces that can be kept; ``reads`` and ``annotated`` list the faces that were asked for."""

    class Kept(toy_dataset):  # type: ignore[misc]
        def __init__(self, split: str = "train", size: int = 6, version: int = 0) -> None:
            super().__init__(split, size)
            self.version = version
            self.reads: list[int] = []
            self.annotated: list[int] = []

        def fingerprint(self) -> dict[str, Any]:
            return {"version": self.version, "size": len(self)}

        def annotation(self, index: int) -> Annotation:
            self.annotated.append(index)
            return super().annotation(index)

        def image(self, index: int) -> npt.NDArray[np.uint8]:
            self.reads.append(index)
            return super().image(index)

    return Kept


def folders(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/contexts-*"))


def test_a_second_start_reads_no_annotation_and_no_image(cache: Path, kept_faces: Any, toy_dataset: Any) -> None:
    first = PreparedFaces(kept_faces())
    crops = [first.context(i).copy() for i in (4, 1)]
    dataset = kept_faces()
    again = PreparedFaces(dataset)
    for index, crop in zip((4, 1), crops, strict=True):
        np.testing.assert_array_equal(again.context(index), crop)
    assert not dataset.reads
    assert not dataset.annotated
    plain = PreparedFaces(toy_dataset())  # it has no fingerprint, and is prepared in memory
    np.testing.assert_array_equal(again.context(1), plain.context(1))
    for name in ("landmarks", "transforms", "boxes", "counted", "visible", "d", "ids"):
        np.testing.assert_array_equal(getattr(again, name), getattr(plain, name), err_msg=name)
    assert again.context(0) is not None
    assert dataset.reads == [0], "what is absent is prepared when it is asked for"


def test_faces_without_a_fingerprint_leave_no_trace(cache: Path, toy_dataset: Any) -> None:
    PreparedFaces(toy_dataset()).context(0)
    assert not cache.exists()


@pytest.mark.parametrize("value", ["off", "OFF", ""])
def test_nothing_is_kept_when_it_is_off(value: str, kept_faces: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACE_ALIGN_CACHE", value)
    assert store.cache_folder() is None
    dataset = kept_faces()
    prepared = PreparedFaces(dataset, max_cached=0)
    prepared.context(0)
    prepared.context(0)
    assert dataset.reads == [0, 0]
    with pytest.raises(OSError, match="FACE_ALIGN_CACHE is off"):
        prepare_on_disk(prepared, progress=False)


def test_everything_that_shapes_a_crop_is_in_its_key(
    cache: Path, kept_faces: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(**options: Any) -> Any:
        dataset = kept_faces(**{k: v for k, v in options.items() if k != "margin"})
        PreparedFaces(dataset, **{k: v for k, v in options.items() if k == "margin"}).context(0)
        return dataset

    prepare()
    for count, options in enumerate([{"version": 1}, {"margin": 0.3}, {"size": 5}, {"split": "test"}], start=2):
        assert prepare(**options).reads == [0], options
        assert len(folders(cache)) == count
    assert not prepare().reads
    with monkeypatch.context() as patch:
        patch.setattr(store, "_libraries", lambda: {"opencv": "another"})
        assert prepare().reads == [0]
    monkeypatch.setattr(kept_faces, "reader_version", 2)
    assert prepare().reads == [0]


def test_the_number_of_landmarks_shares_the_crops_and_not_the_annotations(cache: Path) -> None:
    prepared = {k: PreparedFaces(load_dataset("synthetic", landmarks=k, size=2)) for k in (68, 29, 19)}
    prepared[68].context(1)
    assert len(folders(cache)) == 1
    assert len(list(cache.glob("*/annotations-*.npz"))) == 3
    for k in (29, 19):
        again = PreparedFaces(load_dataset("synthetic", landmarks=k, size=2))
        assert again.landmarks.shape == (2, k, 2)
        np.testing.assert_array_equal(again.landmarks, prepared[k].landmarks)
        assert again.absent() == [0]


def test_an_entry_says_what_it_was_made_from(cache: Path) -> None:
    PreparedFaces(load_dataset("synthetic", size=1)).context(0)
    key = json.loads((folders(cache)[0] / "key.json").read_text())
    assert (key["dataset"], key["split"], key["size"], key["seed"]) == ("synthetic", "train", 1, 0)
    assert key["readers"] == [SyntheticFaces.reader_version]
    assert key["libraries"]["numpy"] == np.__version__


def test_joined_datasets_share_the_crops_of_their_parts(cache: Path, kept_faces: Any) -> None:
    first, second = kept_faces(size=2), kept_faces("test", size=3)
    alone = PreparedFaces(second)
    crop = alone.context(1)
    joined = PreparedFaces(JoinedDataset([first, second]))
    second.reads.clear()
    np.testing.assert_array_equal(joined.context(3), crop)
    assert not second.reads
    joined.context(0)
    assert PreparedFaces(kept_faces(size=2)).absent() == [1]
    assert joined.absent() == [1, 2, 4]
    assert joined.mapped_contexts() is None, "they are not in one file"


def test_all_crops_are_one_mapped_array(cache: Path, kept_faces: Any) -> None:
    prepared = PreparedFaces(kept_faces(size=3))
    mapped = prepared.mapped_contexts()
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, [prepared.context(i) for i in range(3)])
    mapped[:] = 0
    assert prepared.context(2).any(), "the file is not written to through it"


def test_a_crop_cannot_be_written_to_by_mistake(cache: Path, kept_faces: Any) -> None:
    prepared = PreparedFaces(kept_faces())
    prepared.context(0)
    with pytest.raises(ValueError, match="read-only"):
        prepared.context(0)[0, 0] = 1


def test_another_process_sees_what_this_one_adds(cache: Path) -> None:
    # The other process has the store open before the face is there.
    program = """
import sys
from face_align_env.datasets import load_dataset
from face_align_env.prepared import PreparedFaces
faces = load_dataset("synthetic", size=3)
prepared = PreparedFaces(faces)
print(prepared.absent(), flush=True)
sys.stdin.readline()
type(faces).image = None  # the image must not be asked for
print(int(prepared.context(2).sum()), prepared.absent())
"""
    other = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    assert other.stdout is not None
    assert other.stdout.readline().strip() == "[0, 1, 2]"
    crop = PreparedFaces(load_dataset("synthetic", size=3)).context(2)
    answer, _ = other.communicate("\n", timeout=60)
    assert answer.strip() == f"{int(crop.sum())} [0, 1]"


@pytest.mark.parametrize("workers", [1, 2])
def test_all_faces_are_prepared_and_only_once(cache: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("face_align_env.prepared._CHUNK", 2)
    prepared = PreparedFaces(load_dataset("synthetic", size=5))
    expected = prepared.context(3).copy()
    assert prepare_on_disk(prepared, workers, progress=False) == 4
    assert prepare_on_disk(prepared, workers, progress=False) == 0
    np.testing.assert_array_equal(prepared.context(3), expected)
    again = PreparedFaces(load_dataset("synthetic", size=5))
    again.dataset.image = None  # type: ignore[method-assign, assignment]
    uncached = PreparedFaces(load_dataset("synthetic", size=5, seed=0))
    assert [again.context(i).sum() for i in range(5)] == [uncached.context(i).sum() for i in range(5)]


def test_a_bad_image_stops_the_preparation_by_name(cache: Path, kept_faces: Any) -> None:
    dataset = kept_faces()

    def image(index: int) -> npt.NDArray[np.uint8]:
        raise BadFaceError("'x.jpg' is no image")

    dataset.image = image
    with pytest.raises(BadFaceError, match=r"x\.jpg"):
        prepare_on_disk(PreparedFaces(dataset), progress=False)


def test_prepared_faces_travel_between_processes_without_their_pixels(cache: Path, kept_faces: Any) -> None:
    prepared = PreparedFaces(load_dataset("synthetic", size=4))
    crop = prepared.context(1).copy()
    data = pickle.dumps(prepared)
    assert len(data) < crop.nbytes
    np.testing.assert_array_equal(pickle.loads(data).context(1), crop)
    shutil.rmtree(cache)  # as on another machine
    np.testing.assert_array_equal(pickle.loads(data).context(1), crop)


def damage_pixels(folder: Path) -> None:
    with (folder / "contexts.raw").open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\0" * 4096)  # a page that was not written before the power went


def damage_one_byte(folder: Path) -> None:
    with (folder / "contexts.raw").open("r+b") as file:
        file.seek(123_457)
        byte = file.read(1)[0]
        file.seek(123_457)
        file.write(bytes([byte ^ 1]))


def damage_size(folder: Path) -> None:
    path = folder / "contexts.raw"
    path.write_bytes(path.read_bytes()[:1000])


def damage_checks(folder: Path) -> None:
    (folder / "checks.raw").unlink()


def damage_annotations(folder: Path) -> None:
    for path in folder.parent.glob("annotations-*.npz"):
        path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize("damage", [damage_pixels, damage_one_byte, damage_size, damage_checks, damage_annotations])
def test_what_is_damaged_is_prepared_again(cache: Path, kept_faces: Any, damage: Callable[[Path], None]) -> None:
    crop = PreparedFaces(kept_faces()).context(0).copy()
    damage(folders(cache)[0])
    for _ in range(2):
        prepared = PreparedFaces(kept_faces())
        np.testing.assert_array_equal(prepared.context(0), crop)
    assert not prepared.dataset.reads, "and kept again"  # type: ignore[attr-defined]
    assert not prepared.dataset.annotated  # type: ignore[attr-defined]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_without_room_costs_a_warning_and_no_face(
    cache: Path, kept_faces: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 1000))
    with pytest.warns(UserWarning, match="FACE_ALIGN_CACHE"):
        prepared = PreparedFaces(kept_faces())
    assert prepared.context(0).any()
    assert not folders(cache)
    assert not list(cache.rglob(".*")), "nor anything temporary"


def test_a_disk_that_fills_up_costs_a_warning_and_no_face(
    cache: Path, kept_faces: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = PreparedFaces(kept_faces())
    monkeypatch.setattr(os, "pwrite", fill_after(100_000))
    with pytest.warns(UserWarning, match=r"No space left.*prepared anew"):
        crop = prepared.context(3)
    assert crop.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert prepared.context(3) is crop, "it is kept in memory instead, and said once"
    with pytest.raises(OSError, match="could not be kept"):
        prepare_on_disk(prepared, progress=False)
    monkeypatch.undo()
    monkeypatch.setenv("FACE_ALIGN_CACHE", str(cache))
    again = PreparedFaces(kept_faces())
    assert again.absent() == list(range(6)), "what was half written is not there"
    np.testing.assert_array_equal(again.context(3), crop)


def fill_after(num_bytes: int) -> Callable[..., int]:
    """``os.pwrite`` on a disk with room for so many bytes: the last write is short, the next one an error."""
    room, real = [num_bytes], os.pwrite

    def write(descriptor: int, data: Any, offset: int) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(descriptor, bytes(data)[: room[0]], offset)
        room[0] -= written
        return written

    return write


def test_what_is_cleared_while_it_is_open_stays_whole_for_who_has_it_open(cache: Path, kept_faces: Any) -> None:
    first = PreparedFaces(kept_faces())
    crop = first.context(0).copy()
    shutil.rmtree(store.entries()[0])
    second = PreparedFaces(kept_faces())  # makes the files anew, under the same names
    plain = second.context(1).copy()
    np.testing.assert_array_equal(first.context(0), crop)
    np.testing.assert_array_equal(first.context(1), plain)
    np.testing.assert_array_equal(second.context(0), crop)
    whole = first.mapped_contexts()
    assert whole is not None
    np.testing.assert_array_equal(whole, [second.context(i) for i in range(6)])


def test_a_damaged_crop_never_goes_into_the_mapped_array(cache: Path, kept_faces: Any) -> None:
    expected = np.array(PreparedFaces(kept_faces()).mapped_contexts())
    for damage in (damage_pixels, damage_one_byte):
        damage(folders(cache)[0])
        prepared = PreparedFaces(kept_faces())
        np.testing.assert_array_equal(prepared.mapped_contexts(), expected)
        assert prepared.dataset.reads == [0]  # type: ignore[attr-defined]


def test_what_killed_processes_have_left_is_removed(cache: Path, kept_faces: Any) -> None:
    PreparedFaces(kept_faces())
    split = folders(cache)[0].parent
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    leftover = split / f".contexts-0.{platform.node()}-{int(dead.stdout)}.tmp"
    alive = split / f".contexts-0.{platform.node()}-{os.getpid()}.tmp"
    elsewhere = split / f".contexts-0.another-{int(dead.stdout)}.tmp"
    for folder in (leftover, alive, elsewhere):
        folder.mkdir()
        (folder / "contexts.raw").write_bytes(b"0")
    files.remove_leftovers(split)
    assert [folder.exists() for folder in (leftover, alive, elsewhere)] == [False, True, True]


def test_a_place_that_cannot_be_written_costs_a_warning_and_no_face(
    tmp_path: Path, kept_faces: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FACE_ALIGN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="not kept on disk"):
        prepared = PreparedFaces(kept_faces())
    assert prepared.context(0).any()


def test_a_cache_that_is_read_only_is_read(cache: Path, kept_faces: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    crop = PreparedFaces(kept_faces()).context(0).copy()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    dataset = kept_faces()
    prepared = PreparedFaces(dataset)
    np.testing.assert_array_equal(prepared.context(0), crop)
    assert not dataset.reads
    assert prepared.context(1).any()
    assert PreparedFaces(kept_faces()).absent() == [1, 2, 3, 4, 5], "nothing was added"


def test_two_that_make_the_same_entry_end_with_one(
    cache: Path, kept_faces: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is faster: its entry appears while this one's is being made."""
    rename = Path.rename
    crops = {}

    def late(self: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        crops["other"] = PreparedFaces(kept_faces()).context(2).copy()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    dataset = kept_faces()
    prepared = PreparedFaces(dataset)
    np.testing.assert_array_equal(prepared.context(2), crops["other"])
    assert not dataset.reads
    assert len(list(cache.glob("*/*contexts-*"))) == 1


def test_entries_are_those_of_a_dataset(cache: Path, kept_faces: Any) -> None:
    assert store.entries() == []
    PreparedFaces(kept_faces()).context(0)
    PreparedFaces(load_dataset("synthetic", size=1))
    assert [path.name for path in store.entries()] == ["synthetic-train", "toy-train"]
    assert [path.name for path in store.entries("toy")] == ["toy-train"]
    context = int(np.prod(store.CONTEXT_SHAPE))
    assert context <= store.disk_usage(store.entries("toy")[0]) < 2 * context, "holes take no room"


def test_episodes_are_the_same_with_and_without_the_disk(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen() -> list[Any]:
        task = make_task(Keywords("synthetic", dataset_options={"size": 3}, initializer="mean", augment=True))
        faces = np.array([2, 0]), np.array([5, 6])
        return [task.source.crops(*faces), *task.source.annotations(*faces)]

    seen()
    kept = seen()
    monkeypatch.setenv("FACE_ALIGN_CACHE", "off")
    for one, other in zip(kept, seen(), strict=True):
        np.testing.assert_array_equal(one, other)
