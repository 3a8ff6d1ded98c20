"""Faces held out of a training split: every face on one side, and every subject."""

from __future__ import annotations

from pathlib import Path

import pytest
from writers.support import ids_of
from writers.ytf import write_ytf

from face_align_env.datasets import dataset_splits, load_dataset
from face_align_env.datasets.base import uniform_hash
from face_align_env.datasets.held_out import HeldOut
from face_align_env.pretrain.recipes import Data
from face_align_env.pretrain.settings import SettingError


def test_two_sides_are_the_training_split() -> None:
    whole = load_dataset("synthetic", "train", size=60)
    train, validation = (load_dataset("synthetic", side, size=60, held_out=0.3) for side in ("train", "validation"))
    assert sorted(ids_of(train) + ids_of(validation)) == ids_of(whole)
    assert not set(ids_of(train)) & set(ids_of(validation))
    assert 5 < len(validation) < 30
    assert train.is_train
    assert not validation.is_train
    assert train.test_split == validation.test_split == "validation"
    assert (train[0].image == whole[ids_of(whole).index(ids_of(train)[0])].image).all()
    assert train.fingerprint() != validation.fingerprint() != whole.fingerprint()


def test_the_test_split_stays_as_it_is() -> None:
    assert ids_of(load_dataset("synthetic", "test", size=5, held_out=0.3)) == ids_of(
        load_dataset("synthetic", "test", size=5)
    )


def test_a_face_stays_on_its_side_when_there_are_more() -> None:
    few, many = (set(ids_of(load_dataset("synthetic", "validation", size=n, held_out=0.5))) for n in (20, 40))
    assert few < many


def test_a_person_is_on_one_side(tmp_path: Path) -> None:
    write_ytf(tmp_path)
    whole = load_dataset("ytf", "train", tmp_path)
    people = {whole.subject(i) for i in range(len(whole))}
    assert len(people) < len(whole), "somebody has several frames"
    for person in people:  # a fraction just above the person's place holds all of the person's frames out
        place = uniform_hash(f"held out {person}")
        if not 0 < place < 0.89:
            continue
        held = HeldOut(whole, "validation", place + 1e-6)
        frames = [i for i in range(len(whole)) if whole.subject(i) == person]
        assert {whole.annotation(i).id for i in frames} <= set(ids_of(held))


def test_of_joined_datasets_each_part_is_divided() -> None:
    sides = [load_dataset("synthetic+synthetic", side, size=20, held_out=0.4) for side in ("train", "validation")]
    assert [side.split for side in sides] == ["train", "validation"]
    assert sum(map(len, sides)) == 40
    assert sides[0].test_split == "validation"
    assert sides[0].subject(0).startswith("synthetic/")


@pytest.mark.parametrize("fraction", [0, -0.1, 0.95, float("nan"), True])
def test_a_fraction_that_makes_no_sense_is_refused(fraction: float) -> None:
    with pytest.raises(ValueError, match="held_out must be"):
        load_dataset("synthetic", "train", size=4, held_out=fraction)
    with pytest.raises(SettingError, match="held_out must be"):
        Data(options={"held_out": fraction}).check()


def test_other_splits_and_empty_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="leaves 'synthetic' no faces in its split"):
        load_dataset("synthetic", "validation", size=1, held_out=0.001)
    with pytest.raises(ValueError, match="'test' is another one"):
        HeldOut(load_dataset("synthetic", "test", size=2), "train", 0.5)
    with pytest.raises(ValueError, match="no split 'validation'"):
        load_dataset("synthetic", "validation", size=4)


def test_a_run_is_measured_on_the_faces_held_out() -> None:
    data = Data(options={"size": 40, "held_out": 0.3})
    data.check()
    assert data.splits == ("train", "validation")
    assert data.prepare().dataset.split == "validation"
    plain = Data(options={"size": 4})
    assert plain.splits == dataset_splits("synthetic")
    assert plain.prepare().dataset.split == "test"
