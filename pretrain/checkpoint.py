"""Checkpoints that hold no code: arrays as safetensors, everything else as JSON in the same file's header.

What a training goes on from is read without a pickle: a crafted file can be wrong, but it cannot run a program.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from face_align_env.files import write_bytes

FORMAT = "face-align-env/checkpoint/2"
_OLDER = "face-align-env/checkpoint/1"  # its checksum is of the arrays' bytes alone
_KINDS = {"tensor", "array", "dict", "list", "tuple"}


class CheckpointError(ValueError):
    """A file that is no checkpoint, or a damaged one; the message names it and the cure."""


def save_checkpoint(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a state, complete or not at all.

    :param path: the file
    :param state: dictionaries, lists and tuples of tensors, NumPy arrays, numbers, texts and None, nested as you like
    :raises TypeError: there is something else in it
    :raises OSError: the file cannot be written
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_encode(state, tensors))
    metadata = {"format": FORMAT, "tree": tree, "crc32": str(_checksum(tensors, tree))}
    write_bytes(path, save(tensors, metadata))


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a state, tensors on the CPU.

    :raises CheckpointError: the file is none that :func:`save_checkpoint` wrote, or it is damaged
    """
    name = os.fspath(path)
    try:
        with safe_open(name, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if metadata.get("format") not in (FORMAT, _OLDER):
            raise CheckpointError(f"'{name}' is no checkpoint of this version. Remove it to begin the training anew.")
        tree = metadata["tree"]
        if metadata["crc32"] != str(_checksum(tensors, None if metadata["format"] == _OLDER else tree)):
            raise ValueError("its contents do not fit their checksum")
        state: dict[str, Any] = _decode(json.loads(tree), tensors)
        if not isinstance(state, dict):
            raise TypeError("it is no dictionary")
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, SyntaxError, RuntimeError) as error:
        raise CheckpointError(
            f"The checkpoint '{name}' is damaged ({error}). Remove it to begin the training anew."
        ) from error
    return state


def _encode(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The value as JSON has it; arrays go into ``tensors``, and their names stand for them."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.Tensor | np.ndarray):
        name = f"{len(tensors):06d}"
        if isinstance(value, torch.Tensor):
            tensors[name] = value.detach().cpu().contiguous().clone()
            return {"tensor": name}
        array = value.copy(order="C")
        # Unsigned integers wider than a byte are no full citizens of torch.
        wide = array.dtype.kind == "u" and array.dtype.itemsize > 1
        tensors[name] = torch.from_numpy(array.view(f"i{array.dtype.itemsize}") if wide else array)
        return {"array": name, "dtype": array.dtype.str}
    if isinstance(value, Mapping):
        return {"dict": [[_encode(key, tensors), _encode(each, tensors)] for key, each in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_encode(each, tensors) for each in value]}
    raise TypeError(f"A checkpoint holds arrays, numbers and texts, not {type(value).__name__}: {value!r}.")


def _decode(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    (kind,) = _KINDS & value.keys()
    inner = value[kind]
    if kind == "tensor":
        return tensors[inner]
    if kind == "array":
        return tensors[inner].numpy().view(np.dtype(value["dtype"]))
    if kind == "dict":
        return {_decode(key, tensors): _decode(each, tensors) for key, each in inner}
    return (list if kind == "list" else tuple)(_decode(each, tensors) for each in inner)


def _checksum(tensors: Mapping[str, torch.Tensor], tree: str | None) -> int:
    """Of the arrays' bytes, and of everything that says what they are; None: of the bytes alone."""
    total = 0
    if tree is not None:
        kinds = {name: [str(tensors[name].dtype), list(tensors[name].shape)] for name in sorted(tensors)}
        total = zlib.crc32(f"{tree}{json.dumps(kinds)}".encode())
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    return total
