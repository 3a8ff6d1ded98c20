"""Other views of FaceAlign-v0, for one face and for a batch of N.

:class:`LearnedHistory`: the policy writes d_t. :class:`ShapeModes`: actions along the directions in which faces differ.
:class:`PretrainedFeatures`: observations are what a pretrained LRN makes of the patches. :class:`PolicyCorrections`:
actions are added to those of the pretrained LRN. :class:`PolicyStops`: actions say when that LRN is finished.
:class:`CoarsePatches`: observations are few, normalised numbers of each patch. :class:`ModeResiduals`: the observation
is the way to the ground truth, for algorithms that are tested without vision.
"""

from face_align_env.wrappers.history import LearnedHistory
from face_align_env.wrappers.modes import ShapeModes, VectorShapeModes, shape_modes
from face_align_env.wrappers.observations import CoarsePatches, ModeResiduals, VectorCoarsePatches, VectorModeResiduals
from face_align_env.wrappers.pretrained import (
    PolicyCorrections,
    PolicyStops,
    PretrainedFeatures,
    VectorPolicyCorrections,
    VectorPolicyStops,
    VectorPretrainedFeatures,
)

__all__ = [
    "CoarsePatches",
    "LearnedHistory",
    "ModeResiduals",
    "PolicyCorrections",
    "PolicyStops",
    "PretrainedFeatures",
    "ShapeModes",
    "VectorCoarsePatches",
    "VectorModeResiduals",
    "VectorPolicyCorrections",
    "VectorPolicyStops",
    "VectorPretrainedFeatures",
    "VectorShapeModes",
    "shape_modes",
]
