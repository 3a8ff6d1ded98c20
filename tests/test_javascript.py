"""The example in JavaScript, in a browser: the landmarks of a photo are those of FaceAligner."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from writers.browser import WAIT, chromium

from face_align_env.aligner import FaceAligner, export
from face_align_env.datasets import load_dataset

EXAMPLE = Path(__file__).parent.parent / "examples" / "javascript"

pytestmark = pytest.mark.skipif(
    not (EXAMPLE / "node_modules" / "onnxruntime-web").is_dir(),
    reason="ONNX Runtime Web is not installed (npm ci in examples/javascript)",
)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The example's address; its folder has the model 300w-19.onnx."""
    folder = tmp_path / "site"
    folder.mkdir()
    for name in ("index.html", "align.js", "node_modules"):
        (folder / name).symlink_to(EXAMPLE / name)
    pytest.importorskip("onnx", reason="the extra export is not installed")
    (folder / "300w-19.onnx").write_bytes(export.build(FaceAligner.from_pretrained("300w-19"), "photo"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_page_aligns_the_face_in_a_box(site: str, tmp_path: Path) -> None:
    face = load_dataset("synthetic", "test", size=1)[0]
    photo = tmp_path / "face.png"
    cv2.imwrite(str(photo), face.image[:, :, ::-1])
    with chromium(tmp_path / "profile") as browser:
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(browser, WAIT)
        browser.get(f"{site}/?model=300w-19.onnx")
        status = browser.find_element(By.ID, "status")
        wait.until(lambda _: "Loading" not in status.text)
        assert status.text == "Ready."
        browser.find_element(By.ID, "photo").send_keys(str(photo))
        wait.until(lambda _: status.text == "Drag a box over a face.")
        canvas = browser.find_element(By.ID, "canvas")
        browser.execute_script(
            "window.found = null; arguments[0].addEventListener('aligned', e => { window.found = e.detail })", canvas
        )
        x0, y0, x1, y1 = (int(edge) for edge in face.box.round())
        middle = face.image.shape[1] // 2, face.image.shape[0] // 2
        drag = ActionChains(browser).move_to_element_with_offset(canvas, x0 - middle[0], y0 - middle[1])
        drag.click_and_hold().move_by_offset(x1 - x0, y1 - y0).release().perform()
        found = wait.until(lambda _: browser.execute_script("return window.found"))
        assert "19 landmarks" in status.text
    (expected,) = FaceAligner.from_pretrained("300w-19")(face.image, np.float32(found["box"]))
    assert np.abs(np.array(found["box"]) - face.box).max() < 3, "the box is where it was dragged"
    assert found["iterations"] == expected.iterations
    assert np.abs(np.array(found["landmarks"]) - expected.landmarks).max() < 0.01


def test_a_missing_model_is_said(site: str, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as browser:
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support.ui import WebDriverWait

        browser.get(f"{site}/?model=none.onnx")
        status = browser.find_element(By.ID, "status")
        WebDriverWait(browser, WAIT).until(lambda _: "Loading" not in status.text)
        assert status.text.startswith("The model 'none.onnx' cannot be loaded")
        assert not browser.find_element(By.ID, "photo").is_enabled()
