"""What runs in the container's first process between clone and execve.

The protocol with its parent, over one stream socket that execve closes:

1. The child runs the prepare steps and sends ``{"ready": true}``. It then waits, perhaps for minutes: it is parked.
2. The parent sends one message: four bytes of length (big endian) and a JSON object ``{"descriptors": [names],
   "steps": [...], "args": [...], "env": [...], "init": bool}``, the named descriptors attached to its first
   bytes. If the socket closes instead, the child exits.
3. The child runs the finish steps, sends ``{"exec": true}`` and calls execve. End of file after that line means that
   the command runs.
4. A failure at any point is one line ``{"step", "call", "path", "errno", "message"}`` and the end of the process. End
   of file without ``exec`` means that the child was killed.

From EnterRoot on nothing is imported and no file of the container is read as code: everything used here is loaded
before the clone.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
from typing import Any, NoReturn

from wherry.kernel import process, unix_sockets
from wherry.kernel.libc import call_error, call_of
from wherry.runtime import executable, pid1, steps
from wherry.runtime.steps import Context, Step

EXIT_SETUP = 125
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)
_MAXIMUM_MESSAGE = 16 << 20
_MAXIMUM_DESCRIPTORS = 250


def main(channel: int, prepare: list[Step]) -> NoReturn:
    """Entry point of the child. ``channel`` is its end of the socket; every other descriptor above 2 is closed."""
    status = EXIT_SETUP
    try:
        status = _run(channel, prepare)
    finally:
        # Whatever happens, nothing of the parent's program may run in this copy of it: no finally blocks, no atexit.
        os._exit(status)


def _run(channel: int, prepare: list[Step]) -> int:
    process.close_all_but([0, 1, 2, channel])
    process.reset_signals()
    process.set_dumpable(False)
    parent = socket.socket(fileno=channel)
    context = Context()
    if not _execute(parent, prepare, context):
        return EXIT_SETUP
    _send(parent, {"ready": True})
    message = _receive(parent, context)
    if message is None:
        return EXIT_SETUP
    process.mark_close_on_exec(3)  # before a filter can forbid it; what is opened from here on is so anyway
    if not _execute(parent, steps.decode(message["steps"]), context):
        return EXIT_SETUP
    return _start(parent, message)


def _execute(parent: socket.socket, plan: list[Step], context: Context) -> bool:
    for step in plan:
        try:
            step.execute(context)
        except OSError as error:
            _send(parent, _failure(step.describe(), error, context.stage))
            return False
        except Exception as error:  # a fault of ours must not look like a killed child
            _send(parent, {"step": step.describe(), "errno": 0, "message": f"{type(error).__name__}: {error}"})
            return False
    return True


def _failure(step: str, error: OSError, stage: str = "") -> dict[str, Any]:
    """``stage`` is where the container's paths lie for the time being, which is nobody's business."""
    return {
        "step": step,
        "call": call_of(error),
        "path": os.fsdecode(error.filename).removeprefix(stage) if error.filename else "",
        "errno": error.errno or 0,
        "message": error.strerror or "",
    }


def _send(parent: socket.socket, report: dict[str, Any]) -> None:
    try:
        parent.sendall(json.dumps(report).encode() + b"\n")
    except OSError:
        pass  # nobody listens any more: the exit status still tells


def _receive(parent: socket.socket, context: Context) -> dict[str, Any] | None:
    header, descriptors = unix_sockets.receive(parent, 4, _MAXIMUM_DESCRIPTORS)
    if len(header) < 4:
        return None
    (length,) = struct.unpack(">I", header)
    body = bytearray()
    while len(body) < min(length, _MAXIMUM_MESSAGE):
        chunk = parent.recv(length - len(body))
        if not chunk:
            return None
        body += chunk
    message: dict[str, Any] = json.loads(body)
    context.descriptors = dict(zip(message["descriptors"], descriptors, strict=True))
    return message


def _start(parent: socket.socket, message: dict[str, Any]) -> int:
    arguments: list[str] = message["args"]
    environment = [os.fsencode(entry) for entry in message["env"]]

    def execute() -> int:
        _send(parent, {"exec": True})
        return _execute_command(parent, arguments, environment)

    if not message["init"]:
        return execute()
    try:
        return pid1.run(execute, parent.close)
    except OSError as error:  # fork(2): the limit of processes is 1
        _send(parent, _failure("start the command under init", error))
        return EXIT_SETUP


def _execute_command(parent: socket.socket, arguments: list[str], environment: list[bytes]) -> int:
    """execve; returns the exit code of a shell when that fails."""
    variables = dict(entry.split(b"=", 1) for entry in environment)
    failures: list[tuple[str, int]] = []
    for candidate in _candidates(arguments[0], variables.get(b"PATH", b"")):
        try:
            os.execve(candidate, arguments, variables)
        except OSError as failure:
            failures.append((candidate, failure.errno or 0))
            if failure.errno not in (*_NOT_THERE, errno.EACCES):
                break
    number = _that_counts([code for _, code in failures])
    path = next((candidate for candidate, code in failures if code == number), "") if number not in _NOT_THERE else ""
    _send(parent, _refusal(arguments[0], number, path))
    # By a report of its own, which takes the place of the first: a seccomp filter may end us for looking.
    for candidate, code in failures:
        if code == number and (reason := executable.explain(candidate, code)):
            _send(parent, _refusal(arguments[0], number, candidate, reason))
            break
    return EXIT_NOT_FOUND if number in _NOT_THERE else EXIT_NOT_EXECUTABLE


def _that_counts(numbers: list[int]) -> int:
    """As execvp(3): a file that cannot be executed matters more than one that is not there."""
    result = errno.ENOENT
    for number in numbers:
        if number not in _NOT_THERE or result == errno.ENOENT:
            result = number
    return result


def _refusal(command: str, number: int, path: str, reason: str = "") -> dict[str, Any]:
    """``path`` is what a command was found at, "" when nowhere."""
    error = OSError(number, reason or os.strerror(number))
    if path and path != command:
        error = call_error(number, "execve", path)
        error.strerror = reason or error.strerror
    return _failure(f"execute {command}", error)


def _candidates(command: str, path: bytes) -> list[str]:
    if "/" in command:
        return [command]
    return [f"{os.fsdecode(directory) or '.'}/{command}" for directory in path.split(b":")]
