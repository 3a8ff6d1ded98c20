"""x_0: where an episode starts (section 3.1): GEN, the mean shape, or a shape that the caller gives."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from face_align_env.landmarks import LandmarkScheme
from face_align_env.released import find_release, load_gen, released_names

if TYPE_CHECKING:
    from face_align_env.networks.gen import GEN


@runtime_checkable
class Initializer(Protocol):
    """Anything that turns crops into shapes; a plain function will do."""

    def __call__(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(N, 256, 256, 3) uint8 crops -> (N, K, 2) float32 shapes in crop pixels."""
        ...


class MeanShape:
    """The same shape for every face, as classic cascades start.

    :param shape: (K, 2) in crop pixels
    """

    def __init__(self, shape: npt.NDArray[np.float32]) -> None:
        self.shape = np.asarray(shape, dtype=np.float32)

    def __call__(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.tile(self.shape, (len(crops), 1, 1))


class GENInitializer:
    """A trained Global Estimation Network.

    :param gen: the network, or the file with its weights, as ``pretrain gen`` writes them
    :param device: where to run it
    :raises FileNotFoundError, WeightsError: see :func:`face_align_env.networks.weights.load_weights`
    """

    def __init__(self, gen: GEN | str | os.PathLike[str], device: str = "cpu") -> None:
        from face_align_env.networks.gen import GEN

        self.gen = gen.to(device).eval() if isinstance(gen, GEN) else GEN.load(gen, device=device).eval()
        self.num_landmarks = self.gen.num_landmarks

    def __call__(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(crops)).to(self.gen.mean_shape.device)
            shapes: npt.NDArray[np.float32] = self.gen(images).float().cpu().numpy()
            return shapes


def make_initializer(
    initializer: str | os.PathLike[str] | Initializer,
    scheme: LandmarkScheme,
    mean_shape: Callable[[], npt.NDArray[np.float32]],
    device: str = "cpu",
) -> Initializer:
    """The initializer that a keyword of ``gym.make`` names.

    :param initializer: ``"mean"``, the name of released weights (:func:`face_align_env.released.released_names`), the
        path of GEN's weights (``.safetensors``), or a callable
    :param scheme: the landmarks that it must give
    :param mean_shape: gives the training set's mean shape, (K, 2) crop pixels; called only for ``"mean"``
    :param device: where GEN runs
    :raises ValueError: a name that is neither ``"mean"`` nor a release nor a file, or weights of another scheme
    :raises WeightsError: the file is damaged, or no GEN's; a released file is not the one that its card describes
    """
    if callable(initializer):
        return initializer
    if initializer == "mean":
        return MeanShape(mean_shape())
    names = released_names()
    if initializer in names:
        gen = GENInitializer(load_gen(find_release(str(initializer)), device), device)
    elif os.path.isfile(initializer):
        gen = GENInitializer(initializer, device)
    else:
        raise ValueError(
            f"initializer='{os.fspath(initializer)}' is neither 'gen', 'mean', {_listed(names)}a callable, nor a file "
            "with GEN's weights. Train GEN with: face-align pretrain gen"
        )
    if gen.num_landmarks != scheme.num_landmarks:
        raise ValueError(
            f"'{os.fspath(initializer)}' predicts {gen.num_landmarks} landmarks, the dataset has "
            f"{scheme.num_landmarks}. Use weights of the same scheme, or train: face-align pretrain gen"
        )
    return gen


def released_gen(scheme: LandmarkScheme, dataset: str = "300w") -> str | None:
    """The release whose GEN starts episodes on a dataset, or None where there is none for the scheme.

    Synthetic faces start from what has learnt from synthetic faces, all others from what has learnt from photos: a GEN
    that has never seen such faces would be no start that figures could be compared with.

    :param scheme: the landmarks
    :param dataset: name of the dataset
    :return: name of the release
    """
    synthetic = dataset.startswith("synthetic")
    of_scheme = (name for name in released_names() if name.endswith(f"-{scheme.num_landmarks}"))
    return min((name for name in of_scheme if name.startswith("synthetic") == synthetic), default=None)


def _listed(names: list[str]) -> str:
    return f"released weights ({', '.join(names)}), " if names else ""
