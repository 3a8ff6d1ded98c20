"""``face-align evaluate|robustness|tradeoff|ablate|summarize|release|watch``: what is done with a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from face_align_env.agents.cli.options import (
    DatasetOption,
    DeviceOption,
    JsonOption,
    LandmarksOption,
    PresetOption,
    RootOption,
    announce,
    console,
    done,
    print_json,
    written,
)
from face_align_env.agents.cli.train import run_folder

RunArgument = Annotated[Path, typer.Argument(help="Folder of a run, runs/NAME.")]
RunOrReleaseArgument = Annotated[
    Path, typer.Argument(help="Folder of a run, runs/NAME, or the name of released weights (300w-68).")
]


def _folder_of(run: Path) -> Path:
    """The folder of a run; that of released weights is made, ``runs/released-NAME-HASH``."""
    from face_align_env.released import find_release, released_names

    if run.exists() or str(run) not in released_names():
        return run
    from face_align_env.agents.release import run_of_release

    release = find_release(str(run))
    return run_of_release(release, Path("runs") / f"released-{run}-{release.card.sha256[:8]}").path


SplitOption = Annotated[str | None, typer.Option(help="Default: the dataset's test split.")]


def evaluate(
    run: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of a run, runs/NAME, or the name of released weights (300w-68); default: "
            "runs/DATASET[-LANDMARKS]-PRESET."
        ),
    ] = None,
    dataset: DatasetOption = "synthetic",
    preset: PresetOption = "compact",
    landmarks: LandmarksOption = None,
    split: Annotated[list[str] | None, typer.Option(help="Repeat for several; default: all but train.")] = None,
    on: Annotated[str | None, typer.Option(help="Measure on another dataset than the run's own.")] = None,
    root: RootOption = None,
    device: DeviceOption = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap intervals.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure each method of a run: Table 6's rows, as table, evaluation.json and figures."""
    from face_align_env.agents.evaluation.run_evaluation import evaluate as measure

    folder = run_folder(dataset, landmarks, preset) if run is None else _folder_of(run)
    announce(f"Evaluating {folder} on {device}")
    paths = measure(folder, split, device, console, root, on, seed)
    if as_json:
        written(paths, as_json)


