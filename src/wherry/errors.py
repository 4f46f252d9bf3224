"""The errors that cross a boundary: from a container's set-up to the supervisor, over the API, to a client.

    WherryError
    +-- InvalidRequest      400  what was asked for is malformed or contradicts itself; says which argument
    |   +-- NotSupported    400  understood, but this version cannot do it
    +-- NotFound            404  no such container
    +-- Conflict            409  the request does not fit the container's state
    |   +-- NameInUse       409  another container has that name
    |   +-- RootfsInUse     409  a live container runs on that directory itself
    +-- StartFailed         500  a set-up step failed; carries step, call, path and errno
    |   +-- NotExecutable   400  the command is there but cannot be executed (exit code 126)
    |   +-- CommandNotFound 400  the command is not there (exit code 127)
    +-- NotKilled           500  a process lives on after SIGKILL; says which, in what state
    +-- InternalError       500  a fault of ours
    +-- Unavailable         (client side only) no supervisor answers on the socket
    +-- WaitTimeout         (client side only) the container has not ended in the time given to ``wait``; a TimeoutError

A class carries its HTTP status, its wire code (the API sends ``{"message": ..., "code": ...}``) and the exit code of
``engine run`` and ``engine start``. Nobody sorts errors by the text of their message.
"""

from __future__ import annotations


class WherryError(Exception):
    """Base of all errors of this package; ``str()`` is one line for a person."""

    status = 500
    code = ""
    exit_code = 125


class InvalidRequest(WherryError):
    """``argument`` and ``value`` are what a method of the Python API was given; None when the supervisor refused."""

    status = 400
    code = "invalid_request"

    def __init__(self, message: str = "", argument: str | None = None, value: object = None) -> None:
        super().__init__(message)
        self.argument = argument
        self.value = value


class NotSupported(InvalidRequest):
    code = "not_supported"


class NotFound(WherryError):
    status = 404
    code = "not_found"


class Conflict(WherryError):
    status = 409
    code = "conflict"


class NameInUse(Conflict):
    code = "name_in_use"


class RootfsInUse(Conflict):
    code = "rootfs_in_use"


class StartFailed(WherryError):
    code = "start_failed"


class NotExecutable(StartFailed):
    status = 400
    code = "not_executable"
    exit_code = 126


class CommandNotFound(StartFailed):
    status = 400
    code = "command_not_found"
    exit_code = 127


class NotKilled(WherryError):
    code = "not_killed"


class InternalError(WherryError):
    code = "internal"


class Unavailable(WherryError):
    code = "unavailable"
    exit_code = 1
    has_begun = False
    """What was asked for had begun when the connection broke, and may go on."""


class WaitTimeout(WherryError, TimeoutError):
    code = "wait_timeout"
    exit_code = 124
    """As timeout(1)."""


def _subclasses(cls: type[WherryError]) -> list[type[WherryError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in _subclasses(sub))]


_BY_CODE = {cls.code: cls for cls in _subclasses(WherryError)}


def from_wire(code: str, message: str) -> WherryError:
    """The error that the API sent as ``code``; an unknown code (a newer supervisor) becomes InternalError."""
    return _BY_CODE.get(code, InternalError)(message)


def printable(text: str) -> str:
    """``text`` on one line, with what is not printable (controls, bidi marks, lone surrogates) as ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def quoted(text: str) -> str:
    """``text`` fit for a one-line message: quoted, control characters escaped, cut after 80 characters."""
    return repr(text if len(text) <= 80 else text[:77] + "...")
