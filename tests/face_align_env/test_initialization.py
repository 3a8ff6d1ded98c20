"""x_0 from a name, a file or a function."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from writers.release import card_of, micro_gen, micro_lrn, write_bundle

from face_align_env import released
from face_align_env.initialization import GENInitializer, Initializer, MeanShape, make_initializer, released_gen
from face_align_env.keywords import Keywords, make_task
from face_align_env.landmarks import get_scheme
from face_align_env.networks.gen import GEN
from face_align_env.networks.weights import WeightsError

CROPS = np.zeros((3, 256, 256, 3), dtype=np.uint8)
SCHEME = get_scheme(68)


def never() -> Any:
    raise AssertionError("the mean shape was not asked for")


def test_mean_shape_is_the_same_for_every_face() -> None:
    shape = np.random.default_rng(0).uniform(0, 256, (68, 2))
    shapes = MeanShape(shape.astype(np.float32))(CROPS)
    assert shapes.dtype == np.float32
    np.testing.assert_array_equal(shapes, np.stack([shape.astype(np.float32)] * 3))


def test_mean_by_name_asks_for_the_mean_shape() -> None:
    shape = np.ones((68, 2), dtype=np.float32)
    initializer = make_initializer("mean", SCHEME, lambda: shape)
    assert isinstance(initializer, MeanShape)
    np.testing.assert_array_equal(initializer.shape, shape)


def test_a_function_is_an_initializer() -> None:
    def centre(crops: np.ndarray) -> np.ndarray:
        return np.full((len(crops), 68, 2), 128, dtype=np.float32)

    assert isinstance(centre, Initializer)
    assert make_initializer(centre, SCHEME, never) is centre


def test_what_is_neither_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'median' is neither .* face-align pretrain gen"):
        make_initializer("median", SCHEME, never)


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gen.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"gen\.safetensors"):
        make_initializer(path, SCHEME, never)


Release = Callable[[str, int], GEN]


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Release:
    """``release("300w-68", 68)`` puts weights and their card where releases are looked for; gives their GEN."""
    monkeypatch.setattr(released, "FOLDER", tmp_path / "weights")

    def make(name: str, num_landmarks: int) -> GEN:
        path = tmp_path / "weights" / f"{name}.safetensors"
        gen, lrn = micro_gen(num_landmarks), micro_lrn(num_landmarks)
        write_bundle(path, gen, lrn)
        path.with_suffix(".json").write_text(json.dumps(card_of(path, gen, lrn)))
        return gen

    return make


def test_without_releases_there_is_no_gen(release: Release) -> None:
    assert released_gen(SCHEME) is None
    with pytest.warns(UserWarning, match="face-align pretrain gen"):
        make_task(Keywords("synthetic", dataset_options={"size": 2}))


def test_photos_and_drawn_faces_start_from_their_own_kind(release: Release) -> None:
    for name, num_landmarks in (("300w-68", 68), ("synthetic-68", 68), ("synthetic-29", 29), ("300w-19", 19)):
        release(name, num_landmarks)
    assert released_gen(SCHEME) == "300w-68"
    assert [released_gen(SCHEME, dataset) for dataset in ("300w", "ytf", "300w+ytf", "toy")] == ["300w-68"] * 4
    assert released_gen(SCHEME, "synthetic") == "synthetic-68"
    assert released_gen(get_scheme(29), "cofw") is None, "not from drawn faces"
    assert released_gen(get_scheme(19), "synthetic") is None


def test_episodes_start_from_the_released_gen_of_their_dataset(release: Release) -> None:
    release("300w-68", 68)
    gen = release("synthetic-68", 68)
    with torch.no_grad():
        gen.mean_shape += 7
    path = released.FOLDER / "synthetic-68.safetensors"
    write_bundle(path, gen, micro_lrn())
    path.with_suffix(".json").write_text(json.dumps(card_of(path, gen, micro_lrn())))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = make_task(Keywords("synthetic", dataset_options={"size": 2})).initializer
    assert isinstance(drawn, GENInitializer)
    torch.testing.assert_close(drawn.gen.mean_shape, gen.mean_shape, rtol=0, atol=0)


def test_a_release_is_an_initializer_by_its_name(release: Release) -> None:
    gen = release("300w-68", 68)
    initializer = make_initializer("300w-68", SCHEME, never)
    assert isinstance(initializer, GENInitializer)
    shapes = initializer(CROPS)
    assert shapes.dtype == np.float32
    with torch.no_grad():
        np.testing.assert_allclose(shapes, gen(torch.from_numpy(CROPS)), atol=0.1)
    with pytest.raises(ValueError, match=r"'300w-68' predicts 68 landmarks, the dataset has 29"):
        make_initializer("300w-68", get_scheme(29), never)
    with pytest.raises(ValueError, match=r"'300w-67' is neither .* released weights \(300w-68\)"):
        make_initializer("300w-67", SCHEME, never)


def test_the_file_of_a_release_is_an_initializer_too(release: Release) -> None:
    release("300w-68", 68)
    by_file = make_initializer(released.FOLDER / "300w-68.safetensors", SCHEME, never)
    np.testing.assert_array_equal(by_file(CROPS), make_initializer("300w-68", SCHEME, never)(CROPS))


def test_a_damaged_release_is_refused(release: Release) -> None:
    release("300w-68", 68)
    path = released.FOLDER / "300w-68.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"300w-68\.safetensors' is not the file that its card describes"):
        make_initializer("300w-68", SCHEME, never)
