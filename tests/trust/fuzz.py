"""Whole files of every kind, and the functions that read them."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from trust.test_evaluation import write_evaluation
from writers.cofw import write_mat
from writers.pts import write_pts_folder
from writers.release import card_of, micro_gen, micro_lrn, write_bundle
from writers.w300 import write_boxes
from writers.ytf import write_ytf

from face_align_env.agents.benchmark import trial
from face_align_env.agents.benchmark.results import Results
from face_align_env.agents.benchmark.settings import BenchmarkSettings
from face_align_env.agents.benchmark.trial import COLUMNS, write_rows
from face_align_env.agents.common.trust import UntrustedFileError, require_trusted, sign
from face_align_env.agents.evaluation.files import read_faces, read_rows
from face_align_env.agents.run_config import RunConfig
from face_align_env.agents.trained import AgentCard
from face_align_env.agents.trained import load_card as load_agent_card
from face_align_env.aligner.folders import read_boxes
from face_align_env.aligner.results import CsvTable, JsonLines
from face_align_env.aligner.videos import VideoError, VideoFrames, VideoWriter
from face_align_env.datasets import BadFaceError, DatasetNotFoundError, load_dataset
from face_align_env.datasets.base import IMAGE_FORMATS, read_image, read_image_size
from face_align_env.datasets.matlab import read_mat
from face_align_env.datasets.pts import read_pts, write_pts
from face_align_env.datasets.unpacking import ArchiveError, Limits, unpack
from face_align_env.files import read_arrays, write_arrays
from face_align_env.networks.confidence import ErrorHead, ErrorHeadConfig
from face_align_env.networks.gen import GEN, GENConfig
from face_align_env.networks.lrn import LRN, LRNConfig
from face_align_env.networks.weights import WeightsError
from face_align_env.prepared import PreparedFaces
from face_align_env.pretrain.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from face_align_env.pretrain.recipes import Data
from face_align_env.pretrain.settings import settle
from face_align_env.progress import Progress
from face_align_env.released import find_release, load_card, load_networks

SMALL = LRNConfig(num_landmarks=19, encoder=((4, 10, 10, 1),), bottleneck=4, hidden=16)
MAT = {
    "cells": [np.arange(84, dtype=np.uint8).reshape(4, 7, 3)],
    "numbers": np.ones((2, 3)),
    "names": ["0/image1.jpg", ""],
}
SETTINGS = {"seed": 3, "agent": {"noise": 0.5}, "faces": "0f" * 32}
Load = Callable[[Path], Any]


@dataclass(frozen=True)
class Loader:
    """A kind of file, and what reads it.

    :param make: writes a whole one into a folder, with all that it needs beside it; returns the file to damage
    :param load: reads it, checks what has been read, and says it in values that compare
    :param errors: the only exceptions that may come, of exactly these classes; they name the file or its folder
    :param checked: a checksum covers it: what is read is what was written, or it is refused
    :param named: whether the message names the file; False: the caller does
    :param examples: mutations in CI
    """

    make: Callable[[Path], Path]
    load: Load
    errors: tuple[type[Exception], ...]
    checked: bool = False
    named: bool = True
    examples: int = 40


def _image(kind: str) -> Loader:
    def make(folder: Path) -> Path:
        noise = np.random.default_rng(0).integers(0, 256, (20, 25, 3), dtype=np.uint8)
        path = folder / "a.png"
        Image.fromarray(noise).save(path, kind)
        return path

    return Loader(make, _read_image, (BadFaceError,), examples=30)


def _read_image(path: Path) -> Any:
    read_image_size(path)
    for upright in (False, True):
        image = read_image(path, upright)
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert image.dtype == np.uint8
    return image.shape


def _make_video(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    with VideoWriter(folder / "a.mp4", 10) as writer:
        for _ in range(8):
            writer.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    return folder / "a.mp4"


def _read_video(path: Path) -> Any:
    shapes = []
    for frame in VideoFrames(path):
        assert frame.ndim == 3
        assert frame.shape[2] == 3
        assert frame.dtype == np.uint8
        shapes.append(frame.shape)
        assert len(shapes) < 100
    return shapes


def _make_pts(folder: Path) -> Path:
    write_pts(folder / "a.pts", np.arange(136).reshape(68, 2) / 3)
    return folder / "a.pts"


def _read_pts(path: Path) -> Any:
    points = read_pts(path)
    assert points.ndim == 2
    assert np.isfinite(points).all()
    return points.tolist()


def _mat(version: str = "5", compressed: bool = True) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        write_mat(folder / "a.mat", MAT, version, compressed)
        return folder / "a.mat"

    return make


def _read_mat(path: Path) -> Any:
    found = read_mat(path, {"cells": "images", "numbers": "matrix", "names": "strings"})
    for i in range(min(len(found["cells"]), 4)):
        found["cells"].size(i)
        found["cells"].read(i)
    return found["numbers"].tolist()


def _make_boxes(folder: Path) -> Path:
    write_boxes(folder / "a.mat", {f"image_{i}.png": np.arange(4) + i for i in range(4)})
    return folder / "a.mat"


def _make_ytf(folder: Path) -> Path:
    return Path(write_ytf(folder)) / "training_frames_keypoints.csv"


def _read_ytf(path: Path) -> Any:
    faces = load_dataset("ytf", "train", path.parent)
    for i in range(len(faces)):
        assert np.isfinite(faces.annotation(i).landmarks).all()
    return len(faces)


def _text(name: str, text: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(text, encoding="utf-8")
        return folder / name

    return make


def _make_store(file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        _read_store(folder / "prepared" / "pts-train" / "contexts-x" / file)
        (path,) = (folder / "prepared").rglob(file)
        return path

    return make


def _read_store(path: Path) -> Any:
    """Every prepared face, whatever the cache holds."""
    folder = next(parent for parent in path.parents if parent.name == "prepared").parent
    if not (folder / "faces").is_dir():
        write_pts_folder(folder / "faces")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACE_ALIGN_CACHE", str(folder / "prepared"))
        faces = PreparedFaces(load_dataset("pts", "train", folder / "faces"))
        return [faces.landmarks.tobytes(), *(faces.context(i).tobytes() for i in range(len(faces)))]


def _make_checkpoint(folder: Path) -> Path:
    state = {
        "step": 3,
        "identity": {"seed": 0, "faces": "ab"},
        "model": {"weight": torch.arange(12.0).reshape(3, 4), "count": torch.tensor(3)},
        "rng": np.random.RandomState(0).get_state(),
        "rows": [(1, 2.5, None), (True, "a", np.arange(3, dtype=np.uint32))],
    }
    save_checkpoint(folder / "checkpoint.safetensors", state)
    return folder / "checkpoint.safetensors"


def _in_values(state: Any) -> Any:
    if isinstance(state, torch.Tensor | np.ndarray):
        array = np.asarray(state)
        return str(array.dtype), array.shape, array.tobytes()
    if isinstance(state, dict):
        return {key: _in_values(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_in_values(value) for value in state)
    return state


def _network(kind: str) -> Loader:
    def make(folder: Path) -> Path:
        torch.manual_seed(0)
        networks = {
            "gen": lambda: GEN(GENConfig(19, input_size=16, width=2, hidden=8)),
            "lrn": lambda: LRN(SMALL),
            "confidence": lambda: ErrorHead(ErrorHeadConfig(19)),
        }
        networks[kind]().save(folder / "weights.safetensors")
        return folder / "weights.safetensors"

    def load(path: Path) -> Any:
        kinds: dict[str, type[GEN | LRN | ErrorHead]] = {"gen": GEN, "lrn": LRN, "confidence": ErrorHead}
        network = kinds[kind].load(path)
        assert all(tensor.isfinite().all() for tensor in network.state_dict().values())
        assert not isinstance(network, LRN) or 0 < network.config.action_limit <= 256
        return asdict(network.config)

    return Loader(make, load, (WeightsError,), examples=80)


def _make_release(folder: Path) -> Path:
    gen, lrn = micro_gen(19), micro_lrn(19)
    write_bundle(folder / "toy-19.safetensors", gen, lrn)
    card = card_of(folder / "toy-19.safetensors", gen, lrn)
    (folder / "toy-19.json").write_text(json.dumps(card), encoding="utf-8")
    return folder / "toy-19.safetensors"


def _read_release(path: Path) -> Any:
    networks = load_networks(find_release("toy-19", path.parent))
    return [_in_values(network.state_dict()) for network in networks]


def _make_card(folder: Path) -> Path:
    return _make_release(folder).with_suffix(".json")


def _make_agent_card(folder: Path) -> Path:
    card = AgentCard("ppo", "Toy-v0", "a:B", "MlpPolicy", {"n_steps": 4}, 40, 0, "train", 3, 1.0, 50.0, 4.0, "0f" * 32)
    return _text("ppo-Toy-v0.json", json.dumps(asdict(card)))(folder)


def _make_arrays(folder: Path) -> Path:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b/c": np.array(["x", "yz"]), "d": np.array(3)}
    write_arrays(folder / "arrays.npz", arrays)
    return folder / "arrays.npz"


def _make_results(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        own = folder / "trials" / "sac.features.0"
        row = {**dict.fromkeys(COLUMNS, 0.5), "algorithm": "sac", "start": "features", "termination": "oracle"}
        write_rows(own / "results.csv", [{**row, "seed": 0, "step": 16}, {**row, "seed": 0, "step": 32}])
        write_arrays(own / "faces.npz", {"oracle/nme": np.ones(3), "blind/nme": np.ones(3)})
        return own / name

    return make


def _read_results(path: Path) -> Any:
    results = Results.read(path.parents[2])
    return _in_values({key: dict(arrays) for key, arrays in results.faces.items()})


def _make_state(folder: Path) -> Path:
    state = {"rows": [{"step": 16, "nme": 4.5}], "seconds": 1.5, "transitions": 16, "signature": "0f" * 32}
    text = json.dumps({**state, "crc32": trial._checksum(state)})
    return _text("state.json", text)(folder)


def _make_signed(folder: Path) -> Path:
    path = folder / "model.zip"
    path.write_bytes(np.random.default_rng(0).bytes(300))
    (folder / "signature").write_text(sign([path]), encoding="utf-8")
    return path


def _require_signed(path: Path) -> Any:
    require_trusted([path], (path.parent / "signature").read_text(encoding="utf-8"))
    return path.read_bytes()


def _archive(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path, files = folder / name, {"faces/a.pts": b"version: 1\n" * 9, "faces/b.jpg": bytes(range(256))}
        if name.endswith(".zip"):
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for inner, data in files.items():
                    archive.writestr(inner, data)
        else:
            with tarfile.open(path, "w:gz") as archive:
                for inner, data in files.items():
                    info = tarfile.TarInfo(inner)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        return path

    return make


def _unpack(path: Path) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "inside"
        inside.mkdir()
        unpack(path, inside, Limits(num_bytes=10**6), Progress(disable=True))
        assert [entry.name for entry in Path(folder).iterdir()] == ["inside"]
        return {str(file.relative_to(inside)): file.read_bytes() for file in inside.rglob("*") if file.is_file()}


RUN = RunConfig(Data("synthetic", landmarks=19, options={"size": 4}), preset="tiny", alpha_2=3.0, jitter={"shift": 2.0})
BENCHMARK = BenchmarkSettings(Data("synthetic"), lrn_sha256="0f" * 32, overrides={"sac.batch_size": 8})
LINE = json.dumps({"photo": "a.jpg", "faces": [{"box": [1.5, 2, 30, 40], "score": None}]}) + "\n"
COLUMN = "photo,face," + ",".join(["left,top,right,bottom,iterations,confidence,yaw,pitch,roll", "x0,y0,x1,y1"]) + "\n"

LOADERS: dict[str, Loader] = {
    **{f"{kind} image": _image(kind) for kind in IMAGE_FORMATS},
    "video": Loader(_make_video, _read_video, (VideoError,), examples=100),
    ".pts": Loader(_make_pts, _read_pts, (BadFaceError,), examples=80),
    ".mat 5": Loader(_mat(compressed=False), _read_mat, (BadFaceError,), examples=150),
    ".mat 5, compressed": Loader(_mat(), _read_mat, (BadFaceError,), examples=80),
    ".mat 5, boxes": Loader(
        _make_boxes, lambda path: str(read_mat(path, {"bounding_boxes": "records"})), (BadFaceError,), examples=150
    ),
    ".mat 7.3": Loader(_mat("7.3"), _read_mat, (BadFaceError,), examples=30),
    "csv of ytf": Loader(_make_ytf, _read_ytf, (BadFaceError, DatasetNotFoundError)),
    "csv of boxes": Loader(
        _text("boxes.csv", "photo,x0,y0,x1,y1\na.jpg,1,2,30,40.5\nb.jpg,3,4,50,60\n"), read_boxes, (ValueError,)
    ),
    "json lines of align": Loader(_text("faces.jsonl", 3 * LINE), JsonLines, (ValueError,)),
    "csv of align": Loader(
        _text("faces.csv", COLUMN + 3 * "a.jpg,0,1,2,3,4,5,6,7,8,9,10,11,12,13\n"),
        lambda path: CsvTable(path, 2),
        (ValueError,),
    ),
    "config.json of a run": Loader(
        _text("config.json", json.dumps(RUN.document())),
        lambda path: RunConfig.read(path.parent),
        (ValueError,),
        examples=80,
    ),
    "config.json of a benchmark": Loader(
        _text("config.json", json.dumps(BENCHMARK.document())),
        lambda path: BenchmarkSettings.read(path.parent),
        (ValueError, FileNotFoundError),
        examples=80,
    ),
    "settings.json of a training": Loader(
        _text("settings.json", json.dumps(SETTINGS)), lambda path: settle(path, SETTINGS), (ValueError,), checked=True
    ),
    "card of a release": Loader(_make_card, lambda path: load_card(path), (WeightsError,), examples=80),
    "card of an agent": Loader(
        _make_agent_card, lambda path: load_agent_card("ppo", "Toy-v0", path.parent), (ValueError,)
    ),
    "weights of GEN": _network("gen"),
    "weights of LRN": _network("lrn"),
    "weights of the confidence": _network("confidence"),
    "released weights": Loader(_make_release, _read_release, (WeightsError,), checked=True),
    "checkpoint": Loader(
        _make_checkpoint, lambda path: _in_values(load_checkpoint(path)), (CheckpointError,), checked=True, examples=150
    ),
    "arrays (.npz)": Loader(
        _make_arrays, lambda path: _in_values(read_arrays(path)), (ValueError,), checked=True, examples=150
    ),
    "evaluation.json": Loader(write_evaluation, read_rows, (ValueError,), examples=80),
    "evaluation.npz": Loader(
        lambda folder: write_evaluation(folder).with_suffix(".npz"),
        lambda path: _in_values(read_faces(path)),
        (ValueError,),
        checked=True,
    ),
    "results.csv of a benchmark": Loader(_make_results("results.csv"), _read_results, (ValueError,)),
    "faces.npz of a benchmark": Loader(_make_results("faces.npz"), _read_results, (ValueError,), checked=True),
    "state.json of a trial": Loader(
        _make_state, trial._read_state, (ValueError, KeyError, TypeError), checked=True, named=False, examples=80
    ),
    "model.zip, signed": Loader(_make_signed, _require_signed, (UntrustedFileError,), checked=True, examples=20),
    "prepared crops": Loader(_make_store("contexts.raw"), _read_store, (), checked=True, examples=15),
    "checksums of prepared crops": Loader(_make_store("checks.raw"), _read_store, (), checked=True, examples=15),
    "prepared annotations": Loader(_make_store("annotations-*.npz"), _read_store, (), checked=True, examples=15),
    "archive (.zip)": Loader(_archive("faces.zip"), _unpack, (ArchiveError,)),
    "archive (.tar.gz)": Loader(_archive("faces.tar.gz"), _unpack, (ArchiveError,), checked=True),
}
