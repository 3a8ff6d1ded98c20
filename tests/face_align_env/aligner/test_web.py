"""The page of face-align app, in a browser: upload, slider, table, download, camera; and what is refused."""

from __future__ import annotations

import base64
import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from writers.browser import WAIT, chromium

from face_align_env.aligner import FaceAligner, web
from face_align_env.datasets import load_dataset
from face_align_env.datasets.pts import read_pts


@pytest.fixture(scope="module")
def aligner() -> FaceAligner:
    return FaceAligner.from_pretrained("synthetic-68")


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    return load_dataset("synthetic", "test", size=1)[0].image


def png(image: np.ndarray, path: Path) -> Path:
    Image.fromarray(image).save(path)
    return path


# Without a browser ------------------------------------------------------------------------------------------------


def test_an_upload_is_aligned_and_deleted(aligner: FaceAligner, face: np.ndarray, tmp_path: Path) -> None:
    upload = png(np.concatenate([face, face], axis=1), tmp_path / "two.png")
    photo = web.align_upload(aligner, upload)
    assert not upload.exists()
    assert [row[:2] for row in photo.rows()] == [[i, each["iterations"]] for i, each in enumerate(photo.faces)]
    assert len(photo.rows()) == 2
    assert all(len(row) == len(web.COLUMNS) for row in photo.rows())
    first, last = photo.after(0), photo.after(photo.iterations)
    assert (first != last).any(), "the slider shows the refinement"
    assert (photo.after(99) == last).all()
    told, archive = web.write_results(photo, tmp_path)
    assert len(json.loads(told.read_text())["faces"]) == 2
    with zipfile.ZipFile(archive) as file:
        assert file.namelist() == ["face_0.pts", "face_1.pts"]


def test_what_is_shown_is_small_and_what_is_told_is_in_pixels_of_the_photo(
    aligner: FaceAligner, face: np.ndarray
) -> None:
    large = cv2.resize(face, (2560, 2560), interpolation=cv2.INTER_CUBIC)
    photo = web.align_image(aligner, large)
    assert photo.picture.shape == (web.SHOWN, web.SHOWN, 3)
    told = np.array(photo.faces[0]["landmarks"])
    assert np.abs(told / 2 - photo.shown[0].landmarks).max() < 0.5


def test_nobody_is_no_face(aligner: FaceAligner, tmp_path: Path) -> None:
    photo = web.align_image(aligner, np.full((90, 120, 3), 128, np.uint8))
    assert (photo.rows(), photo.iterations) == ([], 0)
    assert (photo.after(3) == 128).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no picture that can be read"),
        (b"just text", "no picture that can be read"),
        (b"%PDF-1.4", "no picture that can be read"),
        ("large", "2 megapixels, more than 1"),
        ("long", "more than 0 MB"),
        ("cut", "no picture that can be read"),
    ],
)
def test_uploads_are_checked_and_deleted(
    aligner: FaceAligner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | str, message: str
) -> None:
    upload = tmp_path / "upload"
    if content == "long":
        monkeypatch.setattr(web, "MAX_BYTES", 3)
    if isinstance(content, str):
        side = 1500 if content == "large" else 100
        data = io.BytesIO()
        Image.effect_noise((side, side), 90).convert("RGB").save(data, "JPEG")
        content = data.getvalue()[: 2000 if content == "cut" else None]
    upload.write_bytes(content)
    with pytest.raises(web.UploadError, match=message):
        web.align_upload(aligner, upload, max_megapixels=1)
    assert list(tmp_path.iterdir()) == []


# With a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(aligner: FaceAligner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The page's address, and the folder for its files."""
    pytest.importorskip("gradio", reason="the extra app is not installed")
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(folder))
        with web.served(aligner) as address:
            assert address.startswith("http://127.0.0.1:")
            yield address, folder
    assert list(folder.iterdir()) == [], "files are deleted with the page"


def pictures(browser: Any, element: str) -> list[np.ndarray]:
    """The picture that an image of the page shows, (H, W, 3) BGR, if it shows one."""
    script = """
        const [id, done] = arguments, image = document.querySelector(`#${id} img`);
        if (!image || !image.complete || !image.naturalWidth) return done(null);
        fetch(image.src).then(r => r.blob()).then(blob => {
            const reader = new FileReader();
            reader.onload = () => done(reader.result.split(",")[1]);
            reader.readAsDataURL(blob);
        });"""
    data = browser.execute_async_script(script, element)
    return [] if data is None else [cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)]


