"""Datasets of annotated faces: one file a dataset, one line in the registry."""

from __future__ import annotations

import importlib
import os
from typing import Any

from face_align_env.datasets.base import Annotation, BadFaceError, DatasetNotFoundError, Face, FaceDataset
from face_align_env.datasets.held_out import VALIDATION, HeldOut
from face_align_env.datasets.joined import JoinedDataset

# name -> "module:class"; imported when it is asked for
REGISTRY: dict[str, str] = {
    "synthetic": "face_align_env.datasets.synthetic.dataset:SyntheticFaces",
    "300w": "face_align_env.datasets.w300:W300",
    "cofw": "face_align_env.datasets.cofw:COFW",
    "aflw": "face_align_env.datasets.aflw:AFLW",
    "ytf": "face_align_env.datasets.ytf:YouTubeFaces",
    "pts": "face_align_env.datasets.pts:PtsFolder",
}

__all__ = [
    "REGISTRY",
    "Annotation",
    "BadFaceError",
    "DatasetNotFoundError",
    "Face",
    "FaceDataset",
    "dataset_class",
    "dataset_splits",
    "load_dataset",
]


def dataset_class(name: str) -> type[FaceDataset]:
    """The class of a registered dataset.

    :raises ValueError: when no dataset has that name; the message lists the names there are
    """
    if name not in REGISTRY:
        raise ValueError(f"Unknown dataset '{name}'. There are: {', '.join(REGISTRY)} (join several with '+').")
    module, _, attribute = REGISTRY[name].partition(":")
    found: type[FaceDataset] = getattr(importlib.import_module(module), attribute)
    return found


def dataset_splits(name: str) -> tuple[str, ...]:
    """The splits of a dataset, the training split first; of several joined by ``+``, those that all of them have.

    :raises ValueError: as :func:`dataset_class`
    """
    first, *others = (dataset_class(part).splits for part in name.split("+"))
    return tuple(split for split in first if all(split in splits for splits in others))


def load_dataset(
    name: str = "synthetic",
    split: str = "train",
    root: str | os.PathLike[str] | None = None,
    landmarks: int | None = None,
    held_out: float | None = None,
    **options: Any,
) -> FaceDataset:
    """One split of a dataset, or of several datasets of one scheme joined (``"300w+ytf"``).

    :param name: a name in the registry, or several joined by ``+``
    :param split: one of the dataset's splits; of joined datasets, a split that each of them has
    :param root: where the data is; of joined datasets, the folder that holds a folder of each name.
        None: ``$FACE_ALIGN_DATA/<name>``, else ``~/.cache/face-align/<name>``
    :param landmarks: number of landmarks (19, 29 or 68) where the dataset offers several
    :param held_out: share of the training split's faces that are the split ``"validation"`` instead, to choose settings
        by; see :class:`~face_align_env.datasets.held_out.HeldOut`
    :param options: further keywords of the dataset's class (``boxes="detector"``, ``seed=1``, ...)
    :raises ValueError: unknown dataset, split, number of landmarks, or datasets that do not fit together
    :raises DatasetNotFoundError: the data is nowhere to be found
    """
    names = name.split("+")
    if len(names) == 1:
        kind = dataset_class(name)
        sides = (kind.splits[0], VALIDATION)
        if held_out is None or split not in sides:
            return kind(split=split, root=root, landmarks=landmarks, **options)  # type: ignore[call-arg]
        whole = kind(split=kind.splits[0], root=root, landmarks=landmarks, **options)  # type: ignore[call-arg]
        return HeldOut(whole, split, held_out)
    return JoinedDataset(
        [
            load_dataset(
                part, split, None if root is None else os.path.join(root, part), landmarks, held_out, **options
            )
            for part in names
        ]
    )
