"""One training of a benchmark: learn a while, be measured, and so on; in a process of its own.

``python -m face_align_env.agents.benchmark.trial FOLDER ALGORITHM START SEED``
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import configure
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from face_align_env.agents.benchmark.algorithms import (
    Learner,
    acts_by_itself,
    find_algorithm,
    load_algorithm,
    make_learner,
)
from face_align_env.agents.benchmark.arena import TERMINATIONS, Arena, open_arena
from face_align_env.agents.benchmark.settings import TrialKey
from face_align_env.agents.common.callbacks import EpisodeMetrics
from face_align_env.agents.common.replay_buffer import FaceReplayBuffer
from face_align_env.agents.common.rollout import MEASURES, Rollout, play, spread
from face_align_env.agents.common.trust import UntrustedFileError, require_trusted, sign
from face_align_env.extras import needs
from face_align_env.files import (
    FolderInUseError,
    atomic_path,
    locked_folder,
    replacing,
    write_arrays,
    write_bytes,
)
from face_align_env.pretrain.settings import read_json

COLUMNS = ("algorithm", "start", "seed", "step", "termination", *MEASURES, "wall_clock")
RESULTS, FACES, ERROR, MODEL = "results.csv", "faces.npz", "error.txt", "model.zip"
_STATE, _BUFFER = "state.json", "replay_buffer.pkl"  # of a checkpoint, beside its model
END_WITH_PARENT = "--end-with-parent"
CHECKPOINT_SECONDS = 300.0


class StepCounter(VecEnvWrapper):
    """Counts transitions, whatever the algorithm says of them.

    :param venv: any
    :ivar transitions: over all environments together
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.transitions = 0

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        self.transitions += self.num_envs
        return self.venv.step_wait()


def trial_folder(folder: str | os.PathLike[str], key: TrialKey) -> Path:
    """Where a trial of a benchmark is."""
    return Path(folder) / "trials" / key.folder_name


def is_complete(folder: str | os.PathLike[str], key: TrialKey) -> bool:
    """Whether a trial has been trained and measured to its end; the file of its faces comes last."""
    return (trial_folder(folder, key) / FACES).is_file()


def run_trial(folder: str | os.PathLike[str], key: TrialKey, checkpoint_seconds: float = CHECKPOINT_SECONDS) -> None:
    """Train and measure; goes on from its checkpoint if it was stopped after one.

    Leaves ``results.csv`` (a row for each measurement and termination) and ``faces.npz`` (the last measurement's
    episodes: ``oracle/return`` (N,), ...) in the trial's folder, the model where the algorithm can save one, and
    TensorBoard's curves.

    :param folder: of the benchmark
    :param key: which trial
    :param checkpoint_seconds: training time between checkpoints; short trials have none
    :raises FolderInUseError: another process trains it
    :raises ValueError: its checkpoint is damaged
    """
    own = trial_folder(folder, key)
    with locked_folder(own):
        (own / ERROR).unlink(missing_ok=True)
        _run(open_arena(folder), own, key, checkpoint_seconds)


