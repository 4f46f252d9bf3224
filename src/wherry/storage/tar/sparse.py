"""Which parts of a sparse file an archive holds: the GNU tar manual, "Storing Sparse Files".

A map is a list of (offset, length) in bytes; the archive holds these parts one after the other. There is one format
from before pax (type "S") and three with pax records (0.0, 0.1, 1.0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from wherry.storage.tar.archive import ArchiveError
from wherry.storage.tar.headers import BLOCK, decimal, number

Map = list[tuple[int, int]]

_MOST_PARTS = 1 << 18  # bounds memory (20 MiB)
_NO_NUMBER = "a sparse map's entry"


def gnu_map(block: bytes, read_block: Callable[[], bytes]) -> tuple[Map, int]:
    """The map of a type "S" header, and the file's size. ``read_block`` gives the extension blocks that follow it."""
    parts = _entries(block, 386, 4)
    size = number(block, 483, 12)
    is_extended = block[482]
    while is_extended:
        block = read_block()
        parts += _entries(block, 0, 21)
        _limit(len(parts))
        is_extended = block[504]
    return parts, size


def _entries(block: bytes, at: int, count: int) -> Map:
    fields = range(at, at + 24 * count, 24)
    return [(number(block, field, 12), number(block, field + 12, 12)) for field in fields if block[field]]


def pax_map(records: dict[bytes, bytes]) -> Map | None:
    """The map of formats 0.0 and 0.1, where it is in the records; None when there is none.

    Format 0.0 repeats its keywords for each part: ``members`` joins these values by commas.
    """
    if b"GNU.sparse.map" in records:
        numbers = _numbers(records[b"GNU.sparse.map"])
        return _pairs(numbers)
    if b"GNU.sparse.numblocks" in records:
        offsets = _numbers(records.get(b"GNU.sparse.offset", b""))
        lengths = _numbers(records.get(b"GNU.sparse.numbytes", b""))
        if len(offsets) != len(lengths):
            raise ArchiveError("a sparse map lacks an offset or a length")
        return list(zip(offsets, lengths, strict=True))
    return None


def data_map(read_block: Callable[[], bytes]) -> tuple[Map, int]:
    """The map of format 1.0, decimal lines before the data; and how many bytes it takes there."""
    lines = _lines(read_block)
    _, count = next(lines)
    _limit(count)
    used = BLOCK
    numbers = []
    for _ in range(2 * count):
        used, value = next(lines)
        numbers.append(value)
    return _pairs(numbers), used


def _lines(read_block: Callable[[], bytes]) -> Iterator[tuple[int, int]]:
    # Each number, with the bytes of all blocks read until then.
    used, text = 0, b""
    while True:
        text += read_block()
        used += BLOCK
        *lines, text = text.split(b"\n")
        for line in lines:
            yield used, decimal(line, _NO_NUMBER)
        if len(text) > BLOCK:
            raise ArchiveError(f"{_NO_NUMBER} is no number")


def _numbers(text: bytes) -> list[int]:
    _limit(text.count(b",") // 2)
    return [decimal(entry, _NO_NUMBER) for entry in text.split(b",")] if text else []


def _pairs(numbers: list[int]) -> Map:
    if len(numbers) % 2:
        raise ArchiveError("a sparse map lacks a length")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _limit(parts: int) -> None:
    if parts > _MOST_PARTS:
        raise ArchiveError(f"a sparse map has more than {_MOST_PARTS} parts")


def check(parts: Map, stored: int, size: int) -> None:
    """Raises ArchiveError unless the parts are in order, inside ``size`` bytes, and ``stored`` bytes together."""
    if size >= 2**63:  # off_t
        raise ArchiveError(f"a file of {size} bytes is too large")
    end = 0
    for offset, length in parts:
        if offset < end or offset + length > size:
            raise ArchiveError("a sparse map's parts overlap or lie outside the file")
        end = offset + length
    if sum(length for _, length in parts) != stored:
        raise ArchiveError("a sparse map does not fit the data stored")
