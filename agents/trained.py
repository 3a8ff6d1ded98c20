"""Trained agents of the named tasks: each has the weights of its policy (safetensors) and a card (JSON)."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
from safetensors.torch import load_file, save
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import GymEnv

import face_align_env  # noqa: F401 - registers the tasks
from face_align_env.agents.common.policies import load_object
from face_align_env.files import write_bytes, write_json
from face_align_env.networks.weights import file_digest

FOLDER = Path(__file__).parent / "trained"
"""Where the trained agents of this package are."""


@dataclass(frozen=True)
class AgentCard:
    """What is known of a trained agent; its JSON file has these fields.

    :param algorithm: its short name, ``"ppo"``
    :param task: the registered id that it was trained on
    :param path: ``module:name`` of the algorithm's class
    :param policy: its first argument, ``"MlpPolicy"``
    :param keywords: its other arguments, as far as JSON has them
    :param timesteps: transitions that it was trained on
    :param seed: of the training
    :param command: what trained it
    :param faces: held-out faces that it was measured on, an episode each
    :param mean_return: on these, not discounted
    :param success: share of the episodes that end with an NME below alpha_1, percent
    :param nme: mean NME where they end, percent
    :param sha256: of the file with the weights, hexadecimal
    """

    algorithm: str
    task: str
    path: str
    policy: str
    keywords: dict[str, Any]
    timesteps: int
    seed: int
    command: str
    faces: int
    mean_return: float
    success: float
    nme: float
    sha256: str = ""


def agent_path(algorithm: str, task: str, folder: str | os.PathLike[str] = FOLDER) -> Path:
    """The file of an agent's weights; its card has the suffix ``.json``."""
    return Path(folder) / f"{algorithm}-{re.sub('[^A-Za-z0-9]+', '-', task)}.safetensors"


def load_card(algorithm: str, task: str, folder: str | os.PathLike[str] = FOLDER) -> AgentCard:
    """What is known of a trained agent.

    :raises ValueError: there is none; the message says which there are; or it is damaged
    """
    path = agent_path(algorithm, task, folder).with_suffix(".json")
    if not path.is_file():
        there = (json.loads(each.read_text(encoding="utf-8")) for each in sorted(Path(folder).glob("*.json")))
        known = ", ".join(f"{each['algorithm']} on {each['task']}" for each in there) or "none"
        raise ValueError(f"There is no trained agent '{algorithm}' for '{task}'; there are: {known}.")
    try:
        return AgentCard(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"'{path}' is no card of a trained agent ({error}). Install face-align-env again.") from error


def load_agent(
    algorithm: str, task: str, env: GymEnv | None = None, folder: str | os.PathLike[str] = FOLDER
) -> BaseAlgorithm:
    """A trained agent, ready to ``predict`` or to learn on.

    :param algorithm: ``"ppo"``, ...
    :param task: a registered id, ``"FaceAlign/Features19-v0"``
    :param env: what it learns on; None: ``gym.make(task)``
    :param folder: where the agents are
    :raises ValueError: there is no such agent, or its file is not the one that the card describes
    """
    card = load_card(algorithm, task, folder)
    path = agent_path(algorithm, task, folder)
    if file_digest(path) != card.sha256:
        raise ValueError(f"'{path}' is not the file that its card describes. Install face-align-env again.")
    made = load_object(card.path)
    model: BaseAlgorithm = made(
        card.policy, gym.make(task) if env is None else env, seed=card.seed, device="cpu", **card.keywords
    )
    model.policy.load_state_dict(load_file(path))
    return model


def save_agent(model: BaseAlgorithm, card: AgentCard, folder: str | os.PathLike[str] = FOLDER) -> Path:
    """Write an agent's weights and its card; what :func:`load_agent` reads.

    :param model: the agent, made as the card says
    :param card: of it; its hash is filled in
    :return: the file of the weights
    """
    path = agent_path(card.algorithm, card.task, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save({name: tensor.contiguous() for name, tensor in model.policy.state_dict().items()}))
    write_json(path.with_suffix(".json"), {**asdict(card), "sha256": file_digest(path)})
    return path
