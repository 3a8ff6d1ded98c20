"""Local Regression Network: the policy network of section 3.2, left half of Fig. 2."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from face_align_env.crops import CROP_SIZE
from face_align_env.landmarks import get_scheme, means_of_points
from face_align_env.mdp import DEFAULT_ACTION_LIMIT, HISTORY_SIZE
from face_align_env.networks.convolution import PatchConv2d, PixelConv2d
from face_align_env.networks.weights import output_for, rebuild, save_weights
from face_align_env.patches import PATCH_SIZE

ConvLayer = tuple[int, int, int, int]
"""Channels, kernel, stride, and side of the max-pooling that follows (1: none)."""


@dataclass(frozen=True)
class LRNConfig:
    """Size of the network.

    :param num_landmarks: K
    :param patch_size: side of the patches, pixels
    :param encoder: convolutions that each patch goes through, without padding, ReLU after each; the same
        weights for all landmarks
    :param bottleneck: numbers that the encoder keeps of a patch; 0: all of the last convolution's output
    :param hidden: size of d_t; R^512 in the paper
    :param action_limit: bound of a_t, pixels of the crop
    """

    num_landmarks: int = 68
    patch_size: int = PATCH_SIZE
    encoder: tuple[ConvLayer, ...] = ((32, 3, 1, 2), (32, 3, 1, 2))
    bottleneck: int = 0
    hidden: int = HISTORY_SIZE
    action_limit: float = DEFAULT_ACTION_LIMIT

    def __post_init__(self) -> None:
        get_scheme(self.num_landmarks)
        if not 1 <= self.patch_size <= CROP_SIZE:
            raise ValueError(f"patch_size must be from 1 to {CROP_SIZE} pixels, got {self.patch_size}.")
        if not isinstance(self.action_limit, int | float) or not 0 < self.action_limit <= CROP_SIZE:
            raise ValueError(f"action_limit must be above 0 and at most {CROP_SIZE} pixels, got {self.action_limit!r}.")
        if self.hidden < 1 or self.bottleneck < 0:
            raise ValueError(
                f"hidden must be positive and bottleneck not negative, got {self.hidden} and {self.bottleneck}."
            )
        try:
            # JSON has no tuples
            object.__setattr__(self, "encoder", tuple(tuple(layer) for layer in self.encoder))
            self.encoder_features()
        except (TypeError, ValueError) as error:
            raise ValueError(f"encoder must be layers (channels, kernel, stride, pool): {error}") from error

    def encoder_features(self) -> int:
        """Numbers that the last convolution gives for a patch.

        :raises ValueError: nothing is left of a patch, or a layer makes no sense
        """
        channels, side = 3, self.patch_size
        for channels, kernel, stride, pool in self.encoder:
            if min(channels, kernel, stride, pool) < 1:
                raise ValueError(f"each number must be positive, got {(channels, kernel, stride, pool)}")
            side = ((side - kernel) // stride + 1) // pool
            if side < 1:
                raise ValueError(f"nothing is left of a patch of {self.patch_size} pixels after {self.encoder}")
        return channels * side * side


# "mdm" follows the patch encoder of MDM [7]; the others stride early, which a CPU notices more than the NME does.
PRESETS = {
    "mdm": LRNConfig(),
    "paper": LRNConfig(encoder=((32, 5, 3, 1), (64, 3, 1, 1), (64, 3, 2, 1)), bottleneck=32),
    "compact": LRNConfig(encoder=((32, 6, 4, 1), (32, 3, 1, 1), (64, 3, 2, 1)), bottleneck=32),
    "tiny": LRNConfig(encoder=((16, 6, 6, 1), (32, 3, 1, 1)), bottleneck=16),
}


def preset(name: str, num_landmarks: int) -> LRNConfig:
    """A preset for K landmarks.

    :raises ValueError: when there is no preset of that name
    """
    if name not in PRESETS:
        raise ValueError(f"Unknown LRN preset '{name}'; there are {', '.join(PRESETS)}.")
    return replace(PRESETS[name], num_landmarks=num_landmarks)


class LRNTrunk(nn.Module):
    """From the state s_t = (p_t, d_t) to d_{t+1}: what the actor and the critic of Fig. 2 have in common."""

    def __init__(self, config: LRNConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        channels = 3
        for out, kernel, stride, pool in config.encoder:
            convolution = PatchConv2d if layers else PixelConv2d
            layers += [convolution(channels, out, kernel, stride), nn.ReLU(inplace=True)]
            channels = out
            if pool > 1:
                layers.append(nn.MaxPool2d(pool))
        layers.append(nn.Flatten())
        features = config.encoder_features()
        if config.bottleneck:
            layers += [nn.Linear(features, config.bottleneck), nn.ReLU(inplace=True)]
            features = config.bottleneck
        self.encoder = nn.Sequential(*layers)
        self.recurrent = nn.Linear(config.num_landmarks * features + config.hidden, config.hidden)

    def forward(self, patches: Tensor, history: Tensor) -> Tensor:
        """d_{t+1}.

        :param patches: (N, K, P, P, 3), RGB, 0..255, uint8 or float
        :param history: (N, 512) d_t
        :return: (N, 512) in (-1, 1)
        """
        return self.remember(self.encode(patches), history)

    def encode(self, patches: Tensor) -> Tensor:
        """(N, K F) features of the patches (N, K, P, P, 3), F for each of them."""
        # (N K, 3, P, P) in channels-last memory: the patches' own order, nothing is moved
        images = patches.flatten(0, 1).permute(0, 3, 1, 2)
        codes: Tensor = self.encoder(images).view(len(patches), -1)
        return codes

    def remember(self, patch_features: Tensor, history: Tensor) -> Tensor:
        """(N, 512) d_{t+1} from the features of the patches and (N, 512) d_t."""
        return self.advance(self.joined(patch_features, history))

    @staticmethod
    def joined(patch_features: Tensor, history: Tensor) -> Tensor:
        """(N, K F + 512) features and d_t as one, of the features' type."""
        # d_t is kept in float32, whatever type the weights (and with them the features) have.
        return torch.cat([patch_features, history.to(patch_features.dtype)], dim=1)

    def advance(self, joined: Tensor) -> Tensor:
        """(N, 512) d_{t+1} from what :meth:`joined` gives."""
        return torch.tanh(self.recurrent(joined))


