"""Sizes as docker takes them."""

from __future__ import annotations

import pytest

from wherry.cli import values
from wherry.cli.parser import BadValue

SIZES = {
    "1": 1,
    "4096": 4096,
    "64b": 64,
    "64k": 64 << 10,
    "64m": 64 << 20,
    "64M": 64 << 20,
    "64mb": 64 << 20,
    "64MiB": 64 << 20,
    "1.5g": 3 << 29,
    "2t": 2 << 40,
}


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_sizes(text: str, size: int) -> None:
    assert values.size(text) == values.swap(text) == size


@pytest.mark.parametrize(
    "text", ["", "m", "0", "0m", "-1", "-5m", "1x", "1 m", "m1", "1ib", "1e3", "٣", "nan", "1" * 40]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(BadValue, match="is not a size above 0"):
        values.size(text)


def test_any_amount_of_swap() -> None:
    assert values.swap("-1") == -1
