"""The report as a browser shows it: every plot there, nothing complained about, nothing fetched, no sideways scroll."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from tests import reportsamples

pytestmark = pytest.mark.browser

WIDTH, HEIGHT = 1280, 900


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    profile = tmp_path_factory.mktemp("profile")
    options.add_argument("--headless=new")
    options.add_argument(f"--window-size={WIDTH},{HEIGHT}")
    options.add_argument(f"--user-data-dir={profile}")
    options.add_argument("--disable-dev-shm-usage")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # A path of its own: without one, selenium would look for a driver to download.
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


@dataclass(frozen=True)
class Seen:
    complaints: list[str]
    requests: list[str]
    images: list[dict[str, Any]]
    page: dict[str, Any]


MEASURE = """
    const images = [...document.images].map((image) => {
        const box = image.getBoundingClientRect();
        return {alt: image.alt, natural: image.naturalWidth, width: box.width, height: box.height};
    });
    const root = document.documentElement;
    return {images, page: {wide: root.scrollWidth, shown: root.clientWidth, inner: window.innerWidth}};
"""


def log(browser: webdriver.Chrome, kind: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = browser.get_log(kind)  # type: ignore[no-untyped-call]
    return entries


def look_at(browser: webdriver.Chrome, path: Path) -> Seen:
    browser.get("about:blank")  # or the browser's own first page could still be loading
    for kind in ("browser", "performance"):
        log(browser, kind)  # what came before
    browser.get(path.as_uri())
    measured = browser.execute_script(MEASURE)
    complaints = [f"{entry['level']}: {entry['message']}" for entry in log(browser, "browser")]
    events = [json.loads(entry["message"])["message"] for entry in log(browser, "performance")]
    urls = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    return Seen(complaints, [url for url in urls if urlsplit(url).scheme != "data"], **measured)


@pytest.fixture(scope="module")
def path(folder: Path) -> Path:
    return folder / "report.html"


@pytest.fixture(scope="module")
def seen(browser: webdriver.Chrome, path: Path) -> Seen:
    return look_at(browser, path)


def test_every_plot_is_shown(seen: Seen) -> None:
    assert [image["alt"] for image in seen.images] == [plot.alt for plot in reportsamples.plots().values()]
    for image in seen.images:
        assert image["natural"] > 0, image
        assert (image["width"] > 700, image["height"] > 250) == (True, True), image


def test_the_browser_has_nothing_to_complain_of(seen: Seen) -> None:
    assert seen.complaints == []


def test_nothing_but_the_page_is_fetched(seen: Seen, path: Path) -> None:
    assert seen.requests == [path.as_uri()]


def test_it_fits_1280_pixels(seen: Seen) -> None:
    assert seen.page["inner"] == WIDTH
    assert seen.page["wide"] <= seen.page["shown"]


def test_what_a_worse_page_does_would_be_seen(browser: webdriver.Chrome, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<img alt=lost src=lost.png><script>throw new Error('complaint')</script><div style='width: 2000px'>x</div>"
    )
    seen = look_at(browser, bad)
    assert any("complaint" in complaint for complaint in seen.complaints)
    assert seen.requests[-1].endswith("/lost.png")
    assert seen.images[0]["natural"] == 0
    assert seen.page["wide"] > seen.page["shown"]
