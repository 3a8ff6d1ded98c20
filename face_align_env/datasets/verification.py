"""Is a copy of a dataset whole? Every face is checked as its reading checks it, and every fault is reported by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from face_align_env.datasets import (
    Annotation,
    BadFaceError,
    DatasetNotFoundError,
    FaceDataset,
    dataset_class,
    load_dataset,
)
from face_align_env.progress import Progress


@dataclass(frozen=True)
class SplitReport:
    """What was found in one split.

    :param split: its name
    :param num_faces: how many faces it has
    :param expected: how many the published protocol has; None: there is no protocol
    :param missing: what the protocol has and this copy has not, a line each
    :param problems: a line for each broken file or annotation; it names the file and the cure
    """

    split: str
    num_faces: int
    expected: int | None
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing and nothing broken."""
        return not self.missing and not self.problems


def verify(
    name: str,
    root: str | None = None,
    landmarks: int | None = None,
    options: Mapping[str, Any] | None = None,
    splits: Sequence[str] | None = None,
    decode: bool = False,
    progress: bool = True,
) -> list[SplitReport]:
    """Read every annotation and image header of a dataset.

    :param name: in the registry
    :param root, landmarks, options: as in :func:`face_align_env.datasets.load_dataset`
    :param splits: None: all
    :param decode: decode the images too, which finds those that are cut short or damaged after their header
    :param progress: show a bar
    :return: a report for each split
    :raises DatasetNotFoundError: there is no such folder
    """
    kind = dataset_class(name)
    reports = []
    absent: DatasetNotFoundError | None = None
    for split in splits or kind.splits:
        expected = kind.protocol.get(split)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # what is missing goes into the report
                faces = load_dataset(name, split, root, landmarks, **(options or {}))
        except DatasetNotFoundError as error:
            absent = error
            reports.append(SplitReport(split, 0, expected, missing=(str(error),)))
        except BadFaceError as error:
            reports.append(SplitReport(split, 0, expected, problems=error.problems))
        else:
            problems = _problems(faces, decode, progress)
            reports.append(SplitReport(split, len(faces), expected, tuple(faces.missing()), problems))
    if absent is not None and not any(report.num_faces or report.problems for report in reports):
        raise absent
    return reports


def _problems(faces: FaceDataset, decode: bool, progress: bool) -> tuple[str, ...]:
    problems: list[str] = []
    title = f"verifying {faces.name} {faces.split}"
    for index in Progress(range(len(faces)), desc=title, unit="face", disable=not progress, leave=False):
        try:
            if decode:
                face: Annotation = faces[index]
            else:
                face = faces.annotation(index)
                face.check_place(*faces.image_size(index))
            face.check_distance(faces.normalizer)
        except BadFaceError as error:
            problems += error.problems
    return tuple(dict.fromkeys(problems))
