"""The algorithms that a benchmark knows by name, and anybody's own by import path."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from face_align_env.agents.common.extractor import LRNExtractor
from face_align_env.agents.common.policies import load_object
from face_align_env.agents.common.replay_buffer import FaceReplayBuffer
from face_align_env.agents.dcrn.algorithm import DCRN, PRESETS
from face_align_env.extras import needs
from face_align_env.networks.lrn import LRN


class Learner(Protocol):
    """What a benchmark asks of an algorithm; those of Stable-Baselines3 are learners."""

    def learn(self, total_timesteps: int) -> Any:
        """Collect that many transitions, and learn from them."""
        ...

    def predict(self, observation: Any, *, deterministic: bool = True) -> tuple[Any, Any]:
        """Actions for the observations of all environments, and a state that is not looked at."""
        ...


@dataclass(frozen=True)
class Algorithm:
    """How an algorithm is made.

    :param path: ``module:name`` of its class
    :param keywords: what differs from its own defaults
    :param num_envs: faces at once
    :param dictionaries: whether it takes observations that are dictionaries, as those with patches are
    :param on_patches: what differs further where it sees patches
    """

    path: str
    keywords: Mapping[str, Any]
    num_envs: int = 16
    dictionaries: bool = True
    on_patches: Mapping[str, Any] = field(default_factory=dict)


# The same for all where they have it: Table 2's discount, Adam at 3e-4, minibatches of 128, and as many updates per
# transition (1/4) as a laptop does in the time that the transitions take.
_OFF_POLICY = {
    "learning_rate": 3e-4,
    "buffer_size": 50_000,
    "learning_starts": 1000,
    "batch_size": 128,
    "gamma": 0.9,
    "gradient_steps": 4,
}
_NOISE = {"noise": 0.1}  # standard deviation of the exploration, where a full step is 1
# The first noise: Eq. 3 ends no episode whose actions are as long as PPO's own default makes them, and with it PPO
# learns nothing from coarse patches. 1,024 transitions an update: Eq. 4 pays by the sign of a change, which is noisy.
_PPO = {
    "n_steps": 64,
    "batch_size": 256,
    "gamma": 0.9,
    "gae_lambda": 0.5,
    "learning_rate": 3e-4,
    "policy_kwargs": {"log_std_init": -1.0},
}
# Policy and value share the features here. Chosen by trial, as examples/ppo_single_file.py was: with returns of about
# -10 the value's loss is much the larger one, and both gradients are clipped together.
_PPO_ON_PATCHES = {
    "n_steps": 32,
    "n_epochs": 6,
    "gae_lambda": 0.5,
    "learning_rate": 1e-3,
    "vf_coef": 0.01,
    "policy_kwargs": {"net_arch": []},
}

ALGORITHMS: dict[str, Algorithm] = {
    "dcrn": Algorithm("face_align_env.agents.dcrn.algorithm:DCRN", {"gradient_steps": 4}),
    "ddpg": Algorithm("stable_baselines3:DDPG", {**_OFF_POLICY, **_NOISE}),
    "td3": Algorithm("stable_baselines3:TD3", {**_OFF_POLICY, **_NOISE}),
    "sac": Algorithm("stable_baselines3:SAC", _OFF_POLICY),
    "ppo": Algorithm("stable_baselines3:PPO", _PPO, on_patches=_PPO_ON_PATCHES),
    "a2c": Algorithm("stable_baselines3:A2C", {"gamma": 0.9}),
    "tqc": Algorithm("sb3_contrib:TQC", _OFF_POLICY),
    # CrossQ joins observations and next observations in one minibatch, which it cannot do with dictionaries.
    "crossq": Algorithm("sb3_contrib:CrossQ", {**_OFF_POLICY, "learning_rate": 1e-3}, dictionaries=False),
}


def find_algorithm(name: str) -> Algorithm:
    """An algorithm by its name here, or by an import path.

    :raises ValueError: neither
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if ":" not in name:
        raise ValueError(
            f"There is no algorithm '{name}'; there are {', '.join(ALGORITHMS)}, and your own as MODULE:NAME."
        )
    return Algorithm(name, {})


def load_algorithm(name: str) -> Any:
    """The class of an algorithm, or a function that is a policy.

    :raises ValueError: there is none of that name
    :raises ModuleNotFoundError: a module is not there; the message says which extra brings it
    """
    path = find_algorithm(name).path
    if path.startswith("sb3_contrib:"):
        with needs("benchmark", f"'{path}'"):
            return load_object(path)
    return load_object(path)


