"""How large the error of an aligned face is likely to be, from what the cascade knows of it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from face_align_env.landmarks import get_scheme
from face_align_env.mdp import HISTORY_SIZE
from face_align_env.networks.weights import rebuild, save_weights

LEAST_DISTANCE = 1e-4  # of two looks, in distances between the pupils: logarithms need more than nothing


@dataclass(frozen=True)
class ErrorHeadConfig:
    """Size of the head.

    :param num_landmarks: K
    :param hidden: size of d_t
    """

    num_landmarks: int = 68
    hidden: int = HISTORY_SIZE

    def __post_init__(self) -> None:
        get_scheme(self.num_landmarks)
        if self.hidden < 1:
            raise ValueError(f"hidden must be positive, got {self.hidden}.")


class ErrorHead(nn.Module):
    """Predicts the NME of a face, percent: log NME is linear in d_T, LRN's state after the last iteration.

    With a second look at the mirrored face, it is linear in that prediction (the mean of both looks') and in the
    logarithm of how far the two shapes are apart. A face whose looks disagree has a large error, whatever the reason.
    ``face_align_env.pretrain.confidence`` fits it.

    :param config: sizes
    """

    state: Tensor
    offset: Tensor
    pair: Tensor

    def __init__(self, config: ErrorHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.num_landmarks = config.num_landmarks
        # Buffers, for they are fitted in closed form, and kept in float32 by releases.
        self.register_buffer("state", torch.zeros(config.hidden))
        self.register_buffer("offset", torch.zeros(1))
        self.register_buffer("pair", torch.tensor([0.0, 1.0, 0.0]))  # constant, prediction of one look, disagreement

    def one_look(self, history: Tensor) -> Tensor:
        """(N,) predicted NME, percent, from (N, 512) d_T."""
        return torch.exp(self.offset + history @ self.state)

    def two_looks(self, history: Tensor, mirrored_history: Tensor, disagreement: Tensor) -> Tensor:
        """(N,) predicted NME of the mean of two looks, percent.

        :param history: (N, 512) d_T of the first look
        :param mirrored_history: (N, 512) of the second
        :param disagreement: (N,) see :func:`log_disagreement`
        """
        constant, single, apart = self.pair
        prediction = self.offset + (history + mirrored_history) @ self.state / 2
        return torch.exp(constant + single * prediction + apart * disagreement)

    def save(self, path: str | os.PathLike[str], notes: dict[str, Any] | None = None) -> None:
        """Write the head; see :func:`~face_align_env.networks.weights.save_weights`."""
        save_weights(path, "confidence", asdict(self.config), self.state_dict(), notes)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> ErrorHead:
        """Rebuild a head from its file, or from that of a release.

        :raises FileNotFoundError, WeightsError: see :func:`~face_align_env.networks.weights.rebuild`
        """
        return rebuild(lambda config: cls(ErrorHeadConfig(**config)), path, "confidence", device)


def log_disagreement(shapes: Tensor, others: Tensor) -> Tensor:
    """(N,) logarithm of the mean distance of two looks' landmarks, over the distance between the pupils of their mean.

    :param shapes: (N, K, 2)
    :param others: (N, K, 2)
    """
    left, right = (list(points) for points in get_scheme(shapes.shape[1]).pupils)
    mean = (shapes + others) / 2
    pupils = (mean[:, left].mean(1) - mean[:, right].mean(1)).norm(dim=-1)
    distance = (shapes - others).norm(dim=-1).mean(1)
    return torch.log((distance / pupils.clamp_min(1e-6)).clamp_min(LEAST_DISTANCE))