class LRN(nn.Module):
    """The actor: d_{t+1} from the trunk, and a_t from d_{t+1} by a linear layer and tanh.

    Supervised training and DDPG use this very function, bounds included.

    :param config: sizes
    """

    def __init__(self, config: LRNConfig) -> None:
        super().__init__()
        self.config = config
        self.num_landmarks = config.num_landmarks
        self.trunk = LRNTrunk(config)
        self.action = nn.Linear(config.hidden, 2 * config.num_landmarks)
        # First increments are small: a cascade that starts with leaps of the size of the limit does not converge.
        nn.init.uniform_(self.action.weight, -0.1 / math.sqrt(config.hidden), 0.1 / math.sqrt(config.hidden))
        nn.init.zeros_(self.action.bias)

    def forward(self, patches: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """One iteration.

        :param patches: (N, K, P, P, 3), RGB, 0..255
        :param history: (N, 512) d_t
        :return: a_t (N, 2K) in pixels of the crop, and d_{t+1} (N, 512)
        """
        next_hidden = self.trunk(patches, history)
        return self.increment(next_hidden), next_hidden.float()

    def increment(self, next_hidden: Tensor) -> Tensor:
        """(N, 2K) a_t in pixels, from (N, 512) d_{t+1}."""
        return self.config.action_limit * torch.tanh(self.action(next_hidden).float())

    @torch.no_grad()
    def for_landmarks(self, num_landmarks: int) -> LRN:
        """A start for training on a scheme whose points are means of this one's.

        The encoder, what d_t carries on and a_t's dependence on it are taken over. What d_{t+1} takes from a patch is
        the same where the point is one of this scheme's, and the mean where it is a mean of several; the patches of all
        other points are missing. So this is not the same function, and has to be trained.

        :param num_landmarks: K of that scheme
        :return: a network of its own on the same device
        :raises ValueError: there is no such mean: see :func:`~face_align_env.landmarks.means_of_points`
        """
        weight = self.trunk.recurrent.weight
        means = torch.from_numpy(means_of_points(self.num_landmarks, num_landmarks)).to(weight.device)
        other = LRN(replace(self.config, num_landmarks=num_landmarks)).to(weight.device)
        other.trunk.encoder.load_state_dict(self.trunk.encoder.state_dict())
        codes = weight.size(1) - self.config.hidden
        of_patches = torch.einsum("hkf,jk->hjf", weight[:, :codes].reshape(len(weight), self.num_landmarks, -1), means)
        other.trunk.recurrent.weight.copy_(torch.cat([of_patches.flatten(1), weight[:, codes:]], dim=1))
        other.trunk.recurrent.bias.copy_(self.trunk.recurrent.bias)
        other.action.load_state_dict(output_for(means, self.action.state_dict()))
        return other.train(self.training)

    def save(self, path: str | os.PathLike[str], notes: dict[str, Any] | None = None, half: bool = False) -> None:
        """Write the weights; see :func:`~face_align_env.networks.weights.save_weights`."""
        save_weights(path, "lrn", asdict(self.config), self.state_dict(), notes, half)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> LRN:
        """Rebuild a network from its file.

        :raises FileNotFoundError, WeightsError: see :func:`~face_align_env.networks.weights.rebuild`
        """
        return rebuild(lambda config: cls(LRNConfig(**config)), path, "lrn", device)
