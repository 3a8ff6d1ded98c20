"""``face-align pretrain|train|run``: supervised training, reinforcement learning, and all of it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from face_align_env.agents.cli.options import (
    DeviceOption,
    DevicesOption,
    JsonOption,
    NodesOption,
    OutputOption,
    announce,
    console,
    done,
    print_json,
    written,
)
from face_align_env.agents.cli.parameters import settings_command
from face_align_env.agents.dcrn.config import DCRNTraining
from face_align_env.agents.run_config import RunConfig
from face_align_env.pretrain.recipes import GENTraining, LRNTraining, recipe
from face_align_env.progress import Progress

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from face_align_env.pretrain.recipes import Recipe
    from face_align_env.pretrain.stages import FacesOnDevice

WEIGHTS = "weights.safetensors"
GENOption = Annotated[Path, typer.Option(help="GEN's weights, which give x_0.")]

pretrain_app = typer.Typer(
    name="pretrain", no_args_is_help=True, help="Supervised training of GEN and LRN (section 3)."
)


@pretrain_app.command("gen")
@settings_command
def pretrain_gen(
    settings: GENTraining,
    output: OutputOption = Path("runs/gen"),
    device: DeviceOption = "auto",
    devices: DevicesOption = 1,
    num_nodes: NodesOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Train the Global Estimation Network (Table 1) with Eq. 1. Resumes from OUTPUT/checkpoint.safetensors."""
    from face_align_env.pretrain import stages

    chosen, fabric, faces = _start(settings, device, devices, num_nodes)
    config = settings.training(chosen.gen_training)
    announce(f"GEN ({chosen.gen}), {_on(settings, faces)}, {config}, on {fabric.device}")
    error = stages.pretrain_gen(faces, chosen.gen, config, output, fabric, settings.views, settings.init)
    _report(error, output / WEIGHTS, as_json and fabric.global_rank == 0)


@pretrain_app.command("lrn")
@settings_command
def pretrain_lrn(
    settings: LRNTraining,
    gen: GENOption = Path("runs/gen") / WEIGHTS,
    output: OutputOption = Path("runs/lrn"),
    device: DeviceOption = "auto",
    devices: DevicesOption = 1,
    num_nodes: NodesOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Train the Local Regression Network as a cascade of a fixed length. Resumes from OUTPUT/checkpoint.safetensors."""
    from face_align_env.pretrain import stages

    chosen, fabric, faces = _start(settings, device, devices, num_nodes)
    config = settings.training(chosen.lrn_training)
    announce(
        f"LRN ({chosen.lrn}), {settings.iterations} iterations from {settings.start}, {_on(settings, faces)}, "
        f"{config}, on {fabric.device}"
    )
    error = stages.pretrain_lrn(
        faces,
        chosen.lrn,
        config,
        output,
        fabric,
        gen if settings.start == "gen" else None,
        settings.iterations,
        settings.views,
        jitter=settings.start_jitter,
        visited=settings.visited_states,
        encoder_share=settings.encoder_share,
        init=settings.init,
    )
    _report(error, output / WEIGHTS, as_json and fabric.global_rank == 0)


def _start(settings: GENTraining, device: str, devices: int, num_nodes: int) -> tuple[Recipe, Fabric, FacesOnDevice]:
    """The preset's recipe, where it is trained, and on what."""
    settings.check()
    from face_align_env.pretrain import stages
    from face_align_env.pretrain.loop import make_fabric

    fabric = make_fabric(device, settings.precision, devices, num_nodes)
    if fabric.global_rank:  # the first process speaks for all
        console.quiet = Progress.quiet = True
        warnings.simplefilter("ignore")
    return recipe(settings.preset), fabric, stages.FacesOnDevice(settings.data, fabric.device)


def _report(error: float, weights: Path, as_json: bool) -> None:
    if as_json:
        print_json({"test_nme_percent": 100 * error, "weights": str(weights)})
    done(f"NME on the test split {100 * error:.2f} %", weights)


def _on(settings: GENTraining, faces: FacesOnDevice) -> str:
    return f"on {settings.data.dataset}, {len(faces.prepared('train'))} faces"


@settings_command
def train(
    settings: DCRNTraining,
    lrn: Annotated[Path, typer.Option(help="Weights of the pretrained LRN.")] = Path("runs/lrn") / WEIGHTS,
    gen: GENOption = Path("runs/gen") / WEIGHTS,
    output: OutputOption = Path("runs/dcrn"),
    device: DeviceOption = "auto",
) -> None:
    """Fine-tune LRN by reinforcement learning: Algorithm 1 on FaceAlign-v0. Resumes from its checkpoint in OUTPUT."""
    settings.check()
    from face_align_env.agents.dcrn.training import train_dcrn

    announce(f"DCRN on {settings.data.dataset} from {lrn} and {gen}, {settings.agent}")
    environment = settings.env_options(str(gen))
    train_dcrn(lrn, settings.agent, output, device, settings.views, settings.seed, **environment)
    done("model.zip is the Stable-Baselines3 model", output / WEIGHTS)


@settings_command
def run(
    settings: RunConfig,
    name: Annotated[
        str | None, typer.Option(help="The run's folder is runs/NAME; default: DATASET[-LANDMARKS]-PRESET.")
    ] = None,
    device: DeviceOption = "auto",
    seeds: Annotated[
        int,
        typer.Option(min=1, help="Number of seeds, from --seed on; several go into seed-0, seed-1, ... and a summary."),
    ] = 1,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            help="Train this one only (gen, lrn-2, lrn-4, lrn-8, gen-lrn4, gen-lrn8, dcrn); repeat for several. "
            "A release needs gen, gen-lrn4 and dcrn."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Do all of it in runs/NAME: GEN, LRN-2/-4/-8, GEN-LRN4/8, DCRN, evaluation. Resumes where it stopped."""
    settings.check()
    from face_align_env.agents.run_seeds import run_seeds

    folder = (
        Path("runs") / name if name else run_folder(settings.data.dataset, settings.data.landmarks, settings.preset)
    )
    run_seeds(settings, folder, seeds, device, console, stage)
    if as_json:
        written([*folder.glob("seeds.json")] or sorted(folder.glob("evaluation*.json")), as_json)
    done("Table and figures are there", folder)


def run_folder(dataset: str, landmarks: int | None, preset: str) -> Path:
    """Where a run without a name goes."""
    return Path("runs") / "-".join([dataset, *([] if landmarks is None else [str(landmarks)]), preset])
