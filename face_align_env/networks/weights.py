"""Weights on disk: safetensors with the configuration that rebuilds the network."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from face_align_env.files import atomic_path

NetworkT = TypeVar("NetworkT", bound=nn.Module)

FORMAT = "face-align-env/1"


class WeightsError(ValueError):
    """A file that holds no weights, or weights of another network or landmark scheme."""


def save_weights(
    path: str | os.PathLike[str],
    network: str,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    notes: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write weights to a temporary name and rename it, so that an interrupted run leaves the old file whole.

    :param path: the file to write, ``.safetensors``
    :param network: ``"gen"`` or ``"lrn"``
    :param config: what rebuilds the network, JSON-able
    :param state: its ``state_dict()``
    :param notes: how it was trained, JSON-able
    :param half: store floating-point tensors in float16
    """
    temporary, final = atomic_path(path)
    tensors = {
        name: (tensor.half() if half and tensor.is_floating_point() else tensor).detach().cpu().contiguous()
        for name, tensor in state.items()
    }
    metadata = {
        "format": FORMAT,
        "network": network,
        "config": json.dumps(dict(config)),
        "notes": json.dumps(dict(notes or {})),
    }
    # Not save_file: it makes files that nobody but their owner can read.
    temporary.write_bytes(save(tensors, metadata))
    os.replace(temporary, final)


def load_weights(
    path: str | os.PathLike[str], network: str
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Read weights.

    :param path: a file that :func:`save_weights` wrote
    :param network: the network it must hold, ``"gen"`` or ``"lrn"``
    :return: the configuration, the tensors in float32 where they are floating-point, and the notes
    :raises FileNotFoundError: there is no such file
    :raises WeightsError: the file is damaged, or holds something else
    """
    name = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"No weights at '{name}'. Train them first: face-align pretrain {network}")
    try:
        with safe_open(name, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"'{name}' is damaged or no safetensors file ({error}); get it again.") from error
    if metadata.get("format") != FORMAT or metadata.get("network") != network:
        found = metadata.get("network", "something else")
        raise WeightsError(f"'{name}' holds {found}, not weights of the network '{network}' of this project.")
    floats = {key: t.to(torch.float32) if t.is_floating_point() else t for key, t in tensors.items()}
    try:
        return json.loads(metadata["config"]), floats, json.loads(metadata.get("notes", "{}"))
    except (KeyError, ValueError) as error:
        raise WeightsError(f"'{name}' has no readable configuration ({error}); get it again.") from error


def rebuild(
    make: Callable[[dict[str, Any]], NetworkT], path: str | os.PathLike[str], network: str, device: str | torch.device
) -> NetworkT:
    """Make a network out of its file.

    :param make: from the configuration to the network with fresh weights
    :param path: see :func:`load_weights`
    :param network: see :func:`load_weights`
    :param device: where it shall live
    :raises FileNotFoundError: there is no such file
    :raises WeightsError: the file is damaged, holds something else, or its configuration and tensors do not fit
    """
    config, tensors, _ = load_weights(path, network)
    try:
        rebuilt = make(config)
        rebuilt.load_state_dict(tensors)
    except (RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"'{os.fspath(path)}' does not fit its own configuration: {error}") from error
    return rebuilt.to(device)


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
