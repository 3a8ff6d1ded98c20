"""The training loop: it learns, it is reproducible, and it goes on where it was killed."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from face_align_env.augmentation import Augmentation
from face_align_env.networks.cascade import MeanStart
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.networks.weights import load_weights
from face_align_env.prepared import faces_digest
from face_align_env.pretrain import devices, loop
from face_align_env.pretrain.checkpoint import load_checkpoint
from face_align_env.pretrain.faces import Batch, DeviceFaces
from face_align_env.pretrain.loop import CHECKPOINT, TrainingStep, fit, make_fabric, measure_nme
from face_align_env.pretrain.objectives import CascadeObjective, GENObjective, Objective, StartJitter, VisitedStates
from face_align_env.pretrain.recipes import TrainingConfig
from face_align_env.pretrain.settings import SettingError

Faces = Callable[..., DeviceFaces]
STILL = Augmentation(rotation=0, scale=0, shift=0, mirror=0, contrast=0, brightness=0, blur=0)
CONFIG = TrainingConfig(epochs=6, batch_size=4, learning_rate=1e-3, seed=3)  # nine steps on six faces


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return make_fabric("cpu")


@pytest.fixture
def trainee(device_faces: Faces, new_gen: Callable[..., GEN], new_lrn: Callable[..., LRN], kind: str) -> Any:
    """``new(seed)``: a fresh objective with everything that draws random numbers; and the faces to train it on."""
    faces, test_faces = (device_faces(split, size=16 if kind == "gen" else 256) for split in ("train", "test"))

    def new(seed: int = 0) -> Objective:
        if kind == "gen":
            return GENObjective(new_gen(faces, seed, hidden=64, batch_norm=True, dropout=0.3))
        start = MeanStart(torch.from_numpy(faces.prepared.mean_shape()))
        return CascadeObjective(new_lrn(seed), start, 2, StartJitter(), VisitedStates(depth=3))

    return new, faces, test_faces


def weights(folder: Path, kind: str) -> dict[str, Tensor]:
    return load_weights(folder / "weights.safetensors", kind)[1]


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class KilledError(Exception):
    pass


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = DeviceFaces.training_batch

    def until(self: DeviceFaces, now: int, *arguments: Any) -> Any:
        if now == step:
            raise KilledError
        return batch(self, now, *arguments)

    monkeypatch.setattr(DeviceFaces, "training_batch", until)


@pytest.mark.parametrize("kind", ["gen", "lrn"])
def test_a_killed_training_ends_like_an_unbroken_one(
    trainee: Any, kind: str, fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, faces, test_faces = trainee
    config = replace(CONFIG, checkpoint_seconds=0)
    unbroken = fit(new(), faces, test_faces, CONFIG, Augmentation(), tmp_path / "unbroken", fabric)
    for step in (4, 7):  # killed twice
        kill_at(step, monkeypatch)
        # the checkpoint alone decides how it goes on: these fresh weights are others
        with pytest.raises(KilledError):
            fit(new(0 if step == 4 else 77), faces, test_faces, config, Augmentation(), tmp_path / "killed", fabric)
        monkeypatch.undo()
    resumed = fit(new(78), faces, test_faces, config, Augmentation(), tmp_path / "killed", fabric)
    assert resumed == unbroken
    assert same(weights(tmp_path / "killed", kind), weights(tmp_path / "unbroken", kind))


@pytest.mark.parametrize("kind", ["gen"])
def test_a_training_is_a_function_of_its_seed(trainee: Any, kind: str, fabric: Fabric, tmp_path: Path) -> None:
    new, faces, test_faces = trainee
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        fit(new(), faces, test_faces, replace(CONFIG, seed=seed), Augmentation(), tmp_path / name, fabric)
        torch.randn(5)  # whatever else happens in between
    assert same(weights(tmp_path / "one", kind), weights(tmp_path / "two", kind))
    assert not same(weights(tmp_path / "one", kind), weights(tmp_path / "other", kind))


@pytest.mark.parametrize("kind", ["gen"])
def test_a_complete_training_is_not_trained_again(trainee: Any, kind: str, fabric: Fabric, tmp_path: Path) -> None:
    new, faces, test_faces = trainee
    first = fit(new(), faces, test_faces, CONFIG, Augmentation(), tmp_path, fabric, {"by": "me"})
    before = weights(tmp_path, kind)
    (tmp_path / "weights.safetensors").unlink()  # killed between the last checkpoint and the weights
    assert fit(new(9), faces, test_faces, CONFIG, Augmentation(), tmp_path, fabric, {"by": "me"}) == first
    assert same(weights(tmp_path, kind), before)
    notes = load_weights(tmp_path / "weights.safetensors", kind)[2]
    learnt = faces_digest(faces.prepared)
    assert notes == {"by": "me", "faces_sha256": learnt, "test_nme_percent": 100 * first}


@pytest.mark.parametrize("kind", ["gen"])
def test_another_training_in_the_same_folder_is_an_error(
    trainee: Any, kind: str, fabric: Fabric, tmp_path: Path, new_gen: Callable[..., GEN]
) -> None:
    new, faces, test_faces = trainee
    fit(new(), faces, test_faces, CONFIG, STILL, tmp_path, fabric, {"iterations": 8})
    before = weights(tmp_path, kind)
    wider = GENObjective(new_gen(faces, width=8))
    for objective, config, augmentation, notes, what in (
        (new(), replace(CONFIG, learning_rate=2e-3), STILL, {"iterations": 8}, "learning_rate: 0.001 before, 0.002"),
        (new(), CONFIG, Augmentation(), {"iterations": 8}, "augmentation"),
        (new(), CONFIG, STILL, {"iterations": 4}, "iterations: 8 before, 4 now"),
        (wider, CONFIG, STILL, {"iterations": 8}, "network"),
    ):
        with pytest.raises(ValueError, match=f"other settings.*{what}.*Use another folder"):
            fit(objective, faces, test_faces, config, augmentation, tmp_path, fabric, notes)
    assert same(weights(tmp_path, kind), before)
    # how often checkpoints are written changes nothing
    fit(new(), faces, test_faces, replace(CONFIG, checkpoint_seconds=1), STILL, tmp_path, fabric, {"iterations": 8})


@pytest.mark.parametrize(("kind", "rate"), [("gen", 3e-3), ("lrn", 2e-3)])
def test_it_learns_its_faces_by_heart(trainee: Any, kind: str, rate: float, fabric: Fabric, tmp_path: Path) -> None:
    new, faces, _ = trainee
    objective = new()
    if kind == "gen":
        objective.network.head[1].p = 0.0
    else:
        objective.jitter = objective.visited = None
    before = measure_nme(objective, faces)
    after = fit(objective, faces, faces, TrainingConfig(60 if kind == "gen" else 40, 6, rate), STILL, tmp_path, fabric)
    assert after < 0.5 * before


@pytest.mark.parametrize("kind", ["gen"])
def test_curves_are_written(trainee: Any, kind: str, fabric: Fabric, tmp_path: Path) -> None:
    new, faces, test_faces = trainee
    error = fit(new(), faces, test_faces, CONFIG, STILL, tmp_path, fabric)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss", "train_nme", "test_nme", "learning_rate"} <= set(events.Tags()["scalars"])
    assert events.Scalars("test_nme")[-1].value == pytest.approx(100 * error, rel=1e-5)
    assert error == pytest.approx(measure_nme(GENObjective(GEN.load(tmp_path / "weights.safetensors")), test_faces))


@pytest.mark.parametrize("kind", ["gen"])
def test_a_loss_that_is_no_number_stops_the_training(trainee: Any, kind: str, fabric: Fabric, tmp_path: Path) -> None:
    new, faces, test_faces = trainee
    objective = new()
    objective.network.mean_shape.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="nan at step 0: lower the learning rate"):
        fit(objective, faces, test_faces, CONFIG, STILL, tmp_path, fabric)
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize("kind", ["gen"])
@pytest.mark.parametrize(("seconds", "saved"), [(60.0, None), (0.0, 4)], ids=["unsaved", "saved"])
def test_a_gradient_that_is_no_number_is_named_and_never_saved(
    trainee: Any,
    kind: str,
    seconds: float,
    saved: int | None,
    fabric: Fabric,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new, faces, test_faces = trainee
    batch = DeviceFaces.training_batch

    def spoilt(self: DeviceFaces, now: int, *arguments: Any) -> Any:
        made = batch(self, now, *arguments)
        made.landmarks += float("nan") if now == 4 else 0.0
        return made

    monkeypatch.setattr(DeviceFaces, "training_batch", spoilt)
    monkeypatch.setattr(loop, "_MEASUREMENTS", 1)
    with pytest.raises(FloatingPointError, match="nan at step 4"):
        fit(new(), faces, test_faces, replace(CONFIG, checkpoint_seconds=seconds), STILL, tmp_path, fabric)
    checkpoint = tmp_path / CHECKPOINT
    if saved is None:
        assert not checkpoint.exists()
    else:
        state = load_checkpoint(checkpoint)
        assert state["step"] == saved
        assert all(tensor.isfinite().all() for tensor in state["model"].values())


@pytest.mark.parametrize("kind", ["gen", "lrn"])
def test_a_training_is_its_steps(trainee: Any, kind: str, fabric: Fabric, tmp_path: Path) -> None:
    new, faces, test_faces = trainee
    objective = new()
    train = TrainingStep(objective, faces, CONFIG, Augmentation(), fabric)
    assert train.total == 9
    for step in range(train.total):
        loss, error, norm = train(step)
        assert all(value.ndim == 0 and not value.requires_grad for value in (loss, error, norm))
    fit(new(), faces, test_faces, CONFIG, Augmentation(), tmp_path, fabric)
    assert same(weights(tmp_path, kind), dict(objective.network.state_dict()))


@pytest.mark.parametrize("kind", ["gen"])
def test_mixed_precision_does_not_round_landmarks(trainee: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    new, faces, _ = trainee
    seen: list[Batch] = []
    forward = GENObjective.forward

    def spy(self: GENObjective, batch: Batch) -> Any:
        seen.append(batch)
        return forward(self, batch)

    monkeypatch.setattr(GENObjective, "forward", spy)
    loss, _, _ = TrainingStep(new(), faces, CONFIG, STILL, make_fabric("cpu", "bf16-mixed"))(0)
    assert loss.isfinite()
    expected = faces.training_batch(0, CONFIG.batch_size, CONFIG.seed, STILL)
    assert seen[0].landmarks.dtype == seen[0].d.dtype == torch.float32
    assert torch.equal(seen[0].landmarks, expected.landmarks)


@pytest.mark.parametrize("kind", ["gen"])
def test_nme_is_measured_over_all_faces_whatever_the_batches(trainee: Any, kind: str) -> None:
    new, faces, _ = trainee
    objective = new()
    whole = measure_nme(objective, faces)
    assert measure_nme(objective, faces, batch_size=4) == pytest.approx(whole, rel=1e-5)
    assert objective.training, "it goes back to training afterwards"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_tensors_of_a_training_step_take_the_memory_of_the_last() -> None:
    """In a process of its own: the setting is the process's. Page faults of a tensor that is made again and again."""
    script = """
import resource, torch
from face_align_env.pretrain.devices import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(16_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
keep_freed_memory()
for _ in range(20):  # until the pieces of the heap have found their places
    torch.ones(16_000_000)
print(usual, faults())
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    usual, kept = map(int, answer.split())
    if usual < 1000:
        pytest.skip("another allocator, which keeps memory by itself")
    assert kept < usual / 2


def test_learning_rate_rises_then_falls_along_a_cosine() -> None:
    config = TrainingConfig(learning_rate=0.5, warmup=0.1)
    rates = np.array([config.learning_rate_at(step, 100) for step in range(100)])
    np.testing.assert_allclose(rates[:10], 0.05 * np.arange(1, 11))
    assert rates.argmax() == 9
    np.testing.assert_allclose(rates[10], 0.5)
    np.testing.assert_allclose(rates[55], 0.25)  # half way down
    assert (np.diff(rates[10:]) < 0).all()
    assert 0 < rates[-1] < 0.001
    assert config.learning_rate_at(0, 1) == 0.5, "even a single step moves"


@pytest.mark.parametrize(
    "change", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": float("inf")}], ids=str
)
def test_a_training_that_cannot_be_is_an_error(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
        TrainingConfig(**change)


def test_devices_that_are_not_there_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SettingError, match=r"torch finds 0 CUDA devices.*--device cpu"):
        make_fabric("cuda")
    with pytest.raises(SettingError, match=r"'abacus' is unknown; there are auto, cpu, cuda"):
        make_fabric("abacus")
    assert make_fabric("auto").device.type == "cpu"


@pytest.mark.parametrize(
    ("text", "emulated"),
    [
        ("flags\t\t: fpu avx avx2\n", True),
        ("flags\t\t: fpu avx2 avx512_bf16\n", False),
        ("Features\t: fp asimd bf16\n", False),
        ("nothing of it\n", False),
    ],
)
def test_bfloat16_on_a_cpu_that_emulates_it_is_warned_of(
    text: str, emulated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert devices.emulates_bf16(tmp_path / "cpuinfo") == emulated
    monkeypatch.setattr(loop, "emulates_bf16", lambda: emulated)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_fabric("cpu", "bf16-mixed")
        make_fabric("cpu")
    assert sum("--precision 32-true" in str(each.message) for each in caught) == emulated


@pytest.mark.parametrize("kind", ["gen"])
def test_a_batch_that_devices_cannot_share_is_an_error(trainee: Any, kind: str, tmp_path: Path) -> None:
    class ThreeDevices(Fabric):
        world_size = 3  # type: ignore[assignment]

    new, faces, test_faces = trainee
    with pytest.raises(ValueError, match="batch of 4 cannot be shared by 3 devices"):
        fit(new(), faces, test_faces, CONFIG, STILL, tmp_path, ThreeDevices(accelerator="cpu"))
