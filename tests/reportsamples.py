"""Results of experiments that never ran, with everything in them that a report has to survive."""

from __future__ import annotations

import math

from wherry.experiments.model import Conclusion, Mark, Plot, Result, Series, Table

HOSTILE = '<script>alert("1")</script> \' & \x1b[31m$x_1$ https://example.invalid/a.png'
LONG = "a-very-long-name-" * 12

_WINDOW = [float(second) for second in range(30)]
_KINDS = ["a: busy", "b: idle after some long time", "c: alone"]


def _plot(name: str, **fields: object) -> Plot:
    given: dict[str, object] = {"title": name, "x_label": "time (s)", "y_label": "share of the CPU (%)", "alt": name}
    return Plot(name=name, **(given | fields))  # type: ignore[arg-type]


def _wave(number: int) -> list[float | None]:
    return [number + 2 + 2 * math.sin(second / 4 + number) for second in _WINDOW]


def plots() -> dict[str, Plot]:
    """One of each kind, and the odd ones: nothing in it, holes, intervals, 20 series, hostile and endless labels."""
    bars = [
        Series(label="predicted by weight", x=_KINDS, y=[62.1, 30.4, 7.5], role="predicted"),
        Series(label="measured", x=_KINDS, y=[60.0, None, 8.0], low=[55.0, 0.0, 7.0], high=[66.0, 0.0, 9.5]),
    ]
    holes = [Series(label="with a hole", x=_WINDOW, y=[None if 8 < second < 14 else second for second in _WINDOW])]
    interval = Series(
        label="measured", x=[0.0, 25.0, 50.0], y=[3.0, 4.0, None], low=[2.5, 3.0, 0.0], high=[3.5, 6.0, 0.0]
    )
    floor = Series(label="floor", x=[0.0, 50.0], y=[1.0, 1.0], role="predicted")
    marks = [
        Mark(label="soft limit", y=20),
        Mark(label="hard limit", y=25),
        Mark(label="its end", x=21.5, of="with a hole"),
    ]
    dots = [
        Series(label=label, x=[1, 10, 100, 1000], y=[1.0, 30.0, None, 900.0 / (number + 1)])
        for number, label in enumerate(("alone", "together"))
    ]
    many = [Series(label=f"container-{number:02}", x=_WINDOW, y=_wave(number)) for number in range(20)]
    odd = [Series(label=label, x=_WINDOW, y=_wave(number)) for number, label in enumerate((HOSTILE, LONG, "_hidden"))]
    all_plots = [
        _plot("bars", kind="bars", series=bars, x_label="container", marks=[Mark(label="fair share", y=33.3)]),
        _plot("many-bars", kind="bars", series=[_single(30)], x_label="container"),
        _plot("lines", kind="lines", series=[interval, floor]),
        _plot("steps", kind="steps", series=holes, marks=marks, y_label="memory held (MiB)"),
        _plot("points", kind="points", series=dots, log_x=True, log_y=True, x_label="delay (ms)"),
        _plot("dots-with-intervals", kind="points", series=[interval]),
        _plot("many", kind="lines", series=many),
        _plot("hostile", kind="lines", series=odd, title=HOSTILE, x_label=HOSTILE, y_label=LONG[:60], alt=HOSTILE),
        _plot("empty", kind="lines", series=[]),
        _plot("empty-bars", kind="bars", series=[]),
        _plot("nothing-measured", kind="lines", series=[Series(label="nothing", x=[], y=[])]),
        _plot("only-holes", kind="bars", series=[Series(label="holes", x=["a", "b"], y=[None, None])]),
    ]
    return {plot.name: plot for plot in all_plots}


def _single(count: int) -> Series:
    names, heights = [f"container-{n}" for n in range(count)], [3.0 + n % 3 for n in range(count)]
    return Series(label="measured", x=names, y=heights)


def result() -> Result:
    """All of the plots, and text from a container or a host that must not get to act."""
    table = Table(
        title=f"Shares {HOSTILE}",
        columns=("NAME", "NICE", "MEASURED %", HOSTILE.upper()),
        rows=[("1-nice0", 0, 66.6667, "-"), (LONG, 15, math.nan, HOSTILE), ("gone", 19, None, "\x07bell\nline")],
        bar="MEASURED %",
    )
    return Result(
        experiment="sample",
        title=HOSTILE,
        method=f"{HOSTILE} " + "word " * 60,
        started="2026-11-24T10:00:00+00:00",
        setup={"kernel": "6.1.0", "scheduler features": "FEATURE_" * 60, HOSTILE: HOSTILE},
        settings={"rootfs": "/srv/a b", "cpu": 1, "seconds": 2.5, "repeat": 3, "nices": (-5, 0)},
        data={"windows": [{"a": 0.5}, {"a": math.nan}], "text": HOSTILE},
        conclusion=Conclusion(
            tables=[table], plots=list(plots().values()), findings=[HOSTILE, "word " * 40], noise=[LONG]
        ),
        seconds=12.3,
        error=f"no supervisor is running: {HOSTILE}",
    )
