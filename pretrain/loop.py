"""The supervised training loop: one function, read from top to bottom."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from face_align_env.augmentation import Augmentation
from face_align_env.extras import needs
from face_align_env.mdp import nme
from face_align_env.prepared import faces_digest
from face_align_env.pretrain.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from face_align_env.pretrain.devices import (
    emulates_bf16,
    find_device,
    first_decides,
    keep_freed_memory,
    started_by_torchrun,
)
from face_align_env.pretrain.faces import DeviceFaces
from face_align_env.pretrain.objectives import Objective
from face_align_env.pretrain.recipes import TrainingConfig
from face_align_env.pretrain.settings import SettingError, require_same
from face_align_env.progress import Progress

with needs("train", "Supervised training"):
    from lightning.fabric import Fabric
    from lightning.fabric.loggers.tensorboard import TensorBoardLogger

CHECKPOINT = "checkpoint.safetensors"
_OLD_CHECKPOINT = "checkpoint.pt"  # a pickle, of versions before
_LOOK = 10  # steps between looks at loss and gradient: a GPU's queue of work runs empty while they are read
_MEASUREMENTS = 10  # of the NME on test faces, spread over the training
_WATCHED = 256  # test faces, at most, that are measured on before the end

Watch = Callable[[float, float], None]
"""Is told each measurement on the test faces: the share of the steps that are done, and the NME, a fraction."""


def make_fabric(device: str = "auto", precision: str | None = None, devices: int = 1, num_nodes: int = 1) -> Fabric:
    """Fabric for a device that a command line names, with its other processes, which it starts.

    A process of ``torchrun`` joins the others as they are there: they need not be counted.

    :param device: see :func:`~face_align_env.pretrain.devices.find_device`
    :param precision: Fabric's name of it; None: ``"bf16-mixed"`` on CUDA, else ``"32-true"``
    :param devices: how many of them train together on each machine, a process each; on a CPU, so many processes
    :param num_nodes: machines that train together
    :raises SettingError: there is no such device here, or ``torchrun`` has started another number of processes
    """
    accelerator, _, number = find_device(device).partition(":")
    devices, num_nodes = started_by_torchrun(devices, num_nodes)
    if number and accelerator != "cpu" and devices * num_nodes > 1:
        raise SettingError("device", "--device", f"'{device}' is one device, and {devices * num_nodes} are to train.")
    precision = precision or ("bf16-mixed" if accelerator == "cuda" else "32-true")
    if accelerator == "cpu" and precision == "bf16-mixed" and emulates_bf16():
        warnings.warn(
            "This CPU emulates bfloat16: training takes many times as long as in 32 bits. Use --precision 32-true.",
            stacklevel=2,
        )
    chosen: Any = [int(number)] if number and accelerator != "cpu" else devices
    fabric = Fabric(accelerator=accelerator, devices=chosen, num_nodes=num_nodes, precision=precision)  # type: ignore[arg-type]
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


class TrainingStep:
    """One step of supervised training: minibatch, loss, gradient, clipping, Adam.

    :func:`fit` is a loop around it. It reads nothing back from a GPU, so that several steps may queue up there.

    :param objective: network and loss
    :param faces: what to learn from
    :param config: how to train
    :param augmentation: random views of the faces
    :param fabric: device and precision
    :raises ValueError: when the devices cannot share a batch evenly
    """

    def __init__(
        self,
        objective: Objective,
        faces: DeviceFaces,
        config: TrainingConfig,
        augmentation: Augmentation,
        fabric: Fabric,
    ) -> None:
        self.faces, self.config, self.augmentation, self.fabric = faces, config, augmentation, fabric
        self.total = config.steps(len(faces))
        if config.batch_size % fabric.world_size:
            raise ValueError(f"A batch of {config.batch_size} cannot be shared by {fabric.world_size} devices evenly.")
        self.of_whole_batches = objective.of_whole_batches
        if fabric.device.type == "cpu":
            keep_freed_memory()
        parameters = objective.to(fabric.device).network.parameters()
        # One kernel for all parameters; under 16-mixed it would undo the loss's scale itself, after the clipping.
        fusible = fabric.device.type in ("cpu", "cuda") and fabric.strategy.precision.precision != "16-mixed"
        optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, fused=True if fusible else None)
        self.model, self.optimizer = fabric.setup(objective, optimizer)

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Step number ``step``, a function of the number and of the state of network and optimizer.

        :return: on the device: the loss, the mean NME of the final shapes (a fraction), the norm of the gradient
        """
        config, fabric = self.config, self.fabric
        # What is drawn is a function of the step: see DeviceFaces.training_batch. For a whole minibatch it is the same
        # in all processes; dropout is each one's own.
        draw = step if self.of_whole_batches else step * fabric.world_size + fabric.global_rank
        torch.manual_seed(config.seed * 1_000_003 + draw)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate_at(step, self.total)
        share = (fabric.global_rank, fabric.world_size)
        batch = self.faces.training_batch(step, config.batch_size, config.seed, self.augmentation, share)
        loss, error = self.model(batch)
        self.optimizer.zero_grad()
        fabric.backward(loss)
        norm = fabric.clip_gradients(self.model, self.optimizer, max_norm=config.clip, error_if_nonfinite=False)
        assert norm is not None
        self.optimizer.step()
        return loss.detach(), error, norm

    def state(self) -> dict[str, Any]:
        """What :meth:`load` goes on from."""
        scale = self.fabric.strategy.precision.state_dict()  # of the loss, under 16-mixed
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "precision": scale}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])


