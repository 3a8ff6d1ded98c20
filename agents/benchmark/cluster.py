"""The trials of a benchmark on the nodes of a Ray cluster: each a task with a core of its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from face_align_env.agents.benchmark.arena import GEN_FILE, LRN_FILE
from face_align_env.agents.benchmark.schedule import MEMORY_OF_A_TRIAL
from face_align_env.agents.benchmark.settings import CONFIG, TrialKey
from face_align_env.agents.benchmark.trial import ERROR, FACES, attempt_trial, is_complete, trial_folder
from face_align_env.agents.common.cluster import connected
from face_align_env.extras import needs
from face_align_env.files import locked_folder, write_bytes
from face_align_env.progress import Progress

RETRIES = 3
"""How often a trial begins again because its node has died."""

Files = dict[str, bytes]


def run_on_cluster(folder: str | os.PathLike[str], keys: Sequence[TrialKey], cluster: str) -> list[TrialKey]:
    """As :func:`~face_align_env.agents.benchmark.schedule.run_trials`, on the nodes of a Ray cluster.

    Settings and pretrained networks travel with the trials, and what they leave travels back. Datasets other than
    ``synthetic``, and modules of one's own algorithms, must be on each node under the same path. Trials whose node dies
    begin again elsewhere.

    :param folder: of the benchmark
    :param keys: the trials
    :param cluster: see :func:`~face_align_env.agents.common.cluster.connected`
    :return: the trials that have failed; why, their ``error.txt`` says
    :raises MissingExtraError, ValueError: see :func:`~face_align_env.agents.common.cluster.connected`
    """
    waiting = [key for key in keys if not is_complete(folder, key)]
    if not waiting:
        return []
    with connected(cluster):
        with needs("cluster", "A cluster"):
            import ray

        train = ray.remote(
            num_cpus=1,
            memory=MEMORY_OF_A_TRIAL,
            max_retries=RETRIES,
            max_calls=1,  # a process for each, as on one machine; Ray gives it a thread for each of its cores
        )(_train)
        inputs = ray.put((version("face-align-env"), _inputs(Path(folder))))
        running = {train.remote(inputs, key): key for key in waiting}
        with Progress(total=len(keys), initial=len(keys) - len(waiting), desc="trials") as bar:
            while running:
                (done,), _ = ray.wait(list(running), num_returns=1)
                key = running.pop(done)
                try:
                    files = ray.get(done)
                except ray.exceptions.RayError as error:  # the cluster's, not the trial's: that is in its files
                    files = {ERROR: str(error).encode()}
                _keep(folder, key, files)
                bar.update()
    return [key for key in waiting if not is_complete(folder, key)]


def _inputs(folder: Path) -> Files:
    """What a trial reads of the benchmark's folder."""
    return {name: path.read_bytes() for name in (CONFIG, LRN_FILE, GEN_FILE) if (path := folder / name).is_file()}


def _train(inputs: tuple[str, Files], key: TrialKey) -> Files:
    """One trial, in a folder of its own on some node.

    :param inputs: the driver's version, and the files that the trial needs
    :param key: which
    :return: the files that it leaves
    """
    wanted, files = inputs
    if version("face-align-env") != wanted:
        return {ERROR: f"This node has face-align-env {version('face-align-env')}, not {wanted}.".encode()}
    with tempfile.TemporaryDirectory(prefix="face-align-trial-") as temporary:
        for name, data in files.items():
            write_bytes(Path(temporary) / name, data)
        attempt_trial(temporary, key)
        return _read_all(trial_folder(temporary, key))


def _read_all(own: Path) -> Files:
    paths = [path for path in own.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(own).as_posix(): path.read_bytes() for path in paths}


def _keep(folder: str | os.PathLike[str], key: TrialKey, files: Mapping[str, bytes]) -> None:
    """Write what a trial has left; the file that makes it complete comes last."""
    own = trial_folder(folder, key)
    own.mkdir(parents=True, exist_ok=True)
    with locked_folder(own):
        (own / ERROR).unlink(missing_ok=True)
        for name in sorted(files, key=lambda name: name == FACES):
            write_bytes(own / name, files[name])