def test_a_photo_is_dropped_refined_and_downloaded(
    site: tuple[str, Path], face: np.ndarray, tmp_path: Path, aligner: FaceAligner
) -> None:
    address, files = site
    photo, downloads = png(face, tmp_path / "photo.png"), tmp_path / "downloads"
    downloads.mkdir()
    (expected,) = aligner(face)
    with chromium(tmp_path / "profile", downloads=downloads) as browser:
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(browser, WAIT)
        browser.get(address)
        wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, "#upload input[type=file]"))
        browser.find_element(By.CSS_SELECTOR, "#upload input[type=file]").send_keys(str(photo))
        wait.until(lambda _: browser.find_element(By.ID, "said").text == "1 face.")
        (last,) = wait.until(lambda _: pictures(browser, "picture"))
        slider = browser.find_element(By.CSS_SELECTOR, "#iterations input[type=range]")
        assert int(float(slider.get_attribute("value"))) == expected.iterations
        slider.send_keys(Keys.HOME)

        wait.until(lambda _: [1 for now in pictures(browser, "picture") if np.abs(now.astype(int) - last).max() > 60])
        cells = browser.find_element(By.ID, "faces").text.splitlines()
        assert cells[cells.index("bottom") + 1 :][:2] == ["0", str(expected.iterations)]
        for name, file in (("json", "faces.json"), ("pts", "face.pts")):
            browser.find_element(By.ID, name).click()
            wait.until(lambda _, file=file: (downloads / file).exists())
    told = json.loads((downloads / "faces.json").read_text())["faces"]
    assert np.abs(np.array(told[0]["landmarks"]) - expected.landmarks).max() < 0.01
    assert np.abs(read_pts(downloads / "face.pts") - expected.landmarks).max() < 0.01
    kept = [path for path in files.rglob("*") if path.is_file() and path.read_bytes() == photo.read_bytes()]
    assert kept == [], "the upload is deleted"


def test_what_is_no_picture_is_refused_in_one_sentence(site: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with chromium(tmp_path / "profile") as browser:
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(browser, WAIT)
        browser.get(site[0])
        wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, "#upload input[type=file]"))
        browser.find_element(By.CSS_SELECTOR, "#upload input[type=file]").send_keys(str(tmp_path / "text.png"))
        wait.until(lambda _: "This file is no picture" in browser.find_element(By.TAG_NAME, "body").text)


def test_the_camera_is_followed(site: tuple[str, Path], face: np.ndarray, tmp_path: Path) -> None:
    """The browser's camera shows a file."""
    video = tmp_path / "camera.mjpeg"
    frame = cv2.copyMakeBorder(face, 112, 112, 192, 192, cv2.BORDER_REPLICATE)  # 640 x 480
    video.write_bytes(cv2.imencode(".jpg", frame[:, :, ::-1])[1].tobytes() * 30)
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with chromium(tmp_path / "profile", *camera, f"--use-file-for-fake-video-capture={video}") as browser:
        from selenium.webdriver.common.by import By
        from selenium.webdriver.support.ui import WebDriverWait

        wait = WebDriverWait(browser, WAIT)
        browser.get(site[0])
        wait.until(lambda _: browser.find_elements(By.CSS_SELECTOR, "button[role=tab]"))
        next(tab for tab in browser.find_elements(By.CSS_SELECTOR, "button[role=tab]") if tab.text == "Webcam").click()

        def press(_: Any) -> bool:
            """Whatever the page wants to have pressed before it follows: access, then recording."""
            for button in browser.find_elements(By.CSS_SELECTOR, "#camera button"):
                if button.is_displayed() and button.is_enabled():
                    browser.execute_script("arguments[0].click()", button)
                    time.sleep(1)
                    break
            told = browser.find_elements(By.ID, "told")
            return bool(told) and told[0].text.startswith("Iterations: ")

        wait.until(press)
        wait.until(lambda _: pictures(browser, "followed"))