def _run(arena: Arena, own: Path, key: TrialKey, checkpoint_seconds: float) -> None:
    settings = arena.settings
    plain = acts_by_itself(key.algorithm)
    set_random_seed(key.seed)
    num_envs = find_algorithm(key.algorithm).num_envs
    env = StepCounter(arena.training_env(key.start, num_envs, key.seed, plain))
    lrn = arena.starting_network(key.start, key.seed)
    measuring = {name: arena.measuring_env(key.start, plain, name) for name in TERMINATIONS}
    overrides = settings.keywords(key.algorithm)

    checkpoint = _latest_checkpoint(own)
    if checkpoint is None:
        learner = make_learner(key.algorithm, env, key.start, lrn, key.seed, settings.timesteps, overrides)
        rows: list[dict[str, Any]] = []
        seconds = 0.0
    else:
        learner, saved = _load(checkpoint, key, env)
        rows, seconds, env.transitions = saved["rows"], saved["seconds"], saved["transitions"]
        set_random_seed(key.seed + env.transitions)  # or it would play the first faces again
    if isinstance(learner, BaseAlgorithm):
        with needs("benchmark", "A benchmark's curves"):
            import tensorboard  # noqa: F401
        learner.set_logger(configure(str(own / "tensorboard"), ["tensorboard"]))

    def measure() -> dict[str, Rollout]:
        measured = {name: _measure(arena, learner, test) for name, test in measuring.items()}
        rows.extend(measurement(key, env.transitions, name, played, seconds) for name, played in measured.items())
        write_rows(own / RESULTS, rows)
        return measured

    played = measure() if checkpoint is None else {}
    checkpointed = seconds
    for goal in settings.steps():
        if env.transitions >= goal:
            continue  # measured before the checkpoint, or the last rollout went further than it was asked to
        began = time.perf_counter()
        _learn(learner, goal - env.transitions)
        seconds += time.perf_counter() - began
        played = measure()
        if seconds - checkpointed >= checkpoint_seconds and goal < settings.timesteps:
            _write_checkpoint(own, learner, {"rows": rows, "seconds": seconds, "transitions": env.transitions})
            checkpointed = seconds
    if isinstance(learner, BaseAlgorithm):
        _save(learner, own / MODEL)
    if not played:
        played = {name: _measure(arena, learner, test) for name, test in measuring.items()}
    write_faces(own / FACES, played)
    remove_checkpoints(own)


def measurement(key: TrialKey, step: int, termination: str, played: Rollout, seconds: float) -> dict[str, Any]:
    """A row of the results.

    :param key: what was measured
    :param step: transitions that it has learnt from
    :param termination: under which it was measured
    :param played: its episodes
    :param seconds: that it has trained
    """
    return {
        "algorithm": key.algorithm,
        "start": key.start,
        "seed": key.seed,
        "step": step,
        "termination": termination,
        **played.means(),
        "wall_clock": seconds,
    }


def _measure(arena: Arena, learner: Learner, env: VecEnv) -> Rollout:
    def act(observations: Any) -> np.ndarray:
        return np.asarray(learner.predict(observations, deterministic=True)[0])

    faces = spread(len(arena.prepared(None)), arena.settings.eval_faces)
    return play(act, env, faces)


def _learn(learner: Learner, transitions: int) -> None:
    if isinstance(learner, BaseAlgorithm):
        # It begins new episodes where it is not told that it goes on.
        learner.learn(transitions, EpisodeMetrics(), reset_num_timesteps=False)
    else:
        learner.learn(transitions)


def _save(learner: BaseAlgorithm, path: Path) -> None:
    with replacing(path) as temporary:
        learner.save(str(temporary))


