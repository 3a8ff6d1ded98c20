"""What supervised training minimises: Eq. 1 for GEN, and its sum over a cascade for LRN."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from face_align_env.crops import CROP_SIZE
from face_align_env.mdp import HISTORY_SIZE, nme
from face_align_env.networks.cascade import MeanStart, Regressor, cascade
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.pretrain.faces import Batch


class Objective(nn.Module, ABC):
    """A network and its loss as one module, so that data-parallel training sees a single forward pass."""

    network: GEN | LRN

    @property
    @abstractmethod
    def of_whole_batches(self) -> bool:
        """Whether processes that share a minibatch learn what one process learns from it, to within rounding."""

    @abstractmethod
    def predict(self, crops: Tensor) -> Tensor:
        """(N, K, 2) final shapes for (N, size, size, 3) uint8 crops."""

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss, and the mean NME of the final shapes (a fraction); both scalars."""

    def save(self, path: Any, notes: dict[str, Any]) -> None:
        """Write the network's weights."""
        self.network.save(path, notes)


class GENObjective(Objective):
    """Eq. 1: L_GEN = NME(x, x^)."""

    def __init__(self, gen: GEN) -> None:
        super().__init__()
        self.network: GEN = gen

    @property
    def of_whole_batches(self) -> bool:
        # Batch normalisation takes its statistics from a process's own faces, and dropout is drawn for them.
        return not self.network.config.batch_norm and self.network.config.dropout == 0

    def predict(self, crops: Tensor) -> Tensor:
        shapes: Tensor = self.network(crops)
        return shapes

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        loss = nme(self.predict(batch.crops), batch.landmarks, batch.d, batch.counted).mean()
        return loss, loss.detach()


@dataclass(frozen=True)
class StartJitter:
    """Random similarity that moves x_0 in training.

    GEN's errors on its own training faces are smaller than on new ones; LRN must learn to mend the latter.

    :param shift: standard deviation, a fraction of the crop
    :param scale: standard deviation of the logarithm of the size
    :param rotation: standard deviation, radians
    """

    shift: float = 0.01
    scale: float = 0.03
    rotation: float = 0.04

    def __call__(self, x_0: Tensor, part: slice = slice(None), whole: int | None = None) -> Tensor:
        """(N, K, 2) moved shapes; draws from torch's global generator.

        :param part: which part of a minibatch these faces are
        :param whole: how many faces the minibatch has, for all of which is drawn; None: N
        """
        centre = x_0.mean(1, keepdim=True)
        draw = torch.randn(len(x_0) if whole is None else whole, 4, device=x_0.device)[part]
        angle, size = self.rotation * draw[:, 0], torch.exp(self.scale * draw[:, 1])
        cos, sin = size * torch.cos(angle), size * torch.sin(angle)
        x, y = (x_0 - centre).unbind(-1)
        turned = torch.stack([cos[:, None] * x - sin[:, None] * y, sin[:, None] * x + cos[:, None] * y], -1)
        return centre + turned + (self.shift * CROP_SIZE) * draw[:, None, 2:]


@dataclass(frozen=True)
class VisitedStates:
    """How far faces have come when the trained iterations begin.

    A cascade that is trained on its first m states knows no other: iterated further, it ruins what it has found.
    Therefore a share of the faces is first rolled forward without gradient, x_t and d_t alike, and the m trained
    iterations begin at the states that the network itself visits (as in DAgger, Ross et al. 2011).

    :param share: fraction of the faces that are rolled forward; 0: none
    :param depth: each of them by 1 to so many iterations, all equally likely
    """

    share: float = 0.6
    depth: int = 8

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must be a fraction from 0 to 1, got {self.share}.")
        if self.depth < 1 or self.depth != int(self.depth):
            raise ValueError(f"depth must be a whole number of iterations, at least 1, got {self.depth}.")

    def lengths(self, num_faces: int) -> Tensor:
        """(N,) int64 iterations of each face, on the host; draws from torch's global generator."""
        rolled = torch.rand(num_faces) < self.share
        return torch.where(rolled, torch.randint(1, int(self.depth) + 1, (num_faces,)), 0)


