"""Several datasets of one scheme, one after the other."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.datasets.base import Annotation, FaceDataset


class JoinedDataset(FaceDataset):
    """Faces of several datasets; what Eq. 2 and 3 take from a dataset comes from the first.

    :param parts: datasets with the same number of landmarks
    :raises ValueError: when there are none, or their numbers of landmarks or normalisers differ
    """

    def __init__(self, parts: Sequence[FaceDataset]) -> None:
        if not parts:
            raise ValueError("Joining needs at least one dataset.")
        qualities: dict[str, set[Any]] = {
            "numbers of landmarks": {part.scheme.num_landmarks for part in parts},
            "normalisers": {part.normalizer for part in parts},
        }
        for quality, values in qualities.items():
            if len(values) > 1:
                names = "+".join(part.name for part in parts)
                raise ValueError(f"'{names}' cannot be joined: their {quality} differ: {sorted(map(str, values))}.")
        self._parts = tuple(parts)
        self.name = "+".join(part.name for part in parts)  # type: ignore[misc]
        self.split, self.scheme = parts[0].split, parts[0].scheme
        self.schemes = (self.scheme.num_landmarks,)  # type: ignore[misc]
        shared = tuple(split for split in parts[0].splits if all(split in part.splits for part in parts))
        self.splits = shared  # type: ignore[misc]
        self.test_split = parts[0].test_split  # type: ignore[misc]
        self.alpha_2, self.normalizer = parts[0].alpha_2, parts[0].normalizer  # type: ignore[misc]
        self._ends = list(accumulate(len(part) for part in parts))

    def _locate(self, index: int) -> tuple[FaceDataset, int]:
        part = bisect.bisect_right(self._ends, index)
        return self._parts[part], index - (self._ends[part - 1] if part else 0)

    @property
    def parts(self) -> tuple[FaceDataset, ...]:
        return self._parts

    def __len__(self) -> int:
        return self._ends[-1]

    def annotation(self, index: int) -> Annotation:
        part, local = self._locate(index)
        annotation = part.annotation(local)
        return replace(annotation, id=f"{part.name}/{annotation.id}")

    def subject(self, index: int) -> str:
        part, local = self._locate(index)
        return f"{part.name}/{part.subject(local)}"

    def missing(self) -> list[str]:
        return [f"{part.name}: {line}" for part in self._parts for line in part.missing()]

    def fingerprint(self) -> dict[str, Any] | None:
        fingerprints = [part.fingerprint() for part in self._parts]
        return None if None in fingerprints else {"parts": fingerprints}

    def image_size(self, index: int) -> tuple[int, int]:
        part, local = self._locate(index)
        return part.image_size(local)

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        part, local = self._locate(index)
        return part.image(local)
