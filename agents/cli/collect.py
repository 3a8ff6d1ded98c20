"""``face-align collect``: episodes of any policy, for those who learn offline."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from face_align_env.agents.cli.options import (
    DeviceOption,
    JsonOption,
    LandmarksOption,
    OptionOption,
    RootOption,
    SeedOption,
    announce,
    done,
    print_json,
)
from face_align_env.agents.cli.parameters import pairs
from face_align_env.pretrain.recipes import Data


def collect(
    policy: Annotated[
        str | None,
        typer.Option(
            help="random, zero, or MODULE:FUNCTION, an import path to policy(observation) -> action or to something "
            "with predict(); of a --run: dcrn or lrn. Default: random, of a run dcrn."
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of a run, runs/NAME, whose policy plays its data.")] = None,
    dataset: Annotated[str | None, typer.Option(help="As of other commands; default: synthetic, or the run's.")] = None,
    split: Annotated[str, typer.Option(help="Whose faces are played.")] = "train",
    root: RootOption = None,
    landmarks: LandmarksOption = None,
    option: OptionOption = None,
    initializer: Annotated[
        str | None,
        typer.Option(help="x_0: mean, the name of a release, or a file of GEN's weights; default: mean, or the run's."),
    ] = None,
    episodes: Annotated[int, typer.Option(help="How many; faces come in shuffled passes.")] = 100,
    steps: Annotated[
        int | None, typer.Option(help="Whole episodes until there are so many steps, in place of --episodes.")
    ] = None,
    noise: Annotated[
        float, typer.Option(help="Standard deviation of what is added to each coordinate of an action, pixels.")
    ] = 0.0,
    id_: Annotated[
        str | None, typer.Option("--id", help="Of the dataset, NAMESPACE/NAME-v0; default: by dataset and policy.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a dataset of that id.")] = False,
    device: DeviceOption = "cpu",
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Record episodes as a Minari dataset, under $MINARI_DATASETS_PATH, else ~/.minari/datasets."""
    from face_align_env.agents import collect as recording
    from face_align_env.agents.common.policies import Policy

    options: dict[str, Any] = {"dataset": "synthetic"}
    chosen: Policy | str = policy or "random"
    name = str(chosen)
    if run is not None:
        chosen, options = recording.run_policy(run, policy or "dcrn", device)
        name = f"{run.resolve().name}-{policy or 'dcrn'}"
        if dataset not in (None, options["dataset"]):
            del options["root"], options["dataset_options"]  # they are another dataset's
    given = {
        "dataset": dataset,
        "root": root,
        "landmarks": landmarks,
        "dataset_options": pairs(option, "--option") or None,
        "initializer": initializer,
    }
    options |= {key: value for key, value in given.items() if value is not None}
    Data(options["dataset"], None, options.get("landmarks"), options.get("dataset_options")).check()
    announce(f"Playing '{name}' on {options['dataset']} {split}")
    made = recording.collect(chosen, name, id_, episodes, steps, noise, seed, overwrite, split=split, **options)
    if as_json:
        print_json({**asdict(made), "path": str(made.path)})
    announce(
        f"{made.episodes:,} episodes, {made.steps:,} steps: mean return {made.mean_return:+.2f}, NME "
        f"{made.initial_nme:.1f} % -> {made.nme:.1f} %, {made.success_rate:.0f} % end in a terminal state"
    )
    announce(f"{made.size / 1e6:.1f} MB on disk, {made.raw_size / 1e6:.1f} MB in memory")
    done(f"Read it with minari.load_dataset('{made.dataset_id}')", made.path)
