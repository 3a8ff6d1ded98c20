"""What ``face-align pretrain`` does: faces on the device, and the trainings of GEN and LRN on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from face_align_env.augmentation import Augmentation
from face_align_env.crops import CROP_SIZE
from face_align_env.files import locked_folder
from face_align_env.networks import gen as gen_network
from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.cascade import MeanStart
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.networks.weights import file_digest
from face_align_env.prepared import PreparedFaces
from face_align_env.pretrain.devices import first_decides
from face_align_env.pretrain.faces import DeviceFaces
from face_align_env.pretrain.loop import Watch, fit
from face_align_env.pretrain.objectives import CascadeObjective, GENObjective, StartJitter, VisitedStates
from face_align_env.pretrain.recipes import ENCODER_SHARE, Data, TrainingConfig
from face_align_env.released import weights_file

if TYPE_CHECKING:
    from lightning.fabric import Fabric

NetworkT = TypeVar("NetworkT", GEN, LRN)


class FacesOnDevice:
    """Training and test faces of a run, read once and handed to each training.

    :param data: which faces
    :param device: where trainings take them from
    """

    def __init__(self, data: Data, device: torch.device | str) -> None:
        self.data, self.device = data, device
        self._prepared: dict[str, PreparedFaces] = {}
        self._faces: dict[tuple[str, int], DeviceFaces] = {}

    def prepared(self, part: str) -> PreparedFaces:
        """The prepared faces of ``"train"`` or ``"test"``."""
        if part not in self._prepared:
            self._prepared[part] = self.data.prepare("train" if part == "train" else None)
        return self._prepared[part]

    def __call__(self, part: str, size: int) -> DeviceFaces:
        """The faces of ``"train"`` or ``"test"`` for crops of ``size`` pixels."""
        if (part, size) not in self._faces:
            full = self._faces.get((part, CROP_SIZE))
            self._faces[part, size] = (
                DeviceFaces(self.prepared(part), size, self.device) if full is None else full.reduced(size)
            )
        return self._faces[part, size]


def pretrain_gen(
    faces: FacesOnDevice,
    preset: str,
    config: TrainingConfig,
    folder: str | os.PathLike[str],
    fabric: Fabric,
    augmentation: Augmentation | None = None,
    init: str | os.PathLike[str] | None = None,
    watch: Watch | None = None,
) -> float:
    """Train GEN by Eq. 1; its weights are ``folder/weights.safetensors``.

    :param init: weights of a GEN, a file or the name of a release, which the training starts from (fine-tuning), of the
        same landmarks or of some that contain them; None: fresh ones
    :param watch: is told each measurement on the test split
    :return: NME on the test split, a fraction
    """
    train = faces("train", gen_network.PRESETS[preset].input_size)
    torch.manual_seed(config.seed)
    prepared = train.prepared
    network = gen_network.preset(preset, prepared.scheme.num_landmarks)
    gen = (
        GEN(network, prepared.mean_shape())
        if init is None
        else starting_network(GEN, init, preset, network.num_landmarks)
    )
    notes = {
        "dataset": prepared.dataset.name,
        "preset": preset,
        "epochs": config.epochs,
        "seed": config.seed,
        "init_sha256": None if init is None else file_digest(weights_file(init)),
    }
    test = faces("test", gen.config.input_size)
    views = augmentation or Augmentation()
    with _owned(folder, fabric):
        return fit(GENObjective(gen), train, test, config, views, folder, fabric, notes, "GEN", watch)


def pretrain_lrn(
    faces: FacesOnDevice,
    preset: str,
    config: TrainingConfig,
    folder: str | os.PathLike[str],
    fabric: Fabric,
    gen: str | os.PathLike[str] | None,
    iterations: int = 8,
    augmentation: Augmentation | None = None,
    action_limit: float | None = None,
    jitter: StartJitter | None = None,
    visited: VisitedStates | None = None,
    encoder_share: float = ENCODER_SHARE,
    init: str | os.PathLike[str] | None = None,
    watch: Watch | None = None,
) -> float:
    """Train LRN as a cascade of a fixed number of iterations; its weights are ``folder/weights.safetensors``.

    :param gen: GEN's weights, a file or the name of a release, which give x_0; None: the cascade starts from the mean
        shape (the LRN-m rows of Table 6)
    :param iterations: m
    :param action_limit: bound of an increment, pixels; None: the preset's
    :param jitter: how GEN's x_0 is moved; None: as :class:`StartJitter` does by default
    :param visited: where the m iterations begin in training; None: as :class:`VisitedStates` does by default with a
        GEN, at x_0 without one
    :param encoder_share: of the patches that the encoder learns from in a step, see
        :class:`~face_align_env.pretrain.objectives.SampledEncoder`; 1: all
    :param init: weights of an LRN, a file or the name of a release, which the training starts from (fine-tuning), of
        the same landmarks or of some that contain them; None: fresh ones
    :param watch: is told each measurement on the test split
    :return: NME on the test split, a fraction
    """
    gen = None if gen is None else weights_file(gen)
    train = faces("train", CROP_SIZE)
    torch.manual_seed(config.seed)
    prepared = train.prepared
    network = lrn_network.preset(preset, prepared.scheme.num_landmarks)
    if action_limit is not None:
        network = replace(network, action_limit=action_limit)
    start: GEN | MeanStart = MeanStart(torch.from_numpy(prepared.mean_shape())).to(fabric.device)
    if gen is None:
        jitter = None
    else:
        start, jitter = GEN.load(gen, device=fabric.device), jitter or StartJitter()
        visited = visited or VisitedStates()
        if start.num_landmarks != network.num_landmarks:
            raise ValueError(
                f"GEN in '{os.fspath(gen)}' predicts {start.num_landmarks} landmarks, the dataset has "
                f"{network.num_landmarks}: train GEN on this dataset first."
            )
    if visited is not None and visited.share == 0:
        visited = None
    lrn = LRN(network) if init is None else starting_network(LRN, init, preset, network.num_landmarks, action_limit)
    objective = CascadeObjective(lrn, start, iterations, jitter, visited, encoder_share)
    notes = {
        "dataset": prepared.dataset.name,
        "preset": preset,
        "epochs": config.epochs,
        "seed": config.seed,
        "from": "mean" if gen is None else "gen",
        "gen_sha256": None if gen is None else file_digest(gen),
        "iterations": iterations,
        "jitter": None if jitter is None else asdict(jitter),
        "visited": None if visited is None else asdict(visited),
        "encoder_share": float(encoder_share),
        "init_sha256": None if init is None else file_digest(weights_file(init)),
        "mean_shape": prepared.mean_shape().tolist(),
    }
    title = f"LRN-{iterations}" if gen is None else f"GEN-LRN{iterations}"
    test = faces("test", CROP_SIZE)
    with _owned(folder, fabric):
        return fit(objective, train, test, config, augmentation or Augmentation(), folder, fabric, notes, title, watch)


def starting_network(
    kind: type[NetworkT],
    source: str | os.PathLike[str],
    preset: str,
    num_landmarks: int,
    action_limit: float | None = None,
) -> NetworkT:
    """A network that a training starts from (fine-tuning).

    :param kind: GEN or LRN
    :param source: the file of its weights, or the name of a release
    :param preset: that the training is of
    :param num_landmarks: K of the training's faces
    :param action_limit: of an LRN: the training's bound of an increment, pixels; None: the preset's
    :raises FileNotFoundError, WeightsError: see :meth:`GEN.load`
    :raises ValueError: it is of another preset, or of landmarks that do not contain the training's
    """
    network = kind.load(weights_file(source))
    what = f"The {kind.__name__} in '{os.fspath(source)}'"
    wanted: Any = (gen_network if kind is GEN else lrn_network).preset(preset, num_landmarks)
    if action_limit is not None:
        wanted = replace(wanted, action_limit=action_limit)
    if network.num_landmarks != num_landmarks:
        try:
            network = network.for_landmarks(num_landmarks)
        except ValueError as error:
            raise ValueError(f"{what} cannot start this training: {error}") from error
    if network.config != wanted:
        raise ValueError(
            f"{what} is not that of preset '{preset}' with {num_landmarks} landmarks: {network.config} there, {wanted} "
            "here. Take weights of the same preset and landmarks."
        )
    return network


@contextmanager
def _owned(folder: str | os.PathLike[str], fabric: Fabric) -> Iterator[None]:
    """The folder for one training alone, whose first process holds it.

    :raises FolderInUseError: another training works there
    """
    with ExitStack() as held:
        first_decides(fabric, lambda: held.enter_context(locked_folder(folder)))
        yield
