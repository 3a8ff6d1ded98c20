"""Small pieces of long work that :mod:`trust.kills` interrupts, each in a process of its own.

Trainings write checkpoints as often as they can, so that a kill hits one while it is written.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image

from face_align_env.agents.benchmark.run import Pretraining, benchmark
from face_align_env.agents.benchmark.settings import BenchmarkSettings
from face_align_env.agents.cli.app import app
from face_align_env.agents.collect import collect
from face_align_env.agents.dcrn.config import AgentConfig
from face_align_env.agents.dcrn.training import train_dcrn
from face_align_env.agents.run import run
from face_align_env.agents.run_config import RunConfig
from face_align_env.datasets import load_dataset
from face_align_env.datasets.pts import read_pts
from face_align_env.files import read_arrays
from face_align_env.networks import gen as gen_network
from face_align_env.networks import lrn as lrn_network
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN, LRNConfig
from face_align_env.prepared import PreparedFaces, prepare_on_disk
from face_align_env.pretrain import recipes
from face_align_env.pretrain.loop import make_fabric
from face_align_env.pretrain.recipes import Data, Recipe, TrainingConfig
from face_align_env.pretrain.stages import FacesOnDevice, pretrain_gen, pretrain_lrn

DATA = Data("synthetic", options={"size": 16})
SMALL = Data("synthetic", landmarks=19, options={"size": 6})
QUICK = TrainingConfig(epochs=20, batch_size=8, checkpoint_seconds=0)
GEN_19 = GENConfig(19, input_size=16, width=4, hidden=16)
LRN_19 = LRNConfig(19, encoder=((4, 10, 10, 1),), bottleneck=4)
AGENT = AgentConfig(timesteps=240, num_envs=4, batch_size=8, checkpoint_timesteps=8, overrides={"learning_starts": 16})


def beside(folder: Path, what: str) -> Path:
    """What belongs to a piece of work, and is not its result."""
    return folder.with_name(f"{folder.name}-{what}")


def made_lrn(path: Path, config: LRNConfig = LRN_19) -> Path:
    """Weights of an LRN that has learnt nothing, made where there are none."""
    if not path.is_file():
        torch.manual_seed(0)
        LRN(config).save(path)
    return path


def gen(folder: Path) -> None:
    """GEN, 40 steps."""
    pretrain_gen(FacesOnDevice(DATA, "cpu"), "tiny", QUICK, folder, make_fabric("cpu"))


def lrn(folder: Path) -> None:
    """LRN-2 from the mean shape, 40 steps."""
    pretrain_lrn(FacesOnDevice(DATA, "cpu"), "tiny", QUICK, folder, make_fabric("cpu"), None, 2)


def dcrn(folder: Path) -> None:
    """DCRN, 240 transitions."""
    start = made_lrn(beside(folder, "lrn") / "weights.safetensors", LRNConfig(encoder=((4, 10, 10, 1),), bottleneck=4))
    train_dcrn(start, AGENT, folder, "cpu", dataset="synthetic", dataset_options={"size": 16}, initializer="mean")


def whole_run(folder: Path) -> None:
    """``face-align run``: seven stages and the evaluation."""
    gen_network.PRESETS["micro"], lrn_network.PRESETS["micro"] = GEN_19, LRN_19
    quick = TrainingConfig(epochs=4, batch_size=4, checkpoint_seconds=0)
    recipes.RECIPES["micro"] = Recipe("micro", "micro", quick, quick)
    agent = AgentConfig(timesteps=48, num_envs=4, batch_size=8, checkpoint_timesteps=8, overrides=AGENT.overrides)
    run(RunConfig(SMALL, agent=agent, preset="micro"), folder, "cpu")


def one_benchmark(folder: Path) -> None:
    """``face-align benchmark``: its baselines, and one training of SAC in a process of its own."""
    made_lrn(beside(folder, "run") / "lrn-4" / "weights.safetensors")
    quick = {"sac.learning_starts": 16, "sac.batch_size": 8, "sac.gradient_steps": 1}
    settings = BenchmarkSettings(
        SMALL, initializer="mean", timesteps=64, evaluations=4, eval_faces=2, modes=3, overrides=quick
    )
    if not benchmark(settings, folder, ["sac"], ["features"], 1, Pretraining(beside(folder, "run")), workers=1):
        raise SystemExit("a trial has failed")


def align(folder: Path) -> None:
    """``face-align align`` of a folder with 24 photos, into all four kinds of files."""
    trained, photos = beside(folder, "run"), beside(folder, "photos")
    if not (trained / "config.json").is_file():
        torch.manual_seed(0)
        shape = torch.linspace(60, 190, 38).view(19, 2)
        GEN(GEN_19, shape).save(trained / "gen" / "weights.safetensors")
        made_lrn(trained / "dcrn" / "weights.safetensors")
        photos.mkdir(exist_ok=True)
        faces, lines = load_dataset("synthetic", "test", landmarks=19, size=24), []
        for index, face in enumerate(faces):
            Image.fromarray(face.image).save(photos / f"{index:02d}.png")
            lines.append(",".join([f"{index:02d}.png", *map(str, face.box.tolist())]))
        (photos / "boxes.csv").write_text("\n".join(lines), encoding="utf-8")
        RunConfig(SMALL, alpha_2=3.0, preset="tiny").write(trained)
    folder.mkdir(exist_ok=True)
    places = {"json": "faces.jsonl", "csv": "faces.csv", "pts": "pts", "draw": "drawn"}
    words = [word for key, place in places.items() for word in (f"--{key}", str(folder / place))]
    given = ["--weights", str(trained), "--boxes", str(photos / "boxes.csv"), "--workers", "1"]
    app(["align", str(photos), *given, *words], standalone_mode=False)


def episodes(folder: Path) -> None:
    """``face-align collect``: 48 episodes as a Minari dataset; one that is there is replaced."""
    folder.mkdir(exist_ok=True)
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    collect("random", None, "face-align/toy-v0", 48, overwrite=True, landmarks=19, dataset_options={"size": 6})


def prepare(folder: Path) -> None:
    """40 faces, prepared on disk; $FACE_ALIGN_CACHE says where."""
    prepare_on_disk(PreparedFaces(load_dataset("synthetic", size=40)))
    folder.mkdir(exist_ok=True)
    (folder / "done").write_text("40", encoding="utf-8")


def _weights(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.rglob("weights.safetensors")):
        yield path.read_bytes()


def _of_run(folder: Path) -> Iterator[bytes]:
    yield from _weights(folder)
    yield from _of_arrays(folder / "evaluation.npz")
    document = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    yield json.dumps([{**row, "ms_per_face": None} for row in document["rows"]]).encode()


def _of_benchmark(folder: Path) -> Iterator[bytes]:
    lines = (folder / "results.csv").read_text(encoding="utf-8").splitlines()
    clock = lines[0].split(",").index("wall_clock")
    yield "\n".join(",".join(line.split(",")[:clock] + line.split(",")[clock + 1 :]) for line in lines).encode()
    for path in sorted(folder.rglob("faces.npz")):
        yield from _of_arrays(path)


def _of_arrays(path: Path) -> Iterator[bytes]:
    for name, array in sorted(read_arrays(path).items()):
        yield name.encode() + array.tobytes()


def _of_photos(folder: Path) -> Iterator[bytes]:
    """Which photos have how many faces in each kind of file, in their order; whole files, each photo once.

    Not the landmarks: the networks take the photos that are ready together, and round otherwise in other batches.
    """
    lines = (folder / "faces.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    yield str([(Path(record["photo"]).name, len(record["faces"])) for record in records]).encode()
    with (folder / "faces.csv").open(encoding="utf-8", newline="") as file:
        yield str([(Path(row[0]).name, row[1], len(row)) for row in csv.reader(file)]).encode()
    for path in sorted((folder / "pts").iterdir()):
        yield f"{path.name} {len(read_pts(path))}".encode()
    yield str(sorted(path.name for path in (folder / "drawn").iterdir())).encode()


def _of_episodes(folder: Path) -> Iterator[bytes]:
    (path,) = folder.glob("face-align/toy-v0/data/main_data.hdf5")
    found: list[bytes] = []

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        attributes = sorted((key, str(value)) for key, value in item.attrs.items())
        found.append(f"{name} {attributes}".encode())
        if isinstance(item, h5py.Dataset):
            found.append(np.asarray(item[()]).tobytes())

    with h5py.File(path) as file:
        file.visititems(add)
    yield from found


def _of_cache(folder: Path) -> Iterator[bytes]:
    (contexts,) = beside(folder, "cache").rglob("contexts.raw")
    yield contexts.read_bytes()


@dataclass(frozen=True)
class Work:
    """A piece of work.

    :param do: do it, or go on with it, in a folder
    :param result: what it has made, bit by bit
    """

    do: Callable[[Path], None]
    result: Callable[[Path], Iterable[bytes]]

    def digest(self, folder: Path) -> str:
        """SHA-256 of the result."""
        total = hashlib.sha256()
        for part in self.result(folder):
            total.update(part)
        return total.hexdigest()


WORK = {
    "pretrain gen": Work(gen, _weights),
    "pretrain lrn": Work(lrn, _weights),
    "train": Work(dcrn, _weights),
    "data prepare": Work(prepare, _of_cache),
    "run": Work(whole_run, _of_run),
    "benchmark": Work(one_benchmark, _of_benchmark),
    "align": Work(align, _of_photos),
    "collect": Work(episodes, _of_episodes),
}


def do(name: str, folder: Path) -> None:
    """Do a piece of work in this process; what it says goes into a log beside its folder."""
    log = os.open(beside(folder, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ["FACE_ALIGN_CACHE"] = str(beside(folder, "cache"))
    os.environ["XDG_STATE_HOME"] = str(beside(folder, "state"))
    torch.set_num_threads(1)
    WORK[name].do(folder)
