"""A table made to fit the width of a terminal."""

from __future__ import annotations

from wherry.cli import terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_GAP = 3
_LEAST_LAST = 20
_LEAST_CUT = 8


def fit(rows: Sequence[Sequence[str]], width: int, spare: Sequence[int], blank: Mapping[int, str]) -> list[list[str]]:
    """``rows`` (the first is the header) in ``width`` columns.

    The last cell is cut first, down to 20 columns. Then columns go, those of ``spare`` by their number, first those
    where every cell is what ``blank`` says of it ("-"), then the others in that order. What is still too wide is cut,
    the widest columns first.
    """
    kept = list(range(len(rows[0])))
    empty = [place for place in spare if len(rows) > 1 and all(row[place] == blank.get(place) for row in rows[1:])]
    for place in [*empty, *(place for place in spare if place not in empty)]:
        if _others(rows, kept) + min(_widest(rows, kept[-1]), _LEAST_LAST) <= width:
            break
        kept.remove(place)
    shown = [[row[place] for place in kept] for row in rows]
    _shrink(shown, width)
    room = max(width - _others(shown, range(len(kept))), _LEAST_CUT)
    return [[*row[:-1], terminal.cut(row[-1], room)] for row in shown]


def _widest(rows: Sequence[Sequence[str]], place: int) -> int:
    return max(terminal.width(row[place]) for row in rows)


def _others(rows: Sequence[Sequence[str]], places: Sequence[int]) -> int:
    """Width of all columns but the last, with the gaps behind them."""
    return sum(_widest(rows, place) + _GAP for place in places[:-1])


def _shrink(rows: list[list[str]], width: int) -> None:
    """Cut columns before the last one until that has its room too, or nothing is left to cut."""
    places = range(len(rows[0]))
    least = min(_widest(rows, len(places) - 1), _LEAST_LAST)
    while (over := _others(rows, places) + least - width) > 0:
        widest = max(places[:-1], key=lambda place: _widest(rows, place))
        size = _widest(rows, widest)
        if size <= _LEAST_CUT:
            return
        room = max(size - over, _LEAST_CUT)
        for row in rows:
            row[widest] = terminal.cut(row[widest], room)
