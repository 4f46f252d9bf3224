"""Rotation: a full log file steps aside, a new one takes its place, the oldest one goes.

Steps of rotate(), after any of which the process may be killed:

1. NAME.log.new and its index are made. If that fails, nothing has changed.
2. The index steps aside, then the log: NAME.log.N. A log without index whose index is found aside follows it.
3. The new index takes its place, then the new log. With no log there, whoever opens it makes a new one.

segments.finish_rotation() is what comes next in each case; the number in each index's header says what follows what.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from wherry import errors
from wherry.logs import index as ix
from wherry.logs.files import create_file
from wherry.logs.segments import (
    Rotated,
    index_path,
    new_path,
    rotated_numbers,
    rotated_numbers_in,
    rotated_path,
)
from wherry.logs.writer import create_index, read_header_of

logger = logging.getLogger(__name__)


def rotate(path: Path, header: ix.IndexHeader, size: int) -> Rotated:
    """Returns where the old file of ``size`` bytes is now. Raises OSError; the writer then goes on in the old one.

    May be tried again after a failure anywhere, that of opening the new file included: what stepped aside stays there.
    """
    fresh, aside = new_path(path), rotated_path(path, header.sequence)
    end = header.start + size
    with ExitStack() as undo:
        remove_files(fresh)
        undo.callback(remove_files, fresh)
        os.close(create_file(fresh))
        following = ix.IndexHeader(header.container_id, time.time_ns(), header.sequence + 1, end)
        os.close(create_index(index_path(fresh), following))
        if not _is_successor(path, header):
            _move(index_path(path), index_path(aside))
            _move(path, aside)
        index_path(fresh).replace(index_path(path))
        fresh.replace(path)
        undo.pop_all()
    return Rotated(aside, header.sequence, header.start, end)


def find_rotated(path: Path, container_id: str) -> list[Rotated]:
    """The older files of a log, oldest first; those that cannot be read or are another container's are left out."""
    found: list[Rotated] = []
    for number in rotated_numbers(path):
        older = rotated_path(path, number)
        try:
            header = read_header_of(older)
            size = older.stat().st_size
        except (OSError, ix.DamagedIndex, errors.WherryError) as error:
            logger.warning("older log %s is passed over: %s", older, error)
            continue
        if header.container_id == container_id or not container_id:
            found.append(Rotated(older, number, header.start, header.start + size))
    return found


def remove_files(path: Path) -> None:
    """A log and its index, those that are there."""
    path.unlink(missing_ok=True)
    index_path(path).unlink(missing_ok=True)


def prune(folder: Path, keep: Mapping[str, int]) -> None:
    """Of logs in ``folder`` that nobody writes to or reads, by name: delete files beyond so many, the newest included.

    There are some when a supervisor was killed that had kept them for a reader.
    """
    there = rotated_numbers_in(folder)
    for name in there.keys() & keep.keys():
        for number in there[name][: max(0, len(there[name]) + 1 - keep[name])]:
            remove_files(rotated_path(folder / name, number))


def _is_successor(path: Path, header: ix.IndexHeader) -> bool:
    """Whether an earlier try got so far that ``path`` has the next index: moved aside, it would replace the old one."""
    try:
        found = read_header_of(path)
    except (OSError, ix.DamagedIndex, errors.WherryError):
        return False
    return (found.container_id, found.sequence) == (header.container_id, header.sequence + 1)


def _move(source: Path, target: Path) -> None:
    # Removed by an administrator while we write to it: then there is nothing to keep.
    with contextlib.suppress(FileNotFoundError):
        source.replace(target)
