"""What runs in the first process of a container, or of an exec, between clone and execve.

1. The child runs the steps that it was made with (of a container: the prepare steps), says ready and waits: parked.
2. It runs the steps of each message that its parent sends (``messages``), until there is a command with them.
3. Then it says so and calls execve.

From EnterRoot, or JoinNamespaces, on nothing is imported and no file of the container is read as code: everything used
here is loaded before the clone.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, NoReturn

from wherry.kernel import process
from wherry.kernel.libc import call_error, call_of
from wherry.runtime import executable, pid1, steps
from wherry.runtime.messages import EXECVE, Message, Said, Wanted, receive, say
from wherry.runtime.steps import Context, Step

EXIT_SETUP = 125
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)


def main(channel: int, prepare: list[Step], descriptors: dict[str, int]) -> NoReturn:
    """Entry point of the child. ``channel`` is its end of the socket, ``descriptors`` are for the steps; every other
    one above 2 is closed.
    """
    status = EXIT_SETUP
    try:
        status = _run(channel, prepare, descriptors)
    finally:
        # Whatever happens, nothing of the parent's program may run in this copy of it: no finally blocks, no atexit.
        os._exit(status)


def _run(channel: int, prepare: list[Step], descriptors: dict[str, int]) -> int:
    process.close_all_but([0, 1, 2, channel, *descriptors.values()])
    process.reset_signals()
    process.set_dumpable(False)
    parent = socket.socket(fileno=channel)
    context = Context()
    context.descriptors = descriptors
    plan, message = prepare, None
    while message is None or Wanted.ARGUMENTS not in message:
        if not _execute(parent, plan, context):
            return EXIT_SETUP
        say(parent, {Said.READY: True})
        received = receive(parent)
        if received is None:
            return EXIT_SETUP
        message, new = received
        context.descriptors = context.descriptors | new
        plan = steps.decode(message[Wanted.STEPS])
    process.mark_close_on_exec(3)  # before a filter can forbid it; what is opened from here on is so anyway
    return _start(parent, message) if _execute(parent, plan, context) else EXIT_SETUP


def _execute(parent: socket.socket, plan: list[Step], context: Context) -> bool:
    for step in plan:
        try:
            step.execute(context)
        except OSError as error:
            say(parent, {**_failure(step.describe(), error, context.stage), "kind": type(step).__name__})
            return False
        except Exception as error:  # a fault of ours must not look like a killed child
            say(parent, {Said.FAILED: step.describe(), "errno": 0, "message": f"{type(error).__name__}: {error}"})
            return False
    return True


def _failure(step: str, error: OSError, stage: str = "") -> dict[str, Any]:
    """``stage`` is where the container's paths lie for the time being, which is nobody's business."""
    return {
        Said.FAILED: step,
        "call": call_of(error),
        "path": os.fsdecode(error.filename).removeprefix(stage) if error.filename else "",
        "errno": error.errno or 0,
        "message": error.strerror or "",
    }


def _start(parent: socket.socket, message: Message) -> int:
    arguments: list[str] = message[Wanted.ARGUMENTS]
    environment = [os.fsencode(entry) for entry in message[Wanted.ENVIRONMENT]]

    def execute() -> int:
        say(parent, {Said.EXECUTING: True})
        return _execute_command(parent, arguments, environment)

    if not message[Wanted.INIT]:
        return execute()
    try:
        return pid1.run(execute, parent.close)
    except OSError as error:  # fork(2): the limit of processes is 1
        say(parent, _failure("start the command under init", error))
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
    say(parent, _refusal(arguments[0], number, path))
    # By a report of its own, which takes the place of the first: a seccomp filter may end us for looking.
    for candidate, code in failures:
        if code == number and (reason := executable.explain(candidate, code)):
            say(parent, _refusal(arguments[0], number, candidate, reason))
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
    return {**_failure(f"execute {command}", error), "kind": EXECVE}


def _candidates(command: str, path: bytes) -> list[str]:
    if "/" in command:
        return [command]
    return [f"{os.fsdecode(directory) or '.'}/{command}" for directory in path.split(b":")]
