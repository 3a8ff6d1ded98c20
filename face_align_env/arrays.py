"""The two kinds of arrays in which environments keep their states: NumPy's, and torch's tensors on a device.

Indexing, arithmetic and comparisons are written alike for both. :class:`HostArrays` and :class:`DeviceTensors` are what
is not: making arrays, and moving them to and from the host.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Backend = Literal["numpy", "torch"]
BACKENDS: tuple[Backend, ...] = ("numpy", "torch")


class Arrays(Protocol):
    """One kind of arrays."""

    on_host: bool
    """Whether :meth:`host` gives the array's own memory."""

    def full(self, shape: tuple[int, ...], value: float, dtype: str) -> Any:
        """A new array.

        :param dtype: NumPy's name of the type
        """

    def of(self, values: Any, dtype: str | None = None) -> Any:
        """Values of any kind as such an array, without their gradients; not always a copy.

        :param dtype: None: as it is
        """

    def host(self, values: Any) -> npt.NDArray[Any]:
        """Such an array as NumPy's."""

    def copy(self, values: Any) -> Any:
        """Such an array in memory of its own."""

    def concatenate(self, parts: Sequence[Any], axis: int) -> Any:
        """Several such arrays as one."""

    def clip(self, values: Any, low: Any, high: Any) -> Any:
        """Such an array, each value within its own bounds."""


class HostArrays:
    """NumPy's arrays."""

    on_host = True

    def full(self, shape: tuple[int, ...], value: float, dtype: str) -> npt.NDArray[Any]:
        return np.full(shape, value, dtype) if value else np.zeros(shape, dtype)  # zeros are not touched yet

    def of(self, values: Any, dtype: str | None = None) -> npt.NDArray[Any]:
        return np.asarray(values, dtype)

    def host(self, values: Any) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = values
        return found

    def copy(self, values: Any) -> npt.NDArray[Any]:
        copied: npt.NDArray[Any] = values.copy()
        return copied

    def concatenate(self, parts: Sequence[Any], axis: int) -> npt.NDArray[Any]:
        return np.concatenate(parts, axis=axis)

    def clip(self, values: Any, low: Any, high: Any) -> npt.NDArray[Any]:
        clipped: npt.NDArray[Any] = np.minimum(np.maximum(values, low), high)
        return clipped


class DeviceTensors:
    """torch's tensors.

    :param device: where they are
    """

    def __init__(self, device: str) -> None:
        import torch

        self.device = torch.device(device)
        self.on_host = self.device.type == "cpu"

    def full(self, shape: tuple[int, ...], value: float, dtype: str) -> torch.Tensor:
        import torch

        return torch.full(shape, value, dtype=getattr(torch, dtype), device=self.device)

    def of(self, values: Any, dtype: str | None = None) -> torch.Tensor:
        import torch

        wanted = None if dtype is None else getattr(torch, dtype)
        return torch.as_tensor(values, dtype=wanted, device=self.device).detach()

    def host(self, values: Any) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = values.detach().cpu().numpy()
        return found

    def copy(self, values: Any) -> torch.Tensor:
        copied: torch.Tensor = values.clone()
        return copied

    def concatenate(self, parts: Sequence[Any], axis: int) -> torch.Tensor:
        import torch

        return torch.cat(list(parts), dim=axis)

    def clip(self, values: Any, low: Any, high: Any) -> torch.Tensor:
        clipped: torch.Tensor = values.maximum(low).minimum(high)
        return clipped


HOST = HostArrays()


def arrays_of(backend: Backend, device: str) -> Arrays:
    """The arrays of a backend.

    :param backend: see :data:`BACKENDS`
    :param device: of the tensors
    """
    return HOST if backend == "numpy" else DeviceTensors(device)


def where(condition: Any, yes: Any, no: Any) -> Any:
    """:func:`numpy.where` for arrays and tensors; Python's numbers count as float64."""
    torch = sys.modules.get("torch")  # who has tensors has imported it
    tensors = [] if torch is None else [each for each in (condition, yes, no) if isinstance(each, torch.Tensor)]
    if torch is None or not tensors:
        return np.where(condition, yes, no)

    def of(value: Any) -> Any:
        dtype = torch.float64 if isinstance(value, float) else None
        return torch.as_tensor(value, dtype=dtype, device=tensors[0].device)

    return torch.where(of(condition), of(yes), of(no))
