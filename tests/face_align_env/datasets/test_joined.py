"""Joined datasets are their parts, one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from writers.images import write_image, write_pair
from writers.support import ids_of
from writers.w300 import write_300w
from writers.ytf import write_ytf

from face_align_env.datasets import dataset_splits, load_dataset
from face_align_env.datasets.joined import JoinedDataset

pytestmark = pytest.mark.filterwarnings("ignore:300w .* of the protocol's:UserWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a small 300W and a small YouTube Faces, each under its registry name."""
    root = tmp_path_factory.mktemp("data")
    write_300w(root / "300w")
    write_ytf(root / "ytf")
    return root


def test_joined_datasets_follow_one_another(data):
    joined = load_dataset("300w+ytf", "full", data)
    first, second = load_dataset("300w", "full", data / "300w"), load_dataset("ytf", "full", data / "ytf")
    assert joined.name == "300w+ytf"
    assert len(joined) == len(first) + len(second)
    assert ids_of(joined) == [f"300w/{name}" for name in ids_of(first)] + [f"ytf/{name}" for name in ids_of(second)]
    for i, face in ((len(first) - 1, first[-1]), (len(first), second[0])):
        np.testing.assert_array_equal(joined[i].landmarks, face.landmarks)
        np.testing.assert_array_equal(joined[i].image, face.image)


def test_datasets_that_do_not_fit_together_are_refused(data, tmp_path):
    write_pair(tmp_path / "train", "a", k=29)
    parts = [load_dataset("pts", root=tmp_path), load_dataset("ytf", root=data / "ytf")]
    with pytest.raises(ValueError, match=r"'pts\+ytf' cannot be joined: their numbers of landmarks differ"):
        JoinedDataset(parts)
    with pytest.raises(ValueError, match="at least one dataset"):
        JoinedDataset([])
    with pytest.raises(ValueError, match="Dataset 'pts' has no split 'full'"):
        load_dataset("ytf+pts", "full", data)


def test_datasets_of_different_normalisers_are_refused():
    parts = [load_dataset("synthetic", size=1, normalizer=name) for name in ("inter_ocular", "face_size")]
    with pytest.raises(ValueError, match="'synthetic\\+synthetic' cannot be joined: their normalisers differ"):
        JoinedDataset(parts)


def test_a_joined_dataset_tells_its_parts_and_a_plain_one_itself(data):
    joined = load_dataset("300w+ytf", "full", data)
    assert [part.name for part in joined.parts] == ["300w", "ytf"]
    assert [len(part) for part in joined.parts] == [9, 4 + 2]
    for part in joined.parts:
        assert part.parts == (part,)
        assert part.split == "full"


def test_each_image_of_a_joined_dataset_has_the_size_that_its_part_tells(data, tmp_path):
    for name, size in (("a", (20, 30)), ("b", (40, 50))):
        write_pair(tmp_path / "pts" / "train", name)
        write_image(tmp_path / "pts" / "train" / f"{name}.jpg", size=size)
    joined = JoinedDataset([load_dataset("pts", root=tmp_path / "pts"), load_dataset("ytf", root=data / "ytf")])
    assert [joined.image_size(i) for i in range(3)] == [(30, 20), (50, 40), (60, 48)]


def test_each_part_of_a_joined_dataset_warns_of_its_own_protocol(data):
    with pytest.warns(UserWarning, match="300w full: 9 of the protocol's 689 faces") as caught:
        joined = load_dataset("300w+ytf", "full", data)
    assert len(caught) == 1
    assert [len(part.missing()) for part in joined.parts] == [1, 0]
    assert joined.missing() == [f"300w: {joined.parts[0].missing()[0]}"]


def test_a_joined_dataset_offers_the_splits_that_all_parts_have(data):
    assert load_dataset("300w+ytf", "full", data).splits == ("train", "common", "challenging", "full")
    assert dataset_splits("300w+ytf") == dataset_splits("ytf+300w") == ("train", "common", "challenging", "full")
    assert dataset_splits("300w") == ("train", "common", "challenging", "full", "private")
    assert dataset_splits("synthetic+pts+300w") == ("train",)
    with pytest.raises(ValueError, match="Unknown dataset 'nobody'"):
        dataset_splits("300w+nobody")


def test_the_fingerprint_of_a_joined_dataset_changes_with_any_part(tmp_path):
    write_300w(tmp_path / "300w")
    write_ytf(tmp_path / "ytf")
    fingerprints = [load_dataset("300w+ytf", "full", tmp_path).fingerprint()]
    assert load_dataset("ytf+300w", "full", tmp_path).fingerprint() not in fingerprints
    for image in ("300w/ibug/image_0001.jpg", "ytf/test/Paul_Dirac_00.jpg"):
        write_image(tmp_path / image, size=(30, 40))
        after = load_dataset("300w+ytf", "full", tmp_path).fingerprint()
        assert after not in fingerprints
        fingerprints.append(after)


def test_a_joined_dataset_has_no_fingerprint_when_a_part_has_none(data, toy_dataset):
    known = load_dataset("ytf", root=data / "ytf")
    assert known.fingerprint()
    assert JoinedDataset([known, toy_dataset()]).fingerprint() is None
