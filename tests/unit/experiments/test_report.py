"""The report's files: a page that needs nothing else and in which text stays text, and the data as JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests import reportsamples
from tests.reportsamples import HOSTILE, LONG

from wherry.experiments import plots, report
from wherry.experiments.model import Conclusion, Plot

ROOT = Path(__file__).parents[3]
EMPTY_ELEMENTS = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Raises AssertionError for tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in EMPTY_ELEMENTS:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_text_from_outside_stays_text(page: Page) -> None:
    assert page.of("script") == []
    assert page.text.count(HOSTILE) >= 8, "title, method, setup, tables, findings"
    assert LONG in page.text
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_it_refers_to_nothing_outside_itself(page: Page) -> None:
    targets = [
        value or ""
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in {"src", "href", "srcset", "action", "data", "poster"}
    ]
    assert targets
    assert [target for target in targets if not target.startswith(("data:", "#"))] == []
    css = "".join(re.findall(r"<style>.*?</style>", page.rawdata, re.DOTALL))
    assert "url(" not in css
    assert "@import" not in css


def test_every_plot_is_in_it_with_words_for_it(page: Page) -> None:
    images = page.of("img")
    assert [image["alt"] for image in images] == [plot.alt for plot in reportsamples.plots().values()]
    assert all((image["src"] or "").startswith("data:image/svg+xml;base64,") for image in images)


def test_it_says_what_was_run_and_that_it_ended_early(page: Page) -> None:
    assert "engine experiment run sample --cpu 1 --seconds 2.5 --repeat 3 --nices=-5,0" in page.text
    assert "Ended by an error" in page.text
    assert "no supervisor is running" in page.text


@pytest.mark.parametrize(
    ("interrupted", "error", "said"), [(True, "interrupted", "Interrupted"), (False, "", None)], ids=["ctrl-c", "whole"]
)
def test_only_what_ended_early_says_so(tmp_path: Path, interrupted: bool, error: str, said: str | None) -> None:
    short = replace(reportsamples.result(), conclusion=Conclusion(), interrupted=interrupted, error=error)
    shown = Page(Path(report.write([short], str(tmp_path))).read_text(encoding="utf-8"))
    notes = [each for each in shown.of("p") if each.get("class") == "ended-early"]
    assert len(notes) == (said is not None)
    assert said is None or said in shown.text


def test_numbers_stand_on_the_right_and_have_bars(page: Page) -> None:
    assert len([cell for cell in page.of("td") if cell.get("class") == "number"]) >= 6
    widths = [each["style"] for each in page.of("div")]
    assert widths == ["width: 100.0%", "width: 0.0%", "width: 0.0%"]


def refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is not JSON")


def test_the_data_come_back_from_the_json(folder: Path) -> None:
    found = json.loads((folder / "sample.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert found["schema"] == report.SCHEMA
    assert found["data"] == {"windows": [{"a": 0.5}, {"a": None}], "text": HOSTILE}
    assert found["setup"][HOSTILE] == HOSTILE
    assert [plot["name"] for plot in found["conclusion"]["plots"]] == list(reportsamples.plots())


def test_nothing_else_is_written(folder: Path) -> None:
    names = {f"{name}.{suffix}" for name in reportsamples.plots() for suffix in ("png", "svg")}
    assert {path.name for path in folder.iterdir()} == names | {"report.html", "sample.json"}


def test_a_second_run_replaces_its_own_files_only(tmp_path: Path) -> None:
    other = tmp_path / "nice.json"
    other.write_text("mine")
    result = replace(reportsamples.result(), conclusion=Conclusion())
    report.write([result], str(tmp_path))
    report.write([replace(result, title="the second")], str(tmp_path))
    assert json.loads((tmp_path / "sample.json").read_text())["title"] == "the second"
    assert (other.read_text(), len(list(tmp_path.iterdir()))) == ("mine", 3)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "x" * 65, "a\0b", "report html"])
def test_names_that_are_no_file_names_are_refused(tmp_path: Path, name: str) -> None:
    plot = Plot(name=name, kind="lines", title="", x_label="", y_label="", alt="", series=[])
    good = reportsamples.result()
    for bad in (replace(good, experiment=name), replace(good, conclusion=Conclusion(plots=[plot]))):
        inside = tmp_path / "inside"
        inside.mkdir(exist_ok=True)
        with pytest.raises(ValueError, match="no file name"):
            report.write([bad], str(inside))
    assert list(tmp_path.iterdir()) == [tmp_path / "inside"]


def test_a_wheel_has_the_template(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert "wherry/experiments/report.html.j2" in zipfile.ZipFile(wheel).namelist()


def test_a_link_that_somebody_has_put_there_is_not_followed(tmp_path: Path) -> None:
    """The folder may be below /tmp."""
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_text("precious")
    out.mkdir()
    for name in ("report.html", "report.html.part", "sample.json", "bars.png"):
        (out / name).symlink_to(victim)
    result = reportsamples.result()
    report.write([replace(result, conclusion=Conclusion(plots=[reportsamples.plots()["bars"]]))], str(out))
    assert not (out / "bars.png").is_symlink()
    assert victim.read_text() == "precious"
    assert not (out / "report.html").is_symlink()
    assert (out / "report.html").stat().st_mode & 0o777 == 0o644


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    (tmp_path / "report.html/x").touch()
    with pytest.raises(OSError, match=r"report\.html"):
        report.write([replace(reportsamples.result(), conclusion=Conclusion())], str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "sample.json"}


def test_each_result_is_drawn_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def draw(plot: Plot, _folder: str) -> bytes:
        drawn.append(plot.name)
        return b"<svg/>"

    monkeypatch.setattr(plots, "render", draw)
    result = reportsamples.result()
    growing = report.Report(str(tmp_path))
    growing.add(result)
    growing.add(replace(result, experiment="second"))
    assert len(drawn) == 2 * len(result.conclusion.plots)
    assert Page(Path(growing.path).read_text(encoding="utf-8")).text.count("begun") >= 2
