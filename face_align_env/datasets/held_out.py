"""A training split in two: faces to learn from, and faces to choose settings by."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.checks import check_number
from face_align_env.datasets.base import Annotation, FaceDataset, uniform_hash

VALIDATION = "validation"
"""The split of the faces that are held out."""

MOST_HELD_OUT = 0.9
"""Share of a training split."""


class HeldOut(FaceDataset):
    """One side of a training split.

    On which side a subject (:meth:`FaceDataset.subject`) is, depends on its name alone: two sides have no subject in
    common, and a subject stays where it is when others are added.

    :param faces: the whole training split
    :param split: the name of that split, for the faces to learn from; or :data:`VALIDATION`, for the others
    :param fraction: share of the subjects that are held out, above 0 and at most 0.9
    :raises ValueError: it is another split, the fraction is outside of its bounds, or one side has no faces
    """

    def __init__(self, faces: FaceDataset, split: str, fraction: float) -> None:
        check_number("held_out", fraction, above=0, most=MOST_HELD_OUT)
        if not faces.is_train:
            raise ValueError(f"Faces are held out of the training split, '{faces.split}' is another one.")
        self.name, self.normalizer = faces.name, faces.normalizer  # type: ignore[misc]
        self.splits, self.test_split = (faces.split, VALIDATION), VALIDATION  # type: ignore[misc]
        self.schemes, self.alpha_2 = faces.schemes, faces.alpha_2  # type: ignore[misc]
        self.reader_version = faces.reader_version  # type: ignore[misc]
        super().__init__(split, faces.scheme.num_landmarks)
        self._whole, self._fraction = faces, fraction
        self._indices = [
            index
            for index in range(len(faces))
            if (uniform_hash(f"held out {faces.subject(index)}") < fraction) == (split == VALIDATION)
        ]
        if not self._indices:
            raise ValueError(
                f"held_out={fraction:g} leaves '{faces.name}' no faces in its split '{split}' (of {len(faces)} "
                "training faces). Choose another fraction."
            )

    def __len__(self) -> int:
        return len(self._indices)

    def annotation(self, index: int) -> Annotation:
        return self._whole.annotation(self._indices[index])

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        return self._whole.image(self._indices[index])

    def image_size(self, index: int) -> tuple[int, int]:
        return self._whole.image_size(self._indices[index])

    def subject(self, index: int) -> str:
        return self._whole.subject(self._indices[index])

    def fingerprint(self) -> dict[str, Any] | None:
        whole = self._whole.fingerprint()
        return None if whole is None else {"held_out": self._fraction, "split": self.split, "of": whole}
