"""The command line: ``face-align``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from face_align_env.agents.cli.benchmark import benchmark, compare
from face_align_env.agents.cli.collect import collect
from face_align_env.agents.cli.data import data_app
from face_align_env.agents.cli.options import (
    AugmentationOption,
    DatasetOption,
    DeviceOption,
    DevicesOption,
    EnvironmentOption,
    JitterOption,
    LandmarksOption,
    LearningRateOption,
    OptionOption,
    OutputOption,
    PrecisionOption,
    PresetOption,
    PretrainBatchOption,
    RootOption,
    SeedOption,
    VisitedOption,
    announce,
    console,
    data_of,
    done,
    numbers_of,
    options_of,
    training_of,
)
from face_align_env.agents.cli.studies import ablate, release, robustness, summarize, tradeoff, watch
from rich.console import Console
from rich.markup import escape

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Face alignment as reinforcement learning: train, evaluate and run DCRN on FaceAlign-v0.",
)
pretrain_app = typer.Typer(no_args_is_help=True, help="Supervised training of GEN and LRN (section 3).")
app.add_typer(pretrain_app, name="pretrain")
app.add_typer(data_app, name="data")
for command in (benchmark, compare, collect, robustness, tradeoff, ablate, summarize, release, watch):
    app.command()(command)


@pretrain_app.command("gen")
def pretrain_gen(
    dataset: DatasetOption = "synthetic",
    root: RootOption = None,
    preset: PresetOption = "compact",
    output: OutputOption = Path("runs/gen"),
    epochs: Annotated[int | None, typer.Option(help="Passes over the faces; default: the recipe's.")] = None,
    batch_size: PretrainBatchOption = None,
    learning_rate: LearningRateOption = None,
    augmentation: AugmentationOption = None,
    landmarks: LandmarksOption = None,
    option: OptionOption = None,
    device: DeviceOption = "auto",
    devices: DevicesOption = 1,
    precision: PrecisionOption = None,
    seed: SeedOption = 0,
) -> None:
    """Train the Global Estimation Network (Table 1) with Eq. 1. Goes on from OUTPUT/checkpoint.pt."""
    from face_align_env.pretrain import recipes
    from face_align_env.pretrain.loop import make_fabric

    from face_align_env.augmentation import Augmentation

    chosen = recipes.recipe(preset)
    config = training_of(chosen.gen_training, seed, epochs, batch_size, learning_rate)
    views = Augmentation(**numbers_of(Augmentation, augmentation, "--augmentation"))
    fabric = make_fabric(device, precision, devices)
    faces = recipes.FacesOnDevice(data_of(dataset, root, landmarks, option), fabric.device)
    announce(f"GEN ({chosen.gen}) on {dataset}, {len(faces.prepared('train'))} faces, {config}, on {fabric.device}")
    error = recipes.pretrain_gen(faces, chosen.gen, config, output, fabric, views)
    done(f"NME on the test split {100 * error:.2f} %", output / "weights.safetensors")


@pretrain_app.command("lrn")
def pretrain_lrn(
    dataset: DatasetOption = "synthetic",
    root: RootOption = None,
    preset: PresetOption = "compact",
    output: OutputOption = Path("runs/lrn"),
    from_: Annotated[str, typer.Option("--from", help="Where x_0 comes from: gen or mean.")] = "gen",
    gen: Annotated[Path, typer.Option(help="GEN's weights, for --from gen.")] = Path("runs/gen/weights.safetensors"),
    iterations: Annotated[int, typer.Option(help="Length m of the cascade.")] = 8,
    jitter: JitterOption = None,
    visited: VisitedOption = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the faces; default: the recipe's.")] = None,
    batch_size: PretrainBatchOption = None,
    learning_rate: LearningRateOption = None,
    augmentation: AugmentationOption = None,
    landmarks: LandmarksOption = None,
    option: OptionOption = None,
    device: DeviceOption = "auto",
    devices: DevicesOption = 1,
    precision: PrecisionOption = None,
    seed: SeedOption = 0,
) -> None:
    """Train the Local Regression Network as a cascade of a fixed length. Goes on from OUTPUT/checkpoint.pt."""
    from face_align_env.pretrain import recipes
    from face_align_env.pretrain.loop import make_fabric
    from face_align_env.pretrain.objectives import StartJitter, VisitedStates

    from face_align_env.augmentation import Augmentation

    if from_ not in ("gen", "mean"):
        raise typer.BadParameter(f"'{from_}' is neither gen nor mean.", param_hint="--from")
    if from_ == "mean" and jitter:
        raise typer.BadParameter("with --from mean there is no x_0 of GEN's to be moved.", param_hint="--jitter")
    chosen = recipes.recipe(preset)
    config = training_of(chosen.lrn_training, seed, epochs, batch_size, learning_rate)
    views = Augmentation(**numbers_of(Augmentation, augmentation, "--augmentation"))
    moved = StartJitter(**numbers_of(StartJitter, jitter, "--jitter"))
    states: dict[str, Any] = numbers_of(VisitedStates, visited, "--visited")
    rolled = VisitedStates(**states) if states else None
    fabric = make_fabric(device, precision, devices)
    faces = recipes.FacesOnDevice(data_of(dataset, root, landmarks, option), fabric.device)
    announce(
        f"LRN ({chosen.lrn}), {iterations} iterations from {from_}, on {dataset}, "
        f"{len(faces.prepared('train'))} faces, {config}, on {fabric.device}"
    )
    start = gen if from_ == "gen" else None
    error = recipes.pretrain_lrn(
        faces, chosen.lrn, config, output, fabric, start, iterations, views, jitter=moved, visited=rolled
    )
    done(f"NME on the test split {100 * error:.2f} %", output / "weights.safetensors")


_AGENT_HELP = "DCRN's preset: stable, or paper (Algorithm 1 to the letter)."
AgentOption = Annotated[str, typer.Option("--agent", help=_AGENT_HELP)]
TimestepsOption = Annotated[int, typer.Option(help="Transitions that DCRN collects.")]
NumEnvsOption = Annotated[int, typer.Option(help="Faces at once.")]
BatchSizeOption = Annotated[int, typer.Option(help="Transitions an update of DCRN.")]
GradientStepsOption = Annotated[int, typer.Option(help="Updates after each step of the batch of faces.")]
Alpha2Option = Annotated[float | None, typer.Option("--alpha-2", help="Eq. 3's bound, pixels; default: Table 2's.")]
AugmentOption = Annotated[bool, typer.Option(help="Random views of the training faces in DCRN's episodes.")]
SeedsOption = Annotated[
    int,
    typer.Option(min=1, help="Number of seeds, from --seed on; several go into seed-0, seed-1, ... and a summary."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Keyword of DCRN as KEY=VALUE (imitation_weight=0, noise=2); repeat for more."),
]


@app.command()
def train(
    lrn: Annotated[Path, typer.Option(help="Weights of the pretrained LRN.")] = Path("runs/lrn/weights.safetensors"),
    gen: Annotated[Path, typer.Option(help="Weights of GEN, which starts the episodes.")] = Path(
        "runs/gen/weights.safetensors"
    ),
    dataset: DatasetOption = "synthetic",
    root: RootOption = None,
    preset: Annotated[str, typer.Option("--preset", "--agent", help=_AGENT_HELP)] = "stable",
    output: OutputOption = Path("runs/dcrn"),
    timesteps: TimestepsOption = 50_000,
    num_envs: NumEnvsOption = 64,
    batch_size: BatchSizeOption = 128,
    gradient_steps: GradientStepsOption = 4,
    alpha_2: Alpha2Option = None,
    augment: AugmentOption = True,
    augmentation: AugmentationOption = None,
    overrides: SetOption = None,
    environment: EnvironmentOption = None,
    landmarks: LandmarksOption = None,
    option: OptionOption = None,
    device: DeviceOption = "auto",
    seed: SeedOption = 0,
) -> None:
    """Fine-tune LRN by reinforcement learning: Algorithm 1 on FaceAlign-v0. Goes on from OUTPUT/model.zip."""
    from face_align_env.agents.dcrn.training import AgentConfig, train_dcrn

    from face_align_env.augmentation import Augmentation

    views = Augmentation(**numbers_of(Augmentation, augmentation, "--augmentation"))
    changed = options_of(overrides, "--set") or None
    config = AgentConfig(timesteps, num_envs, gradient_steps, batch_size, preset, seed, augment, overrides=changed)
    announce(f"DCRN ({preset}) on {dataset} from {lrn} and {gen}, {config}")
    data = data_of(dataset, root, landmarks, option)
    train_dcrn(
        lrn,
        config,
        output,
        device,
        views,
        initializer=str(gen),
        alpha_2=alpha_2,
        dataset=dataset,
        root=root,
        landmarks=landmarks,
        dataset_options=data.options,
        **options_of(environment, "--env"),
    )
    done("model.zip is the Stable-Baselines3 model", output / "weights.safetensors")


@app.command()
def evaluate(
    run: Annotated[
        Path | None, typer.Argument(help="Folder of a run, runs/NAME; default: runs/DATASET[-LANDMARKS]-PRESET.")
    ] = None,
    dataset: DatasetOption = "synthetic",
    preset: PresetOption = "compact",
    landmarks: LandmarksOption = None,
    split: Annotated[list[str] | None, typer.Option(help="Repeat for several; default: all but train.")] = None,
    on: Annotated[str | None, typer.Option(help="Measure on another dataset than the run's own.")] = None,
    root: RootOption = None,
    device: DeviceOption = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap intervals.")] = 0,
) -> None:
    """Measure each method of a run: Table 6's rows, as table, evaluation.json and figures."""
    from face_align_env.agents.evaluation.run_evaluation import evaluate as evaluate_run

    folder = run or _folder(dataset, landmarks, preset)
    announce(f"Evaluating {folder} on {device}")
    evaluate_run(folder, split, device, console, root, on, seed)


