"""Policies of FaceAlign-v0: functions from a batch of observations to actions, and what can be made into one."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from face_align_env.networks.lrn import LRN

Observations = dict[str, npt.NDArray[Any]]  # of FaceAlign-v0; of the tasks with features, one array
Policy = Callable[[Observations], npt.NDArray[np.float32]]
"""From a batch of N observations to (N, A) actions, pixels."""


def random_policy(space: gym.spaces.Box, seed: int) -> Policy:
    """Actions drawn with equal probability from all of a space.

    :param space: of one action, (A,)
    :param seed: of the actions
    """
    rng = np.random.default_rng([seed, 1])

    def act(observations: Any) -> npt.NDArray[np.float32]:
        shape = (_count(observations), *space.shape)
        return rng.uniform(space.low, space.high, shape).astype(np.float32)

    return act


def still_policy(space: gym.spaces.Box) -> Policy:
    """Zeros, whatever is observed.

    :param space: of one action, (A,)
    """
    return lambda observations: np.zeros((_count(observations), *space.shape), dtype=np.float32)


def _count(observations: Any) -> int:
    """N, of observations that are a dictionary of arrays, or one array."""
    return len(next(iter(observations.values())) if isinstance(observations, dict) else observations)


def zero_policy(observations: Observations) -> npt.NDArray[np.float32]:
    """No increments: every shape stays where it is."""
    count, num_landmarks = observations["patches"].shape[:2]
    return np.zeros((count, 2 * num_landmarks), dtype=np.float32)


def lrn_policy(lrn: LRN) -> Policy:
    """LRN as section 3.2 has it: the actions are ``[a_t, d_{t+1}]``, for an environment with ``learned_history``."""
    device = next(lrn.parameters()).device

    @torch.inference_mode()
    def act(observations: Any) -> npt.NDArray[np.float32]:
        state = (torch.from_numpy(observations[key]).to(device) for key in ("patches", "history"))
        return torch.cat(lrn(*state), dim=1).cpu().numpy()

    return act


def load_object(path: str) -> Any:
    """What an import path ``module:name`` names; modules of the working directory are found, too.

    :raises ValueError: it is no import path, or the module has nothing of that name
    :raises ModuleNotFoundError: there is no such module, or it needs one that is not there
    """
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"'{path}' is no import path: MODULE:NAME.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: Any = importlib.import_module(module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"'{module_name}' has no '{attribute}'.")
        found = getattr(found, part)
    return found


def as_policy(policy: Any) -> Policy:
    """A policy for batches.

    :param policy: a function of one observation, a dictionary of arrays, that returns one action, (A,) pixels, or of a
        batch of them where it has an attribute ``vectorized`` that is true; or something with ``predict``, as a model
        of Stable-Baselines3, which is asked without noise
    :raises ValueError: it is neither
    """
    if hasattr(policy, "predict"):
        return lambda observations: policy.predict(observations, deterministic=True)[0]
    if not callable(policy):
        raise ValueError(f"A policy is a function of an observation, or has predict(); {policy!r} is neither.")

    if getattr(policy, "vectorized", False):
        return lambda observations: np.asarray(policy(observations), dtype=np.float32)

    def act(observations: Any) -> npt.NDArray[np.float32]:
        def single(i: int) -> Any:
            if isinstance(observations, dict):
                return {key: value[i] for key, value in observations.items()}
            return observations[i]

        return np.stack([np.asarray(policy(single(i)), dtype=np.float32) for i in range(_count(observations))])

    return act


def import_policy(name: str) -> Policy:
    """The policy that an import path names; see :func:`load_object`.

    :param name: ``module:function``, see :func:`as_policy`
    :raises ValueError: it is no import path, or names no policy
    :raises ModuleNotFoundError: there is no such module
    """
    if not all(name.partition(":")):
        raise ValueError(
            f"Unknown policy '{name}'. There are: random, zero, or MODULE:FUNCTION, an import path; with --run: dcrn, "
            "lrn."
        )
    return as_policy(load_object(name))


def named_policy(name: str, space: gym.spaces.Box, seed: int) -> Policy:
    """``"random"``, ``"zero"``, or what an import path names, see :func:`import_policy`.

    :param space: of one action
    :param seed: of random actions
    """
    if name == "random":
        return random_policy(space, seed)
    return zero_policy if name == "zero" else import_policy(name)