def _resume(folder: Path, train: TrainingStep, identity: Mapping[str, Any]) -> int:
    """Bring a training to where its checkpoint is, if there is one.

    The first process reads it for all: where machines have a file system each, nobody else has one.

    :return: the number of steps that are done
    :raises CheckpointError: the checkpoint is damaged, or of an older version
    :raises ValueError: it belongs to another training, or a process has other faces
    """
    fabric = train.fabric
    state, first = first_decides(fabric, lambda: (_checkpoint(folder, identity), identity))
    if identity != first:
        raise ValueError(
            f"Process {fabric.global_rank} is to train with other faces than the first one, or otherwise: give every "
            "machine the same data and the same command."
        )
    if state is None:
        return 0
    try:
        train.load(state)
        return int(state["step"])
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"The checkpoint '{folder / CHECKPOINT}' does not fit its training: {error}. Remove it."
        ) from error


def _checkpoint(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a training goes on from; None: there is nothing.

    :raises CheckpointError: it is damaged, or of an older version
    :raises ValueError: it belongs to another training
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        if (folder / _OLD_CHECKPOINT).is_file():
            raise CheckpointError(
                f"'{folder / _OLD_CHECKPOINT}' is of an older version, and this one cannot resume from it. Remove it "
                "to begin the training anew."
            )
        return None
    state = load_checkpoint(path)
    before = state.get("identity")
    if not isinstance(before, dict):
        raise CheckpointError(
            f"The checkpoint '{path}' is of another kind of training. Remove it, or use its own folder."
        )
    shared_by, now = before.get("devices"), identity["devices"]
    if {**before, "devices": now} == identity and shared_by != now:
        raise ValueError(
            f"The training of '{path}' has been shared by {shared_by} processes. With batch normalisation or dropout "
            f"another number, here {now}, goes on differently: resume with --devices and --num-nodes as before, or "
            "use another folder."
        )
    if "encoder_share" in identity and before.get("encoder_share") is None:  # of a version that knew all patches only
        before = {**before, "encoder_share": 1.0}
    require_same(path, before, identity)
    return state


def _require_finite(norms: list[Tensor], first: int) -> None:
    """Norms of the gradients of the steps from ``first`` on.

    :raises FloatingPointError: one is no number
    """
    values = torch.stack(norms).tolist()
    for step, value in enumerate(values, first):
        if not math.isfinite(value):
            raise FloatingPointError(f"The gradient is {value} at step {step}: lower the learning rate.")


@contextmanager
def _diverging(step: int) -> Iterator[None]:
    """What networks do whose weights have run away: they find no finite shapes."""
    try:
        yield
    except FloatingPointError as error:
        raise FloatingPointError(f"Training has diverged at step {step}: lower the learning rate. {error}") from error


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
    watch: Watch | None = None,
) -> float:
    """Train, or go on training, and write ``weights.safetensors``.

    Killed at any moment it resumes from ``checkpoint.safetensors`` when it is called again with the same arguments,
    with the same result as if it had not been killed. The test faces are watched, they decide nothing.

    Several processes share each minibatch. A cascade, and a GEN without batch normalisation and dropout, learn what one
    process would, to within rounding, and may be resumed by another number of processes.

    :param objective: network and loss
    :param faces: what to learn from
    :param test_faces: what to measure on now and then
    :param config: how to train
    :param augmentation: random views of the training faces
    :param folder: where checkpoint, TensorBoard curves and weights go
    :param fabric: device and precision
    :param notes: stored with the weights
    :param title: of the progress bar
    :param watch: is told each measurement
    :return: the last NME on the test faces, a fraction
    :raises ValueError: when the folder holds a checkpoint of a training with another configuration
    """
    folder = Path(folder)
    checkpoint = folder / CHECKPOINT
    train = TrainingStep(objective, faces, config, augmentation, fabric)
    total = train.total
    identity = {
        **(notes or {}),
        **asdict(config),
        "checkpoint_seconds": None,
        "augmentation": asdict(augmentation),
        "network": asdict(objective.network.config),
        "total": total,
        "faces": faces.digest(),
        "precision": fabric.strategy.precision.precision,
        "devices": 1 if objective.of_whole_batches else fabric.world_size,
    }
    begun = _resume(folder, train, identity)

    logger = TensorBoardLogger(folder, name="", version="tensorboard")
    measure_every = max(1, total // _MEASUREMENTS)
    saved_at = time.monotonic()
    test_nme = float("nan")
    running = float("nan")
    norms: list[Tensor] = []
    with Progress(total=total, initial=begun, desc=title, unit="step", disable=fabric.global_rank != 0) as bar:
        for step in range(begun, total):
            with _diverging(step):
                loss, error, norm = train(step)
            norms.append(norm)
            last = step + 1 == total
            measure = (step + 1) % measure_every == 0 and not last
            save = last or time.monotonic() - saved_at > config.checkpoint_seconds
            if step % _LOOK == 0 or measure or save:
                _require_finite(norms, step + 1 - len(norms))  # before it is measured or saved
                norms.clear()
            if step % _LOOK == 0 or last:
                seen = fabric.all_reduce(torch.stack([loss, error]), reduce_op="mean")
                assert isinstance(seen, Tensor)
                loss_now, nme_now = seen.tolist()
                nme_now *= 100
                running = nme_now if math.isnan(running) else 0.9 * running + 0.1 * nme_now
                curves = {"loss": loss_now, "train_nme": nme_now, "learning_rate": config.learning_rate_at(step, total)}
                logger.log_metrics(curves, step)
                bar.set_postfix(loss=f"{loss_now:.4f}", nme=f"{running:.2f}%", test=f"{100 * test_nme:.2f}%")
            if measure:
                with _diverging(step):
                    test_nme = measure_nme(objective, test_faces, most=_WATCHED)
                logger.log_metrics({"test_nme": 100 * test_nme}, step)
                if watch is not None:
                    watch((step + 1) / total, test_nme)
                if fabric.global_rank == 0:
                    bar.write(
                        f"{title}: step {step + 1}/{total}, train NME {running:.2f} %, test {100 * test_nme:.2f} %"
                    )
            if save:
                if fabric.global_rank == 0:
                    save_checkpoint(checkpoint, {**train.state(), "step": step + 1, "identity": identity})
                saved_at = time.monotonic()
            bar.update()
    with _diverging(total):
        test_nme = measure_nme(objective, test_faces)
    if watch is not None:
        watch(1.0, test_nme)
    logger.log_metrics({"test_nme": 100 * test_nme}, total)
    logger.finalize("success")
    if fabric.global_rank == 0:
        measured = {"faces_sha256": faces_digest(faces.prepared), "test_nme_percent": 100 * test_nme}
        objective.save(folder / "weights.safetensors", {**(notes or {}), **measured})
    return test_nme
