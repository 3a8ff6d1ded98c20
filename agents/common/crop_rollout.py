"""The rollout of an aligner on prepared crops: no environment, as on photos."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from face_align_env.agents.common.rollout import Rollout
from face_align_env.aligner import FaceAligner
from face_align_env.mdp import MDPParameters, nme
from face_align_env.networks.cascade import cascade, eq_3
from face_align_env.prepared import PreparedFaces
from face_align_env.progress import Progress

ErrorOf = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float64]]
"""(N, K, 2) shapes of a batch of faces -> (N,) NME."""


class CropAligner(Protocol):
    """Whatever finds landmarks in crops, as ``FaceAligner`` does."""

    batch_size: int

    def align_crops(self, crops: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """(N, 256, 256, 3) uint8 -> trajectories (N, T + 1, K, 2) in crop pixels, and (N,) numbers of iterations."""
        ...


def roll_out(
    aligner: CropAligner,
    prepared: PreparedFaces,
    termination: str | None = None,
    parameters: MDPParameters | None = None,
    progress: bool = False,
) -> Rollout:
    """Align every face of a split once.

    The time that is kept is the aligner's own, also under oracle termination: what the aligner stops is timed as usual,
    then the faces that the oracle would not have stopped there go on.

    :param aligner: whatever finds the landmarks
    :param prepared: the faces
    :param termination: of a :class:`~face_align_env.aligner.FaceAligner` with an LRN: ``"blind"``, ``"oracle"`` or
        ``"limit"``; None: as it works on photos. Other aligners end as they like
    :param parameters: of Eq. 3 and 4; None: Table 2's with the bound and the limit of the aligner
    :param progress: show a bar
    """
    network = aligner if isinstance(aligner, FaceAligner) and aligner.lrn is not None else None
    if network is not None and network.least_gain is not None and termination is None:
        network = None  # its rule is none of the environment's: it works as it does on photos
    if network is not None:
        alpha_2 = network.alpha_2 or MDPParameters.alpha_2
        parameters = parameters or MDPParameters(alpha_2=alpha_2, max_iterations=network.max_iterations)
        termination = termination or ("limit" if network.alpha_2 is None else "blind")
    parts = []
    batches = range(0, len(prepared), aligner.batch_size)
    for start in Progress(batches, desc="aligning", disable=not progress, leave=False):
        faces = np.arange(start, min(start + aligner.batch_size, len(prepared)))
        crops = np.stack([prepared.crop(i) for i in faces.tolist()])
        if start == 0:
            aligner.align_crops(crops[:1])  # the first call pays for memory and kernels
        error_of = partial(_errors, prepared, faces)
        if network is None or parameters is None or termination is None:
            parts.append(_align(aligner, crops, error_of, parameters or MDPParameters()))
        else:
            parts.append(_cascade(network, crops, error_of, termination, parameters))
    return Rollout.joined(parts)


def _errors(
    prepared: PreparedFaces, faces: npt.NDArray[np.int64], shapes: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = nme(shapes, prepared.landmarks[faces], prepared.d[faces], prepared.counted[faces])
    return found


def _align(
    aligner: CropAligner,
    crops: npt.NDArray[np.uint8],
    error_of: ErrorOf,
    parameters: MDPParameters,
) -> Rollout:
    began = time.perf_counter()
    trajectories, lengths = aligner.align_crops(crops)
    seconds = (time.perf_counter() - began) / len(crops)
    shapes = np.moveaxis(trajectories, 1, 0)
    errors = np.stack([error_of(x) for x in shapes])
    stopped = np.ones(len(crops), dtype=np.bool_)
    return Rollout.of_path(errors, lengths, stopped, parameters, shapes, seconds=(seconds,))


@torch.inference_mode()
def _cascade(
    aligner: FaceAligner,
    crops: npt.NDArray[np.uint8],
    error_of: ErrorOf,
    termination: str,
    parameters: MDPParameters,
) -> Rollout:
    lrn, limit, alpha_2 = aligner.lrn, parameters.max_iterations, parameters.alpha_2
    assert lrn is not None
    patch_size = lrn.config.patch_size
    began = time.perf_counter()
    images = torch.from_numpy(np.ascontiguousarray(crops)).to(aligner.device)
    x_0 = aligner.start(images)
    found = list(cascade(lrn, images, x_0, limit, None if termination == "limit" else eq_3(alpha_2), patch_size))
    path = x_0[None].repeat(limit + 1, 1, 1, 1)
    lengths = torch.zeros(len(images), dtype=torch.int64, device=aligner.device)
    for step in found:
        path[step.iteration :, step.faces] = step.landmarks
        lengths[step.faces] = step.iteration
    shapes = path.float().cpu().numpy()
    seconds = (time.perf_counter() - began) / len(images)

    actions = found[0].actions.new_full((limit, *found[0].actions.shape), torch.nan)
    history = found[0].history.clone()
    for step in found:
        actions[step.iteration - 1, step.faces] = step.actions
        history[step.faces] = step.history
    if termination == "oracle":
        stopped_at = error_of(shapes[-1])
        late = torch.from_numpy(np.flatnonzero(stopped_at >= parameters.alpha_1)).to(aligner.device)
        late = late[lengths[late] < limit]
        if len(late):
            left = (limit - lengths[late]).cpu()
            for step in cascade(lrn, images[late], path[-1, late], left, None, patch_size, history[late]):
                faces = late[step.faces]
                lengths[faces] += 1
                path[lengths[faces], faces] = step.landmarks
                actions[lengths[faces] - 1, faces] = step.actions
            shapes = path.float().cpu().numpy()
    errors = np.stack([error_of(x) for x in shapes])
    ends = lengths.cpu().numpy()
    play = Rollout.of_path(errors, ends, ends < limit, parameters, shapes, actions.float().cpu().numpy(), (seconds,))
    return play.under(termination, parameters)
