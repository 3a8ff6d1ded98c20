"""FaceAligner: landmarks for the faces of a photo."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from face_align_env.aligner.alignment import Alignment
from face_align_env.aligner.detection import Detector
from face_align_env.aligner.detectors import get_detector
from face_align_env.aligner.looks import Look, Photo, Refined
from face_align_env.aligner.sharing import part_size, share_inference
from face_align_env.checks import check_choice, check_number
from face_align_env.crops import CROP_SIZE, MARGIN, crop_transform, cut
from face_align_env.datasets.base import read_image
from face_align_env.landmarks import get_scheme
from face_align_env.mdp import HISTORY_SIZE, MAX_ITERATIONS, MDPParameters
from face_align_env.networks.cascade import MeanStart, Stop, cascade, eq_3
from face_align_env.networks.confidence import ErrorHead, log_disagreement
from face_align_env.networks.gain import GainHead, little_gain
from face_align_env.networks.gen import GEN
from face_align_env.networks.lrn import LRN
from face_align_env.released import find_release, load_heads, load_networks

if TYPE_CHECKING:
    from face_align_env.aligner.int8 import Int8GEN, Int8LRN


ENGINES = ("torch", "int8")

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def _for_inference(network: NetworkT, device: torch.device, dtype: torch.dtype) -> NetworkT:
    """A copy in evaluation mode. Buffers keep their type: a mean shape in bfloat16 would be off by half a pixel."""
    network = copy.deepcopy(network).to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    return network.requires_grad_(False)


class FaceAligner:
    """GEN, then LRN until Eq. 3 (or ``least_gain``) stops it: DCRN as section 3 uses it on new faces.

    The networks are copied into the form that is fastest: batch normalisation folded into the convolutions, which
    changes x_0 by rounding (less than 0.001 pixels), and convolutions in channels-last memory.

    :param start: gives x_0: GEN, or the mean shape
    :param lrn: the policy network; None: x_0 is the answer
    :param alpha_2: Eq. 3's bound on the last increment (NME is taken as 0), pixels of the crop; None: every face takes
        ``max_iterations``
    :param max_iterations: no face takes more
    :param margin: of the crop around the box, as in training
    :param batch_size: faces that go through the networks together
    :param device: where the networks run
    :param dtype: type of their weights. ``torch.bfloat16`` is faster where the processor calculates in it (on CPUs:
        AVX-512 BF16 or AMX): 2.6 instead of 4.5 ms a face on two such cores (``compact``, 64 faces, 3 iterations). On
        345 test faces of 300W it moved landmarks by 0.3 to 0.5 pixels of the crop on average, because windows are
        placed to whole pixels, and the NME by at most 0.02 points of %
    :param detector: finds the faces of photos for which no boxes are given; None:
        :func:`~face_align_env.aligner.detectors.get_detector`'s first choice, when it is needed
    :param mirror: look at each face a second time, mirrored, and answer with the mean: a lower error and a better
        confidence for twice the time
    :param error_head: predicts each face's error, :attr:`Alignment.confidence`; None: it is not known
    :param engine: what computes the networks: ``"torch"``, or ``"int8"``, see :mod:`face_align_env.aligner.int8`
    :param gain_head: predicts what one more iteration gains; None: it is not known
    :param least_gain: in the place of Eq. 3: a face stops when its next iteration is predicted to lower the error by
        less than this, points of percent; None: Eq. 3. The prediction is for faces that begin with GEN's x_0, not with
        their shape in the frame before
    :raises ValueError: start, lrn and a head have different numbers of landmarks; there is no such engine, or it takes
        no such device or dtype; ``least_gain`` without a head that knows
    :raises MissingExtraError: ``"int8"`` without ONNX Runtime
    """

    def __init__(
        self,
        start: GEN | MeanStart,
        lrn: LRN | None,
        alpha_2: float | None = MDPParameters.alpha_2,
        max_iterations: int = MAX_ITERATIONS,
        margin: float = MARGIN,
        batch_size: int = 64,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        detector: Detector | None = None,
        mirror: bool = False,
        error_head: ErrorHead | None = None,
        engine: str = "torch",
        gain_head: GainHead | None = None,
        least_gain: float | None = None,
    ) -> None:
        check_choice("engine", engine, ENGINES)
        if engine == "int8" and (torch.device(device).type != "cpu" or dtype != torch.float32):
            raise ValueError("The engine 'int8' runs on the CPU, with numbers of its own: leave out device and dtype.")
        if least_gain is not None:
            check_number("least_gain", least_gain)
            if gain_head is None or lrn is None:
                raise ValueError(
                    "least_gain needs weights that predict what an iteration gains, and these do not. Have them learn "
                    "it (face-align calibrate), or leave it out for Eq. 3."
                )
        heads = (("the head of the confidence", error_head), ("the head of the gain", gain_head))
        for name, network in (("LRN", lrn), *heads):
            if network is not None and network.num_landmarks != start.num_landmarks:
                raise ValueError(
                    f"x_0 has {start.num_landmarks} landmarks, {name} {network.num_landmarks}: take one scheme's."
                )
        self.device = torch.device(device)
        start = start.folded() if isinstance(start, GEN) else start
        self.start: GEN | MeanStart | Int8GEN = _for_inference(start, self.device, dtype)
        self.lrn: LRN | Int8LRN | None = None if lrn is None else _for_inference(lrn, self.device, dtype)
        self.engine = engine
        if engine == "int8":
            from face_align_env.aligner.int8 import quantized

            self.start, self.lrn = quantized(self.start, self.lrn)
        self.alpha_2, self.max_iterations = alpha_2, max_iterations
        self.margin, self.batch_size = margin, batch_size
        self._detector = detector
        self.mirror = mirror
        # d_T is LRN's: without it nothing is known.
        self.error_head = None if error_head is None or lrn is None else copy.deepcopy(error_head).to(self.device)
        self.gain_head = None if gain_head is None or lrn is None else copy.deepcopy(gain_head).to(self.device)
        self.least_gain = least_gain
        self._counterparts = torch.from_numpy(get_scheme(start.num_landmarks).mirror_permutation).to(self.device)

    @classmethod
    def from_pretrained(
        cls,
        name: str = "300w-68",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        detector: Detector | None = None,
        mirror: bool = False,
        engine: str = "torch",
        least_gain: float | None = None,
    ) -> FaceAligner:
        """The aligner of released weights, with the bound and the margin on their card, and the heads they come with.

        :param name: of the release, see :func:`face_align_env.released.released_names`
        :param device: where the networks run
        :param dtype: type of their weights
        :param detector: finds the faces of photos for which no boxes are given; None: see :class:`FaceAligner`
        :param mirror: look at each face twice; see :class:`FaceAligner`
        :param engine: what computes the networks; see :class:`FaceAligner`
        :param least_gain: stops a face in the place of Eq. 3; see :class:`FaceAligner`
        :raises ValueError: there is no release of that name, the message says which there are; or it does not predict
            what an iteration gains
        :raises WeightsError: its file is not the one that its card describes
        """
        release = find_release(name)
        gen, lrn = load_networks(release)
        error_head, gain_head = load_heads(release)
        card = release.card
        return cls(
            gen,
            lrn,
            alpha_2=card.alpha_2,
            margin=card.margin,
            device=device,
            dtype=dtype,
            detector=detector,
            mirror=mirror,
            error_head=error_head,
            engine=engine,
            gain_head=gain_head,
            least_gain=least_gain,
        )

    @property
    def stop(self) -> Stop | None:
        """What stops a face before ``max_iterations``; None: nothing."""
        if self.least_gain is not None:
            assert self.gain_head is not None
            return little_gain(self.gain_head, self.least_gain)
        return None if self.alpha_2 is None else eq_3(self.alpha_2)

    @property
    def detector(self) -> Detector:
        """What finds faces where no boxes are given.

        :raises DetectorNotFoundError: this OpenCV has none
        """
        if self._detector is None:
            self._detector = get_detector()
        return self._detector

    @detector.setter
    def detector(self, detector: Detector) -> None:
        self._detector = detector

    def __call__(
        self, image: npt.NDArray[np.uint8] | str | os.PathLike[str], boxes: npt.ArrayLike | None = None
    ) -> list[Alignment]:
        """Align the faces of one photo.

        :param image: (H, W, 3) uint8 RGB, or the path of an image file, which is turned as its EXIF data say
        :param boxes: (N, 4) or (4,): x0, y0, x1, y1 of each face, pixels of the photo, from eyebrow to chin and from
            ear to ear; None: those that the detector finds
        :return: one alignment a box, in their order; those of detected faces from the largest to the smallest. Empty
            where no face was found
        :raises ValueError: the image is empty or of another type; a box is empty or outside the image
        :raises BadFaceError: the file is missing or no image
        :raises DetectorNotFoundError: boxes are to be detected, and this OpenCV cannot
        """
        return self.align_photos([self.prepare(image, boxes)])[0]

    def prepare(
        self, image: npt.NDArray[np.uint8] | str | os.PathLike[str], boxes: npt.ArrayLike | None = None
    ) -> Photo:
        """Read a photo, find its faces and cut them out; may be called by several threads.

        :param image: see :meth:`__call__`
        :param boxes: see :meth:`__call__`
        :raises ValueError, BadFaceError, DetectorNotFoundError: see :meth:`__call__`
        """
        pixels = image if isinstance(image, np.ndarray) else read_image(Path(image), upright=True)
        corners = np.asarray(self.detector(pixels) if boxes is None else boxes, dtype=np.float64)
        corners = corners.reshape(-1, 4) if corners.size else corners.reshape(0, 4)
        transforms = crop_transform(corners, self.margin)
        crops = [cut(pixels, transform) for transform in transforms]
        return Photo(pixels, corners, transforms, np.array(crops, dtype=np.uint8).reshape(-1, CROP_SIZE, CROP_SIZE, 3))

    def align_photos(self, photos: Sequence[Photo]) -> list[list[Alignment]]:
        """Align the faces of several photos together.

        :param photos: from :meth:`prepare`
        :return: for each photo, one alignment a box, in their order
        """
        if not photos:
            return []
        refined = self.refine(np.concatenate([photo.crops for photo in photos]))
        aligned, first = [], 0
        for photo in photos:
            last = first + len(photo.boxes)
            aligned.append(refined[first:last].alignments(photo))
            first = last
        return aligned

    def align_crops(
        self, crops: npt.NDArray[np.uint8], starts: npt.NDArray[np.float32] | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Align prepared crops: trajectories and numbers of iterations of :meth:`refine`.

        :param crops: see :meth:`refine`
        :param starts: see :meth:`refine`
        :return: trajectories (N, max_iterations + 1, K, 2) in crop pixels, which stand still after a face's last
            iteration, and (N,) int64 numbers of iterations
        """
        refined = self.refine(crops, starts)
        return refined.trajectories, refined.iterations

    def refine(
        self,
        crops: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.float32] | None = None,
        history: npt.NDArray[np.float32] | None = None,
    ) -> Refined:
        """Align prepared crops, and predict how large their errors are.

        :param crops: (N, 256, 256, 3) uint8
        :param starts: (N, K, 2) x_0 of each, crop pixels, such as a face's shape in the frame before; None: GEN's, or
            the mean shape
        :param history: (looks, N, 512) d_0 of each look, such as :attr:`Refined.history` of the frame before, with
            which the cascade goes on; None: zeros
        """
        looks = self.looks(crops, starts, history)
        trajectories, iterations = looks[0].trajectories, looks[0].iterations
        if self.mirror:
            trajectories = (trajectories + looks[1].trajectories) / 2
            iterations = torch.maximum(iterations, looks[1].iterations)
        confidences = None if self.error_head is None else self._confidences(self.error_head, looks)
        last = torch.stack([look.history for look in looks]).cpu().numpy()
        return Refined(trajectories.cpu().numpy(), iterations.cpu().numpy(), confidences, last)

    @torch.inference_mode()
    def looks(
        self,
        crops: npt.NDArray[np.uint8],
        starts: npt.NDArray[np.float32] | None = None,
        history: npt.NDArray[np.float32] | None = None,
    ) -> tuple[Look, ...]:
        """The look at prepared crops, and with ``mirror`` the one at the mirrored crops, mirrored back.

        :param crops: see :meth:`refine`
        :param starts: see :meth:`refine`
        :param history: see :meth:`refine`
        """
        if not len(crops):
            starts = np.zeros((0, self.start.num_landmarks, 2), np.float32)  # no network need know what nothing is
        on_cpu = self.device.type == "cpu"
        size = part_size(len(crops), self.batch_size) if on_cpu else self.batch_size
        parts = [slice(first, first + size) for first in range(0, max(1, len(crops)), size)]
        found: list[tuple[Look, ...]] = [()] * len(parts)

        @torch.inference_mode()
        def look(some: slice) -> None:
            for part, own in list(enumerate(parts))[some]:
                x_0 = None if starts is None else self._tensor(starts[own])
                d_0 = None if history is None else self._tensor(history[:, own])
                found[part] = self._two_looks(torch.from_numpy(np.ascontiguousarray(crops[own])), x_0, d_0)

        if on_cpu:
            share_inference(look, len(parts))
        else:
            look(slice(None))
        return tuple(Look.concatenate(looks) for looks in zip(*found, strict=True))

    def _tensor(self, values: npt.NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(self.device)

    def _two_looks(self, crops: torch.Tensor, x_0: torch.Tensor | None, d_0: torch.Tensor | None) -> tuple[Look, ...]:
        """The look at some faces, and with ``mirror`` the one at the mirrored faces, mirrored back."""
        images = crops.to(self.device)
        first = self._look(images, x_0, None if d_0 is None else d_0[0])
        if not self.mirror:
            return (first,)
        mirrored = None if x_0 is None else self._mirrored(x_0)
        other = self._look(images.flip(2), mirrored, None if d_0 is None else d_0[1])
        return first, replace(other, trajectories=self._mirrored(other.trajectories))

    def _mirrored(self, shapes: torch.Tensor) -> torch.Tensor:
        """(..., K, 2) shapes of crops in the mirrored crops."""
        x, y = shapes[..., self._counterparts, :].unbind(-1)
        return torch.stack([CROP_SIZE - 1 - x, y], -1)

    @torch.inference_mode()
    def _confidences(self, head: ErrorHead, looks: tuple[Look, ...]) -> npt.NDArray[np.float32]:
        if len(looks) == 1:
            predicted = head.one_look(looks[0].history)
        else:
            disagreement = log_disagreement(*(look.trajectories[:, -1] for look in looks))
            predicted = head.two_looks(looks[0].history, looks[1].history, disagreement)
        errors: npt.NDArray[np.float32] = predicted.cpu().numpy()
        return errors

    @torch.inference_mode()
    def start_shapes(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """x_0 without iterations: GEN's estimates, or the mean shape.

        :param crops: (N, 256, 256, 3) uint8
        :return: (N, K, 2) crop pixels
        """
        shapes: npt.NDArray[np.float32] = (
            self.start(torch.from_numpy(np.ascontiguousarray(crops)).to(self.device)).cpu().numpy()
        )
        return shapes

    def _look(self, images: torch.Tensor, x_0: torch.Tensor | None, d_0: torch.Tensor | None) -> Look:
        x_0 = self.start(images) if x_0 is None else x_0
        steps = 0 if self.lrn is None else self.max_iterations
        trajectories = x_0[:, None].repeat(1, steps + 1, 1, 1)
        iterations = torch.zeros(len(images), dtype=torch.int64, device=self.device)
        history = x_0.new_zeros(len(images), HISTORY_SIZE) if d_0 is None else d_0.clone()
        if self.lrn is not None and len(images):
            patch_size = self.lrn.config.patch_size
            for step in cascade(self.lrn, images, x_0, steps, self.stop, patch_size, history.clone()):
                trajectories[step.faces, step.iteration :] = step.landmarks[:, None]
                iterations[step.faces] = step.iteration
                history[step.faces] = step.history
        return Look(trajectories, iterations, history)
