"""The supervised training loop: one function, read from top to bottom."""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers import TensorBoardLogger
from tqdm import tqdm

from face_align_env.augmentation import Augmentation
from face_align_env.files import atomic_path
from face_align_env.mdp import nme
from pretrain.faces import DeviceFaces
from pretrain.objectives import Objective
from pretrain.settings import require_same

_MEASUREMENTS = 10  # of the NME on test faces, spread over the training
_WATCHED = 256  # test faces, at most, that are measured on before the end


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    :param epochs: passes over the training faces
    :param batch_size: faces a step, over all devices together; 128 in section 4.2
    :param learning_rate: Adam's, at its highest
    :param warmup: fraction of the steps in which the rate rises to it; then it falls along a cosine to zero
    :param clip: largest norm of the gradient
    :param seed: of the order of faces, augmentation, dropout, jitter and (with it) initialisation
    :param checkpoint_seconds: time between checkpoints
    """

    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup: float = 0.05
    clip: float = 1.0
    seed: int = 0
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or self.learning_rate <= 0:
            raise ValueError(f"epochs, batch_size and learning_rate must be positive: got {self}.")

    def learning_rate_at(self, step: int, total: int) -> float:
        """Linear warm-up, then half a cosine."""
        rising = max(1, round(self.warmup * total))
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def make_fabric(device: str = "auto", precision: str | None = None, devices: int = 1) -> Fabric:
    """Fabric for a device that a command line names.

    :param device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``
    :param precision: Fabric's name of it; None: ``"bf16-mixed"`` on CUDA, else ``"32-true"``
    :param devices: how many of them train together
    :raises ValueError: when there is no such device here
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("device='cuda', but torch finds no CUDA device here. Use --device cpu.")
    accelerator = device.partition(":")[0]
    if accelerator not in ("cpu", "cuda", "mps"):
        raise ValueError(f"Unknown device '{device}'; there are auto, cpu, cuda and mps.")
    precision = precision or ("bf16-mixed" if accelerator == "cuda" else "32-true")
    fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision)  # type: ignore[arg-type]
    fabric.launch()
    return fabric


@torch.no_grad()
def measure_nme(objective: Objective, faces: DeviceFaces, most: int | None = None, batch_size: int = 128) -> float:
    """Mean NME in plain views; a fraction.

    :param objective: gives the shapes
    :param faces: all of them are measured on, or
    :param most: so many, evenly spaced
    :param batch_size: faces at a time
    """
    was_training = objective.training
    objective.eval()
    errors = []
    n = len(faces)
    chosen = np.arange(n) if most is None or n <= most else np.arange(most) * n // most
    for start in range(0, len(chosen), batch_size):
        batch = faces.batch(chosen[start : start + batch_size])
        errors.append(nme(objective.predict(batch.crops), batch.landmarks, batch.d, batch.counted).cpu())
    objective.train(was_training)
    return float(torch.cat(errors).mean())


def fit(
    objective: Objective,
    faces: DeviceFaces,
    test_faces: DeviceFaces,
    config: TrainingConfig,
    augmentation: Augmentation,
    folder: str | os.PathLike[str],
    fabric: Fabric,
    notes: dict[str, Any] | None = None,
    title: str = "training",
) -> float:
    """Train, or go on training, and write ``weights.safetensors``.

    Killed at any moment it goes on from ``checkpoint.pt`` when it is called again with the same arguments, with
    the same result as if it had not been killed. The test faces are watched, they decide nothing.

    :param objective: network and loss
    :param faces: what to learn from
    :param test_faces: what to measure on now and then
    :param config: how to train
    :param augmentation: random views of the training faces
    :param folder: where checkpoint, TensorBoard curves and weights go
    :param fabric: device and precision
    :param notes: stored with the weights
    :param title: of the progress bar
    :return: the last NME on the test faces, a fraction
    :raises ValueError: when the folder holds a checkpoint of a training with another configuration
    """
    folder = Path(folder)
    checkpoint = folder / "checkpoint.pt"
    total = max(1, math.ceil(config.epochs * len(faces) / config.batch_size))
    share = config.batch_size // fabric.world_size
    if share * fabric.world_size != config.batch_size:
        raise ValueError(f"A batch of {config.batch_size} cannot be shared by {fabric.world_size} devices evenly.")

    plain_objective = objective.to(fabric.device)
    optimizer = torch.optim.Adam(plain_objective.network.parameters(), lr=config.learning_rate)
    model, optimizer = fabric.setup(plain_objective, optimizer)
    identity = {
        **(notes or {}),
        **asdict(config),
        "checkpoint_seconds": None,
        "augmentation": asdict(augmentation),
        "network": asdict(plain_objective.network.config),
        "total": total,
    }
    state: dict[str, Any] = {"model": model, "optimizer": optimizer, "step": 0, "identity": identity}
    if checkpoint.is_file():
        require_same(checkpoint, fabric.load(checkpoint)["identity"], identity)
        fabric.load(checkpoint, state)

    logger = TensorBoardLogger(folder, name="", version="tensorboard")
    measure_every = max(1, total // _MEASUREMENTS)
    saved_at = time.monotonic()
    test_nme = float("nan")
    running = float("nan")
    with tqdm(total=total, initial=state["step"], desc=title, unit="step", disable=fabric.global_rank != 0) as bar:
        for step in range(state["step"], total):
            # Dropout and jitter are functions of the step: see DeviceFaces.training_batch.
            torch.manual_seed(config.seed * 1_000_003 + step * fabric.world_size + fabric.global_rank)
            rate = config.learning_rate_at(step, total)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = faces.training_batch(
                step * fabric.world_size + fabric.global_rank, share, config.seed, augmentation
            )
            loss, error = model(batch)
            optimizer.zero_grad()
            fabric.backward(loss)
            norm = fabric.clip_gradients(model, optimizer, max_norm=config.clip, error_if_nonfinite=False)
            if norm is not None and not torch.isfinite(norm):
                raise FloatingPointError(f"The gradient is {float(norm)} at step {step}: lower the learning rate.")
            optimizer.step()
            state["step"] = step + 1

            if step % 10 == 0 or step + 1 == total:
                loss_now, nme_now = float(loss.detach()), 100 * float(error)
                running = nme_now if math.isnan(running) else 0.9 * running + 0.1 * nme_now
                logger.log_metrics({"loss": loss_now, "train_nme": nme_now, "learning_rate": rate}, step)
                bar.set_postfix(loss=f"{loss_now:.4f}", nme=f"{running:.2f}%", test=f"{100 * test_nme:.2f}%")
            if (step + 1) % measure_every == 0 and step + 1 < total:
                test_nme = measure_nme(plain_objective, test_faces, most=_WATCHED)
                logger.log_metrics({"test_nme": 100 * test_nme}, step)
                bar.write(f"{title}: step {step + 1}/{total}, train NME {running:.2f} %, test {100 * test_nme:.2f} %")
            if time.monotonic() - saved_at > config.checkpoint_seconds or step + 1 == total:
                temporary, final = atomic_path(checkpoint)
                fabric.save(temporary, state)
                if fabric.global_rank == 0:
                    os.replace(temporary, final)
                saved_at = time.monotonic()
            bar.update()
    test_nme = measure_nme(plain_objective, test_faces)
    logger.log_metrics({"test_nme": 100 * test_nme}, total)
    logger.finalize("success")
    if fabric.global_rank == 0:
        plain_objective.save(folder / "weights.safetensors", {**(notes or {}), "test_nme_percent": 100 * test_nme})
    return test_nme
