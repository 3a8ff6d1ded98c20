"""x_0 from a name, a file or a function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from face_align_env.initialization import Initializer, MeanShape, make_initializer, released_gen
from face_align_env.landmarks import get_scheme

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


def test_released_weights_are_a_file_or_none() -> None:
    path = released_gen(get_scheme(29))
    assert path is None or Path(path).is_file()
