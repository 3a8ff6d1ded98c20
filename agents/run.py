"""``face-align run``: the whole path of the paper in one folder, each stage where the last one left it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from face_align_env.agents.dcrn.training import check_environment, train_dcrn
from face_align_env.agents.evaluation.run_evaluation import evaluate
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.run_folder import STAGES, RunFolder, Stage
from face_align_env.pretrain.loop import make_fabric
from face_align_env.pretrain.recipes import FacesOnDevice, pretrain_gen, pretrain_lrn, recipe
from rich.console import Console

from face_align_env.crops import CROP_SIZE
from face_align_env.datasets import load_dataset


def run(
    config: RunConfig,
    folder: str | os.PathLike[str],
    device: str = "auto",
    console: Console | None = None,
    stages: Sequence[str] | None = None,
) -> None:
    """Train GEN, the cascades and DCRN, and evaluate; stages that are complete are left as they are.

    :param config: what to do
    :param folder: the run's folder
    :param device: ``"auto"``, ``"cpu"``, ``"cuda"``
    :param console: where to say what happens
    :param stages: some of :data:`STAGES`; None: all. What is there is evaluated
    :raises ValueError: there is no such stage, one of them needs another that is not there, or the environment has no
        such keyword
    """
    console = console or Console()
    place = RunFolder(folder)
    wanted = _stages(stages, place)
    check_environment(config.environment or {})
    chosen = recipe(config.preset)
    dataset = load_dataset(config.data.dataset, "train", config.data.root, config.data.landmarks, **_options(config))
    if config.alpha_2 is None:
        config = replace(config, alpha_2=dataset.alpha_2)
    assert config.alpha_2 is not None
    config.write(place.path)
    fabric = make_fabric(device, config.precision)
    faces = FacesOnDevice(config.data, fabric.device)
    gen_config = replace(chosen.gen_training, seed=config.seed, epochs=config.gen_epochs or chosen.gen_training.epochs)
    lrn_config = replace(chosen.lrn_training, seed=config.seed, epochs=config.lrn_epochs or chosen.lrn_training.epochs)
    console.print(
        f"Run in {place.path}: {config.data.dataset}, {len(dataset)} training faces, {dataset.scheme.num_landmarks} "
        f"landmarks, preset {config.preset}, seed {config.seed}, on {fabric.device}."
    )
    if not all(place.weights(stage.name).is_file() for stage in wanted if stage.name != "dcrn"):
        for part in ("train", "test"):
            faces(part, CROP_SIZE)  # read once, at full size; GEN's smaller crops are made from these
    for number, stage in enumerate(wanted, 1):
        into = place.stage(stage.name)
        if place.weights(stage.name).is_file():
            console.print(f"{number}/{len(wanted) + 1} {stage.name}: complete")
            continue
        console.print(f"{number}/{len(wanted) + 1} {stage.name}")
        if stage.name == "gen":
            pretrain_gen(faces, chosen.gen, gen_config, into, fabric, config.views)
        elif stage.name == "dcrn":
            train_dcrn(
                place.policy,
                replace(config.agent, seed=config.seed),
                into,
                device=str(fabric.device),
                augmentation=config.views,
                initializer=str(place.gen),
                alpha_2=config.alpha_2,
                dataset=config.data.dataset,
                root=config.data.root,
                landmarks=config.data.landmarks,
                dataset_options=_options(config),
                **(config.environment or {}),
            )
        else:
            gen = place.gen if stage.from_gen else None
            pretrain_lrn(
                faces,
                chosen.lrn,
                lrn_config,
                into,
                fabric,
                gen,
                stage.iterations,
                config.views,
                jitter=config.start_jitter,
                visited=config.visited_states if stage.from_gen else None,
            )
    if not place.gen.is_file():
        console.print(f"{len(wanted) + 1}/{len(wanted) + 1} evaluate: stage gen comes first")
        return
    console.print(f"{len(wanted) + 1}/{len(wanted) + 1} evaluate")
    evaluate(place.path, device=str(fabric.device), console=console)


def _stages(names: Sequence[str] | None, place: RunFolder) -> tuple[Stage, ...]:
    """The stages of these names, in the order in which they are trained.

    :raises ValueError: there is no such stage, or one needs another that is neither named nor trained
    """
    unknown = [name for name in names or [] if name not in STAGES]
    if unknown:
        raise ValueError(f"There is no stage '{unknown[0]}'; there are {', '.join(STAGES)}.")
    wanted = tuple(stage for stage in STAGES.values() if names is None or stage.name in names)
    trained = {stage.name for stage in wanted}
    for stage in wanted:
        for needed in stage.needs:
            if needed not in trained and not place.weights(needed).is_file():
                raise ValueError(
                    f"Stage {stage.name} needs {needed}, which '{place.path}' does not have: train it, too."
                )
    return wanted


def _options(config: RunConfig) -> dict[str, Any]:
    return dict(config.data.options or {})
