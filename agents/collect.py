"""``face-align collect``: episodes of a policy on FaceAlign-v0 as a Minari dataset, for learning offline."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import EnvSpec

import face_align_env
from face_align_env.agents.common.policies import Observations, Policy, lrn_policy, named_policy
from face_align_env.agents.common.rollout import play_steps
from face_align_env.datasets import FaceDataset
from face_align_env.episodes import valid_actions
from face_align_env.extras import needs
from face_align_env.files import scratch_folder
from face_align_env.vector_env import FaceAlignVectorEnv

if TYPE_CHECKING:
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage


assert face_align_env  # importing it registers FaceAlign-v0

NUM_ENVS = 16
# DEFLATE looks back 32 KiB. A chunk holds all of an episode's windows of a few landmarks, which hardly differ from
# iteration to iteration: that halves the size of the file against chunks of one observation.
CHUNK_LANDMARKS = 4


@dataclass(frozen=True)
class Collected:
    """A dataset that has been written.

    :param dataset_id: what ``minari.load_dataset`` takes
    :param path: its folder
    :param episodes: how many
    :param steps: how many, over all episodes
    :param mean_return: of an episode, not discounted
    :param success_rate: share of the episodes that end in a terminal state, percent
    :param initial_nme: mean NME of x_0, percent
    :param nme: mean NME of x_T, percent
    :param size: on disk, bytes
    :param raw_size: of the observations in memory, bytes
    """

    dataset_id: str
    path: Path
    episodes: int
    steps: int
    mean_return: float
    success_rate: float
    initial_nme: float
    nme: float
    size: int
    raw_size: int


def run_policy(
    folder: str | os.PathLike[str], agent: str = "dcrn", device: str = "cpu"
) -> tuple[Policy, dict[str, Any]]:
    """The policy of a run, and the environment that it has learnt in.

    :param folder: of the run
    :param agent: ``"dcrn"``, or ``"lrn"``: the pretrained LRN that DCRN starts from
    :param device: where the network runs
    :return: the policy, and keywords of FaceAlign-v0
    :raises FileNotFoundError: it is no run's folder, or it has no such weights
    :raises ValueError: there is no such agent
    """
    from face_align_env.agents.run_folder import RunFolder
    from face_align_env.networks.lrn import LRN

    run = RunFolder(folder)
    weights = {"dcrn": run.agent, "lrn": run.policy}
    if agent not in weights:
        raise ValueError(f"A run has no policy '{agent}'. There are: {', '.join(weights)}.")
    config = run.config
    lrn = LRN.load(weights[agent], device).eval()
    return lrn_policy(lrn), {
        "dataset": config.data.dataset,
        "root": config.data.root,
        "landmarks": config.data.landmarks,
        "dataset_options": config.data.options,
        "initializer": str(run.gen),
        "alpha_2": config.alpha_2,
        "learned_history": True,
        "action_limit": lrn.config.action_limit,
        "patch_size": lrn.config.patch_size,
    }


def default_id(dataset: str, num_landmarks: int, policy: str) -> str:
    """A Minari id, ``face-align/synthetic-19-random-v0``."""
    return "face-align/" + re.sub(r"[^\w-]+", "-", f"{dataset}-{num_landmarks}-{policy}") + "-v0"


def collect(
    policy: Policy | str,
    name: str | None = None,
    dataset_id: str | None = None,
    episodes: int = 100,
    steps: int | None = None,
    noise: float = 0.0,
    seed: int = 0,
    overwrite: bool = False,
    **options: Any,
) -> Collected:
    """Play episodes and write them as a Minari dataset, complete or not at all.

    Faces come in shuffled passes. The dataset holds observations, actions (as the environment took them, within its
    bounds), rewards, and infos; of each episode the seed and the options of ``reset`` that begin it again, to the bit
    from the mean shape (GEN may round differently in batches of different size).

    :param policy: ``"random"``, ``"zero"``, an import path
        (:func:`~face_align_env.agents.common.policies.import_policy`), or a function of batches
    :param name: of the policy, for the metadata; None: what names it
    :param dataset_id: ``namespace/name-v0``; None: :func:`default_id`
    :param episodes: how many
    :param steps: episodes until there are so many steps, in place of a number of episodes
    :param noise: standard deviation of what is added to each coordinate of a_t, pixels: data of one policy alone says
        nothing about other actions
    :param seed: of everything random
    :param overwrite: replace a dataset of that id
    :param options: keywords of FaceAlign-v0 as names and numbers, so that the environment can be made again from them;
        by default from the mean shape and with oracle termination, whatever the split
    :raises ModuleNotFoundError: Minari is not installed
    :raises ValueError: an id that is none or is there already, keywords that are objects, or nothing to collect
    """
    _require_minari()
    from minari.dataset.minari_storage import MinariStorage
    from minari.storage import get_dataset_path

    if episodes < 1 or (steps is not None and steps < 1) or noise < 0:
        raise ValueError(
            f"Expected 1 or more episodes or steps, and no negative noise; got {episodes}, {steps}, {noise}."
        )
    options = _recoverable({"initializer": "mean", "termination": "oracle", **options})
    if name is None:
        name = policy if isinstance(policy, str) else str(getattr(policy, "__name__", "policy"))
    if dataset_id is not None:
        _check_free(dataset_id, overwrite)  # before anything is loaded
    envs = FaceAlignVectorEnv(NUM_ENVS, **options)
    faces = envs.task.source.prepared.dataset
    if dataset_id is None:
        dataset_id = default_id(faces.name, envs.task.num_landmarks, name)
        _check_free(dataset_id, overwrite)

    act = named_policy(policy, envs.single_action_space, seed) if isinstance(policy, str) else policy

    lengths: list[int] = []
    figures: list[tuple[float, bool, float, float]] = []
    with scratch_folder(get_dataset_path()) as scratch:
        (scratch / "new").mkdir()
        storage = MinariStorage.new(
            scratch / "new" / "data",
            envs.single_observation_space,
            envs.single_action_space,
            _spec(options),
            data_format="hdf5",  # h5py is there in any case
            jpeg_encoding=False,  # what the policy has seen, to the bit
        )
        for played in _play(envs, act, noise, seed):
            if steps is None:
                wanted = episodes - len(lengths)
            else:
                wanted = 1 + int(np.searchsorted(np.cumsum([len(each) for each in played]), steps - sum(lengths)))
            kept = played[:wanted]
            _append(storage, kept, len(lengths))
            lengths += [len(each) for each in kept]
            figures += [_figures_of(each) for each in kept]
            if wanted <= len(played):
                break
        observation_size = sum(array.nbytes for array in envs.single_observation_space.sample().values())
        mean_return, success, initial_nme, nme = np.mean(np.array(figures, dtype=np.float64), axis=0).tolist()
        collected = Collected(
            dataset_id=dataset_id,
            path=get_dataset_path(dataset_id),
            episodes=len(lengths),
            steps=sum(lengths),
            mean_return=mean_return,
            success_rate=100 * success,
            initial_nme=100 * initial_nme,
            nme=100 * nme,
            size=sum(file.stat().st_size for file in storage.data_path.iterdir()),
            raw_size=(sum(lengths) + len(lengths)) * observation_size,
        )
        storage.update_metadata(_metadata(collected, name, noise, seed, faces, options))
        _publish(storage.data_path, collected.path)
    return collected


def _play(envs: FaceAlignVectorEnv, policy: Policy, noise: float, seed: int) -> Iterator[list[EpisodeBuffer]]:
    """Episodes without end, as many at a time as there are slots."""
    from minari.data_collector import EpisodeBuffer

    rng = np.random.default_rng(seed)
    width, layout = 2 * envs.task.num_landmarks, envs.task.action_layout

    def noisy(observations: Observations) -> npt.NDArray[np.float32]:
        """Actions as the environment takes them, which is how they are recorded."""
        actions = valid_actions(policy(observations), envs.action_space, layout)
        actions[:, :width] += noise * rng.standard_normal((len(actions), width), dtype=np.float32)
        recorded: npt.NDArray[np.float32] = valid_actions(actions, envs.action_space, layout)
        return recorded

    order: list[int] = []
    count = 0
    while True:
        while len(order) < envs.num_envs:
            order += rng.permutation(envs.task.num_faces).tolist()
        faces, order = order[: envs.num_envs], order[envs.num_envs :]
        played = play_steps(noisy, envs, faces, seed + count)
        first = next(played)
        episodes = [
            EpisodeBuffer(
                seed=seed + count + j,
                options={"index": face},
                observations={key: [np.copy(value[j])] for key, value in first.observations.items()},
                actions=[],
                infos={key: [np.copy(value)] for key, value in first.infos[j].items()},
            )
            for j, face in enumerate(faces)
        ]
        count += len(faces)
        for step in played:
            assert step.actions is not None
            for j in np.flatnonzero(step.going).tolist():
                buffer = episodes[j]
                for key, values in buffer.observations.items():
                    values.append(np.copy(step.observations[key][j]))
                for key, values in buffer.infos.items():  # is_success is there at an episode's end only
                    values.append(np.copy(step.infos[j][key]))
                buffer.actions.append(step.actions[j])
                buffer.rewards.append(float(step.rewards[j]))
                buffer.terminations.append(bool(step.terminated[j]))
                buffer.truncations.append(bool(step.truncated[j]))
        yield episodes


def _figures_of(episode: EpisodeBuffer) -> tuple[float, bool, float, float]:
    """Return, whether it ended in a terminal state, and the NME of x_0 and of x_T, fractions."""
    assert episode.infos is not None
    errors = episode.infos["nme"]
    return sum(episode.rewards), episode.terminations[-1], float(errors[0]), float(errors[-1])


def _append(storage: MinariStorage, episodes: list[EpisodeBuffer], first: int) -> None:
    """Write episodes after those that are there.

    Minari compresses nothing in HDF5 files, but it fills datasets that it finds there: these are made here, compressed.

    :param storage: HDF5
    :param episodes: to write
    :param first: number of the first
    """
    import h5py

    numbered = [replace(episode, id=first + i) for i, episode in enumerate(episodes)]
    with h5py.File(storage.data_path / "main_data.hdf5", "a", track_order=True) as file:
        for episode in numbered:
            assert isinstance(episode.observations, dict)
            patches = episode.observations["patches"]
            shape = patches[0].shape
            file.create_dataset(
                f"episode_{episode.id}/observations/patches",
                shape=(0, *shape),
                maxshape=(None, *shape),
                chunks=(len(patches), min(CHUNK_LANDMARKS, shape[0]), *shape[1:]),
                dtype=np.uint8,
                compression="gzip",
            )
    storage.update_episodes(numbered)


def _recoverable(options: dict[str, Any]) -> dict[str, Any]:
    """Keywords of FaceAlign-v0 from which the environment can be made again, from any folder of this machine.

    :raises ValueError: one of them is an object
    """
    kept = {key: value for key, value in options.items() if value is not None}
    for key in ("root", "initializer"):
        value = kept.get(key)
        # A name (mean, 300w-68) is no path; gen and mean are the names of folders, too.
        if isinstance(value, os.PathLike) or (isinstance(value, str) and (key == "root" or Path(value).is_file())):
            kept[key] = str(Path(value).resolve())
    for key, value in kept.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise ValueError(
                f"{key}={value!r} cannot be written into the dataset, and its environment not be made again: give a "
                "name or a path."
            ) from error
    return kept


def _spec(options: dict[str, Any]) -> EnvSpec:
    """FaceAlign-v0 with keywords."""
    spec = copy.deepcopy(gym.spec("FaceAlign-v0"))
    spec.kwargs = options
    return spec


def _metadata(
    collected: Collected, name: str, noise: float, seed: int, faces: FaceDataset, options: dict[str, Any]
) -> dict[str, Any]:
    """What Minari asks about a dataset, and two things more: whose faces these are, and how much was played."""
    return {
        "dataset_id": collected.dataset_id,
        "minari_version": version("minari"),
        "author": {"face-align-env"},
        "algorithm_name": name,
        "description": _describe(collected, name, noise, seed, faces),
        "requirements": [f"face-align-env>={version('face-align-env')}"],
        "eval_env_spec": _spec({**options, "split": faces.test_split}).to_json(),
        "licence": "; ".join(f"{part.name}: {part.licence}" for part in faces.parts),
        "data_budget": {"episodes": collected.episodes, "steps": collected.steps, "faces": len(faces)},
    }


def _describe(collected: Collected, name: str, noise: float, seed: int, faces: FaceDataset) -> str:
    noisy = f" with noise of {noise:g} pixels on each coordinate" if noise else ""
    text = (
        f"Face alignment as reinforcement learning (FaceAlign-v0, after DCRN, Zhang et al.): {collected.episodes:,} "
        f"episodes, {collected.steps:,} steps of the policy '{name}'{noisy} on {len(faces):,} faces of {faces.name} "
        f"{faces.split}, seed {seed}. Mean return {collected.mean_return:+.2f}, NME {collected.initial_nme:.1f} % -> "
        f"{collected.nme:.1f} %. "
    )
    if all(part.generated for part in faces.parts):
        return text + "The faces are generated: this dataset may be published."
    return text + (
        "The observations are windows of photos of persons, under the licence of the photos: do not publish this "
        "dataset unless it allows that."
    )


def _require_minari() -> None:
    with needs("minari", "A dataset of episodes"):
        import h5py  # noqa: F401
        import minari  # noqa: F401


def _check_free(dataset_id: str, overwrite: bool) -> None:
    """
    :raises ValueError: it is no id with a version, or there is such a dataset that must stay
    """
    from minari.dataset.minari_dataset import DATASET_ID_RE
    from minari.storage import get_dataset_path

    match = DATASET_ID_RE.fullmatch(dataset_id)
    if match is None or match["version"] is None:
        raise ValueError(f"'{dataset_id}' is no id of Minari's. Expected NAMESPACE/NAME-v0, with a version.")
    path = get_dataset_path(dataset_id)
    if not path.exists():
        return
    if not (path / "data" / "metadata.json").is_file():
        raise ValueError(f"'{path}' is there already and no Minari dataset. Choose another --id.")
    if not overwrite:
        raise ValueError(f"Dataset '{dataset_id}' is there already, in '{path}'. Choose another --id, or --overwrite.")


def _publish(data: Path, path: Path) -> None:
    """Move a dataset's data where Minari looks for it, and what was there into the scratch folder."""
    from minari.namespace import create_namespace, list_local_namespaces
    from minari.storage import get_dataset_path

    namespace = path.parent.relative_to(get_dataset_path()).as_posix()
    if namespace != "." and namespace not in list_local_namespaces():
        create_namespace(namespace, "Episodes of FaceAlign-v0: face alignment as reinforcement learning.")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        os.replace(path, data.parent.with_name("replaced"))
    os.replace(data.parent, path)
