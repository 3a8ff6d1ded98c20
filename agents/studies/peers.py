"""What DCRN is compared with: dlib's ensemble of regression trees, trained on the same faces and the same boxes.

The method is Kazemi and Sullivan's, "One Millisecond Face Alignment with an Ensemble of Regression Trees" (2014). It
needs the extra ``peers``; any build of dlib will do, from the package ``dlib`` or ``dlib-bin``.

dlib works in whole pixels, both where it learns from landmarks and where it predicts them. On 256-pixel crops that
costs little, and larger crops gain nothing (``docs/accuracy.md``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.crops import CROP_SIZE
from face_align_env.extras import needs
from face_align_env.files import replacing
from face_align_env.prepared import PreparedFaces
from face_align_env.pretrain.settings import read_json, settle

PREDICTOR, SETTINGS = "dlib.dat", "dlib.json"  # in a folder of peers


def import_dlib() -> Any:
    """The module dlib, of whichever package.

    :raises ModuleNotFoundError: it is not installed; the message says how to get it
    """
    with needs("peers", "The ensemble of regression trees"):
        import dlib
    return dlib


def training_options(num_threads: int = 1, **overrides: Any) -> Any:
    """dlib's training options: its own defaults, but for what is named.

    :param num_threads: of the training; 0: one a core. With another number dlib adds up in another order, and the
        predictor is not the same to the bit
    :param overrides: attributes of ``dlib.shape_predictor_training_options``; of dlib 20: ``cascade_depth`` (10),
        ``tree_depth`` (4), ``num_trees_per_cascade_level`` (500), ``nu`` (0.1), ``oversampling_amount`` (20),
        ``oversampling_translation_jitter`` (0), ``feature_pool_size`` (400), ``lambda_param`` (0.1),
        ``num_test_splits`` (20), ``feature_pool_region_padding`` (0), ``random_seed`` (a text, empty),
        ``landmark_relative_padding_mode`` (True)
    :return: ``dlib.shape_predictor_training_options``
    :raises ValueError: there is no such option
    """
    options = import_dlib().shape_predictor_training_options()
    known = _described(options)
    for name, value in overrides.items():
        if name not in known:
            raise ValueError(f"dlib's training has no option '{name}'; it has {', '.join(known)}.")
        setattr(options, name, value)
    options.num_threads = num_threads or os.cpu_count() or 1
    return options


def _described(options: Any) -> dict[str, Any]:
    """The options that shape a predictor: name -> value."""
    left_out = {"be_verbose", "num_threads"}
    names = sorted(name for name in dir(options) if not name.startswith("_") and name not in left_out)
    return {name: getattr(options, name) for name in names}


def _rectangle(margin: float) -> Any:
    """The squared box inside its crop: the same for every face."""
    side = CROP_SIZE / (1 + 2 * margin)
    low, high = (round((CROP_SIZE - 1) / 2 + sign * side / 2) for sign in (-1, 1))
    return import_dlib().rectangle(low, low, high, high)


def train_dlib(
    prepared: PreparedFaces,
    folder: str | os.PathLike[str],
    num_threads: int = 1,
    faces: int | None = None,
    mirror: bool = False,
    **overrides: Any,
) -> DlibAligner:
    """Train dlib's shape predictor on prepared faces; a predictor that is in the folder already is taken as it is.

    :param prepared: the training faces
    :param folder: gets ``dlib.dat``, and ``dlib.json`` that says what it was trained with
    :param num_threads: see :func:`training_options`
    :param faces: how many to train on, evenly spaced; None: all
    :param mirror: learn from each face's mirror image, too; twice the time and memory (0.2 MB a face)
    :param overrides: see :func:`training_options`
    :raises ModuleNotFoundError: dlib is not installed
    :raises ValueError: a landmark is not annotated, an option is unknown, or the folder's predictor was trained with
        other settings
    :raises OSError: the folder cannot be written to
    """
    dlib = import_dlib()
    folder = Path(folder)
    indices = evenly_spaced(len(prepared), faces)
    partial = ~prepared.counted[indices].all(axis=1)
    if partial.any():
        first = prepared.ids[int(indices[np.flatnonzero(partial)[0]])]
        raise ValueError(
            f"dlib needs every landmark of the faces that it learns from, and in {partial.sum():,} of "
            f"{len(indices):,} faces of '{prepared.dataset.name}' some are not annotated ({first}, ...). "
            "Compare it on another dataset."
        )
    options = training_options(num_threads, **overrides)
    if not (folder / PREDICTOR).is_file():
        (folder / SETTINGS).unlink(missing_ok=True)  # of a training that was broken off
    settle(
        folder / SETTINGS,
        {
            "dataset": prepared.dataset.name,
            "split": prepared.dataset.split,
            "num_faces": len(indices),
            "num_landmarks": prepared.scheme.num_landmarks,
            "margin": prepared.margin,
            "mirror": mirror,
            "dlib": _described(options),
        },
    )
    if not (folder / PREDICTOR).is_file():
        rectangle = _rectangle(prepared.margin)
        images, objects = [], []
        for index in indices:
            crop, landmarks = prepared.crop(int(index)), prepared.landmarks[index]
            views = [(crop, landmarks)]
            if mirror:
                flipped = landmarks[prepared.scheme.mirror_permutation] * [-1, 1] + [CROP_SIZE - 1, 0]
                views.append((crop[:, ::-1], flipped.astype(np.float32)))
            for image, shape in views:
                parts = [dlib.point(int(x), int(y)) for x, y in np.rint(shape)]
                images.append(np.ascontiguousarray(image))
                objects.append([dlib.full_object_detection(rectangle, parts)])
        predictor = dlib.train_shape_predictor(images, objects, options)
        with replacing(folder / PREDICTOR) as temporary:
            predictor.save(str(temporary))
    return DlibAligner(folder)


def evenly_spaced(total: int, count: int | None) -> npt.NDArray[np.int64]:
    """``count`` of ``range(total)`` at equal distances, the first and the last among them; None, or too many: all.

    :raises ValueError: ``count`` is not positive
    """
    if count is not None and count < 1:
        raise ValueError(f"The number of faces must be positive, got {count}.")
    return np.linspace(0, total - 1, min(count or total, total)).astype(np.int64)


class DlibAligner:
    """dlib's shape predictor in the place of a :class:`~face_align_env.aligner.aligner.FaceAligner`.

    :param folder: where :func:`train_dlib` has put the predictor
    :ivar batch_size: faces at a time; dlib takes one after the other, in one thread
    :raises ModuleNotFoundError: dlib is not installed
    :raises FileNotFoundError: the folder has no predictor
    :raises ValueError: dlib cannot read it
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.batch_size = 64
        paths = [Path(folder) / name for name in (PREDICTOR, SETTINGS)]
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(f"There is no '{path}'. Train dlib: python examples/compare_peers.py --run RUN")
        self.settings: dict[str, Any] = read_json(paths[1])
        try:
            self.num_landmarks: int = self.settings["num_landmarks"]
            self._rectangle = _rectangle(self.settings["margin"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"'{paths[1]}' is damaged ({error!r}). Remove it and train again.") from error
        try:
            self._predictor = import_dlib().shape_predictor(str(paths[0]))
        except RuntimeError as error:
            raise ValueError(f"dlib cannot read '{paths[0]}' ({error}). Remove it and train again.") from error

    def align_crops(self, crops: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Align prepared crops.

        :param crops: (N, 256, 256, 3) uint8
        :return: (N, 1, K, 2) shapes in whole crop pixels, and (N,) zeros: LRN takes no part
        """
        shapes = np.empty((len(crops), 1, self.num_landmarks, 2), dtype=np.float32)
        for crop, shape in zip(crops, shapes, strict=True):
            parts = self._predictor(np.ascontiguousarray(crop), self._rectangle).parts()
            shape[0] = [(point.x, point.y) for point in parts]
        return shapes, np.zeros(len(crops), dtype=np.int64)


def peers_note(aligner: DlibAligner) -> str:
    """What stands under a table that has a row of dlib."""
    settings = aligner.settings
    options = settings["dlib"]
    return (
        f"dlib: trees trained on {settings['num_faces']:,} faces of {settings['dataset']} {settings['split']}"
        f"{', each also mirrored' if settings['mirror'] else ''}, the same boxes; {options['cascade_depth']} x "
        f"{options['num_trees_per_cascade_level']} trees, oversampling {options['oversampling_amount']}; one face at a "
        "time in one thread"
    )
