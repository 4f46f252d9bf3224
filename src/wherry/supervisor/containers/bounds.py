"""How large the parts of a request may be: what execve and mount would refuse is refused before it is kept.

A record is held in memory, written whole at each change, and shown to every client that lists containers: what a
client can make it cost has to have an end.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable
from typing import TYPE_CHECKING

from wherry.errors import InvalidRequest

if TYPE_CHECKING:
    from wherry.supervisor.containers.request import CreateRequest

STRING_MAX = 32 * 4096 - 1
"""Bytes of an argument or a variable. execve(2), MAX_ARG_STRLEN: 32 pages with the terminating NUL."""
PATH_MAX = 4095
"""Bytes of a path: PATH_MAX with the terminating NUL (linux/limits.h). mount(2) takes no longer options either."""
USER_MAX = 512
LABELS_MAX = 64 * 1024
"""Bytes of all labels of a container, which are in each of its events and in every list; and of all annotations."""
MOUNTS_MAX = 200  # one message carries 253 descriptors (SCM_MAX_FD, unix(7))
MANY_WORDS = 1024
LARGE = 16 * 1024
_ARGUMENTS_MAX = 2 * 1024 * 1024
"""Bytes of all arguments and variables: a quarter of the customary stack limit of 8 MiB (execve(2))."""
_ARGUMENTS_LEAST = 128 * 1024  # ARG_MAX, which the kernel grants with any stack limit
_POINTER = 8  # for each string; since Linux 4.13 the kernel counts them as well
_RESERVE = 8 * 1024
"""For what is added to what the client gave: PATH, HOSTNAME, HOME, the path that is executed, a script's #! line."""


def check_sizes(request: CreateRequest) -> None:
    """Raises InvalidRequest naming the field."""
    for number, word in enumerate(request.command):
        _check("command", f"word {number + 1}", word, STRING_MAX)
    for variable in request.env:
        _check("environment", f"variable {variable.partition('=')[0][:80]!r}", variable, STRING_MAX)
    _check_arguments(request)
    _check("user", "it", request.user, USER_MAX)
    for what, paths in _paths(request):
        for path in paths:
            _check(what, f"{path[:80]!r}", path, PATH_MAX)
    mounts = len(request.volumes) + len(request.tmpfs)
    if mounts > MOUNTS_MAX:
        raise InvalidRequest(f"invalid volumes and tmpfs: there are {mounts}, and the most is {MOUNTS_MAX}")
    for what, pairs in (("labels", request.labels), ("annotations", request.annotations)):
        total = sum(size(name) + size(value) + 2 for name, value in pairs.items())
        if total > LABELS_MAX:
            raise InvalidRequest(f"invalid {what}: all of them have {total} bytes, and the most is {LABELS_MAX}")


def is_large(request: CreateRequest) -> bool:
    """Whether showing or preparing the whole of it takes milliseconds. Quick, and so no exact measure."""
    words = len(request.command) + len(request.env)
    return words > MANY_WORDS or sum(map(len, (*request.command, *request.env))) > LARGE


def size(text: str) -> int:
    """Bytes of ``text`` in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _check(what: str, which: str, text: str, most: int) -> None:
    if (count := size(text)) > most:
        raise InvalidRequest(f"invalid {what}: {which} has {count} bytes, and the most is {most}")


def _check_arguments(request: CreateRequest) -> None:
    words = sum(size(word) + 1 + _POINTER for word in request.command)
    variables = sum(size(variable) + 1 + _POINTER for variable in request.env)
    most = _most_arguments(request)
    if words + variables > most:
        raise InvalidRequest(
            f"invalid command and environment: together they take {words + variables} bytes "
            f"({len(request.command)} words: {words}, {len(request.env)} variables: {variables}), "
            f"and execve takes at most {most}"
        )


def _most_arguments(request: CreateRequest) -> int:
    soft, _hard = resource.getrlimit(resource.RLIMIT_STACK)  # which the container inherits
    soft = next((limit.soft for limit in request.ulimits if limit.name == "stack"), soft)
    quarter = _ARGUMENTS_MAX if soft == resource.RLIM_INFINITY else soft // 4
    return max(min(quarter, _ARGUMENTS_MAX), _ARGUMENTS_LEAST) - _RESERVE


def _paths(request: CreateRequest) -> Iterable[tuple[str, Iterable[str]]]:
    yield "rootfs", (request.rootfs,)
    yield "working directory", (request.working_dir,)
    yield "volume", (path for volume in request.volumes for path in (volume.source, volume.destination))
    yield "tmpfs", (*request.tmpfs, *request.tmpfs.values())