def _checkpoints(own: Path) -> list[Path]:
    """The checkpoints of a trial, each a folder that is complete, the latest last."""
    return sorted(own.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def remove_checkpoints(own: Path) -> None:
    """Remove a trial's checkpoints, and what a killed process has left of one."""
    for path in (*_checkpoints(own), *own.glob(".checkpoint-*")):
        shutil.rmtree(path)


def _write_checkpoint(own: Path, learner: Learner, state: Mapping[str, Any]) -> None:
    """What a training goes on from, model, buffer and figures of the same moment: whole, or not there.

    An algorithm that cannot be saved begins again instead.
    """
    if not isinstance(learner, BaseAlgorithm):
        return
    older = _checkpoints(own)
    temporary, final = atomic_path(own / f"checkpoint-{state['transitions']}")
    for path in own.glob(".checkpoint-*"):  # a killed process has left it
        shutil.rmtree(path)
    temporary.mkdir()
    if isinstance(learner, OffPolicyAlgorithm):
        learner.save_replay_buffer(str(temporary / _BUFFER))
    learner.save(str(temporary / MODEL))
    whole = {**state, "signature": sign(_with_code(temporary))}
    write_bytes(temporary / _STATE, json.dumps({**whole, "crc32": _checksum(whole)}).encode())
    os.replace(temporary, final)
    for path in older:
        shutil.rmtree(path)


def _checksum(state: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(state, sort_keys=True).encode())


def _read_state(path: Path) -> dict[str, Any]:
    """What a checkpoint says beside its model.

    :raises KeyError, TypeError, ValueError: it is damaged
    """
    state: dict[str, Any] = read_json(path)
    found = {key: state[key] for key in ("rows", "seconds", "transitions", "signature")}
    if state.keys() != found.keys() and state.get("crc32") != _checksum(found):  # older versions have written none
        raise ValueError("it does not fit its checksum")
    return found


def _with_code(checkpoint: Path) -> list[Path]:
    """The files of a checkpoint that may hold code."""
    return [path for path in (checkpoint / MODEL, checkpoint / _BUFFER) if path.is_file()]


def _latest_checkpoint(own: Path) -> Path | None:
    found = _checkpoints(own)
    return found[-1] if found else None


def _load(checkpoint: Path, key: TrialKey, env: VecEnv) -> tuple[Learner, dict[str, Any]]:
    """The learner of a checkpoint, and what was measured of it.

    :raises UntrustedFileError: it is not as a training of this user has left it
    :raises ValueError: it is damaged
    """
    try:
        state = _read_state(checkpoint / _STATE)
        require_trusted(_with_code(checkpoint), state["signature"])
        learner: BaseAlgorithm = load_algorithm(key.algorithm).load(checkpoint / MODEL, env=env, device="cpu")
        if isinstance(learner, OffPolicyAlgorithm):
            learner.load_replay_buffer(str(checkpoint / _BUFFER))
    except UntrustedFileError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, UnpicklingError, BadZipFile) as error:
        raise ValueError(f"'{checkpoint}' is damaged ({error}). Remove it to begin {key} again.") from error
    if isinstance(learner, OffPolicyAlgorithm) and isinstance(learner.replay_buffer, FaceReplayBuffer):
        learner.replay_buffer.faces = env.get_attr("faces")[0]
    return learner, state


def write_rows(path: str | os.PathLike[str], rows: list[dict[str, Any]]) -> None:
    """Measurements as a CSV file of :data:`COLUMNS`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def write_faces(path: str | os.PathLike[str], played: Mapping[str, Rollout]) -> None:
    """The episodes of each face, as arrays ``TERMINATION/return`` (N,), ``/episode_length``, ``/success``, ``/nme``."""
    arrays: dict[str, np.ndarray] = {}
    for name, episodes in played.items():
        arrays[f"{name}/return"] = episodes.returns
        arrays[f"{name}/episode_length"] = episodes.lengths
        arrays[f"{name}/success"] = episodes.successes
        arrays[f"{name}/nme"] = episodes.nme
        arrays[f"{name}/initial_nme"] = episodes.initial_nme
    write_arrays(path, arrays)


def _end_with_parent() -> None:
    """End when the process that has started this one is gone, and with it the other end of standard input."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def attempt_trial(folder: str | os.PathLike[str], key: TrialKey) -> BaseException | None:
    """Run one trial with the threads that $OMP_NUM_THREADS allows.

    :return: what went wrong, which its ``error.txt`` holds as well; None: nothing
    :raises FolderInUseError: another process trains it
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        run_trial(folder, key)
    except FolderInUseError:
        raise  # the folder is another's
    except BaseException as error:
        own = trial_folder(folder, key)
        own.mkdir(parents=True, exist_ok=True)
        write_bytes(own / ERROR, traceback.format_exc().encode())
        return error
    return None


def main() -> None:
    """Run one trial in a process of its own."""
    folder, algorithm, start, seed, *options = sys.argv[1:]
    if END_WITH_PARENT in options:
        _end_with_parent()
    key = TrialKey(algorithm, start, int(seed))
    try:
        error: BaseException | None = attempt_trial(folder, key)
    except FolderInUseError as in_use:
        error = in_use
    if error is not None:
        raise SystemExit(f"{key}: {error}") from error


if __name__ == "__main__":
    main()
