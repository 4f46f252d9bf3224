"""Plots as PNG and SVG, by matplotlib; ``model.Plot`` says what is in one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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


def render(plot: Plot, folder: str) -> tuple[str, str]:
    """Write NAME.png and NAME.svg into ``folder`` and return their paths. Raises OSError."""
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _DRAW[plot.kind](axes, plot)
        _frame(axes, plot)
        _draw_marks(axes, plot)
        _legend(figure, axes)
        paths = os.path.join(folder, f"{plot.name}.png"), os.path.join(folder, f"{plot.name}.svg")
        figure.savefig(paths[0], metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None, "Creator": None})
    return paths


def _frame(axes: Axes, plot: Plot) -> None:
    axes.set_title(_plain(plot.title), loc="left", fontweight="bold")
    axes.set_xlabel(_plain(plot.x_label))
    axes.set_ylabel(_plain(plot.y_label))
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
        heights = [0.0 if value is None else value for value in series.y]
        style = _bar_style(series, colours)
        axes.bar(middles, heights, width * 0.94, label=_plain(series.label), yerr=_interval(series), capsize=4, **style)
        if len(groups) * len(plot.series) <= 16:
            _label_bars(axes, middles, series)
    axes.set_xticks(range(len(groups)), [_plain(_folded(group)) for group in groups])
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
    if series.low is None or series.high is None:
        return None
    pairs = list(zip(series.y, series.low, series.high, strict=True))
    below = [max((y or 0) - low, 0) for y, low, _ in pairs]
    above = [max(high - (y or 0), 0) for y, _, high in pairs]
    return [below, above]


def _label_bars(axes: Axes, middles: Sequence[float], series: Series) -> None:
    tops = series.high if series.high is not None else series.y
    for middle, value, top in zip(middles, series.y, tops, strict=True):
        if value is not None:
            axes.annotate(
                f"{value:.3g}",
                (middle, top or 0),
                xytext=(0, 4),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8.5,
            )


def _draw_lines(axes: Axes, plot: Plot, *, drawstyle: str = "default") -> None:
    for number, series in enumerate(plot.series):
        colour = _COLOURS[number % len(_COLOURS)]
        dashes = (0, (4, 3)) if series.role == "predicted" else _LINES[number // len(_COLOURS) % len(_LINES)]
        values = [float("nan") if value is None else value for value in series.y]
        axes.plot(
            _numbers(series),
            values,
            color=colour,
            linestyle=dashes,
            linewidth=1.8,
            drawstyle=drawstyle,
            label=_plain(series.label),
        )
        if series.low is not None and series.high is not None:
            axes.fill_between(_numbers(series), series.low, series.high, color=colour, alpha=0.15)


def _draw_steps(axes: Axes, plot: Plot) -> None:
    _draw_lines(axes, plot, drawstyle="steps-post")


def _draw_points(axes: Axes, plot: Plot) -> None:
    for number, series in enumerate(plot.series):
        pairs = [(x, y) for x, y in zip(_numbers(series), series.y, strict=True) if y is not None]
        axes.plot(
            [x for x, _ in pairs],
            [y for _, y in pairs],
            linestyle="none",
            marker="o",
            markersize=6,
            alpha=0.7,
            color=_COLOURS[number % len(_COLOURS)],
            label=_plain(series.label),
        )
    places = sorted({x for series in plot.series for x in _numbers(series)})
    if len(places) <= _FEW and not plot.log_x:  # numbers of containers: between them there is nothing
        axes.set_xticks(places, [f"{place:g}" for place in places])


def _numbers(series: Series) -> list[float]:
    return [float(x) for x in series.x]


def _folded(text: str) -> str:
    """Long names of groups on two lines."""
    if len(text) <= 18 or " " not in text:
        return text
    words, lines = text.split(), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) >= 18:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A dollar sign begins a formula, and an underscore hides a label from the legend."""
    shown = "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)
    shown = shown.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


_DRAW = {"bars": _draw_bars, "lines": _draw_lines, "steps": _draw_steps, "points": _draw_points}
