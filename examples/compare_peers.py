"""dlib's regression trees beside the methods of a run: trained on the same faces, measured on the same test faces.

    python examples/compare_peers.py --run runs/demo
    python examples/compare_peers.py --run runs/300w-compact --root path/to/300w --threads 8

Needs dlib: pip install "face-align-env[peers]". The predictor is kept in RUN/peers, the table in RUN/peers.json. With
dlib's own options 2,000 faces take a quarter of an hour of one core; the small ones below show in seconds that it
works:

    python examples/compare_peers.py --run runs/demo --peers runs/examples/peers --faces 50 --trees 20 --oversampling 2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from face_align_env.agents.common.crop_rollout import CropAligner
from face_align_env.agents.evaluation.measure import Outcome, evaluate_method
from face_align_env.agents.evaluation.run_evaluation import methods
from face_align_env.agents.evaluation.tables import method_table
from face_align_env.agents.run_folder import RunFolder
from face_align_env.agents.studies.peers import PREDICTOR, DlibAligner, peers_note, train_dlib
from face_align_env.datasets import load_dataset
from face_align_env.files import write_json
from face_align_env.pretrain.recipes import Data


def train(data: Data, folder: Path, args: argparse.Namespace) -> DlibAligner:
    """dlib trained on the faces of a run, or what an earlier call has trained."""
    options: dict[str, Any] = {
        "num_trees_per_cascade_level": args.trees,
        "cascade_depth": args.cascade_depth,
        "oversampling_amount": args.oversampling,
    }
    known = (folder / PREDICTOR).is_file()
    faces = data.prepare("train", max_cached=2048)
    began = time.perf_counter()
    dlib = train_dlib(
        faces,
        folder,
        num_threads=args.threads,
        faces=args.faces,
        mirror=args.mirror,
        **{name: value for name, value in options.items() if value is not None},
    )
    print(f"dlib: {folder / PREDICTOR}" + (" was there" if known else f", {time.perf_counter() - began:.0f} s"))
    return dlib


def rows(run: RunFolder, dlib: DlibAligner) -> Iterator[tuple[str, CropAligner]]:
    """The methods of the run, then dlib."""
    yield from methods(run, "cpu")
    yield "dlib", dlib


def main() -> None:
    """Train dlib, measure all, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="folder of a run (default: %(default)s)")
    parser.add_argument("--split", help="to measure on (default: the dataset's test split)")
    parser.add_argument("--root", help="folder of the data (default: where the run found it)")
    parser.add_argument("--peers", type=Path, help="folder of dlib's predictor (default: peers in the run's)")
    parser.add_argument(
        "--threads", type=int, default=1, help="of dlib's training; 0: one a core (default: %(default)s)"
    )
    parser.add_argument("--faces", type=int, help="how many to train on (default: all)")
    parser.add_argument("--mirror", action="store_true", help="train on each face's mirror image, too")
    parser.add_argument("--trees", type=int, help="of each level of the cascade (default: dlib's)")
    parser.add_argument("--cascade-depth", type=int, help="(default: dlib's)")
    parser.add_argument("--oversampling", type=int, help="first shapes for each training face (default: dlib's)")
    parser.add_argument("--train-only", action="store_true", help="train dlib, measure nothing")
    args = parser.parse_args()

    try:
        run = RunFolder(args.run)
        config, data = run.config, run.data(args.root)
        dlib = train(data, args.peers or args.run / "peers", args)
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        parser.error(str(error))
    if args.train_only:
        return
    split = (
        args.split or load_dataset(data.dataset, "train", data.root, data.landmarks, **data.options or {}).test_split
    )
    faces = data.prepare(split, max_cached=2048)
    measured: list[Outcome] = [evaluate_method(name, method, faces) for name, method in rows(run, dlib)]
    title = f"{data.dataset} {split}, {len(faces)} faces, preset {config.preset}, seed {config.seed}"
    # Piped into a file the table keeps its columns.
    console = Console(width=None if Console().is_terminal else 160)
    console.print(method_table(title, [outcome.row for outcome in measured], [peers_note(dlib)]))
    path = args.run / ("peers.json" if args.split is None else f"peers-{split}.json")
    document = {
        "dataset": data.dataset,
        "split": split,
        "num_faces": len(faces),
        "peers": {"dlib": dlib.settings},
        "rows": [asdict(outcome.row) for outcome in measured],
    }
    write_json(path, document)
    print(f"Written: {path}")


if __name__ == "__main__":
    main()
