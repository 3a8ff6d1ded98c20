"""What a wrapper of this package is around."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.env import FaceAlignEnv
from face_align_env.keywords import Task
from face_align_env.vector_env import FaceAlignVectorEnv

Floats = npt.NDArray[np.float32]
Batch = dict[str, npt.NDArray[Any]]
"""Observations of N faces."""


def task_of(env: Any) -> Task:
    """The task of the environment inside.

    :raises TypeError: it is another environment
    :raises ValueError: its observations are tensors
    """
    inner = env.unwrapped
    if not isinstance(inner, FaceAlignEnv | FaceAlignVectorEnv):
        raise TypeError(f"This wraps FaceAlign-v0, not {inner}.")
    if isinstance(inner, FaceAlignVectorEnv) and inner.backend != "numpy":
        raise ValueError(
            f"This wrapper calculates with NumPy's arrays, not with backend='{inner.backend}'. Leave the backend out."
        )
    return inner.task
