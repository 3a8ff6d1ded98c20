"""FaceTracker: the faces of a video, each frame's cascade going on where that of the frame before has stopped."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from face_align_env.aligner.aligner import FaceAligner
from face_align_env.aligner.alignment import Alignment
from face_align_env.aligner.detection import Boxes, overlaps
from face_align_env.aligner.looks import Photo
from face_align_env.aligner.motion import moved_shape
from face_align_env.crops import crop_transform, cut, transform_points
from face_align_env.datasets.base import landmarks_box
from face_align_env.mdp import HISTORY_SIZE

DETECT_EVERY = 30
"""Frames from one search for new faces to the next, while there are faces."""

LOST = 0.4
"""A face whose score is lower is looked for anew."""

ONE_FACE = 0.4
"""Boxes that overlap as much (intersection over union) are of one face."""

GEN_SHARE = 0.2
"""Of x_0, of a face that is followed: enough for errors not to add up from frame to frame, too little to tremble."""

STEP = 0.5
"""Share that is taken of the cascade's way from x_0. A shape that has come along with the face is about as good as what
the cascade makes of a single frame, and their mean is better than either."""

Image = npt.NDArray[np.uint8]


@runtime_checkable
class Looker(Protocol):
    """A detector that can look at one place; :class:`~face_align_env.aligner.yunet.YuNetDetector` is one."""

    def look(self, image: Image, box: npt.NDArray[np.floating], /) -> tuple[npt.NDArray[np.float64], float]:
        """The box of the face near ``box``, and its score from 0 to 1."""
        ...


@dataclass(frozen=True, eq=False)
class TrackedFace:
    """One face of one frame.

    :param id: stays with the face as long as it is followed
    :param alignment: its landmarks in this frame, smoothed if that was asked for
    """

    id: int
    alignment: Alignment


class OneEuroFilter:
    """G. Casiez, N. Roussel, D. Vogel, "1 Euro Filter", CHI 2012, on a shape in units of its own size.

    :param min_cutoff: Hz; lower: less jitter of a face at rest
    :param beta: Hz for each face size a second; higher: less lag of a face that moves
    :param derivative_cutoff: Hz, of the speed
    """

    def __init__(self, min_cutoff: float = 1.5, beta: float = 8.0, derivative_cutoff: float = 1.0) -> None:
        self.min_cutoff, self.beta, self.derivative_cutoff = min_cutoff, beta, derivative_cutoff
        self._last: npt.NDArray[np.float64] | None = None
        self._speed: npt.NDArray[np.float64] | None = None

    def __call__(self, landmarks: npt.NDArray[np.floating], seconds: float) -> npt.NDArray[np.float32]:
        """The smoothed shape.

        :param landmarks: (K, 2) pixels
        :param seconds: since the shape before
        """
        now = landmarks.astype(np.float64)
        if self._last is None or self._speed is None:
            self._last, self._speed = now, np.zeros(len(now))
            return landmarks.astype(np.float32)
        size = max(float(np.ptp(now, axis=0).max()), 1e-9)
        speed = np.linalg.norm(now - self._last, axis=1) / size / seconds
        self._speed = self._speed + _share(self.derivative_cutoff, seconds) * (speed - self._speed)
        cutoff = self.min_cutoff + self.beta * self._speed
        self._last = self._last + _share(cutoff, seconds)[:, None] * (now - self._last)
        return self._last.astype(np.float32)


def _share(cutoff: npt.ArrayLike, seconds: float) -> npt.NDArray[np.float64]:
    """How much of a new value a low-pass filter takes."""
    return 1 / (1 + 1 / (2 * np.pi * np.asarray(cutoff, dtype=np.float64) * seconds))


@dataclass
class _Track:
    id: int
    shape: npt.NDArray[np.float32]  # of the last frame, not smoothed
    smoother: OneEuroFilter | None
    history: npt.NDArray[np.float32] | None = None  # (looks, 512) d_T; None: the cascade begins anew


@dataclass
class _Place:
    track: _Track
    box: npt.NDArray[np.float64]
    moved: npt.NDArray[np.float32] | None  # the shape of the last frame in this one; None: nobody knows


class FaceTracker:
    """Follows the faces of a video, frame by frame.

    The optical flow says where a followed face has come to. There the cascade goes on: x_0 is the shape of the frame
    before, moved, and a fifth of GEN's estimate; d_0 is the last d_T; and half of the cascade's way is taken. Where the
    frames do not tell how a face has moved, as after a cut, it is aligned as in a photo.

    The detector searches a frame only where no face is followed, where one was lost, and now and then for new ones. A
    detector that can :class:`Looker.look` is asked each time whether there still is a face and where; otherwise every
    frame is searched.

    :param aligner: and its detector
    :param detect_every: frames from one search for new faces to the next
    :param smooth: whether landmarks go through a :class:`OneEuroFilter`
    :param fps: frames a second, for the filter
    :raises ValueError: a parameter is out of its range
    """

    def __init__(
        self, aligner: FaceAligner, detect_every: int = DETECT_EVERY, smooth: bool = False, fps: float = 30.0
    ) -> None:
        if detect_every < 1:
            raise ValueError(f"detect_every must be at least 1 frame, got {detect_every}.")
        if not 0 < fps < np.inf:
            raise ValueError(f"fps must be positive, got {fps}.")
        self.aligner, self.detect_every, self.smooth, self.fps = aligner, detect_every, smooth, fps
        self._tracks: list[_Track] = []
        self._before: Image | None = None
        self._next_id, self._frames_since_search = 0, 0

    def __call__(self, frame: Image) -> list[TrackedFace]:
        """The faces of the next frame.

        :param frame: (H, W, 3) uint8 RGB
        :return: those that were followed in their order, then new ones
        :raises ValueError: the frame is empty or of another type
        """
        can_look = isinstance(self.aligner.detector, Looker)
        found = None if can_look else self.aligner.detector(frame)
        followed = self._follow(frame, found)
        lost = len(followed) < len(self._tracks)
        self._tracks = [track for track, _ in followed]
        alignments = [alignment for _, alignment in followed]
        self._frames_since_search += 1
        if found is not None or lost or not followed or self._frames_since_search >= self.detect_every:
            new = self._search(frame, found, alignments)
            alignments += new
            self._tracks += [self._begin(alignment) for alignment in new]
        self._before = frame.copy() if self._tracks else None
        return [self._told(track, alignment) for track, alignment in zip(self._tracks, alignments, strict=True)]

    def _follow(self, frame: Image, found: Boxes | None) -> list[tuple[_Track, Alignment]]:
        """The faces of the frame before that are still there."""
        places = [place for track in self._tracks if (place := self._place(frame, found, track)) is not None]
        gone_on = self._go_on(frame, places)
        kept: list[tuple[_Track, Alignment]] = []
        for place in places:
            alignment = gone_on.get(place.track.id)
            if alignment is None or overlaps(place.box[None], landmarks_box(alignment.landmarks))[0] < ONE_FACE:
                alignment, place.track.history = self.aligner(frame, place.box)[0], None
            # Two tracks on one face: the older goes on.
            if not _is_known(landmarks_box(alignment.landmarks), [other for _, other in kept]):
                place.track.shape = alignment.landmarks
                kept.append((place.track, alignment))
        return kept

    def _place(self, frame: Image, found: Boxes | None, track: _Track) -> _Place | None:
        """Where a face that has been followed so far is; None where it is lost."""
        moved = None if self._before is None else moved_shape(self._before, frame, track.shape)
        box = self._where(frame, found, track.shape if moved is None else moved)
        return None if box is None else _Place(track, box, moved)

    def _go_on(self, frame: Image, places: list[_Place]) -> dict[int, Alignment]:
        """Of each face whose motion is known, by its id: the cascade from where it has stopped in the frame before."""
        known = [(place, place.moved) for place in places if place.moved is not None]
        if not known:
            return {}
        boxes = np.array([place.box for place, _ in known])
        transforms = crop_transform(boxes, self.aligner.margin)
        photo = Photo(frame, boxes, transforms, np.stack([cut(frame, transform) for transform in transforms]))
        moved = np.stack(
            [transform_points(matrix, shape) for matrix, (_, shape) in zip(transforms, known, strict=True)]
        )
        starts = moved + np.float32(GEN_SHARE) * (self.aligner.start_shapes(photo.crops) - moved)
        none = np.zeros((2 if self.aligner.mirror else 1, HISTORY_SIZE), np.float32)
        history = [none if place.track.history is None else place.track.history for place, _ in known]
        refined = self.aligner.refine(photo.crops, starts, np.stack(history, axis=1))
        for i, (place, _) in enumerate(known):
            place.track.history = refined.history[:, i]
        alignments = refined.damped(STEP).alignments(photo)
        return {place.track.id: alignment for (place, _), alignment in zip(known, alignments, strict=True)}

    def _where(
        self, frame: Image, found: Boxes | None, shape: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64] | None:
        """The box of the face near a shape; None where there is none."""
        box = landmarks_box(shape).astype(np.float64)
        if found is not None:
            near = overlaps(found, box)
            return found[near.argmax()] if near.max(initial=0) > 0 else None
        assert isinstance(self.aligner.detector, Looker)
        seen, score = self.aligner.detector.look(frame, box)
        return seen if score >= LOST else None

    def _search(self, frame: Image, found: Boxes | None, known: list[Alignment]) -> list[Alignment]:
        self._frames_since_search = 0
        boxes = [box for box in (self.aligner.detector(frame) if found is None else found) if not _is_known(box, known)]
        return self.aligner(frame, np.array(boxes).reshape(-1, 4))

    def _begin(self, alignment: Alignment) -> _Track:
        self._next_id += 1
        return _Track(self._next_id - 1, alignment.landmarks, OneEuroFilter() if self.smooth else None)

    def _told(self, track: _Track, alignment: Alignment) -> TrackedFace:
        if track.smoother is not None:
            alignment = replace(alignment, landmarks=track.smoother(alignment.landmarks, 1 / self.fps))
        return TrackedFace(track.id, alignment)


def _is_known(box: npt.NDArray[np.floating], known: list[Alignment]) -> bool:
    boxes = np.array([landmarks_box(alignment.landmarks) for alignment in known], dtype=np.float64).reshape(-1, 4)
    return bool((overlaps(boxes, box) > ONE_FACE).any())
