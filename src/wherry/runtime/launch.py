"""The parent's side of a container's first process: clone it, give it the finish message, read what it reports (see
``init``).
"""

from __future__ import annotations

import errno
import json
import os
import struct
from typing import Any, NamedTuple

from wherry.errors import CommandNotFound, NotExecutable, StartFailed
from wherry.kernel import namespaces
from wherry.kernel.libc import describe_errno
from wherry.runtime import init
from wherry.runtime.steps import Step, encode

_NOT_FOUND = (errno.ENOENT, errno.ENOTDIR)


def spawn(prepare: list[Step], channel: int) -> tuple[int, int]:
    """Clone the first process of a new pid namespace, which runs ``prepare`` and parks; returns (pid, pidfd).

    ``channel`` is the child's end of the socket and is closed here. The calling process must have one thread: a copy
    of a process whose other thread held a lock would wait for it for ever.
    """
    pid, pidfd = namespaces.fork_into(["pid"])
    if pid == 0:
        init.main(channel, prepare)
    os.close(channel)
    return pid, pidfd


def finish_message(names: list[str], finish: list[Step], args: list[str], env: list[str], with_init: bool) -> bytes:
    """The message that lets a parked child go; ``names`` are those of the descriptors sent with it, in order."""
    content = {"descriptors": names, "steps": encode(finish), "args": args, "env": env, "init": with_init}
    body = json.dumps(content).encode()
    return struct.pack(">I", len(body)) + body


class Report(NamedTuple):
    """What the child has said so far: ``complete`` after end of file."""

    ready: bool = False
    executed: bool = False
    failure: dict[str, Any] | None = None


def parse_reports(text: bytes) -> Report:
    """The child's lines; an incomplete last line is left out."""
    ready = executed = False
    failure = None
    for line in text.split(b"\n")[:-1]:
        content = json.loads(line)
        ready |= bool(content.get("ready"))
        executed |= bool(content.get("exec"))
        failure = content if "step" in content else failure
    return Report(ready, executed, failure)


def start_error(name: str, failure: dict[str, Any]) -> StartFailed:
    """The error for a client: ``cannot start alpha: mount /proc: operation not permitted (EPERM)``."""
    step, call, path, number = (failure.get(key) for key in ("step", "call", "path", "errno"))
    what = str(step)
    if path and path not in what:
        what += f": {call or 'open'} {path}"
    elif call and call not in what:
        what += f": {call}"
    text = f"cannot start {name}: {what}: {_reason(number or 0, str(failure.get('message', '')))}"
    if str(step).startswith("execute "):
        return CommandNotFound(text) if number in _NOT_FOUND else NotExecutable(text)
    return StartFailed(text)


def _reason(number: int, message: str) -> str:
    if number == 0:
        return message
    known = describe_errno(number)
    return known if not message or message == os.strerror(number) else f"{message} ({errno.errorcode.get(number)})"
