"""Plots as PNG and SVG, by matplotlib; ``model.Plot`` says what is in one."""

from __future__ import annotations

import io
import math
import os
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wherry.experiments import atomic_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from wherry.experiments.model import Plot, Series

# Okabe and Ito's colours, which differ for every kind of colour vision; black is for marks.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F", "#666666")
_LINES = ("-", "--", "-.", ":")
_INCHES = (10.5, 4.6)  # 1155 pixels: fits a page 1280 wide
_DPI = 110
_FEW = 12  # places on the x axis that are each named
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_SHOWN_EACH = 20  # points of a line that are shown each, with its interval
_LONGEST_LABEL, _LONGEST_TITLE, _LONGEST_AXIS_LABEL = 40, 100, 45  # longer ones would leave no room for the data
_GROUP_LINE, _TITLE_LINE = 18, 52
_CROWDED = 90  # characters of the names of groups that stand side by side
_SETTINGS: dict[Any, Any] = {
    "font.size": 11,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "wherry",
    "hatch.linewidth": 0.6,
}


def render(plot: Plot, folder: str) -> bytes:
    """Write NAME.png and NAME.svg into ``folder`` and return the SVG. Raises OSError."""
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _DRAW[plot.kind](axes, plot)
        _frame(axes, plot)
        _draw_marks(axes, plot)
        if not any(_is_there(value) for series in plot.series for value in series.y):
            axes.text(0.5, 0.5, "nothing was measured", transform=axes.transAxes, ha="center", color="#666666")
        _legend(figure, axes)
        png = _drawn(figure, "png", {"Software": None})
        svg = _drawn(figure, "svg", {"Date": None, "Creator": None})
    for form, content in (("png", png), ("svg", svg)):
        atomic_file.replace(os.path.join(folder, f"{plot.name}.{form}"), content)
    return svg


def _drawn(figure: Figure, form: str, metadata: dict[str, None]) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format=form, metadata=metadata)
    return content.getvalue()


def _frame(axes: Axes, plot: Plot) -> None:
    axes.set_title(_folded(_plain(plot.title, _LONGEST_TITLE), _TITLE_LINE), loc="left", fontweight="bold")
    axes.set_xlabel(_plain(plot.x_label, _LONGEST_AXIS_LABEL))
    axes.set_ylabel(_plain(plot.y_label, _LONGEST_AXIS_LABEL))
    if plot.log_x:
        axes.set_xscale("log")
    if plot.log_y:
        axes.set_yscale("log")
    elif plot.y_from_zero:
        axes.set_ylim(bottom=0)


def _draw_marks(axes: Axes, plot: Plot) -> None:
    colours = {series.label: _COLOURS[number % len(_COLOURS)] for number, series in enumerate(plot.series)}
    drawn: dict[str | None, int] = {}
    for mark in plot.marks:
        number = drawn[mark.of] = drawn.get(mark.of, -1) + 1
        colour = "black" if mark.of is None else colours.get(mark.of, "black")
        style: dict[str, Any] = {"color": colour, "linestyle": (":", "--", "-.")[number % 3], "linewidth": 1.4}
        if mark.x is not None:
            axes.axvline(mark.x, label=_plain(mark.label), **style)
        elif mark.y is not None:
            axes.axhline(mark.y, label=_plain(mark.label), **style)


