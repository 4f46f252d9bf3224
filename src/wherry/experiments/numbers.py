"""Numbers as tables show them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wherry.experiments.model import Cell


def shown(value: Cell) -> str:
    """A cell as text: three or four figures of a measured number, whole ones as they are, "-" for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if not isinstance(value, float):
        return str(value)
    size = abs(value)
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 3
    return f"{value:.{digits}f}"


def bar_fractions(values: list[Cell]) -> list[float]:
    """Each as a part of the greatest, 0 for what is no number or below 0."""
    numbers = [float(value) if isinstance(value, int | float) and not math.isnan(value) else 0.0 for value in values]
    greatest = max(numbers, default=0.0)
    return [max(number, 0.0) / greatest if greatest > 0 else 0.0 for number in numbers]
