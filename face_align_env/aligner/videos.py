"""Videos and cameras: their frames, and a video with what was found in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.datasets.base import BadFaceError, read_image_size
from face_align_env.files import replacing

Image = npt.NDArray[np.uint8]

FPS = 30.0
"""Of cameras and files that do not say how many frames a second they have."""

_HEAD = 400  # bytes that tell what a file is
_CONTAINERS: list[dict[int, bytes]] = [  # bytes at places in the file
    *({4: box} for box in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),  # .mp4, .mov, .m4v, .3gp
    {0: b"RIFF", 8: b"AVI "},
    {0: b"\x1a\x45\xdf\xa3"},  # .mkv, .webm
    {0: b"\x47", 188: b"\x47"},  # .ts
    {4: b"\x47", 196: b"\x47"},  # .m2ts
    {0: b"\0\0\1\xba"},  # .mpg
    {0: b"\0\0\1\xb3"},
    {0: b"FLV\1"},
    {0: b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"},  # .wmv
    {0: b"OggS"},
    {0: b"GIF8"},
]


class VideoError(ValueError):
    """A video or camera that cannot be read or written; the message names it and says what to do."""


def _require_video(name: str) -> None:
    """See by its first bytes that a file is a video.

    What decodes videos would also follow lists of other files (.m3u8, ffconcat), and addresses in them.

    :raises VideoError: it is none
    """
    with open(name, "rb") as file:
        head = file.read(_HEAD)
    if any(all(head[i : i + len(part)] == part for i, part in kind.items()) for kind in _CONTAINERS):
        return
    try:
        read_image_size(Path(name))
    except BadFaceError:
        raise VideoError(f"'{name}' is no video ({os.path.getsize(name)} bytes). Get it again.") from None
    raise VideoError(f"'{name}' is a photo: face-align align takes it.")


class VideoFrames:
    """The frames of a video file or a camera, in their order.

    :param source: a file, or the number of a camera ("0")
    :raises VideoError: there is no such file or camera, or the file is no video
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        import cv2

        name = os.fspath(source)
        self.is_camera = name.isdecimal() and not Path(name).exists()
        self.name = f"camera {name}" if self.is_camera else f"'{name}'"
        if not self.is_camera:
            if not os.path.exists(name):
                raise VideoError(f"The video '{name}' is missing. A camera is named by its number: 0, 1, ...")
            if not os.path.isfile(name):
                raise VideoError(f"'{name}' is no file; face-align align takes folders of photos.")
            _require_video(name)
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # its warnings would come before our error
        try:
            self._capture = cv2.VideoCapture(int(name) if self.is_camera else name)
        finally:
            cv2.utils.logging.setLogLevel(level)
        if not self._capture.isOpened():
            if self.is_camera:
                raise VideoError(f"There is no {self.name}, or another program uses it.")
            raise VideoError(f"'{name}' is no video ({os.path.getsize(name)} bytes). Get it again.")
        told = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = told if 0 < told <= 1000 else FPS
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if count > 0 and not self.is_camera else None
        """Frames that the file says it has; None: not known."""

    def __iter__(self) -> Iterator[Image]:
        """(H, W, 3) uint8 RGB frames.

        :raises VideoError: there is not a single one, or a tenth of those that the file says it has are missing
        """
        number = 0
        try:
            while True:
                whole, frame = self._capture.read()
                if not whole:
                    break
                number += 1
                yield np.ascontiguousarray(frame[:, :, ::-1])
        finally:
            self._capture.release()
        if not number:
            raise VideoError(f"{self.name} gave no frame. Get it again, or look whether another program uses it.")
        # What files say is often one or two too many.
        if self.count is not None and number < 0.9 * self.count:
            raise VideoError(f"{self.name} ends after {number:,} of {self.count:,} frames. Get it again.")


class VideoWriter:
    """A video file (H.264's predecessor MPEG-4 in .mp4), complete or not there.

    :param path: the file, .mp4
    :param fps: frames a second
    :raises VideoError: it is not called .mp4
    """

    def __init__(self, path: str | os.PathLike[str], fps: float) -> None:
        if Path(path).suffix.lower() != ".mp4":
            raise VideoError(f"A video is written as .mp4, not as '{Path(path).suffix}': name '{path}' so.")
        self._path, self._fps = Path(path), fps
        self._writer: Any = None
        self._stack = ExitStack()

    def write(self, frame: Image) -> None:
        """Add a frame, (H, W, 3) uint8 RGB, all of one size.

        :raises VideoError: OpenCV cannot write the file
        """
        import cv2

        if self._writer is None:
            size = (frame.shape[1], frame.shape[0])
            temporary = self._stack.enter_context(replacing(self._path, ".mp4"))  # FFmpeg goes by the name
            self._writer = cv2.VideoWriter(str(temporary), cv2.VideoWriter.fourcc(*"mp4v"), self._fps, size)
            if not self._writer.isOpened():
                raise VideoError(f"This OpenCV cannot write the video '{self._path}'.")
        self._writer.write(np.ascontiguousarray(frame[:, :, ::-1]))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()
        self._stack.__exit__(kind, error, trace)
