"""Which face FaceAlign-v0 plays next, in which view, and where its episode starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from writers.environments import A, Toy, corner, large_action, make
from writers.w300 import FOLDERS, write_300w

from face_align_env import FaceAlignEnv
from face_align_env.prepared import PreparedFaces

# -- which face, and seeds ---------------------------------------------------------------------------------------------


def test_training_split_is_played_in_shuffled_passes(env: FaceAlignEnv) -> None:
    env.reset(seed=1)
    env.reset(seed=0)
    passes = [[env.reset()[1]["image_index"] for _ in range(6)] for _ in range(3)]
    env.reset(seed=0)
    first = [env.episodes.index[0], *(env.reset()[1]["image_index"] for _ in range(5))]
    assert sorted(first) == list(range(6))
    assert len({tuple(order) for order in passes}) == 3


def test_test_split_is_played_in_order(toy_dataset: Toy) -> None:
    env = make(toy_dataset("test", size=3), initializer=corner)
    assert [env.reset()[1]["image_index"] for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert env.reset(seed=4)[1]["image_index"] == 0, "a seed begins the order anew"


def test_index_chooses_the_face_and_leaves_the_pass_alone(toy_dataset: Toy) -> None:
    env = make(toy_dataset("test"), initializer=corner)
    indices = [env.reset(options=options)[1]["image_index"] for options in ({}, {"index": 5}, None, {"index": 0}, None)]
    assert indices == [0, 5, 1, 0, 2]


@pytest.mark.parametrize("augment", [False, True])
def test_a_seed_determines_everything(toy_dataset: Toy, augment: bool) -> None:
    def play() -> list[Any]:
        env = make(toy_dataset(), augment=augment)
        rng = np.random.default_rng(0)
        seen = [env.reset(seed=7)]
        for _ in range(3):
            seen.append(env.step(rng.normal(0, 4, A)))
        return [*seen, env.reset()]

    for one, other in zip(play(), play(), strict=True):
        np.testing.assert_equal(one, other)


def test_views_differ_from_episode_to_episode(toy_dataset: Toy) -> None:
    env = make(toy_dataset(), augment=True)
    first = env.reset(seed=0, options={"index": 1})
    second = env.reset(options={"index": 1})
    assert first[1]["view_seed"] != second[1]["view_seed"]
    assert (first[0]["patches"] != second[0]["patches"]).any()


def test_index_and_view_seed_identify_the_crop(toy_dataset: Toy) -> None:
    env = make(toy_dataset(), augment=True)
    _, info = env.reset(seed=3)
    crops = env.faces.crops(np.array([info["image_index"]]), np.array([info["view_seed"]]))
    np.testing.assert_array_equal(env.episodes.padded[:, 30:-30, 30:-30], crops)


def test_what_was_returned_stays_as_it_was(env: FaceAlignEnv) -> None:
    observation, info = env.reset(seed=0)
    kept = [observation["patches"].copy(), observation["history"].copy(), info["landmarks"].copy()]
    action = large_action()
    env.step(action)
    env.reset()
    np.testing.assert_equal([observation["patches"], observation["history"], info["landmarks"]], kept)
    np.testing.assert_array_equal(action, large_action())


# -- where the episode starts ------------------------------------------------------------------------------------------


def test_mean_start_is_the_mean_of_the_training_split(toy_dataset: Toy) -> None:
    env = make(toy_dataset("train"))
    _, info = env.reset(seed=0)
    np.testing.assert_allclose(info["landmarks"], PreparedFaces(toy_dataset("train")).landmarks.mean(0), rtol=1e-4)


def test_mean_start_of_a_named_test_split_is_that_of_its_training_split() -> None:
    envs = [
        gym.make("FaceAlign-v0", split=split, dataset_options={"size": 4}, initializer="mean")
        for split in ("train", "test")
    ]
    starts = [env.reset()[1]["landmarks"] for env in envs]
    np.testing.assert_array_equal(*starts)


def test_mean_start_needs_the_training_split(toy_dataset: Toy) -> None:
    with pytest.raises(ValueError, match="comes from the training split"):
        make(toy_dataset("test"), initializer="mean")


def test_gen_without_weights_warns_and_starts_from_the_mean(toy_dataset: Toy, monkeypatch: Any) -> None:
    monkeypatch.setattr("face_align_env.keywords.released_gen", lambda *_: None)
    with pytest.warns(UserWarning, match="face-align pretrain gen") as caught:
        env = gym.make("FaceAlign-v0", dataset=toy_dataset())
    assert len([each for each in caught if "pretrain gen" in str(each.message)]) == 1
    np.testing.assert_array_equal(env.reset()[1]["landmarks"], PreparedFaces(toy_dataset()).mean_shape())


@pytest.mark.parametrize("shape", [(1, 68), (1, 29, 2)], ids=str)
def test_initializer_must_give_shapes(toy_dataset: Toy, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"finite shapes \(1, 68, 2\)"):
        make(toy_dataset(), initializer=lambda crops: np.zeros(shape)).reset()


def test_initializer_must_give_numbers(toy_dataset: Toy) -> None:
    with pytest.raises(ValueError, match="not finite"):
        make(toy_dataset(), initializer=lambda crops: np.full((1, 68, 2), np.nan)).reset()


def test_the_test_split_may_have_another_name(tmp_path: Path) -> None:
    """Whoever plays a task on held-out faces need not know what a dataset calls them."""
    write_300w(tmp_path, FOLDERS)
    keywords: dict[str, Any] = {"dataset": "300w", "root": tmp_path, "landmarks": 68, "initializer": "mean"}
    with pytest.warns(UserWarning, match="of the protocol's"):
        env = gym.make("FaceAlign-v0", split="test", **keywords)
    assert env.unwrapped.faces.prepared.dataset.split == "full"
    with pytest.raises(ValueError, match="has no split 'tests'"):
        gym.make("FaceAlign-v0", split="tests", **keywords)
