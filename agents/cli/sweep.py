"""``face-align sweep``: a search over the settings of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from face_align_env.agents.cli.options import DeviceOption, JsonOption, console, done, written
from face_align_env.agents.cli.parameters import settings_command
from face_align_env.agents.run_config import RunConfig


@settings_command
def sweep(
    settings: RunConfig,
    search: Annotated[
        list[str],
        typer.Option(
            help="A setting to try, by its option of 'run': KEY=a,b,c, KEY=low:high (whole numbers; 2.0:6.0: any) or "
            "KEY=log:low:high; set.noise for one that takes KEY=VALUE. Repeat for more."
        ),
    ],
    trials: Annotated[int, typer.Option(min=1, help="Settings that are tried; lists alone: at most their grid.")] = 16,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each, with seeds from --seed on.")] = 1,
    held_out: Annotated[
        float, typer.Option(help="Share of the training faces that is measured on. Test faces are not looked at.")
    ] = 0.2,
    stage: Annotated[
        list[str] | None,
        typer.Option(help="Train this one (see 'run'); repeat for several. Default: gen, gen-lrn4 and dcrn."),
    ] = None,
    stop_early: Annotated[
        bool, typer.Option("--stop-early/--no-stop-early", help="Stop trainings that fall behind (ASHA).")
    ] = True,
    cluster: Annotated[
        str,
        typer.Option(
            help="The Ray cluster: local (this machine's cores), auto (the cluster that it is a node of), or the "
            "head's address."
        ),
    ] = "local",
    name: Annotated[str | None, typer.Option(help="The folder is runs/NAME; default: sweep-DATASET.")] = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Try settings of a run, and measure each on training faces that are held out. Resumes where it stopped.

    The folder gets results.csv, and best.json with the command that trains with the best settings on all training
    faces. Needs the extra cluster (Ray Tune).
    """
    from face_align_env.agents.run_folder import RELEASED_STAGES
    from face_align_env.agents.sweep.plan import Sweep
    from face_align_env.agents.sweep.search import BEST
    from face_align_env.agents.sweep.search import search as find
    from face_align_env.agents.sweep.space import Space

    stages = tuple(stage or RELEASED_STAGES)
    wanted = Sweep(settings, Space.parse(search), trials, seeds, stages, held_out, stop_early)
    folder = Path("runs") / (name or f"sweep-{settings.data.dataset}")
    whole = find(wanted, folder, cluster, device, console)
    if (folder / BEST).is_file():
        if as_json:
            written([folder / BEST], as_json)
        done("The best settings are there", folder / BEST)
    if not whole:
        raise typer.Exit(1)
