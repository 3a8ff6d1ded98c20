"""From a finished run to released weights: one file with GEN and DCRN's LRN, and its card."""

from __future__ import annotations

import os
import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

from face_align_env.agents.evaluation.files import read_evaluation, read_rows
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.run_folder import RunFolder
from face_align_env.crops import MARGIN
from face_align_env.datasets import FaceDataset, load_dataset
from face_align_env.files import scratch_folder, write_json
from face_align_env.networks.confidence import ErrorHead
from face_align_env.networks.gain import GainHead
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.networks.weights import file_digest, save_bundle
from face_align_env.pretrain.recipes import Data, recipe
from face_align_env.released import (
    FOLDER,
    MAX_BYTES,
    Card,
    Metric,
    Parameters,
    Release,
    TrainingData,
    find_release,
    load_gain_head,
    load_heads,
    load_networks,
    released_names,
)

Network = GEN | LRN | ErrorHead | GainHead
"""What a release is made of."""

_METRICS = ("nme", "nme_low", "nme_high", "failure_rate", "iterations")
_MARKS = {"confidence": " Confidence: ", "gain": " Gain of an iteration: "}  # where a recipe goes on about a head
METHODS = ("GEN", "DCRN")  # what the two networks of a release are, in evaluation.json


def make_release(
    run_folder: str | os.PathLike[str],
    name: str,
    weights_folder: str | os.PathLike[str] = FOLDER,
    root: str | None = None,
    command: str | None = None,
    intended_use: str | None = None,
    not_trained_on: str | None = None,
    max_bytes: int = MAX_BYTES,
) -> Release:
    """Release the networks of a run: one file with both, rounded to float16, and a card that says how good they are.

    Both files are written under other names, read back and compared with each other before they get their own; an older
    release of that name is replaced.

    :param run_folder: the folder of a run that is trained and evaluated (``face-align run``)
    :param name: of the release; it ends in ``-`` and the number of landmarks
    :param weights_folder: where the two files go
    :param root: of the training data, where it is not where the run found it
    :param command: what trained the networks; None: read off the run's configuration
    :param intended_use: None: by the licences of the datasets
    :param not_trained_on: which faces the networks have not seen; None: the datasets' test splits, and what the
        training set lacks of the protocol's
    :param max_bytes: a larger file is refused
    :return: the release
    :raises FileNotFoundError: it is no run's folder, or weights, figures or data are missing
    :raises ValueError: the name does not end in the number of landmarks, or the file would be too large
    :raises WeightsError: a file of the run is damaged, or a parameter is too large for float16
    """
    run_folder, weights_folder = Path(run_folder), Path(weights_folder)
    config = RunConfig.read(run_folder)
    gen, lrn = GEN.load(RunFolder(run_folder).gen), LRN.load(RunFolder(run_folder).agent)
    if not name.endswith(f"-{gen.num_landmarks}") or name != Path(name).name or name.startswith("."):
        raise ValueError(
            f"A release of {gen.num_landmarks} landmarks is called SOMETHING-{gen.num_landmarks}, like "
            f"'300w-{gen.num_landmarks}'; got '{name}'."
        )
    metrics = tuple(read_metrics(run_folder))
    train = _training_faces(config, root)
    parts: dict[str, Network] = {"gen": gen, "lrn": lrn}
    if RunFolder(run_folder).error_head.is_file():
        parts["confidence"] = ErrorHead.load(RunFolder(run_folder).error_head)
    if RunFolder(run_folder).gain_head.is_file():
        parts["gain"] = GainHead.load(RunFolder(run_folder).gain_head)

    def describe(path: Path) -> Card:
        size = path.stat().st_size
        if size > max_bytes:
            raise ValueError(
                f"'{name}' would take {size / 1e6:.1f} MB, and released weights take {max_bytes / 1e6:.1f} MB at most: "
                "train smaller networks (--preset compact)."
            )
        return Card(
            name=name,
            landmarks=gen.num_landmarks,
            data=TrainingData(
                datasets={part.name: len(part) for part in train.parts},
                boxes=str((config.data.options or {}).get("boxes", "landmarks")),
                missing=tuple(_missing(train)),
            ),
            recipe=describe_recipe(config),
            command=command or describe_command(config, train),
            preset=config.preset,
            parameters=Parameters(*(sum(p.numel() for p in network.parameters()) for network in (gen, lrn))),
            seed=config.seed,
            alpha_2=train.alpha_2 if config.alpha_2 is None else config.alpha_2,
            margin=MARGIN,
            action_limit=lrn.config.action_limit,
            metrics=metrics,
            license=describe_license(train),
            intended_use=intended_use or describe_use(train),
            not_trained_on=not_trained_on or describe_unseen(train),
            sha256=file_digest(path),
            created_with=version("face-align-env"),
        )

    return publish(name, weights_folder, parts, describe)


