"""Face alignment as reinforcement learning: the Gymnasium environment ``FaceAlign-v0``.

Importing this package registers the environment and loads neither torch nor OpenCV; the names below are
imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from face_align_env.tasks import register_tasks

if TYPE_CHECKING:
    from face_align_env.aligner import FaceAligner
    from face_align_env.datasets import load_dataset
    from face_align_env.env import FaceAlignEnv
    from face_align_env.vector_env import FaceAlignVectorEnv
    from face_align_env.wrappers import (
        CoarsePatches,
        LearnedHistory,
        ModeResiduals,
        PolicyCorrections,
        PretrainedFeatures,
        ShapeModes,
    )

__all__ = [
    "CoarsePatches",
    "FaceAlignEnv",
    "FaceAlignVectorEnv",
    "FaceAligner",
    "LearnedHistory",
    "ModeResiduals",
    "PolicyCorrections",
    "PretrainedFeatures",
    "ShapeModes",
    "load_dataset",
]

_MODULES = {
    "CoarsePatches": "face_align_env.wrappers",
    "FaceAlignEnv": "face_align_env.env",
    "FaceAlignVectorEnv": "face_align_env.vector_env",
    "FaceAligner": "face_align_env.aligner",
    "LearnedHistory": "face_align_env.wrappers",
    "ModeResiduals": "face_align_env.wrappers",
    "PolicyCorrections": "face_align_env.wrappers",
    "PretrainedFeatures": "face_align_env.wrappers",
    "ShapeModes": "face_align_env.wrappers",
    "load_dataset": "face_align_env.datasets",
}

register_tasks()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
