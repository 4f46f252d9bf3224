"""Opening the files of a log that nobody has open: the newest and the older ones, each with its index."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from wherry import errors
from wherry.logs.files import ReadFile, open_file
from wherry.logs.index import DamagedIndex, IndexHeader, read_header
from wherry.logs.segments import Rotated, index_path
from wherry.logs.view import Part

logger = logging.getLogger(__name__)


def open_newest(path: Path) -> Part:
    try:
        log = ReadFile(open_file(path, os.O_RDONLY))
    except FileNotFoundError as error:
        raise errors.NotFound(f"log {path} is gone") from error
    try:
        index, header = _open_index(index_path(path))
    except BaseException:
        log.close()
        raise
    return Part(header.start, log, index)


def open_older(rotated: Rotated) -> Part | None:
    """None when it has been rotated away, or removed, in this moment."""
    try:
        log = ReadFile(open_file(rotated.path, os.O_RDONLY))
    except (FileNotFoundError, errors.Conflict):
        return None
    try:
        index, _ = _open_index(index_path(rotated.path))
    except BaseException:
        log.close()
        raise
    return Part(rotated.start, log, index)


def _open_index(path: Path) -> tuple[ReadFile | None, IndexHeader]:
    """None when there is none, or none that can be read: the log then counts as a bare file."""
    nothing = IndexHeader("", 0)
    try:
        file = ReadFile(open_file(path, os.O_RDONLY))
    except FileNotFoundError:
        return None, nothing
    try:
        header = read_header(file, path)
    except DamagedIndex as error:
        file.close()
        logger.warning("%s; reading the log without it", error)
        return None, nothing
    except BaseException:
        file.close()
        raise
    return file, header