class SampledEncoder:
    """LRN as it is, of whose patch encoder a step trains with a part of the patches only.

    One encoder serves all landmarks: in a step it sees thousands of patches, whose gradients are much alike, and it is
    nearly all of the time that an iteration takes. Its backward pass therefore goes through a sample of them, drawn
    anew in each iteration: as many of each face, at random landmarks. Their gradients are scaled up, so that the
    expected gradient is that of all patches. All patches count in the forward pass, and the other layers' gradients are
    exact (patches are cut without gradient, so nothing else comes back through the encoder).

    :param lrn: the network
    :param share: of the patches that the encoder learns from, above 0 to 1
    :param part: which part of a minibatch the faces are
    :param whole: how many faces the minibatch has, for all of which is drawn
    """

    def __init__(self, lrn: LRN, share: float, part: slice, whole: int) -> None:
        self._lrn, self._share, self._part, self._whole = lrn, share, part, whole

    def __call__(self, patches: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and d_{t+1}, as :class:`LRN` gives them."""
        next_hidden = self._lrn.trunk.remember(self._encode(patches), history)
        return self._lrn.increment(next_hidden), next_hidden.float()

    def _encode(self, patches: Tensor) -> Tensor:
        """(N, K F) features of (N, K, P, P, 3) patches."""
        encode = self._lrn.trunk.encode
        num_faces, num_landmarks = patches.shape[:2]
        order = torch.rand(self._whole, num_landmarks, device=patches.device)[self._part].argsort(dim=1)
        order += num_landmarks * torch.arange(num_faces, device=patches.device)[:, None]
        of_face = max(1, round(self._share * num_landmarks))
        learnt, others = order[:, :of_face].flatten(), order[:, of_face:].flatten()
        single = patches.flatten(0, 1)[:, None]
        codes = encode(single[learnt])
        if codes.requires_grad:
            codes.register_hook(lambda gradient: gradient * (num_landmarks / of_face))  # type: ignore[no-untyped-call]
        with torch.no_grad():
            rest = encode(single[others])
        places = torch.cat([learnt, others]).argsort()
        return torch.cat([codes, rest])[places].view(num_faces, -1)


class CascadeObjective(Objective):
    """Sum over m iterations of NME(x_t): cascaded regression with a fixed number of iterations (section 3.2).

    :param lrn: the network to train
    :param start: gives x_0; it stays as it is, on the device where it is
    :param iterations: m
    :param jitter: noise on x_0 in training; None: none
    :param visited: where the m iterations begin in training; None: at x_0
    :param encoder_share: of the patches that the encoder learns from in training, see :class:`SampledEncoder`
    """

    def __init__(
        self,
        lrn: LRN,
        start: GEN | MeanStart,
        iterations: int,
        jitter: StartJitter | None = None,
        visited: VisitedStates | None = None,
        encoder_share: float = 1.0,
    ) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"A cascade needs at least one iteration, got {iterations}.")
        if not 0 < encoder_share <= 1:
            raise ValueError(f"encoder_share must be above 0 and at most 1, got {encoder_share}.")
        self.network: LRN = lrn
        self.iterations = iterations
        self.jitter = jitter
        self.visited = visited
        self.encoder_share = encoder_share
        # In a list it is no sub-module: neither trained nor checkpointed here, and always in evaluation mode.
        self._start = [(start.folded() if isinstance(start, GEN) else start).requires_grad_(False)]

    @property
    def of_whole_batches(self) -> bool:
        return True

    def start(self, crops: Tensor) -> Tensor:
        """(N, K, 2) x_0."""
        with torch.no_grad():
            shapes: Tensor = self._start[0](crops)
            return shapes

    def shapes(
        self, crops: Tensor, x_0: Tensor, history: Tensor | None = None, regressor: Regressor | None = None
    ) -> list[Tensor]:
        """x_1 .. x_m, each (N, K, 2), from x_0 and d_0 (None: zeros), by the network or what stands for it."""
        steps = cascade(
            regressor or self.network,
            crops,
            x_0,
            self.iterations,
            patch_size=self.network.config.patch_size,
            history=history,
        )
        return [step.landmarks for step in steps]

    @torch.no_grad()
    def visit(self, crops: Tensor, x_0: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """States that the cascade visits: (N, K, 2) x_t and (N, 512) d_t after (N,) ``lengths`` iterations each."""
        x, history = x_0.clone(), x_0.new_zeros(len(x_0), HISTORY_SIZE)
        for step in cascade(self.network, crops, x_0, lengths, patch_size=self.network.config.patch_size):
            x[step.faces], history[step.faces] = step.landmarks, step.history
        return x, history

    def predict(self, crops: Tensor) -> Tensor:
        return self.shapes(crops, self.start(crops))[-1]

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        x_0 = self.start(batch.crops)
        if self.jitter is not None and self.training:
            x_0 = self.jitter(x_0, batch.part, batch.whole)
        history = None
        if self.visited is not None and self.training:
            x_0, history = self.visit(batch.crops, x_0, self.visited.lengths(batch.whole)[batch.part])
        sampled = None
        if self.training and self.encoder_share < 1:
            sampled = SampledEncoder(self.network, self.encoder_share, batch.part, batch.whole)
        shapes = self.shapes(batch.crops, x_0, history, sampled)
        errors = [nme(x, batch.landmarks, batch.d, batch.counted).mean() for x in shapes]
        return torch.stack(errors).sum(), errors[-1].detach()