@app.command("run")
def run_command(
    dataset: DatasetOption = "synthetic",
    root: RootOption = None,
    preset: PresetOption = "compact",
    name: Annotated[
        str | None, typer.Option(help="The run's folder is runs/NAME; default: DATASET[-LANDMARKS]-PRESET.")
    ] = None,
    gen_epochs: Annotated[int | None, typer.Option(help="Default: the recipe's.")] = None,
    lrn_epochs: Annotated[int | None, typer.Option(help="Default: the recipe's.")] = None,
    agent: AgentOption = "stable",
    timesteps: TimestepsOption = 50_000,
    num_envs: NumEnvsOption = 64,
    batch_size: BatchSizeOption = 128,
    gradient_steps: GradientStepsOption = 4,
    alpha_2: Alpha2Option = None,
    augment: AugmentOption = True,
    augmentation: AugmentationOption = None,
    jitter: JitterOption = None,
    visited: VisitedOption = None,
    overrides: SetOption = None,
    environment: EnvironmentOption = None,
    landmarks: LandmarksOption = None,
    option: OptionOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    seed: SeedOption = 0,
    seeds: SeedsOption = 1,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            help="Train this one only (gen, lrn-2, lrn-4, lrn-8, gen-lrn4, gen-lrn8, dcrn); repeat for several. "
            "A release needs gen, gen-lrn4 and dcrn."
        ),
    ] = None,
) -> None:
    """All of it into runs/NAME: GEN, LRN-2/-4/-8, GEN-LRN4/8, DCRN, evaluation. Goes on where it stopped."""
    from face_align_env.agents.dcrn.training import AgentConfig
    from face_align_env.agents.run_config import RunConfig
    from face_align_env.agents.run_seeds import run_seeds
    from face_align_env.pretrain.objectives import StartJitter, VisitedStates

    from face_align_env.augmentation import Augmentation

    config = RunConfig(
        data=data_of(dataset, root, landmarks, option),
        preset=preset,
        seed=seed,
        precision=precision,
        gen_epochs=gen_epochs,
        lrn_epochs=lrn_epochs,
        agent=AgentConfig(
            timesteps,
            num_envs,
            gradient_steps,
            batch_size,
            agent,
            seed,
            augment,
            overrides=options_of(overrides, "--set") or None,
        ),
        alpha_2=alpha_2,
        environment=options_of(environment, "--env") or None,
        augmentation=numbers_of(Augmentation, augmentation, "--augmentation") or None,
        jitter=numbers_of(StartJitter, jitter, "--jitter") or None,
        visited=numbers_of(VisitedStates, visited, "--visited") or None,
    )
    folder = Path("runs") / name if name else _folder(dataset, landmarks, preset)
    run_seeds(config, folder, seeds, device, console, stage)
    done("Table and figures are there", folder)