def run_of_release(release: Release, folder: str | os.PathLike[str]) -> RunFolder:
    """The networks of a release, and what predicts its gains, as the folder of a run, for all that measures runs.

    The parameters are those of the release, rounded to float16. An LRN that has seen no reinforcement learning is the
    run's pretrained policy.

    :param release: weights and card
    :param folder: of the run; what is there of the same release is written anew
    :raises ValueError: another run is there
    :raises WeightsError: the weights are not those of the card
    """
    card, run = release.card, RunFolder(folder)
    data = Data("+".join(card.data.datasets), landmarks=card.landmarks)
    gen, lrn = load_networks(release)
    RunConfig(data, preset=card.preset, seed=card.seed, alpha_2=card.alpha_2).write(run.path)
    notes = {"release": release.name, "sha256": card.sha256}
    gen.save(run.gen, notes)
    lrn.save(run.agent if "DCRN" in {metric.method for metric in card.metrics} else run.policy, notes)
    head = load_gain_head(release)
    if head is None:
        run.gain_head.unlink(missing_ok=True)  # of another version of the release
    else:
        head.save(run.gain_head, notes)
    return run


def add_head(release: Release, part: str, head: ErrorHead | GainHead, told: str) -> Release:
    """Put a head into the file of a release, beside its networks and its other head, and say so on its card.

    :param part: ``confidence`` or ``gain``; what is there of it is replaced
    :param told: how it was fitted, in words
    """
    gen, lrn = load_networks(release)
    held = {**dict(zip(_MARKS, load_heads(release), strict=True)), part: head}
    before, _, after = release.card.recipe.partition(_MARKS[part])
    others = [after.find(mark) for mark in _MARKS.values() if mark in after]
    recipe = f"{before}{after[min(others, default=len(after)) :]}{_MARKS[part]}{told}."

    def describe(path: Path) -> Card:
        return replace(release.card, sha256=file_digest(path), recipe=recipe)

    heads = {name: head for name, head in held.items() if head is not None}
    parts: dict[str, Network] = {"gen": gen, "lrn": lrn, **heads}
    return publish(release.name, release.path.parent, parts, describe)


def publish(
    name: str, folder: str | os.PathLike[str], parts: Mapping[str, Network], describe: Callable[[Path], Card]
) -> Release:
    """Write the two files of a release; they replace older ones when both are complete and can be loaded.

    :param name: of the release
    :param folder: where it goes
    :param parts: ``gen``, ``lrn`` and perhaps ``confidence`` and ``gain``
    :param describe: the card, of the file with the networks
    :return: the release
    :raises WeightsError: a parameter is too large for float16
    """
    with scratch_folder(folder) as temporary:
        path = temporary / f"{name}.safetensors"
        networks = {part: (asdict(network.config), network.state_dict()) for part, network in parts.items()}
        save_bundle(path, networks, {"release": name}, half=True)
        write_json(path.with_suffix(".json"), describe(path).document())
        load_networks(find_release(name, temporary))
        for file in (path, path.with_suffix(".json")):
            os.replace(file, Path(folder) / file.name)
    return find_release(name, folder)


def read_metrics(run_folder: str | os.PathLike[str]) -> Iterator[Metric]:
    """The figures of GEN and DCRN in a run's ``evaluation*.json``.

    :raises FileNotFoundError: there is no such file
    :raises ValueError: one of them is damaged, or holds no figures of DCRN
    """
    paths = sorted(Path(run_folder).glob("evaluation*.json"))
    if not paths:
        raise FileNotFoundError(f"'{run_folder}' has no evaluation.json. Make it: face-align evaluate {run_folder}")
    for path in paths:
        document = read_evaluation(path)
        rows = [row for row in read_rows(path) if row.method in METHODS]
        if not any(row.method == "DCRN" for row in rows):
            raise ValueError(f"'{path}' has no figures of DCRN. Make them: face-align evaluate {run_folder}")
        for row in rows:
            figures = {key: round(getattr(row, key), 3) for key in _METRICS}
            yield Metric(document["dataset"], document["split"], document["num_faces"], row.method, **figures)


