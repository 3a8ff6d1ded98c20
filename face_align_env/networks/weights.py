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

from face_align_env.files import write_bytes

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
    :param network: ``"gen"``, ``"lrn"``, ``"confidence"`` or ``"gain"``
    :param config: what rebuilds the network, JSON-able
    :param state: its ``state_dict()``
    :param notes: how it was trained, JSON-able
    :param half: store parameters in float16; buffers stay as they are
    :raises WeightsError: a parameter is too large for float16
    """
    _write(path, network, config, _stored(state, half), notes)


def save_bundle(
    path: str | os.PathLike[str],
    networks: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Tensor]]],
    notes: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write several networks into one file; :func:`load_weights` reads each of them as if it were alone.

    :param path: the file to write, ``.safetensors``
    :param networks: what rebuilds each network, and its ``state_dict()``
    :param notes: how they were trained, JSON-able
    :param half: see :func:`save_weights`
    :raises WeightsError: a parameter is too large for float16
    """
    tensors = {
        f"{network}.{name}": tensor
        for network, (_, state) in networks.items()
        for name, tensor in _stored(state, half).items()
    }
    configs = {network: dict(config) for network, (config, _) in networks.items()}
    _write(path, "+".join(networks), configs, tensors, notes)


def _stored(state: Mapping[str, Tensor], half: bool) -> dict[str, Tensor]:
    """The tensors as they go into a file."""
    stored = {}
    for name, tensor in state.items():
        # A state_dict does not say which of its tensors are buffers; parameters have these two names. Buffers are kept:
        # a coordinate of the mean shape in float16 is off by up to 1/16 pixel, and a running variance may be larger
        # than float16's largest number.
        if half and name.rpartition(".")[2] in ("weight", "bias"):
            if not tensor.half().isfinite().all():
                raise WeightsError(f"'{name}' holds {tensor.abs().max():g}, which float16 cannot; save it in float32.")
            tensor = tensor.half()
        stored[name] = tensor.detach().cpu().contiguous()
    return stored


def _write(
    path: str | os.PathLike[str],
    network: str,
    config: Mapping[str, Any],
    tensors: dict[str, Tensor],
    notes: Mapping[str, Any] | None,
) -> None:
    metadata = {
        "format": FORMAT,
        "network": network,
        "config": json.dumps(dict(config)),
        "notes": json.dumps(dict(notes or {})),
    }
    # Not save_file: it makes files that nobody but their owner can read.
    write_bytes(path, _in_order(save(tensors, metadata)))


def _in_order(data: bytes) -> bytes:
    """A safetensors file with its header sorted: the library writes it in another order each time.

    The same weights are then the same file, with the same digest. A header is a little-endian length of eight bytes and
    JSON padded with spaces; where a tensor lies is counted from its end.
    """
    length = int.from_bytes(data[:8], "little")
    text = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def held_networks(path: str | os.PathLike[str]) -> list[str]:
    """The networks that a file of weights holds.

    :raises WeightsError: the file is damaged
    """
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            held: list[str] = (file.metadata() or {}).get("network", "").split("+")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"'{os.fspath(path)}' is damaged or no safetensors file ({error}); get it again.") from error
    return held


def load_weights(
    path: str | os.PathLike[str], network: str
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Read weights.

    :param path: a file that :func:`save_weights` or :func:`save_bundle` wrote
    :param network: the network that it must hold, alone or among others; see :func:`save_weights`
    :return: the configuration, the tensors in float32 where they are floating-point, and the notes
    :raises FileNotFoundError: there is no such file
    :raises WeightsError: the file is damaged, or holds something else
    """
    name = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"No weights at '{name}'. Train them first: face-align pretrain {network}")
    tensors = {}
    try:
        with safe_open(name, framework="pt") as file:
            metadata = file.metadata() or {}
            held = metadata.get("network", "").split("+")
            prefix = f"{network}." if len(held) > 1 else ""
            if metadata.get("format") == FORMAT and network in held:
                keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118
                tensors = {key.removeprefix(prefix): file.get_tensor(key) for key in keys}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"'{name}' is damaged or no safetensors file ({error}); get it again.") from error
    if metadata.get("format") != FORMAT or network not in held:
        found = metadata.get("network", "something else")
        raise WeightsError(f"'{name}' holds {found}, not weights of the network '{network}' of this project.")
    floats = {key: t.to(torch.float32) if t.is_floating_point() else t for key, t in tensors.items()}
    for key, tensor in floats.items():
        if not tensor.isfinite().all():
            raise WeightsError(f"'{name}': '{key}' holds values that are not finite; its training has failed.")
    try:
        config = json.loads(metadata["config"])
        config, notes = config[network] if prefix else config, json.loads(metadata.get("notes", "{}"))
        if not isinstance(config, dict) or not isinstance(notes, dict):
            raise TypeError("it is no JSON object")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise WeightsError(f"'{name}' has no readable configuration ({error}); get it again.") from error
    return config, floats, notes


def rebuild(
    make: Callable[[dict[str, Any]], NetworkT], path: str | os.PathLike[str], network: str, device: str | torch.device
) -> NetworkT:
    """Make a network out of its file.

    :param make: from the configuration to the network with fresh weights
    :param path: see :func:`load_weights`
    :param network: see :func:`load_weights`
    :param device: where it lives
    :raises FileNotFoundError: there is no such file
    :raises WeightsError: the file is damaged, holds something else, or its configuration and tensors do not fit
    """
    config, tensors, _ = load_weights(path, network)
    try:
        with torch.device("meta"):  # without memory: a configuration may ask for any amount of it
            expected = make(config).state_dict()
        unfit = [key for key in {**expected, **tensors} if _shape(expected, key) != _shape(tensors, key)]
        if unfit:
            key = unfit[0]
            raise ValueError(f"'{key}' should have shape {_shape(expected, key)}, and has {_shape(tensors, key)}")
        rebuilt = make(config)
        rebuilt.load_state_dict(tensors)
    except (RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"'{os.fspath(path)}' does not fit its own configuration: {error}") from error
    return rebuilt.to(device)


def _shape(tensors: Mapping[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(tensors[key].shape) if key in tensors else None


def output_for(means: Tensor, state: Mapping[str, Tensor], layer: str = "") -> dict[str, Tensor]:
    """A state whose last linear layer gives means of the points that it gave.

    :param means: (J, K) weights, of :func:`~face_align_env.landmarks.means_of_points`
    :param state: of a module whose layer ``layer`` gives (2K,) coordinates, [x_1, y_1, ..., x_K, y_K]
    :param layer: name of that layer in the state; empty: the module is the layer
    :return: the state with a layer that gives (2J,)
    """
    prefix = f"{layer}." if layer else ""
    both = torch.kron(means, torch.eye(2, device=means.device))  # x and y alike
    changed = {name: both @ state[name] for name in (f"{prefix}weight", f"{prefix}bias")}
    return {**state, **changed}


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
