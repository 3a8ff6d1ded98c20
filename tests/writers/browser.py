"""A headless Chromium for tests of pages, where there is one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--window-size=1280,1400",
)  # fmt: skip
WAIT = 120  # seconds for what a page does; a machine may be busy


@contextmanager
def chromium(folder: Path, *flags: str, downloads: Path | None = None) -> Iterator[Any]:
    """A WebDriver. Skips the test where Selenium, Chromium or its driver is missing.

    :param folder: a fresh one, for the browser's profile
    :param flags: further ones of the command line
    :param downloads: where files go that a page offers
    """
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("there is no Chromium with its driver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={folder}", *flags):
        options.add_argument(flag)
    if downloads is not None:
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    session = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        session.set_script_timeout(WAIT)
        yield session
    finally:
        session.quit()
