"""What the measurements are made on: faces, networks with random weights, cold memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from face_align_env.agents.speed.measure import LEAST_SECONDS, Timing, interleave
from face_align_env.checks import check_choice
from face_align_env.datasets import load_dataset
from face_align_env.mdp import HISTORY_SIZE
from face_align_env.networks import gen as gen_network
from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.patches import PATCH_SIZE
from face_align_env.prepared import FaceSource, PreparedFaces
from face_align_env.pretrain.loop import make_fabric
from face_align_env.pretrain.recipes import PRECISIONS, Recipe, recipe

COPY = "copying as many bytes"
"""The limit of everything that hands out observations: the machine's own copying of that many bytes."""

_OBSERVATION_BYTES = 68 * PATCH_SIZE * PATCH_SIZE * 3  # the patches of one face
_BLOCK_BYTES = 64 * _OBSERVATION_BYTES
_BLOCKS = 32  # of the source: 376 MB, several times the caches of most machines
_FACES = 256

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """How to measure.

    :param preset: networks and recipe
    :param device: where the networks run: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    :param repeats: measurements of each figure
    :param threads: of torch; None: as torch has it
    :param precision: of trainings, as :func:`~face_align_env.pretrain.loop.make_fabric` takes it; DCRN knows no
        16-mixed and stays in float32
    :param quick: toy sizes, to see that everything runs; the figures mean nothing
    :param max_faces: largest dataset of the group ``scaling``
    :raises ValueError: a number that is too small
    """

    preset: str = "compact"
    device: str = "auto"
    repeats: int = 7
    threads: int | None = None
    precision: str | None = None
    quick: bool = False
    max_faces: int = 1000

    def __post_init__(self) -> None:
        if self.precision is not None:
            check_choice("precision", self.precision, PRECISIONS)
        if self.repeats < 1 or self.max_faces < 1 or (self.threads is not None and self.threads < 1):
            raise ValueError(f"repeats, max_faces and threads must be at least 1: got {self}.")


class ColdCopy:
    """NumPy's copying out of memory that no cache holds, into one block that stays warm.

    :param num_blocks: of the source; a block has the size of 64 observations
    """

    def __init__(self, num_blocks: int) -> None:
        self._source = np.ones(num_blocks * _BLOCK_BYTES, np.uint8)  # ones: pages of zeros would all be one page
        self._target = np.ones(_BLOCK_BYTES, np.uint8)
        self._at = 0

    def __call__(self, num_bytes: int) -> None:
        """Copy the next ``num_bytes`` of the source, which begins again at its end."""
        while num_bytes > 0:
            n = min(num_bytes, len(self._target), len(self._source) - self._at)
            np.copyto(self._target[:n], self._source[self._at : self._at + n])
            self._at = (self._at + n) % len(self._source)
            num_bytes -= n


class Workbench:
    """Everything that groups of measurements share, made when it is first needed.

    :param settings: how to measure
    :raises ValueError: there is no such preset or device
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.recipe: Recipe = recipe(settings.preset)
        self.fabric = make_fabric(settings.device, settings.precision)
        self.device = self.fabric.device
        self.rng = np.random.default_rng(0)

    def choose(self, full: T, quick: T) -> T:
        """The sizes to measure at."""
        return quick if self.settings.quick else full

    def compare(self, *functions: Callable[[], object]) -> list[Timing]:
        """Time functions in turn, see :func:`~face_align_env.agents.speed.measure.interleave`."""
        least = self.choose(LEAST_SECONDS, 0.0)
        return interleave(functions, self.settings.repeats, least, self.finish)

    def finish(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def copying(self, num_bytes: int) -> Callable[[], None]:
        """A function that copies so many cold bytes."""
        return partial(self._copy, num_bytes)

    @cached_property
    def _copy(self) -> ColdCopy:
        return ColdCopy(self.choose(_BLOCKS, 2))

    def prepare(self, landmarks: int | None = None, size: int | None = None) -> PreparedFaces:
        """Synthetic training faces, prepared, with their pages in memory."""
        size = self.choose(_FACES, 8) if size is None else size
        prepared = PreparedFaces(load_dataset("synthetic", "train", landmarks=landmarks, size=size))
        for index in range(size):
            prepared.context(index)
        return prepared

    @cached_property
    def prepared(self) -> PreparedFaces:
        """The faces of all groups but ``scaling``."""
        return self.prepare()

    @cached_property
    def source(self) -> FaceSource:
        """The same in plain views."""
        return FaceSource(self.prepared)

    @cached_property
    def gen(self) -> GEN:
        """GEN of the preset, random weights."""
        torch.manual_seed(0)
        num_landmarks = self.prepared.scheme.num_landmarks
        gen = GEN(gen_network.preset(self.recipe.gen, num_landmarks), self.prepared.mean_shape())
        return gen.to(self.device).eval()

    @cached_property
    def lrn(self) -> LRN:
        """LRN of the preset, random weights."""
        torch.manual_seed(0)
        lrn = LRN(lrn_network.preset(self.recipe.lrn, self.prepared.scheme.num_landmarks))
        return lrn.to(self.device).eval()

    def crops(self, n: int) -> npt.NDArray[np.uint8]:
        """(n, 256, 256, 3) uint8."""
        return np.stack([self.prepared.crop(i % len(self.prepared)) for i in range(n)])

    def shapes(self, n: int) -> npt.NDArray[np.float32]:
        """(n, K, 2) float32, the landmarks of the faces of :meth:`crops`."""
        return self.prepared.landmarks[np.arange(n) % len(self.prepared)]

    def states(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches (n, K, p, p, 3) uint8 and histories (n, 512) float32 on the device, random."""
        config = self.lrn.config
        shape = (n, config.num_landmarks, config.patch_size, config.patch_size, 3)
        patches = torch.from_numpy(self.rng.integers(0, 256, shape, dtype=np.uint8)).to(self.device)
        return patches, torch.zeros(n, HISTORY_SIZE, device=self.device)

    @torch.inference_mode()
    def act(self, observations: dict[str, Any]) -> Any:
        """LRN as the policy of a learned history: (N, 2K + 512) actions, of the kind of the observations of N faces."""
        patches, history = (torch.as_tensor(observations[key], device=self.device) for key in ("patches", "history"))
        actions = torch.cat(self.lrn(patches, history), dim=1)
        return actions if isinstance(observations["patches"], torch.Tensor) else actions.cpu().numpy()