def check_updates(name: str, timesteps: int, overrides: Mapping[str, Any] | None = None) -> None:
    """Look whether an algorithm learns anything in so many transitions.

    :param name: see :func:`find_algorithm`
    :param timesteps: transitions that it will collect
    :param overrides: its keywords
    :raises ValueError: it is off-policy, and its first update comes later
    """
    made = load_algorithm(name)
    if not inspect.isclass(made) or not issubclass(made, OffPolicyAlgorithm):
        return
    keywords = {**find_algorithm(name).keywords, **(overrides or {})}
    parameter = inspect.signature(made).parameters.get("learning_starts")
    begins = keywords.get("learning_starts", None if parameter is None else parameter.default)
    if begins is None and issubclass(made, DCRN):
        begins = PRESETS[keywords.get("preset", "stable")].learning_starts
    if isinstance(begins, int) and begins >= timesteps:
        raise ValueError(
            f"{name} learns nothing in {timesteps:,} transitions: its first update comes after {begins:,} "
            f"(learning_starts). Give more --timesteps, or --set {name}.learning_starts={timesteps // 10}."
        )


def is_policy(found: Any) -> bool:
    """Whether an object is a function from an observation to an action, with nothing to learn."""
    return callable(found) and not inspect.isclass(found)


def make_learner(
    name: str,
    env: VecEnv,
    start: str,
    lrn: LRN | None,
    seed: int,
    timesteps: int,
    overrides: Mapping[str, Any] | None = None,
) -> Learner:
    """An algorithm on its environment, ready to learn.

    :param name: see :func:`find_algorithm`
    :param env: what it learns on
    :param start: see :data:`~face_align_env.agents.benchmark.settings.STARTS`
    :param lrn: the network it starts from; with fresh weights where it starts from scratch, None where there are no
        patches
    :param seed: of everything random
    :param timesteps: transitions it will collect: a replay buffer is no larger
    :param overrides: keywords of the algorithm
    :raises ValueError, ModuleNotFoundError: there is no such algorithm
    """
    algorithm = find_algorithm(name)
    made = load_algorithm(name)
    sees_patches = isinstance(env.observation_space, spaces.Dict)
    layers = (algorithm.keywords, algorithm.on_patches if sees_patches else {}, overrides or {})
    keywords: dict[str, Any] = {name: value for layer in layers for name, value in layer.items()}
    network = {name: value for layer in layers for name, value in layer.get("policy_kwargs", {}).items()}
    if not inspect.isclass(made):
        raise ValueError(f"'{name}' is no class: a function has nothing to learn.")
    if issubclass(made, DCRN):
        return made(env=env, lrn=lrn, seed=seed, device="cpu", **{**_dcrn(start), **keywords})
    if not issubclass(made, BaseAlgorithm):
        learner: Learner = load_algorithm(name)(env, seed=seed, **keywords)
        return learner
    keywords.pop("policy_kwargs", None)
    policy = {"net_arch": [256, 256], **network}
    if sees_patches:
        policy = {"features_extractor_class": LRNExtractor, "features_extractor_kwargs": {"lrn": lrn}, **policy}
    if issubclass(made, OffPolicyAlgorithm):
        keywords["buffer_size"] = min(keywords.get("buffer_size", timesteps), timesteps)
        noise = keywords.pop("noise", None)
        if noise is not None:
            size = env.action_space.shape
            assert size is not None
            keywords["action_noise"] = NormalActionNoise(np.zeros(size), np.full(size, noise))
        if sees_patches:
            keywords["replay_buffer_class"] = FaceReplayBuffer
            keywords["replay_buffer_kwargs"] = {"faces": env.get_attr("faces")[0]}
    kind = "MultiInputPolicy" if sees_patches else "MlpPolicy"
    return made(kind, env, seed=seed, device="cpu", policy_kwargs=policy, **keywords)


def _dcrn(start: str) -> dict[str, Any]:
    """What changes in DCRN where it does not start from a policy that is worth keeping."""
    if start == "policy":
        return {}
    return {"imitation_weight": 0.0, "freeze_encoder": start == "features"}


def acts_by_itself(name: str) -> bool:
    """Whether an algorithm writes increments and history itself, as DCRN does."""
    made = load_algorithm(name)
    return inspect.isclass(made) and issubclass(made, DCRN)
