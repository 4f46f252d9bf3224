"""What an experiment is, and what comes of it.

An experiment has two halves, so that data measured before an interruption is worth as much as all of it, and so that
every sentence of a report can be tested without a container:

- ``measure`` runs containers through a ``Lab`` and puts what it saw into ``data`` as it goes: JSON values only;
- ``conclude`` makes tables, plots and findings of ``data``, of whatever part of it there is.

To add one: a module with a class that satisfies ``Experiment``, and its place in ``catalogue``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wherry.experiments.lab import Lab

Data = dict[str, Any]
"""What was measured, as JSON values; each experiment says in its docstring what is in it."""

Cell = str | float | int | None


class BadSettingsError(Exception):
    """A setting that cannot be carried out here; the message names it and its value."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the user chose; None is the experiment's own default.

    ``cpu`` is the CPU that compared containers are pinned to; ``seconds`` is the length of one measured window,
    ``repeat`` how many windows there are; ``rootfs`` has the workloads (``/cpu_hog`` ...).
    """

    rootfs: str
    cpu: int = 0
    seconds: float | None = None
    repeat: int = 3
    nices: tuple[int, ...] | None = None


@dataclass(kw_only=True)
class Table:
    """``columns`` are headings with their unit ("SHARE %"); a row has a cell a column, None for nothing to say.

    ``bar`` names the column that the terminal and the report show as a bar, scaled to its greatest value.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    bar: str | None = None


@dataclass(kw_only=True)
class Series:
    """``x`` are numbers, or the names of groups of bars. ``low`` and ``high`` are ends of intervals around ``y``.

    ``role`` "predicted" is drawn apart from what was measured.
    """

    label: str
    x: Sequence[float] | Sequence[str]
    y: Sequence[float | None]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    role: Literal["measured", "predicted"] = "measured"

    @classmethod
    def of_spreads(
        cls, label: str, x: Sequence[float] | Sequence[str], spreads: Sequence[tuple[float, float, float]]
    ) -> Series:
        """What was measured, with intervals; a spread is middle, low and high (``theory.spread``)."""
        middles, lows, highs = zip(*spreads, strict=True)
        return cls(label=label, x=x, y=middles, low=lows, high=highs)


@dataclass(kw_only=True)
class Mark:
    """A line across the plot: at ``x`` (a moment) or at ``y`` (a limit), one of the two.

    It takes the colour of the series labelled ``of``, if there is one.
    """

    label: str
    of: str | None = None
    x: float | None = None
    y: float | None = None


@dataclass(kw_only=True)
class Plot:
    """``name`` is a file name without its ending; ``alt`` says in words what the plot shows, for who cannot see it.

    ``kind``: "lines" joins points, "steps" holds each value until the next, "bars" stands groups of bars side by side,
    "points" are dots. Axis labels carry their units.
    """

    name: str
    kind: Literal["lines", "steps", "bars", "points"]
    title: str
    x_label: str
    y_label: str
    alt: str
    series: list[Series]
    marks: list[Mark] = field(default_factory=list)
    y_from_zero: bool = True
    log_x: bool = False
    log_y: bool = False


@dataclass(kw_only=True)
class Conclusion:
    """``findings`` are sentences that the numbers bear; ``noise`` says how far they can be trusted."""

    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Result:
    """One run of one experiment. ``setup`` is the machine as it was (``setup.describe``), ``started`` in RFC 3339."""

    experiment: str
    title: str
    method: str
    started: str
    setup: Data
    settings: Data
    data: Data = field(default_factory=dict)
    conclusion: Conclusion = field(default_factory=Conclusion)
    seconds: float = 0.0
    interrupted: bool = False
    error: str = ""
    """Why it ended early, "" when it did not."""


class Experiment(Protocol):
    """One experiment, as an object without a state of its own."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str:
        """A line for the list."""

    @property
    def method(self) -> str:
        """What is done, in a paragraph for the report; line breaks do not count."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Programs that must be at the top of the root file system ("/cpu_hog")."""

    def check(self, settings: Settings) -> None:
        """Raises BadSettingsError; what concerns all experiments (CPU, seconds, programs) has been checked."""

    def duration(self, settings: Settings) -> float:
        """About how many seconds ``measure`` takes: for the progress bar."""

    def measure(self, lab: Lab, data: Data) -> None: ...

    def conclude(self, data: Data) -> Conclusion: ...