def describe_recipe(config: RunConfig) -> str:
    """How a run has trained its networks, in words."""
    chosen, agent = recipe(config.preset), config.agent
    gen, lrn = config.gen_training, config.lrn_training
    trained = f"GEN '{chosen.gen}', {gen.epochs} epochs with Eq. 1"
    if config.gen is not None:
        trained = f"GEN '{chosen.gen}', taken from {Path(config.gen).name}"
    elif config.gen_init is not None:
        trained += f", fine-tuned from {Path(config.gen_init).name}"
    if config.gen_learning_rate is not None:
        trained += f" at a learning rate of {gen.learning_rate:g}"
    batches = "" if config.lrn_batch_size is None else f" in batches of {lrn.batch_size}"
    rate = "" if config.lrn_learning_rate is None else f" at a learning rate of {lrn.learning_rate:g}"
    sampled = ""
    if config.encoder_share < 1:
        sampled = f"LRN's encoder learnt from {config.encoder_share:.3g} of the patches in a step. "
    tuned = f"LRN was fine-tuned from {Path(config.lrn_init).name}. " if config.lrn_init else ""
    return (
        f"{trained}; LRN '{chosen.lrn}', {lrn.epochs} epochs{batches}{rate} as a cascade that starts from GEN; "
        f"DCRN '{agent.preset}', {agent.timesteps:,} transitions of DDPG. Precision of the "
        f"supervised part: {config.precision or 'default of the device'}. "
        f"{sampled}{_changed('Random views', config.augmentation)}{_changed('Moves of x_0', config.jitter)}"
        f"{_changed('Visited states', config.visited)}{tuned}"
        "The release has parameters in float16; the metrics were measured before that rounding."
    )


def _changed(what: str, ranges: Mapping[str, float] | None) -> str:
    """A sentence about ranges that are not the default's; empty where none is."""
    return f"{what}: {', '.join(f'{key} {value}' for key, value in ranges.items())}. " if ranges else ""


def describe_command(config: RunConfig, train: FaceDataset) -> str:
    """The command line that makes such a run; of the data's folder it says only that there is one."""
    root = None if all(part.generated for part in train.parts) else f"path/to/{config.data.dataset}"
    alpha_2 = None if config.alpha_2 == train.alpha_2 else config.alpha_2
    gen, gen_init, lrn_init = (_without_folder(path) for path in (config.gen, config.gen_init, config.lrn_init))
    data = replace(config.data, root=root)
    config = replace(config, data=data, alpha_2=alpha_2, gen=gen, gen_init=gen_init, lrn_init=lrn_init)
    return shlex.join(["face-align", "run", *config.arguments(always={"dataset"})])


def _without_folder(weights: str | None) -> str | None:
    """Weights as a card names them: a release by its name, a file without saying where it lies here."""
    return weights if weights is None or weights in released_names() else f"path/to/{Path(weights).name}"


def describe_license(train: FaceDataset) -> str:
    """Of the weights, and of what they have learnt from."""
    return "; ".join(["weights: MIT", *(f"{part.name}: {part.licence}" for part in train.parts)])


def describe_use(train: FaceDataset) -> str:
    """What networks that have learnt from these faces are meant for."""
    if all(part.generated for part in train.parts):
        return "Tests, demonstrations and research. Trained on drawn faces: do not expect photos to be aligned well."
    return (
        "Research. The licence of the weights is MIT, but the photos that they have learnt from may be used for "
        "research only. Not meant for telling people apart, nor for decisions about them."
    )


def describe_unseen(train: FaceDataset) -> str:
    """Which faces networks that have learnt from a training split have not seen."""
    unseen = [f"{part.name}: splits {', '.join(part.splits[1:])}" for part in train.parts]
    missing = _missing(train)
    lacking = [f"The training set lacks, of the published protocol's: {'; '.join(missing)}."] if missing else []
    return " ".join(["No face of any other dataset, and none of", "; ".join(unseen) + ".", *lacking])


def _missing(train: FaceDataset) -> list[str]:
    return [f"{part.name} {part.split}: {line}" for part in train.parts for line in part.missing()]


def _training_faces(config: RunConfig, root: str | None) -> FaceDataset:
    data = config.data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what the faces lack goes into the card
        return load_dataset(data.dataset, "train", root or data.root, data.landmarks, **(data.options or {}))
