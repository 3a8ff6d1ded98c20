"""A page in the browser: landmarks of a photo, step by step, and of a webcam. Made with Gradio, the extra ``app``.

Photos stay on the computer that serves the page: an upload is deleted as soon as it has been read, and what is shown
some ten minutes later. Nothing is sent to anybody else.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from face_align_env.aligner.aligner import FaceAligner
from face_align_env.aligner.alignment import Alignment, draw_alignments
from face_align_env.aligner.tracking import FaceTracker
from face_align_env.datasets.base import read_image, read_image_size
from face_align_env.datasets.pts import write_pts
from face_align_env.extras import needs

MAX_BYTES = 20_000_000
"""No larger file is taken."""

MAX_MEGAPIXELS = 30.0
"""No larger photo is taken."""

SHOWN = 1280
"""Longest side of the picture that is shown, pixels."""

FORGET = 600  # seconds until files, and what is known of a visitor's photo, are deleted
CAMERA_FPS = 10.0
CONFIDENCE = "expected NME %"
COLUMNS = ("face", "iterations", CONFIDENCE, "yaw", "pitch", "roll", "left", "top", "right", "bottom")

Image = npt.NDArray[np.uint8]


class UploadError(ValueError):
    """A file that is not taken; the message says why."""


@dataclass(frozen=True, eq=False)
class AlignedPhoto:
    """What the page knows of a photo.

    :param faces: in pixels of the photo, what is told and downloaded
    :param shown: the same faces in the picture that is shown, which may be smaller
    :param picture: (H, W, 3) uint8 RGB, the picture that is shown, without landmarks
    """

    faces: tuple[dict[str, Any], ...]
    landmarks: tuple[npt.NDArray[np.float32], ...]
    shown: tuple[Alignment, ...]
    picture: Image

    @property
    def iterations(self) -> int:
        """The most that a face took."""
        return max((alignment.iterations for alignment in self.shown), default=0)

    def after(self, iterations: int) -> Image:
        """The picture with each face's landmarks after so many iterations, or after its last if that was earlier."""
        return draw_alignments(
            self.picture,
            [replace(face, landmarks=face.trajectory[min(iterations, face.iterations)]) for face in self.shown],
        )

    def rows(self, columns: Sequence[str] = COLUMNS) -> list[list[Any]]:
        """A row for each face, with some of :data:`COLUMNS`."""
        rows = (
            dict(
                zip(
                    COLUMNS,
                    (i, face["iterations"], face["confidence"], *face["pose"].values(), *face["box"]),
                    strict=True,
                )
            )
            for i, face in enumerate(self.faces)
        )
        return [[row[column] for column in columns] for row in rows]


