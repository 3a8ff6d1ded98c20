"""Episodes leave nothing behind in memory."""

from __future__ import annotations

import gc
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import face_align_env  # noqa: F401 - registers FaceAlign-v0

EPISODES = int(os.environ.get("FACE_ALIGN_TRUST_EPISODES", "600"))
MOST_GROWTH = 4e6  # bytes, over all of them but the first sixth


def _resident() -> float:
    """Bytes of this process in memory."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.slow
def test_memory_is_flat_over_many_episodes(record_property: Callable[[str, object], None]) -> None:
    env = gym.make("FaceAlign-v0", dataset_options={"size": 8}, initializer="mean", max_iterations=2)
    rng = np.random.default_rng(0)
    begun = 0.0
    for episode in range(EPISODES):
        env.reset(seed=episode)
        ended = False
        while not ended:
            *_, terminated, truncated, _ = env.step(rng.normal(0, 2, env.action_space.shape).astype(np.float32))
            ended = terminated or truncated
        if episode == EPISODES // 6:
            gc.collect()
            begun = _resident()
    gc.collect()
    growth = _resident() - begun
    record_property("episodes", f"{EPISODES:,} | {growth / 1e6:+.2f} MB | {MOST_GROWTH / 1e6:.0f} MB")
    assert growth < MOST_GROWTH
