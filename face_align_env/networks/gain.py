"""How much another iteration of the cascade is likely to gain, from how far the last one went."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from face_align_env.landmarks import get_scheme
from face_align_env.mdp import MAX_ITERATIONS, euclidean
from face_align_env.networks.cascade import Stop
from face_align_env.networks.weights import rebuild, save_weights


@dataclass(frozen=True)
class GainHeadConfig:
    """Size of the head.

    :param num_landmarks: K
    :param iterations: T; beyond the last of them nothing is known
    """

    num_landmarks: int = 68
    iterations: int = MAX_ITERATIONS

    def __post_init__(self) -> None:
        get_scheme(self.num_landmarks)
        if self.iterations < 2:
            raise ValueError(f"iterations must be at least 2, got {self.iterations}.")


class GainHead(nn.Module):
    """Predicts by how much the next iteration lowers the NME of a face, points of percent.

    Eq. 3 takes a short increment for the end, with one bound for all iterations. What an increment of a length says of
    the next one's gain is another thing after the first iteration than after the fourth: NME(x_t) - NME(x_{t+1}) is
    linear in :func:`increment_lengths` of a_{t-1}, with coefficients of its own for each t = 1 .. T - 1.
    ``face_align_env.pretrain.gain`` fits them.

    :param config: sizes
    """

    slopes: Tensor
    offset: Tensor

    def __init__(self, config: GainHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.num_landmarks = config.num_landmarks
        # Buffers, for they are fitted in closed form, and kept in float32 by releases.
        self.register_buffer("slopes", torch.zeros(config.iterations - 1, 3))
        self.register_buffer("offset", torch.zeros(config.iterations - 1))

    def forward(self, iteration: int, actions: Tensor) -> Tensor:
        """(N,) predicted gain of one more iteration after ``iteration`` of them, from their last increments (N, 2K)."""
        return self.of_lengths(iteration, increment_lengths(actions))

    def of_lengths(self, iteration: int, lengths: Tensor) -> Tensor:
        """(N,) the same from (N, 3) :func:`increment_lengths`."""
        row = min(iteration, self.config.iterations - 1) - 1
        return self.offset[row] + lengths @ self.slopes[row]

    def save(self, path: str | os.PathLike[str], notes: dict[str, Any] | None = None) -> None:
        """Write the head; see :func:`~face_align_env.networks.weights.save_weights`."""
        save_weights(path, "gain", asdict(self.config), self.state_dict(), notes)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> GainHead:
        """Rebuild a head from its file, or from that of a release.

        :raises FileNotFoundError, WeightsError: see :func:`~face_align_env.networks.weights.rebuild`
        """
        return rebuild(lambda config: cls(GainHeadConfig(**config)), path, "gain", device)


def increment_lengths(actions: Tensor) -> Tensor:
    """(N, 3) mean, largest and standard deviation of the landmarks' lengths in increments (N, 2K), pixels."""
    lengths = euclidean(actions.float().view(*actions.shape[:-1], -1, 2))
    return torch.stack([lengths.mean(-1), lengths.amax(-1), lengths.std(-1, correction=0)], dim=-1)


def little_gain(head: GainHead, least: float) -> Stop:
    """A face stops when its next iteration is predicted to gain less than ``least`` points of percent."""

    def stops(iteration: int, actions: Tensor) -> Tensor:
        found: Tensor = head(iteration, actions) < least
        return found

    return stops
