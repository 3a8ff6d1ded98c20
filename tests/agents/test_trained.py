"""Trained agents: weights and card come back as they were written."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO, SAC

from face_align_env.agents import load_agent
from face_align_env.agents.trained import FOLDER, AgentCard, agent_path, load_card, save_agent

# Stable-Baselines3 writes into the policy_kwargs that it is given: each test has its own.
CARD: dict[str, Any] = {
    "task": "Pendulum-v1",
    "policy": "MlpPolicy",
    "keywords": {"gamma": 0.9, "policy_kwargs": {"net_arch": [8]}},
    "timesteps": 0,
    "seed": 3,
    "command": "none",
    "faces": 0,
    "mean_return": 0.0,
    "success": 0.0,
    "nme": 0.0,
}


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_an_agent_acts_as_the_one_that_was_saved(algorithm: Any, tmp_path: Path) -> None:
    name = algorithm.__name__.lower()
    card = AgentCard(algorithm=name, path=f"stable_baselines3:{algorithm.__name__}", **deepcopy(CARD))
    model = algorithm(card.policy, gym.make(card.task), seed=5, device="cpu", **card.keywords)
    save_agent(model, card, tmp_path)
    agent = load_agent(name, card.task, folder=tmp_path)
    assert isinstance(agent, algorithm)
    assert agent.gamma == 0.9
    observations = np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        agent.predict(observations, deterministic=True)[0], model.predict(observations, deterministic=True)[0]
    )


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no trained agent 'ppo' for 'Nothing-v0'; there are: none"):
        load_agent("ppo", "Nothing-v0", folder=tmp_path)
    card = AgentCard(algorithm="ppo", path="stable_baselines3:PPO", **deepcopy(CARD))
    model = PPO("MlpPolicy", gym.make(card.task), device="cpu", **card.keywords)
    save_agent(model, card, tmp_path)
    with pytest.raises(ValueError, match=r"there are: ppo on Pendulum-v1"):
        load_agent("sac", "Pendulum-v1", folder=tmp_path)
    path = agent_path("ppo", "Pendulum-v1", tmp_path)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ValueError, match="not the file that its card describes"):
        load_agent("ppo", "Pendulum-v1", folder=tmp_path)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_each_agent_of_the_package_loads(path: Path) -> None:
    algorithm = path.stem.split("-")[0]
    (task,) = (each for each in gym.registry if agent_path(algorithm, each).stem == path.stem)
    agent = load_agent(algorithm, task)
    card, threshold = load_card(algorithm, task), gym.spec(task).reward_threshold
    assert threshold is not None
    assert card.mean_return >= threshold
    # Nobody here finds half of the faces from patches and nothing else: its threshold is what is asked for.
    assert card.success > (45 if task == "FaceAlign/Patches19-v0" else 50)
    observation, _ = gym.make(task).reset(seed=0)
    assert agent.predict(observation)[0].shape == agent.action_space.shape
