"""An environment of toy faces."""

from __future__ import annotations

import pytest
from writers.environments import Toy, make

from face_align_env import FaceAlignEnv


@pytest.fixture
def env(toy_dataset: Toy) -> FaceAlignEnv:
    return make(toy_dataset())
