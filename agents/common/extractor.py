"""A pretrained LRN as features extractor of any Stable-Baselines3 algorithm."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.lrn import LRN
from face_align_env.released import find_release, load_networks


def find_lrn(lrn: LRN | str | os.PathLike[str]) -> LRN:
    """The LRN that an argument names.

    :param lrn: a network (it is copied), the name of released weights (``"300w-68"``), or a ``.safetensors`` file
    :raises ValueError: there is no release of that name; the message says which there are
    :raises FileNotFoundError, WeightsError: the file is missing, or is no LRN
    """
    if isinstance(lrn, LRN):
        return copy.deepcopy(lrn)
    if isinstance(lrn, str) and not lrn.endswith(".safetensors"):
        return load_networks(find_release(lrn))[1]
    return LRN.load(lrn)


def load_lrn(lrn: LRN | str | os.PathLike[str] | None, observation_space: spaces.Space[Any]) -> LRN:
    """The LRN that an argument names, checked against the environment.

    :param lrn: see :func:`find_lrn`; None: a fresh ``compact`` one
    :param observation_space: of FaceAlign-v0
    :raises ValueError: the space is not FaceAlign-v0's, or its patches are not what the network was made for
    """
    if not (isinstance(observation_space, spaces.Dict) and {"patches", "history"} <= set(observation_space.spaces)):
        raise ValueError(f"Expected FaceAlign-v0's observations (patches, history), got {observation_space}.")
    num_landmarks, patch_size = observation_space["patches"].shape[:2]  # type: ignore[index]
    network = LRN(lrn_network.preset("compact", num_landmarks)) if lrn is None else find_lrn(lrn)
    expected = (network.num_landmarks, network.config.patch_size)
    if expected != (num_landmarks, patch_size):
        raise ValueError(
            f"This LRN reads {expected[0]} patches of {expected[1]} pixels, the environment shows {num_landmarks} of "
            f"{patch_size}. Train one for this scheme: face-align pretrain lrn"
        )
    return network


class LRNExtractor(BaseFeaturesExtractor):
    """The trunk of LRN: features d_{t+1} in R^512 from the state (p_t, d_t), and behind them whatever else is observed.

    ``SAC("MultiInputPolicy", env, policy_kwargs=dict(features_extractor_class=LRNExtractor,
    features_extractor_kwargs=dict(lrn="300w-68", freeze=True)))``

    :param observation_space: of FaceAlign-v0
    :param lrn: the name of released weights; or a pretrained network, ``LRN.load("weights.safetensors")``, which a
        saved model then carries; None: fresh ``compact`` weights
    :param freeze: keep the patch encoder as it is
    :raises ValueError: weights of another scheme, see :func:`load_lrn`; or a file, without which a saved model could
        not be loaded
    """

    def __init__(self, observation_space: spaces.Dict, lrn: LRN | str | None = None, freeze: bool = False) -> None:
        if not (lrn is None or isinstance(lrn, LRN)) and str(lrn).endswith(".safetensors"):
            raise ValueError(
                f"A model that depends on '{lrn}' could not be loaded without that file. Pass the network: "
                f"lrn=LRN.load('{lrn}'); the model then carries it."
            )
        network = load_lrn(lrn, observation_space)
        # Such as the share of iterations that is left: the -10 at the limit cannot be foreseen without it.
        others = [key for key in observation_space.spaces if key not in ("patches", "history")]
        num_others = sum(spaces.flatdim(observation_space[key]) for key in others)
        super().__init__(observation_space, features_dim=network.config.hidden + num_others)
        self.others = others
        self.trunk = network.trunk
        self._pretrained = lrn is not None
        if freeze:
            self.trunk.encoder.requires_grad_(False)

    def apply(self, fn: Callable[[nn.Module], None]) -> LRNExtractor:
        """As any module's, but pretrained weights stay: PPO and A2C would overwrite them (their ``ortho_init``)."""
        return self if self._pretrained else super().apply(fn)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        features: Tensor = self.trunk(observations["patches"], observations["history"])
        return torch.cat([features, *(observations[key].flatten(1) for key in self.others)], dim=1)