def _legend(figure: Figure, axes: Axes) -> None:
    """Beside the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1 or (labels and axes.lines):
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize="small")


def _draw_bars(axes: Axes, plot: Plot) -> None:
    groups = [str(group) for group in plot.series[0].x] if plot.series else []
    width = 0.8 / max(len(plot.series), 1)
    colours: dict[str, str] = {}
    for number, series in enumerate(plot.series):
        middles = [group + (number - (len(plot.series) - 1) / 2) * width for group in range(len(groups))]
        heights = _values(series)
        style = _bar_style(series, colours)
        axes.bar(middles, heights, width * 0.94, label=_plain(series.label), yerr=_interval(series), capsize=4, **style)
        if len(groups) * len(plot.series) <= 16:
            _label_bars(axes, middles, series)
    names = [_plain(group) for group in groups]
    if sum(map(len, names)) > _CROWDED:
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor", fontsize="small")
    else:
        axes.set_xticks(range(len(names)), [_folded(name) for name in names])
    axes.set_xlim(-0.6, max(len(names), 1) - 0.4)
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.12)


def _bar_style(series: Series, colours: dict[str, str]) -> dict[str, Any]:
    """What was predicted is hollow and hatched, in the colour of "X" where it is called "X, predicted"."""
    what = series.label.removesuffix(", predicted") if series.role == "predicted" else series.label
    key = what if what in colours or series.label.endswith(", predicted") else series.role
    colour = colours.setdefault(key, _COLOURS[len(colours) % len(_COLOURS)])
    if series.role == "predicted":
        return {"facecolor": "white", "edgecolor": colour, "hatch": "///", "ecolor": "black"}
    return {"facecolor": colour, "edgecolor": colour, "ecolor": "black"}


def _interval(series: Series) -> list[list[float]] | None:
    """Lengths below and above each value; none around a value that is not there."""
    if series.low is None or series.high is None:
        return None
    triples = list(zip(_values(series), series.low, series.high, strict=True))
    below = [0.0 if math.isnan(value) else max(value - low, 0.0) for value, low, _ in triples]
    above = [0.0 if math.isnan(value) else max(high - value, 0.0) for value, _, high in triples]
    return [below, above]


def _label_bars(axes: Axes, middles: Sequence[float], series: Series) -> None:
    tops = series.high if series.high is not None else series.y
    for middle, value, top in zip(middles, series.y, tops, strict=True):
        if value is not None and _is_there(value):
            axes.annotate(
                f"{value:.3g}",
                (middle, value if top is None else max(value, top)),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8.5,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},  # a mark's line may run there
                zorder=5,
            )


def _draw_lines(axes: Axes, plot: Plot, *, drawstyle: str = "default") -> None:
    for number, series in enumerate(plot.series):
        colour = _COLOURS[number % len(_COLOURS)]
        dashes = (0, (4, 3)) if series.role == "predicted" else _LINES[number // len(_COLOURS) % len(_LINES)]
        style: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": 1.8, "drawstyle": drawstyle}
        label, places, values = _plain(series.label), _numbers(series), _values(series)
        if len(values) <= _SHOWN_EACH and series.role == "measured":
            marker = _MARKERS[number % len(_MARKERS)]
            axes.errorbar(
                places, values, _interval(series), label=label, marker=marker, markersize=5, capsize=4, **style
            )
            continue
        axes.plot(places, values, label=label, **style)
        if series.low is not None and series.high is not None:
            there = [_is_there(value) for value in series.y]
            axes.fill_between(places, series.low, series.high, where=there, color=colour, alpha=0.15, linewidth=0)


def _draw_steps(axes: Axes, plot: Plot) -> None:
    _draw_lines(axes, plot, drawstyle="steps-post")


def _draw_points(axes: Axes, plot: Plot) -> None:
    for number, series in enumerate(plot.series):
        axes.errorbar(
            _numbers(series),
            _values(series),
            _interval(series),
            linestyle="none",
            marker=_MARKERS[number % len(_MARKERS)],
            fillstyle="none" if series.role == "predicted" else "full",
            markersize=max(9 - 2 * number, 4),  # of points at the same place each is seen
            capsize=4,
            alpha=0.7,
            color=_COLOURS[number % len(_COLOURS)],
            label=_plain(series.label),
        )
    places = sorted({x for series in plot.series for x in _numbers(series)})
    if len(places) <= _FEW and not plot.log_x:  # numbers of containers: between them there is nothing
        axes.set_xticks(places, [f"{place:g}" for place in places])


def _numbers(series: Series) -> list[float]:
    return [float(x) for x in series.x]


def _values(series: Series) -> list[float]:
    """NaN, which is not drawn, for what is not there: 0 would be a measurement."""
    return [value if value is not None and _is_there(value) else math.nan for value in series.y]


def _is_there(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _folded(text: str, width: int = _GROUP_LINE) -> str:
    """Long names of groups on two lines, long titles beside the legend."""
    if len(text) <= width or " " not in text:
        return text
    words, lines = text.split(), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _plain(text: str, longest: int = _LONGEST_LABEL) -> str:
    """A dollar sign begins a formula, and an underscore hides a label from the legend."""
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    shown = shown if len(shown) <= longest else f"{shown[: longest - 1]}\N{HORIZONTAL ELLIPSIS}"
    shown = shown.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


_DRAW = {"bars": _draw_bars, "lines": _draw_lines, "steps": _draw_steps, "points": _draw_points}
