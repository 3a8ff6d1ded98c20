"""What nobody trains here: the pretrained cascade, doing nothing, chance, and functions that somebody wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gymnasium import spaces

from face_align_env.agents.benchmark.arena import TERMINATIONS, Arena
from face_align_env.agents.benchmark.settings import TrialKey
from face_align_env.agents.benchmark.trial import FACES, RESULTS, measurement, write_faces, write_rows
from face_align_env.agents.common.policies import (
    Policy,
    as_policy,
    load_object,
    lrn_policy,
    random_policy,
    still_policy,
)
from face_align_env.agents.common.rollout import Rollout, play, spread
from face_align_env.mdp import MAX_ITERATIONS
from face_align_env.progress import Progress

PRETRAINED, NOTHING, CHANCE = "LRN+Eq.3", "do-nothing", "random"
FIXED = tuple(f"LRN x{m}" for m in range(1, MAX_ITERATIONS + 1))
NOT_TRAINED = "-"  # in the column of starts


def baseline_folder(folder: Path, name: str) -> Path:
    """Where a baseline of a benchmark is."""
    return folder / "baselines" / TrialKey(name, "", 0).folder_name.partition(".")[0]


def run_baselines(arena: Arena, functions: Sequence[str], seeds: int) -> None:
    """Measure all baselines that have not been measured yet.

    :param arena: of the benchmark
    :param functions: import paths of policies ``policy(obs) -> action``: one observation of FaceAlign-v0, and
        increments in pixels of the crop (of a task, its observation and its action); called with a batch instead where
        it has an attribute ``vectorized`` that is true
    :param seeds: how often chance is measured
    """
    pretrained = [PRETRAINED, *FIXED] if arena.settings.task is None else []
    names = [*pretrained, NOTHING, CHANCE, *functions]
    left = [name for name in names if _stale(arena.folder, name, seeds)]
    for name in Progress(left, desc="baselines", disable=not left):
        rows: list[dict[str, Any]] = []
        found: dict[str, Rollout] = {}
        for seed in range(seeds if name == CHANCE else 1):
            played = _measure(arena, name, seed)
            found = found or played
            key = TrialKey(name, NOT_TRAINED, seed)
            rows.extend(measurement(key, 0, termination, episodes, 0.0) for termination, episodes in played.items())
        own = baseline_folder(arena.folder, name)
        write_rows(own / RESULTS, rows)
        write_faces(own / FACES, found)


def _stale(folder: Path, name: str, seeds: int) -> bool:
    own = baseline_folder(folder, name)
    if not (own / FACES).is_file():
        return True
    measured = len((own / RESULTS).read_text(encoding="utf-8").splitlines()) - 1
    return name == CHANCE and measured < seeds * len(TERMINATIONS)


def _measure(arena: Arena, name: str, seed: int) -> dict[str, Rollout]:
    faces = spread(len(arena.prepared(None)), arena.settings.eval_faces)

    def of(make: Callable[[spaces.Box], Policy], start: str, plain: bool, termination: str, **options: Any) -> Rollout:
        env = arena.measuring_env(start, plain, termination, **options)
        assert isinstance(env.action_space, spaces.Box)
        return play(make(env.action_space), env, faces)

    def pretrained(space: spaces.Box) -> Policy:
        return lrn_policy(arena.lrn)

    if name in FIXED:
        return {"limit": of(pretrained, "policy", True, "limit", max_iterations=FIXED.index(name) + 1)}
    if name == PRETRAINED:
        return {each: of(pretrained, "policy", True, each) for each in TERMINATIONS}
    if name == CHANCE:  # uniform in the actions that algorithms explore in
        return {each: of(partial(random_policy, seed=seed), "scratch", False, each) for each in TERMINATIONS}
    policy = None if name == NOTHING else as_policy(load_object(name))
    # The environment as gym.make gives it.
    plain = arena.settings.task is None
    options = {"learned_history": False} if plain else {}
    return {
        each: of(lambda space: policy or still_policy(space), "scratch", plain, each, **options)
        for each in TERMINATIONS
    }