def align_upload(aligner: FaceAligner, path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> AlignedPhoto:
    """Align the faces of an uploaded photo, and delete the file.

    :raises UploadError: the file is too large or no photo
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UploadError(f"This file has more than {MAX_BYTES // 1_000_000} MB. Choose a smaller one.")
        try:
            width, height = read_image_size(path)
            if width * height > max_megapixels * 1e6:
                raise UploadError(
                    f"This photo has {width * height / 1e6:.0f} megapixels, more than {max_megapixels:g}. Choose a "
                    "smaller one."
                )
            image = read_image(path, upright=True)
        except UploadError:
            raise
        except (ValueError, OSError) as error:
            raise UploadError("This file is no picture that can be read (JPEG, PNG, WebP, TIFF, BMP, GIF).") from error
    finally:
        path.unlink(missing_ok=True)
    return align_image(aligner, image)


def align_image(aligner: FaceAligner, image: Image) -> AlignedPhoto:
    """Align the faces of a photo.

    :param image: (H, W, 3) uint8 RGB
    """
    found = aligner(image)
    picture, scale = _reduced(image)
    # Pixel centres are at integers: (p + 0.5) s - 0.5.
    shown = [
        replace(
            face, landmarks=_scaled(face.landmarks, scale), trajectory=_scaled(face.trajectory, scale),
            box=(face.box + 0.5) * scale - 0.5, image=picture,
        )
        for face in found
    ]  # fmt: skip
    return AlignedPhoto(
        tuple(face.to_dict() for face in found), tuple(face.landmarks for face in found), tuple(shown), picture
    )


def write_results(photo: AlignedPhoto, folder: Path) -> tuple[Path, Path]:
    """Write what can be downloaded.

    :return: the JSON file; and the ``.pts`` file, or a ``.zip`` with one for each of several faces
    """
    told = folder / "faces.json"
    told.write_text(json.dumps({"faces": photo.faces}, indent=1), encoding="utf-8")
    paths = [
        folder / ("face.pts" if len(photo.landmarks) == 1 else f"face_{i}.pts") for i in range(len(photo.landmarks))
    ]
    for path, landmarks in zip(paths, photo.landmarks, strict=True):
        write_pts(path, landmarks)
    if len(paths) == 1:
        return told, paths[0]
    archive = folder / "faces.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in paths:
            file.write(path, path.name)
    return told, archive


def make_page(aligner: FaceAligner, folder: Path, max_megapixels: float = MAX_MEGAPIXELS) -> Any:
    """The page, a ``gradio.Blocks``.

    :param aligner: and its detector
    :param folder: for files that can be downloaded
    :param max_megapixels: no larger photo is taken
    :raises MissingExtraError: Gradio is not installed
    """
    gr = _gradio()
    columns = [name for name in COLUMNS if name != CONFIDENCE or aligner.error_head is not None]

    def show(upload: str | None) -> tuple[Any, ...]:
        if upload is None:
            nothing = gr.update(interactive=False)
            return None, None, gr.update(value=0, maximum=1, interactive=False), [], "", nothing, nothing
        try:
            photo = align_upload(aligner, Path(upload), max_megapixels)
        except UploadError as error:
            raise gr.Error(str(error), print_exception=False) from error
        told, pts = write_results(photo, Path(tempfile.mkdtemp(dir=folder)))
        last = photo.iterations
        count = len(photo.faces)
        return (
            photo,
            photo.after(last),
            gr.update(value=last, maximum=max(last, 1), interactive=count > 0),
            photo.rows(columns),
            "No face was found." if not count else f"{count} face{'s' * (count > 1)}.",
            gr.update(value=str(told), interactive=True),
            gr.update(value=str(pts), interactive=count > 0),
        )

    def step(photo: AlignedPhoto | None, iterations: float) -> Image | None:
        return None if photo is None else photo.after(int(iterations))

    def follow(frame: Image | None, tracker: FaceTracker | None) -> tuple[Image | None, FaceTracker | None, str]:
        if frame is None:
            return None, None, ""
        tracker = tracker or FaceTracker(aligner, smooth=True, fps=CAMERA_FPS)
        picture, _ = _reduced(frame)
        faces = [each.alignment for each in tracker(picture)]
        iterations = ", ".join(str(face.iterations) for face in faces)
        return draw_alignments(picture, faces), tracker, f"Iterations: {iterations}" if faces else "No face was found."

    with gr.Blocks(title="face-align", analytics_enabled=False, delete_cache=(60, FORGET)) as page:
        gr.Markdown("# Facial landmarks, step by step")
        with gr.Tab("Photo"):
            photo = gr.State(None, time_to_live=FORGET)
            with gr.Row():
                with gr.Column(scale=1, min_width=280):
                    upload = gr.File(
                        label="Drop a photo here", file_types=["image"], type="filepath", elem_id="upload", height=140
                    )
                    slider = gr.Slider(
                        0,
                        1,
                        step=1,
                        label="Iterations (0: the first estimate)",
                        interactive=False,
                        elem_id="iterations",
                    )
                    said = gr.Markdown(elem_id="said")
                    with gr.Row():
                        as_json = gr.DownloadButton("JSON", interactive=False, elem_id="json", min_width=80)
                        as_pts = gr.DownloadButton(".pts", interactive=False, elem_id="pts", min_width=80)
                with gr.Column(scale=3):
                    picture = gr.Image(
                        label="Landmarks", interactive=False, format="jpeg", elem_id="picture", buttons=["fullscreen"]
                    )
            table = gr.Dataframe(headers=columns, label="Faces", interactive=False, elem_id="faces")
            upload.change(
                show, upload, [photo, picture, slider, table, said, as_json, as_pts], api_visibility="private"
            )
            slider.input(
                step, [photo, slider], picture, show_progress="hidden", trigger_mode="always_last",
                api_visibility="private",
            )  # fmt: skip
        with gr.Tab("Webcam"):
            tracker = gr.State(None, time_to_live=FORGET)
            with gr.Row():
                camera = gr.Image(sources=["webcam"], streaming=True, type="numpy", label="Camera", elem_id="camera")
                followed = gr.Image(label="Landmarks", interactive=False, format="jpeg", elem_id="followed", buttons=[])
            told = gr.Markdown(elem_id="told")
            camera.stream(
                follow, [camera, tracker], [followed, tracker, told], stream_every=1 / CAMERA_FPS, time_limit=FORGET,
                show_progress="hidden", api_visibility="private",
            )  # fmt: skip
        gr.Markdown("Photos stay on the computer that serves this page, and are deleted.")
    return page


@contextlib.contextmanager
def served(
    aligner: FaceAligner,
    host: str = "127.0.0.1",
    port: int | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
    open_browser: bool = False,
) -> Iterator[str]:
    """Serve the page as long as the context lasts; its address is given. Then all its files are deleted.

    :param aligner: and its detector
    :param host: address to listen at; others than the loopback's are reached by everybody in the network
    :param port: None: the first from 7860 on that is free
    :param max_megapixels: see :func:`make_page`
    :param open_browser: show the page
    :raises MissingExtraError: Gradio is not installed
    :raises OSError: the port is in use, or this computer has no such address
    """
    gr = _gradio()
    with tempfile.TemporaryDirectory(prefix="face-align-app-") as folder:
        before = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            page = make_page(aligner, Path(folder), max_megapixels)
            page.queue(max_size=32)
            # Fonts of the computer itself: Gradio's own would be asked for elsewhere.
            theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
            page.launch(
                server_name=host, server_port=port, share=False, inbrowser=open_browser, prevent_thread_lock=True,
                quiet=True, enable_monitoring=False, max_file_size=MAX_BYTES, ssr_mode=False, footer_links=[],
                state_session_capacity=64, theme=theme,
            )  # fmt: skip
            try:
                yield str(page.local_url)
            finally:
                page.close(verbose=False)
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def _gradio() -> Any:
    # Before the import: it asks for its newest version, and counts what is launched, unless this says no.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with needs("app", "The page"):
        import gradio
    return gradio


def _scaled(points: npt.NDArray[np.float32], scale: float) -> npt.NDArray[np.float32]:
    return ((points + 0.5) * scale - 0.5).astype(np.float32)


def _reduced(image: Image) -> tuple[Image, float]:
    """A picture whose longer side is at most :data:`SHOWN`, and its scale."""
    import cv2

    scale = min(1.0, SHOWN / max(image.shape[:2]))
    if scale == 1:
        return image, scale
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8), scale
