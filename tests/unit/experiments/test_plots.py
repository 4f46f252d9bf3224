"""Plots as files: drawn whatever is in them, the same each time, and holes are not zeros."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.reportsamples import HOSTILE
from tests.reportsamples import plots as sample_plots

from wherry.experiments import plots
from wherry.experiments.model import Plot, Series

SAMPLES = sample_plots()
SVG = "{http://www.w3.org/2000/svg}"


def bars(y: list[float | None], **fields: Any) -> Plot:
    series = [Series(label="measured", x=["a", "b", "c"][: len(y)], y=y, **fields)]
    return Plot(name="one", kind="bars", title="t", x_label="x", y_label="y (s)", alt="a", series=series)


def size_of_png(path: Path) -> tuple[int, int]:
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    return width, height


# The project turns warnings into errors: a layout that matplotlib gives up on fails here.
@pytest.mark.parametrize("name", SAMPLES)
def test_every_kind_is_drawn_no_wider_than_a_page(tmp_path: Path, name: str) -> None:
    svg = plots.render(SAMPLES[name], str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.png", f"{name}.svg"}
    width, height = size_of_png(tmp_path / f"{name}.png")
    assert 800 <= width <= 1280
    assert 300 <= height <= 900
    assert ElementTree.fromstring(svg).tag == f"{SVG}svg"
    assert (tmp_path / f"{name}.svg").read_bytes() == svg


@pytest.mark.parametrize("name", ["bars", "many", "hostile"])
def test_the_same_plot_gives_the_same_bytes(tmp_path: Path, name: str) -> None:
    def made() -> list[bytes]:
        plots.render(SAMPLES[name], str(tmp_path))
        return [path.read_bytes() for path in sorted(tmp_path.iterdir())]

    assert made() == made()


def test_labels_cannot_add_elements_to_the_svg(tmp_path: Path) -> None:
    svg = plots.render(SAMPLES["hostile"], str(tmp_path))
    tags = {element.tag for element in ElementTree.fromstring(svg).iter()}
    assert f"{SVG}script" not in tags
    assert f"{SVG}a" not in tags
    assert HOSTILE not in svg.decode()


def rendered(plot: Plot, folder: Path) -> bytes:
    plots.render(plot, str(folder))
    return (folder / f"{plot.name}.png").read_bytes()


def test_a_hole_is_not_drawn_as_zero(tmp_path: Path) -> None:
    assert rendered(bars([2.0, None]), tmp_path) != rendered(bars([2.0, 0.0]), tmp_path)
    assert rendered(bars([2.0, None]), tmp_path) == rendered(bars([2.0, float("nan")]), tmp_path)


def test_no_interval_is_drawn_around_a_hole(tmp_path: Path) -> None:
    wide = bars([2.0, None], low=[1.0, 0.0], high=[3.0, 1.0])
    none = bars([2.0, None], low=[1.0, 0.0], high=[3.0, 0.0])
    assert rendered(wide, tmp_path) == rendered(none, tmp_path)


@pytest.mark.parametrize("kind", ["bars", "lines", "points"])
def test_intervals_are_seen(tmp_path: Path, kind: Any) -> None:
    x: Any = ["a", "b"] if kind == "bars" else [1.0, 2.0]
    with_interval = Series(label="s", x=x, y=[2.0, 3.0], low=[1.5, 2.5], high=[2.2, 3.0])
    without = Series(label="s", x=x, y=[2.0, 3.0])
    pictures = [
        rendered(Plot(name="p", kind=kind, title="t", x_label="x", y_label="y", alt="", series=[each]), tmp_path)
        for each in (with_interval, without)
    ]
    assert pictures[0] != pictures[1]


def test_what_is_predicted_looks_different(tmp_path: Path) -> None:
    assert rendered(bars([2.0], role="predicted"), tmp_path) != rendered(bars([2.0]), tmp_path)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        plots.render(bars([1.0]), str(tmp_path / "nowhere"))
