"""The files of a rotated log: how they are called, and which there are.

``NAME.log`` is the one that is written to. When it has reached its size it becomes ``NAME.log.N``, N being the number
in its index's header, counted from 1 and never used again, and a new ``NAME.log`` begins. Each has its index beside it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

NEW = ".new"
"""Added to the names of files that are about to take the place of NAME.log and its index."""


class Rotated(NamedTuple):
    """An older file of a log: its number, and where in the whole log it begins and ends."""

    path: Path
    sequence: int
    start: int
    end: int


def index_path(path: Path) -> Path:
    return path.with_name(path.name + ".idx")


def damaged_path(path: Path) -> Path:
    """Where an unreadable index is moved to, for whoever wants to look into it."""
    return path.with_name(path.name + ".idx.damaged")


def new_path(path: Path) -> Path:
    return path.with_name(path.name + NEW)


def rotated_path(path: Path, sequence: int) -> Path:
    return path.with_name(f"{path.name}.{sequence}")


def all_files_of(path: Path) -> tuple[Path, Path, Path]:
    return path, index_path(path), damaged_path(path)


def rotated_numbers(path: Path) -> list[int]:
    """Numbers of the older files of ``path`` that have a log, an index or both, oldest first."""
    prefix = path.name + "."
    # Of the logs of all containers.
    names = (name[len(prefix) :] for name in os.listdir(path.parent) if name.startswith(prefix))
    numbers = {_number(name.removesuffix(".idx")) for name in names}
    return sorted(numbers - {0})


def rotated_numbers_in(folder: Path) -> dict[str, list[int]]:
    """The same of all logs in a directory, by their names."""
    found: dict[str, set[int]] = {}
    for name in os.listdir(folder):
        log, _, text = name.removesuffix(".idx").rpartition(".")
        if number := _number(text):
            found.setdefault(log, set()).add(number)
    return {log: sorted(numbers) for log, numbers in found.items()}


def _number(text: str) -> int:
    """0 for what is no number of a rotated file."""
    return int(text) if text.isascii() and text.isdecimal() and text[0] != "0" else 0


def finish_rotation(path: Path) -> None:
    """Complete the rotation in whose middle a writer was killed; see Rotation in rotation.py for its steps."""
    for left in (new_path(path), index_path(new_path(path))):
        with contextlib.suppress(FileNotFoundError):
            left.unlink()
    if index_path(path).exists() or not path.exists():
        return
    for number in rotated_numbers(path)[-1:]:
        aside = rotated_path(path, number)
        if not aside.exists() and index_path(aside).exists():
            path.replace(aside)
