"""A run with several seeds: one after the other, then what they say together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from face_align_env.agents.evaluation.seeds import summarize
from face_align_env.agents.run import run
from face_align_env.agents.run_config import RunConfig


def run_seeds(
    config: RunConfig,
    folder: str | os.PathLike[str],
    seeds: int = 1,
    device: str = "auto",
    console: Console | None = None,
    stages: Sequence[str] | None = None,
) -> None:
    """Do a run with ``seeds`` seeds, from ``config.seed`` on, and summarize them; with one it is an ordinary run.

    :param config: what to do
    :param folder: of all of it; with several seeds each gets its own in it, ``seed-0``, ...
    :param seeds: how many
    :param device: ``"auto"``, ``"cpu"``, ``"cuda"``
    :param console: where to say what happens
    :param stages: see :func:`~face_align_env.agents.run.run`
    :raises ValueError: the folder holds a run of the other kind, or with other settings
    """
    folder = Path(folder)
    console = console or Console()
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}.")
    if seeds == 1:
        if not (folder / "config.json").is_file() and any(folder.glob("seed-*/config.json")):
            raise ValueError(f"'{folder}' holds a run of several seeds: give --seeds, or another --name.")
        run(config, folder, device, console, stages)
        return
    if (folder / "config.json").is_file():
        raise ValueError(f"'{folder}' holds a run of one seed: give another --name for one of {seeds} seeds.")
    for seed in range(config.seed, config.seed + seeds):
        own = replace(config, seed=seed)
        run(own, folder / f"seed-{seed}", device, console, stages)
    summarize(folder, console)