@app.command()
def speed(
    preset: PresetOption = "compact",
    device: DeviceOption = "auto",
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="memory, patches, env, replay, networks, aligner, training or scaling; repeat for several. "
            "Default: all but scaling."
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Measurements of each figure; it is their median.")] = 7,
    threads: Annotated[int | None, typer.Option(help="Of torch; default: torch's own choice.")] = None,
    output: Annotated[Path, typer.Option(help="JSON to write.")] = Path("runs/speed.json"),
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Curves over faces, landmarks, patch size and datasets, too.")
    ] = False,
    max_faces: Annotated[int, typer.Option(help="Largest dataset of scaling; 20,000 take 7.4 GB of disk.")] = 1000,
    quick: Annotated[bool, typer.Option("--quick", help="Toy sizes: does everything run?")] = False,
) -> None:
    """Measure every part on this machine, each as a ratio to a limit or to a baseline of the same minutes."""
    from face_align_env.agents.speed.report import run
    from face_align_env.agents.speed.workbench import Settings

    settings = Settings(preset, device, repeats, threads, quick, max_faces)
    for path in run(settings, output, console, only, scaling):
        done("Written", path)


def _folder(dataset: str, landmarks: int | None, preset: str) -> Path:
    return Path("runs") / "-".join([dataset, *([] if landmarks is None else [str(landmarks)]), preset])


def main() -> None:
    """The entry point: mistakes of the caller end in one line, not in a traceback."""
    try:
        app()
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("FACE_ALIGN_DEBUG"):
            raise
        Console(stderr=True).print(f"[red]Error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from error
