"""A small search for good keywords of an algorithm on a task, and the values that it has found.

``face-align benchmark-tune`` searches with Optuna; ``tuned.json`` beside this file has the best values, which
``face-align benchmark --task`` uses. The space is here, the budget is the command's, and all of it is seeded: the
first trial of every search is the benchmark's own default with a smaller network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecMonitor

from face_align_env.agents.benchmark.algorithms import check_updates, find_algorithm, make_learner
from face_align_env.agents.common.rollout import play, spread
from face_align_env.agents.common.vec_env import FaceAlignVecEnv
from face_align_env.extras import needs
from face_align_env.files import write_json
from face_align_env.pretrain.settings import SettingError, read_json

if TYPE_CHECKING:
    import optuna

FILE = Path(str(resources.files(__package__) / "tuned.json"))
"""The values that come with this package: task -> algorithm -> how they were found, and the keywords."""

EVALUATIONS = 4  # of a trial; their mean is what is maximised, so that learning early counts
SEED = 1000  # of the trainings: the benchmark's own are 0, 1, ...

NETWORK = {"net_arch": [64, 64]}
"""The same in all trials: an update of these costs half of one of two layers of 256."""

_LEARNING_RATES = (3e-4, 3e-3)
_TAUS = [0.005, 0.02, 0.1]


def _off_policy(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", *_LEARNING_RATES, log=True),
        "tau": trial.suggest_categorical("tau", _TAUS),
        "learning_starts": trial.suggest_categorical("learning_starts", [250, 1000]),
    }


def _noisy(trial: optuna.Trial) -> dict[str, Any]:
    return {**_off_policy(trial), "noise": trial.suggest_categorical("noise", [0.05, 0.1, 0.2, 0.4])}


def _crossq(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", *_LEARNING_RATES, log=True),
        "learning_starts": trial.suggest_categorical("learning_starts", [250, 1000]),
    }


def _ppo(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", *_LEARNING_RATES, log=True),
        "n_steps": trial.suggest_categorical("n_steps", [16, 64, 128]),
        "n_epochs": trial.suggest_categorical("n_epochs", [5, 10]),
        "gae_lambda": trial.suggest_categorical("gae_lambda", [0.5, 0.9]),
        "policy_kwargs": {"log_std_init": trial.suggest_categorical("log_std_init", [-2.0, -1.0, 0.0])},
    }


SPACES: dict[str, Callable[[optuna.Trial], dict[str, Any]]] = {
    "ppo": _ppo,
    "ddpg": _noisy,
    "td3": _noisy,
    "sac": _off_policy,
    "tqc": _off_policy,
    "crossq": _crossq,
}
"""Of each algorithm: the keywords of a trial. What is not here is as the benchmark has it for all, but the network."""


@dataclass(frozen=True)
class Search:
    """A search and what it has found.

    :param keywords: of the best trial
    :param value: its mean return over its :data:`EVALUATIONS` measurements
    :param default: the same of the benchmark's own default with that network
    :param trials: that were made
    :param timesteps: transitions of each
    """

    keywords: dict[str, Any]
    value: float
    default: float
    trials: int
    timesteps: int


def tuned_keywords(task: str | None, path: Path = FILE) -> dict[str, dict[str, Any]]:
    """What was found for a task: algorithm -> keywords; nothing where nobody has searched.

    :param task: a registered id
    :param path: of the file
    """
    found: Mapping[str, Any] = read_json(path).get(task, {})
    return {algorithm: dict(each["keywords"]) for algorithm, each in found.items()}


def keep(path: Path, task: str, algorithm: str, search: Search) -> None:
    """Write what was found into a file, beside what is there of other tasks and algorithms."""
    document = read_json(path) if path.is_file() else {}
    document.setdefault(task, {})[algorithm] = vars(search)
    write_json(path, {name: dict(sorted(document[name].items())) for name in sorted(document)})


def check_search(task: str, algorithms: Sequence[str], timesteps: int) -> None:
    """Look at what a search is to be made of.

    :param task: a registered id
    :param algorithms: names
    :param timesteps: transitions of each trial
    :raises SettingError: there is no space for one of them, the task has patches, or nothing would be learnt
    """
    unknown = [name for name in algorithms if name not in SPACES]
    if unknown or not algorithms:
        raise SettingError("algos", "--algos", f"must be some of {', '.join(SPACES)}, got '{', '.join(unknown)}'.")
    if task not in gym.registry:
        raise SettingError("task", "--task", f"must be a registered id, got '{task}'.")
    for name in algorithms:
        check_updates(name, timesteps)
    if isinstance(FaceAlignVecEnv(1, task).observation_space, gym.spaces.Dict):
        raise SettingError("task", "--task", f"'{task}' has patches, whose trainings are too long for a search.")


def tune(
    task: str, algorithm: str, trials: int, timesteps: int, faces: int, seed: int = 0
) -> Iterator[tuple[dict[str, Any], float] | Search]:
    """Search; gives each trial's keywords and value as soon as it is there, and in the end the search.

    Trained and measured on the training split: the faces of a benchmark's measurements are not for choosing.

    :param task: a registered id without patches
    :param algorithm: one of :data:`SPACES`
    :param trials: how many, the default's included
    :param timesteps: transitions of each
    :param faces: of the training split that a trial is measured on
    :param seed: of the sampler
    :raises ModuleNotFoundError: Optuna is not installed; the message says which extra brings it
    """
    with needs("tune", "A search"):
        import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    best: dict[str, Any] = {"policy_kwargs": NETWORK}
    values = [_trial_value(task, algorithm, best, timesteps, faces)]
    yield best, values[0]
    for _ in range(trials - 1):
        trial = study.ask()
        keywords = SPACES[algorithm](trial)
        keywords["policy_kwargs"] = {**NETWORK, **keywords.get("policy_kwargs", {})}
        value = _trial_value(task, algorithm, keywords, timesteps, faces)
        study.tell(trial, value)
        yield keywords, value
        if value > max(values):
            best = keywords
        values.append(value)
    yield Search(best, max(values), values[0], trials, timesteps)


def _trial_value(task: str, algorithm: str, keywords: Mapping[str, Any], timesteps: int, faces: int) -> float:
    """The mean return on faces of the training split, over a training's measurements."""
    set_random_seed(SEED)
    torch.set_num_threads(1)
    env = VecMonitor(FaceAlignVecEnv(find_algorithm(algorithm).num_envs, task))
    env.seed(SEED)
    measured = FaceAlignVecEnv(min(50, faces), task)
    learner = make_learner(algorithm, env, "scratch", None, SEED, timesteps, keywords)
    assert isinstance(learner, BaseAlgorithm)
    learner.set_logger(Logger(None, []))  # its own would leave a folder behind for each trial
    returns = []
    for _ in range(EVALUATIONS):
        learner.learn(timesteps // EVALUATIONS, reset_num_timesteps=False)
        chosen = spread(measured.get_attr("task")[0].num_faces, faces)
        played = play(lambda seen: np.asarray(learner.predict(seen, deterministic=True)[0]), measured, chosen)
        returns.append(played.returns.mean())
    return float(np.mean(returns))
