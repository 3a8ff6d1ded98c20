"""``face-align app``: a page for photos and the webcam."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from face_align_env.agents.cli.options import announce
from face_align_env.agents.cli.photos import DetectorOption, DeviceOption, MinFaceOption, WeightsOption, make_aligner

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def app(
    weights: WeightsOption = "300w-68",
    host: Annotated[
        str, typer.Option(help="Address to listen at. The default is reached from this computer only.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; default: the first from 7860 on that is free.")
    ] = None,
    max_megapixels: Annotated[float, typer.Option(help="Larger photos are refused.")] = 30.0,
    open_browser: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    detector: DetectorOption = "auto",
    min_face: MinFaceOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """A page in the browser: landmarks of a photo, iteration by iteration, and of the webcam.

    Photos stay on this computer and are deleted. Ctrl-C ends it.
    """
    from face_align_env.aligner.web import served

    if max_megapixels <= 0:
        raise ValueError(f"--max-megapixels must be positive, got {max_megapixels:g}.")
    aligner = make_aligner(weights, device, detector, min_face)
    with served(aligner, host, port, max_megapixels, open_browser) as address:
        announce(f"{address} (Ctrl-C ends it)")
        if host not in LOOPBACK:
            announce("Everybody who reaches this computer can use the page: there is no password.")
        threading.Event().wait()
