"""Options that come by files: ``--env-file``, ``--label-file``, and ``--cidfile``, which is written.

A file of variables or labels has one a line, as docker reads it: leading blanks, empty lines and lines that begin with
"#" are left out, quotes are part of the value, and a name is without blanks.
"""

from __future__ import annotations

import os

from wherry.cli import terminal
from wherry.errors import InvalidRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_MOST = 4 << 20
"""Bytes of a file: the supervisor takes no larger request."""


def lines(option: str, path: str) -> list[str]:
    """``NAME=VALUE`` or ``NAME`` of each line. Raises InvalidRequest naming option, file and line."""
    found = []
    for number, line in enumerate(_text(option, path).removeprefix("\ufeff").split("\n"), 1):
        entry = line.removesuffix("\r").lstrip()
        if not entry or entry.startswith("#"):
            continue
        name = entry.partition("=")[0]
        if not name:
            raise InvalidRequest(f"{option} {path}, line {number}: there is no name before '='")
        if any(letter.isspace() for letter in name):
            raise InvalidRequest(f"{option} {path}, line {number}: the name {name!r} has a blank in it")
        found.append(entry)
    return found


def _text(option: str, path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidRequest(f"{option} {path}: {reason}") from None
    if len(content) > _MOST:
        raise InvalidRequest(f"{option} {path}: it has more than {_MOST} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise InvalidRequest(f"{option} {path}, line {number}: it is not UTF-8") from None


class IdFile:
    """The file that gets a container's id once that has been started, as docker's ``--cidfile``.

    It must not exist, and is made before anything is started, so that a path that cannot be written to is found out
    then: raises InvalidRequest. Left without an id it is removed.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._is_written = False
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            text = f"--cidfile {path}: it exists: a container that has it may be running, else remove it"
            raise InvalidRequest(text) from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidRequest(f"--cidfile {path}: {reason}") from None

    def __enter__(self) -> Self:
        return self

    def write(self, container_id: str) -> None:
        """What goes wrong is said: the container runs all the same."""
        try:
            self._is_written = os.write(self._descriptor, container_id.encode()) == len(container_id)
            reason = "No space left on device"
        except OSError as error:
            reason = error.strerror or str(error)
        if not self._is_written:
            terminal.complain(f"--cidfile {self._path}: {reason}; {container_id[:12]} runs, its id cannot be written")

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        if not self._is_written:
            try:
                os.unlink(self._path)
            except OSError:  # somebody else has taken it away
                pass
