"""The report as a browser shows it: headless Chromium, of Debian's package, driven by WebDriver."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from wherry.experiments import report
from wherry.experiments.model import Conclusion, Mark, Plot, Result, Series, Table

WIDTH = 1280
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromium-driver (make setup-test)"),
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER or ""
    profile = tmp_path_factory.mktemp("profile")
    for word in (
        "--headless=new",
        f"--window-size={WIDTH},900",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(word)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to start as root with it
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.get("about:blank")  # away from its start page, which loads much
    yield driver
    driver.quit()


def log(browser: webdriver.Chrome, kind: str) -> list[str]:
    """Messages since the last call."""
    entries: list[dict[str, str]] = browser.get_log(kind)  # type: ignore[no-untyped-call]
    return [entry["message"] for entry in entries]


def forget(browser: webdriver.Chrome) -> None:
    for kind in ("performance", "browser"):
        log(browser, kind)


def plot(name: str, kind: Any) -> Plot:
    return Plot(
        name=name,
        kind=kind,
        title="Share over time",
        x_label="time (s)",
        y_label="share (%)",
        alt=f"what {name} shows",
        series=[Series(label=label, x=[0.0, 1.0, 2.0], y=[5.0, 4.0, 1.0]) for label in ("a", "b")],
        marks=[Mark(label="change", x=1.0)] if kind == "lines" else [],
    )


def result(name: str) -> Result:
    table = Table(title="Shares", columns=("NAME", "SHARE %"), rows=[("a", 75.0), ("b", 25.0)], bar="SHARE %")
    plots = [plot(f"{name}-{kind}", kind) for kind in ("lines", "bars", "points")]
    return Result(
        experiment=name,
        title="shares",
        method="Measured.",
        started="2026-11-24T10:00:00+00:00",
        setup={"scheduler features": "PLACE_LAG " * 60},
        settings={"cpu": 0},
        conclusion=Conclusion(tables=[table], plots=plots, findings=["It was so."]),
    )


@pytest.fixture
def page(browser: webdriver.Chrome, tmp_path: Path) -> webdriver.Chrome:
    forget(browser)
    browser.get(Path(report.write([result("one"), result("two")], str(tmp_path))).as_uri())
    return browser


def test_every_plot_is_rendered_and_fits(page: webdriver.Chrome) -> None:
    images = page.find_elements(By.TAG_NAME, "img")
    assert [image.get_attribute("alt") for image in images] == [
        f"what {name}-{kind} shows" for name in ("one", "two") for kind in ("lines", "bars", "points")
    ]
    for image in images:
        assert page.execute_script("return arguments[0].complete && arguments[0].naturalWidth > 0", image)
        assert image.size["width"] > WIDTH / 2
        assert image.size["height"] > 200
    assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_bars_of_the_table_have_their_lengths(page: webdriver.Chrome) -> None:
    first, second = (bar.size["width"] for bar in page.find_elements(By.CSS_SELECTOR, "#one .bar div"))
    assert first == pytest.approx(3 * second, abs=2)


def test_nothing_is_loaded_and_the_console_is_silent(page: webdriver.Chrome) -> None:
    messages = [json.loads(message)["message"] for message in log(page, "performance")]
    asked = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    assert page.current_url in asked, "the log does not see requests"
    assert [address for address in asked if not address.startswith(("data:", "file:"))] == []
    assert {address for address in asked if address.startswith("file:")} == {page.current_url}
    assert log(page, "browser") == []


def test_requests_and_errors_of_a_bad_page_are_seen(browser: webdriver.Chrome, tmp_path: Path) -> None:
    """That nothing was seen above means something."""
    path = tmp_path / "bad.html"
    path.write_text("<img src='other.png'><script>console.error('no')</script>")
    forget(browser)
    browser.get(path.as_uri())
    requests = [message for message in log(browser, "performance") if "requestWillBeSent" in message]
    assert any("other.png" in message for message in requests)
    assert any('"no"' in message for message in log(browser, "browser"))
