"""``face-align align`` and ``face-align track``: landmarks for photos and videos."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from face_align_env.agents.cli.options import announce, console
from face_align_env.files import locked_folder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from face_align_env.aligner import Alignment, Detector, FaceAligner
    from face_align_env.aligner.folders import Input
    from face_align_env.aligner.parquet import Record
    from face_align_env.aligner.results import Results

WeightsOption = Annotated[
    str, typer.Option(help="Released weights (300w-68, 300w-19, synthetic-68, ...), or the folder of a run.")
]
DetectorOption = Annotated[str, typer.Option(help="auto, yunet or haar (needs nothing but OpenCV's cascades).")]
MinFaceOption = Annotated[
    float | None,
    typer.Option(help="Smallest face, pixels. Default: 20, or a hundredth of the photo's longer side if that is more."),
]
DeviceOption = Annotated[str, typer.Option(help="Where the networks run: cpu, cuda or mps.")]
EngineOption = Annotated[
    str,
    typer.Option(help="torch; or int8, ONNX Runtime with whole numbers of 8 bits: about twice as fast (extra export)."),
]

_SHOWN = 200  # rows of the table on a terminal


def align(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Photos, folders, patterns such as 'party/*.jpg'; - reads paths."),
    ],
    json_: Annotated[
        Path | None, typer.Option("--json", help="File to append to: one line of JSON for each photo.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="File to append to: one row for each face.")] = None,
    pts: Annotated[Path | None, typer.Option(help="Folder for a .pts file of each face, as 300W has them.")] = None,
    draw: Annotated[Path | None, typer.Option(help="Folder for the photos with their landmarks.")] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(help="Folder for Parquet tables of faces, photos and broken photos (extra cluster)."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="With --parquet: align on a Ray cluster: local (this machine's cores), auto (the cluster that it is a "
            "node of), or the head's address; the photos must be on each node."
        ),
    ] = None,
    boxes: Annotated[
        Path | None, typer.Option(help="CSV file of faces' boxes (photo,x0,y0,x1,y1), instead of the detector's.")
    ] = None,
    weights: WeightsOption = "300w-68",
    detector: DetectorOption = "auto",
    min_face: MinFaceOption = None,
    device: DeviceOption = "cpu",
    engine: EngineOption = "torch",
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Look at each face a second time, mirrored: less error, twice the time.")
    ] = False,
    least_gain: Annotated[
        float | None,
        typer.Option(
            help="Stop a face when its next iteration is predicted to lower the error by less, points of %, in the "
            "place of Eq. 3: 0.13 takes 1.5 iterations with 300w-68, 0.05 2.6."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Threads that read and detect; default: one a core.")] = None,
) -> None:
    """Landmarks for the faces of photos.

    Without --json, --csv, --pts or --draw: a table on a terminal, lines of JSON in a pipe. Photos whose results are
    there already are passed over. Files that cannot be read are listed at the end, and the exit status is 1.
    """
    from face_align_env.aligner.folders import align_files, find_photos, read_boxes

    photos = find_photos(
        _named(inputs), without=[folder for folder in (draw, pts) if folder is not None and folder.is_dir()]
    )
    known = None if boxes is None else read_boxes(boxes)
    if cluster is not None and Path(weights).is_dir():
        weights = os.path.abspath(weights)  # the nodes' processes have folders of their own
    make = partial(make_aligner, weights, device, detector, min_face, mirror, engine, least_gain)
    if parquet is not None or cluster is not None:
        if parquet is None or json_ or csv or pts or draw:
            raise ValueError("--cluster goes with --parquet, and --parquet with none of --json, --csv, --pts, --draw.")
        _align_to_parquet(make, photos, parquet, known, cluster, device.startswith("cuda"), workers)
        return
    aligner = make()
    outputs = list(_outputs(aligner, photos, json_, csv, pts, draw))
    waiting = [photo for photo in photos if not outputs or not all(output.has(photo) for output in outputs)]
    if len(waiting) < len(photos):
        announce(f"{len(photos) - len(waiting):,} of {len(photos):,} photos have their results already.")
    table = None if outputs or not console.is_terminal else _table()
    faces, empty, broken = 0, 0, []
    for photo, found in _progress(align_files(aligner, waiting, known, workers), len(waiting), bool(outputs)):
        if isinstance(found, Exception):
            broken.append((photo, found))
            continue
        faces, empty = faces + len(found), empty + (not found)
        for output in outputs:
            if not output.has(photo):
                output.write(photo, found)
        if table is not None:
            _add_rows(table, photo, found)
        elif not outputs:
            _print_line(photo, found)
    if table is not None:
        console.print(table)
    if outputs or table is not None:
        without = f", none in {empty:,} of them" if empty else ""
        announce(f"{faces:,} faces in {len(waiting) - len(broken):,} photos{without}.")
    if broken:
        errors = Console(stderr=True)
        errors.print(f"[red]{len(broken):,} of {len(waiting):,} photos could not be aligned:[/red]", highlight=False)
        for photo, error in broken:
            message = str(error) if str(photo.path) in str(error) else f"'{photo.path}': {error}"
            errors.print(f"  {escape(message)}", highlight=False, soft_wrap=True)
        raise typer.Exit(1)


def _align_to_parquet(
    make: Callable[[], FaceAligner],
    photos: list[Input],
    folder: Path,
    boxes: dict[Path, npt.NDArray[np.float64]] | None,
    cluster: str | None,
    gpu: bool,
    workers: int | None,
) -> None:
    from face_align_env.aligner.folders import align_files
    from face_align_env.aligner.parquet import ParquetFolder, as_text, record

    with locked_folder(folder):
        results = ParquetFolder(folder)
        waiting = [photo for photo in photos if as_text(photo.path) not in results.done]
        if len(waiting) < len(photos):
            announce(f"{len(photos) - len(waiting):,} of {len(photos):,} photos have their results already.")
        broken = 0
        with ExitStack() as stack:
            if not waiting:
                records: Iterable[Record] = []
            elif cluster is None:
                records = (record(photo, found) for photo, found in align_files(make(), waiting, boxes, workers))
            else:
                from face_align_env.agents.photos_cluster import aligned_on_cluster

                make()  # its mistakes are this command's, not those of the nodes
                records = stack.enter_context(aligned_on_cluster(make, waiting, cluster, boxes, gpu))
            try:
                for each in _progress(records, len(waiting), True):
                    results.write([each])
                    broken += each["error"] is not None
            finally:
                results.flush()  # what was done until then is kept
    announce(f"{len(waiting):,} photos, {broken:,} of them broken: tables in '{folder}'.")
    if broken:
        raise typer.Exit(1)


def track(
    source: Annotated[
        str, typer.Argument(metavar="VIDEO|CAMERA", help="A video file, or the number of a camera: 0, 1")
    ],
    json_: Annotated[Path | None, typer.Option("--json", help="File for one line of JSON a frame.")] = None,
    csv: Annotated[Path | None, typer.Option(help="File for one row for each face of each frame.")] = None,
    video: Annotated[Path | None, typer.Option(help=".mp4 file for the video with its landmarks.")] = None,
    smooth: Annotated[bool, typer.Option("--smooth", help="One-euro filter on the landmarks.")] = False,
    detect_every: Annotated[int, typer.Option(help="Frames from one search for new faces to the next.")] = 30,
    max_frames: Annotated[int | None, typer.Option(help="Stop after so many frames (for cameras).")] = None,
    weights: WeightsOption = "300w-68",
    detector: DetectorOption = "auto",
    min_face: MinFaceOption = None,
    device: DeviceOption = "cpu",
    engine: EngineOption = "torch",
) -> None:
    """Follow the faces of a video: landmarks for each frame, and a number for each face that it keeps.

    Without --json, --csv or --video, lines of JSON go to standard output. Ctrl-C ends a camera; what it has shown until
    then is written.
    """
    from face_align_env.aligner import draw_alignments
    from face_align_env.aligner.results import FrameCsv, FrameLines
    from face_align_env.aligner.tracking import FaceTracker
    from face_align_env.aligner.videos import VideoError, VideoFrames, VideoWriter

    if max_frames is not None and max_frames < 1:
        raise ValueError(f"--max-frames must be at least 1, got {max_frames}.")
    frames = VideoFrames(source)
    aligner = make_aligner(weights, device, detector, min_face, engine=engine)
    tracker = FaceTracker(aligner, detect_every, smooth, frames.fps)
    ids, number, seen, iterations = set[int](), 0, 0, 0
    cut_off: VideoError | None = None
    with ExitStack() as stack:
        outputs: list[FrameCsv | FrameLines] = []
        if csv is not None:
            outputs.append(stack.enter_context(FrameCsv(csv, aligner.start.num_landmarks)))
        if json_ is not None or not (csv or video):
            outputs.append(stack.enter_context(FrameLines(json_)))
        writer = None if video is None else stack.enter_context(VideoWriter(video, frames.fps))
        try:
            for frame in _progress_of_frames(islice(frames, max_frames), frames.count, bool(json_ or csv or video)):
                faces = tracker(frame)
                for output in outputs:
                    output.write(number, number / frames.fps, faces)
                if writer is not None:
                    writer.write(draw_alignments(frame, [face.alignment for face in faces]))
                ids |= {face.id for face in faces}
                number, seen = number + 1, seen + len(faces)
                iterations += sum(face.alignment.iterations for face in faces)
        except KeyboardInterrupt:
            pass  # what came until then is whole
        except VideoError as error:
            if not number:
                raise
            cut_off = error
    if json_ or csv or video:
        mean = f", {iterations / seen:.2f} iterations a face and frame" if seen else ""
        announce(f"{number:,} frames, {len(ids):,} faces{mean}.")
    if cut_off is not None:
        raise cut_off


def make_aligner(
    weights: str,
    device: str,
    detector: str,
    min_face: float | None,
    mirror: bool = False,
    engine: str = "torch",
    least_gain: float | None = None,
) -> FaceAligner:
    """The aligner that the options name.

    :raises ValueError: there are no such weights or no such detector, or an option does not go with them
    :raises DetectorNotFoundError: this OpenCV cannot run the detector
    """
    finds = _detector(detector, min_face)
    aligner = load_aligner(weights, device, mirror, engine, least_gain)
    aligner.detector = finds
    return aligner


def load_aligner(
    weights: str,
    device: str = "cpu",
    mirror: bool = False,
    engine: str = "torch",
    least_gain: float | None = None,
) -> FaceAligner:
    """The aligner of released weights, or of the folder of a run.

    :raises ValueError: there are no such weights, or they do not predict what an iteration gains
    """
    from face_align_env.agents.run_folder import RunFolder
    from face_align_env.aligner import FaceAligner

    if Path(weights).is_dir():
        return RunFolder(weights).aligner(device, mirror=mirror, engine=engine, least_gain=least_gain)
    return FaceAligner.from_pretrained(weights, device=device, mirror=mirror, engine=engine, least_gain=least_gain)


def _detector(name: str, min_face: float | None) -> Detector:
    from face_align_env.aligner import get_detector
    from face_align_env.aligner.haar import HaarDetector
    from face_align_env.aligner.yunet import YuNetDetector

    found = get_detector(name)
    if min_face is None:
        return found
    if isinstance(found, HaarDetector):
        if not min_face >= 1:
            raise ValueError(f"--min-face must be at least 1 pixel, got {min_face:g}.")
        return HaarDetector(round(min_face))
    return YuNetDetector(min_face)


def _named(inputs: list[str]) -> Iterator[str]:
    """The inputs, with those from standard input in the place of ``-``."""
    for given in inputs:
        if given == "-":
            yield from (line for line in sys.stdin.read().splitlines() if line.strip())
        else:
            yield given


def _outputs(
    aligner: FaceAligner, photos: list[Input], json_: Path | None, csv: Path | None, pts: Path | None, draw: Path | None
) -> Iterator[Results]:
    from face_align_env.aligner.results import CsvTable, Drawings, JsonLines, PtsFolder

    if json_ is not None:
        yield JsonLines(json_)
    if csv is not None:
        yield CsvTable(csv, aligner.start.num_landmarks)
    if pts is not None:
        yield PtsFolder(pts, photos)
    if draw is not None:
        yield Drawings(draw, photos)


def _progress_of_frames(frames: Iterable[Any], total: int | None, shown: bool) -> Iterable[Any]:
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(frames, total=total, unit="frame", disable=not (shown and sys.stderr.isatty()))
    return bar


T = TypeVar("T")


def _progress(results: Iterable[T], total: int, shown: bool) -> Iterable[T]:
    from tqdm import tqdm

    bar: Iterable[T] = tqdm(results, total=total, unit="photo", disable=not (shown and sys.stderr.isatty()))
    return bar


def _table() -> Table:
    return Table("photo", "face", "box", "iterations", "confidence", "yaw", "pitch", "roll", title="Faces")


def _add_rows(table: Table, photo: Input, found: list[Alignment]) -> None:
    for number, alignment in enumerate(found):
        if len(table.rows) == _SHOWN:
            table.caption = f"The first {_SHOWN} faces; --json and --csv write all of them, with their landmarks."
        if len(table.rows) >= _SHOWN:
            return
        pose = alignment.pose
        box = " ".join(f"{value:.0f}" for value in alignment.box)
        angles = (f"{angle:+.0f}°" for angle in (pose.yaw, pose.pitch, pose.roll))
        sure = "" if alignment.confidence is None else f"{alignment.confidence:.1f} %"
        table.add_row(escape(str(photo.path)), str(number), box, str(alignment.iterations), sure, *angles)
    if not found and len(table.rows) < _SHOWN:
        table.add_row(escape(str(photo.path)), "none", *[""] * 6)


def _print_line(photo: Input, found: list[Alignment]) -> None:
    from face_align_env.aligner.results import as_record

    print(json.dumps(as_record(photo, found)), flush=True)