def robustness(
    run: RunOrReleaseArgument,
    split: SplitOption = None,
    faces: Annotated[int | None, typer.Option(min=1, help="How many faces, evenly spaced; default: all.")] = None,
    root: RootOption = None,
    device: DeviceOption = "cpu",
    peers: Annotated[
        Path | None,
        typer.Option(
            help="Folder of dlib's predictor (examples/compare_peers.py); default: RUN/peers if there is one."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the box shifts and of the bootstrap intervals.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Measure each method under shifted, scaled and detected boxes, few pixels, JPEG and other light."""
    from face_align_env.agents.studies.robustness import run_robustness

    run = _folder_of(run)
    announce(f"Perturbing the faces of {run} on {device}")
    written(run_robustness(run, split, faces, root, device, peers, seed, console), as_json)


def tradeoff(
    run: RunOrReleaseArgument,
    split: SplitOption = None,
    alpha_2: Annotated[
        list[float] | None,
        typer.Option(
            "--alpha-2", help="A bound of Eq. 3 to try, pixels; repeat for several. Default: 13 from 0.5 to 8."
        ),
    ] = None,
    root: RootOption = None,
    device: DeviceOption = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap intervals.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """What an iteration buys: accuracy over iterations for many bounds of Eq. 3, and for cascades of fixed length."""
    from face_align_env.agents.studies.tradeoff import run_tradeoff

    run = _folder_of(run)
    announce(f"Measuring {run} on {device}")
    written(run_tradeoff(run, split, alpha_2, root, device, seed, console).paths, as_json)


def ablate(
    run: RunArgument,
    only: Annotated[
        list[str] | None,
        typer.Option(help="A row of the table (a wrong name lists them); repeat for several. Default: all."),
    ] = None,
    timesteps: Annotated[
        int | None, typer.Option(min=1, help="Transitions of each training; default: the run's.")
    ] = None,
    split: SplitOption = None,
    root: RootOption = None,
    device: DeviceOption = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the trainings.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Train DCRN again with one part of its training changed at a time, and say what each part does."""
    from face_align_env.agents.studies.ablations import ablate as run_ablations

    table = run_ablations(run, only, timesteps, split, root, device, seed, console)
    written([table, table.with_suffix(".json")], as_json)


def summarize(
    run: Annotated[Path, typer.Argument(help="Folder of a run of several seeds, runs/NAME.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the intervals.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """What the seeds of a run say together, with intervals for other seeds and faces: seeds.md and seeds.json."""
    from face_align_env.agents.evaluation import seeds

    seeds.summarize(run, console, seed)
    if as_json:
        written([run / "seeds.json"], as_json)


def calibrate(
    weights: Annotated[str, typer.Argument(help="Folder of a run, or the name of released weights (300w-68).")],
    root: RootOption = None,
    views: Annotated[int, typer.Option(min=1, help="Random views of each training face.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the views.")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="Folder for table and figure; default: the run's, or runs/WEIGHTS.")
    ] = None,
    weights_folder: Annotated[
        Path | None, typer.Option(help="Folder of the release; default: the package's own, face_align_env/weights.")
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            help="Text file with the ids of training faces that the networks have not seen; default: those that the "
            "run has held out (--option held_out=0.1)."
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            help="confidence.json of other weights, calibrated with --held-out: stretch predictions as there."
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="confidence (the error of each face) or gain (what an iteration gains); default: both."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Teach weights to predict the error of each face (the confidence of face-align align) and what an iteration gains.

    Two heads are fitted on training faces and stored with the weights; the tables say how well they do on test faces.
    """
    from face_align_env.agents.studies.calibration import calibrate as run_calibration
    from face_align_env.agents.studies.gains import calibrate_gain
    from face_align_env.checks import check_choice
    from face_align_env.released import FOLDER

    if only is not None:
        check_choice("--only", only, ("confidence", "gain"))
    if only == "gain" and (held_out or like):
        raise ValueError("--held-out and --like stretch the confidence, and with --only gain there is none.")
    announce(f"Calibrating {weights}")
    folder = weights_folder or FOLDER
    paths: list[Path] = []
    if only != "gain":
        paths += run_calibration(weights, root, views, seed, output, folder, held_out, like, console).paths
    if only != "confidence":
        paths += calibrate_gain(weights, root, views, seed, output, folder, console).paths
    written(paths, as_json)


def release(
    run: Annotated[Path, typer.Argument(help="Folder of a run that is trained and evaluated.")],
    name: Annotated[str, typer.Option(help="Of the release, ending in the number of landmarks: 300w-68.")],
    output: Annotated[
        Path | None, typer.Option(help="Folder for the two files; default: the package's own, face_align_env/weights.")
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="Folder of the training data, where it is not where the run found it.")
    ] = None,
    command: Annotated[
        str | None, typer.Option(help="What trained the networks; default: read off the run's configuration.")
    ] = None,
    intended_use: Annotated[str | None, typer.Option(help="Default: by the licences of the datasets.")] = None,
    not_trained_on: Annotated[
        str | None, typer.Option(help="Faces that were not seen; default: the test splits, and what the data lacks.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put GEN and DCRN of a run into one file of 16-bit numbers, with a card that says how good they are."""
    from face_align_env.agents.release import make_release
    from face_align_env.released import FOLDER

    made = make_release(run, name, output or FOLDER, root, command, intended_use, not_trained_on)
    if as_json:
        print_json(made.card.document())
    for metric in made.card.metrics:
        announce(
            f"{metric.dataset} {metric.split}, {metric.faces} faces: {metric.method} {metric.nme:.2f} % "
            f"({metric.nme_low:.2f} .. {metric.nme_high:.2f}), failures {metric.failure_rate:.1f} %"
        )
    done(f"{made.path.stat().st_size / 1e6:.2f} MB", made.path)


def watch(
    run: RunOrReleaseArgument,
    index: Annotated[int, typer.Option(help="Which face of the split, from 0.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option(help="A film (.mp4, .gif) or all frames in a row (.png); default: RUN/episodes/SPLIT-INDEX.gif."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="dcrn, lrn (DCRN before RL), gen-lrn4, gen-lrn8, lrn-2, lrn-4 or lrn-8.")
    ] = "dcrn",
    split: SplitOption = None,
    root: RootOption = None,
    termination: Annotated[
        str | None,
        typer.Option(help="oracle, blind or limit; default: blind, of a cascade of fixed length limit."),
    ] = None,
    fps: Annotated[float, typer.Option(min=0.1, help="Frames a second of a film.")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Play an episode with a trained policy and look at it: a film, or its frames in a row."""
    from face_align_env.agents import watch as watching

    episode, path = watching.watch(_folder_of(run), index, output, method, split, root, termination, fps)
    if as_json:
        rollout = episode.rollout
        played = {"nme": rollout.errors[:, 0].tolist(), "rewards": rollout.rewards[:, 0].tolist()}
        success = {"success": rollout.successes.item(), "path": str(path)}
        print_json({"split": episode.split, "index": index, **played, **success})
    announce(f"Face {index} of {episode.split}: {episode}")
    done("Written", path)
