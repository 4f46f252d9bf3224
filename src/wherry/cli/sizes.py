"""Numbers of bytes for a person."""

from __future__ import annotations


def shown(size: float) -> str:
    """In the largest unit that fits, four digits: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
