"""The cascade: LRN applied again and again, with Eq. 3 or another rule to stop it. The only loop of its kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from face_align_env.mdp import HISTORY_SIZE, is_terminal, transition
from face_align_env.patches import PATCH_SIZE, extract_patches, pad_crops


class Regressor(Protocol):
    """What the cascade iterates: s_t -> (a_t, d_{t+1}). LRN is one, the DCRN policy's actor another."""

    def __call__(self, patches: Tensor, history: Tensor, /) -> tuple[Tensor, Tensor]: ...


class Stop(Protocol):
    """When a face has had enough iterations."""

    def __call__(self, iteration: int, actions: Tensor, /) -> Tensor:
        """(M,) bool, by the number of iterations, counted from 1, and the last increments (M, 2K), pixels."""
        ...


def eq_3(alpha_2: float) -> Stop:
    """Eq. 3 under the paper's rule for tests, NME taken as 0: the last increment is short.

    :param alpha_2: see :class:`~face_align_env.mdp.MDPParameters`
    """

    def stops(iteration: int, actions: Tensor) -> Tensor:
        found: Tensor = is_terminal(0.0, actions, alpha_1=float("inf"), alpha_2=alpha_2)
        return found

    return stops


class MeanStart(nn.Module):
    """x_0 without a GEN: the mean shape, whatever the crop (the LRN-m rows of Table 6).

    :param mean_shape: (K, 2) in crop pixels
    """

    mean_shape: Tensor

    def __init__(self, mean_shape: Tensor) -> None:
        super().__init__()
        self.num_landmarks = len(mean_shape)
        self.register_buffer("mean_shape", mean_shape.detach().to(torch.float32).clone())

    def forward(self, crops: Tensor) -> Tensor:
        """(N, K, 2) shapes for N crops."""
        return self.mean_shape.expand(len(crops), -1, -1)


@dataclass(frozen=True)
class CascadeStep:
    """What one iteration did, for the faces that were still going.

    :param iteration: counted from 1
    :param faces: (M,) int64, their places in the batch
    :param landmarks: (M, K, 2) their new shapes x_t
    :param actions: (M, 2K) the increments a_{t-1} that led there
    :param history: (M, 512) d_t
    :param stopped: (M,) bool, the face has had enough
    """

    iteration: int
    faces: Tensor
    landmarks: Tensor
    actions: Tensor
    history: Tensor
    stopped: Tensor


def cascade(
    regressor: Regressor,
    crops: Tensor,
    x_0: Tensor,
    max_iterations: int | Tensor,
    stop: Stop | None = None,
    patch_size: int = PATCH_SIZE,
    history: Tensor | None = None,
) -> Iterator[CascadeStep]:
    """Refine shapes step by step, x_{t+1} = x_t + a_t with d_{t+1} handed on.

    Gradients flow through the increments and through d_t, not through the cropping of patches (as in MDM).

    :param regressor: the network
    :param crops: (N, 256, 256, 3) uint8
    :param x_0: (N, K, 2) start, crop pixels
    :param max_iterations: at most so many steps; or (N,) int64 on the host, the number of each face: one that has
        taken its own leaves the batch
    :param stop: a face that has had enough by it leaves the batch; None: every face takes all steps
    :param patch_size: side of the patches, pixels
    :param history: (N, 512) d_0; None: zeros
    """
    padded = pad_crops(crops, patch_size)
    faces = torch.arange(len(crops), device=crops.device)
    x = x_0
    history = x_0.new_zeros(len(x_0), HISTORY_SIZE) if history is None else history
    limits = max_iterations if isinstance(max_iterations, Tensor) else None
    last = max_iterations if limits is None else int(limits.max())
    for iteration in range(1, last + 1):
        if limits is not None and (limits < iteration).any():
            kept = (limits >= iteration).nonzero()[:, 0]  # on the host: nobody waits for the device
            if not len(kept):
                return
            limits, kept = limits[kept], kept.to(faces.device)
            faces, x, history = faces[kept], x[kept], history[kept]
        actions, history = regressor(extract_patches(padded, x, patch_size, faces), history)
        x = transition(x, actions)
        stopped = torch.zeros_like(faces, dtype=torch.bool) if stop is None else stop(iteration, actions)
        yield CascadeStep(iteration, faces, x, actions, history, stopped)
        if stop is None:
            continue  # without asking, which would make the host wait for the device
        if stopped.all():
            return
        if stopped.any():
            going = ~stopped
            faces, x, history = faces[going], x[going], history[going]
            limits = None if limits is None else limits[going.cpu()]
