"""Executing the supervisor anew in place: the same process, with the program that is installed by now.

The old one serves no more, leaves all that runs with the shim, and calls execve(2). Two descriptors outlive that: the
lock of the state directory, so that nobody gets in between, and the listening socket, in whose queue clients wait
meanwhile. Before all that the new program is asked whether it can be loaded and speaks the shim's protocol: from execve
on there is no way back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from typing import NamedTuple

import wherry
from wherry.shim import protocol
from wherry.supervisor.records import SCHEMA_VERSION

_log = logging.getLogger(__name__)
_VARIABLE = "WHERRY_HANDOVER"
_CHECK_SECONDS = 60


class Handover(NamedTuple):
    """``lock`` and ``listener`` are descriptors, ``socket`` is the listening socket's file: path, device, inode."""

    lock: int
    listener: int
    socket: tuple[str, int, int]

    def execute(self) -> None:
        """Does not return, unless it fails; then all is as it was."""
        descriptors = (self.lock, self.listener)
        environment = {**os.environ, _VARIABLE: json.dumps([os.getpid(), *self])}
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)
        try:
            os.execve(sys.executable, sys.orig_argv, environment)
        except OSError as error:
            _log.error("cannot execute %s: %s; going on with the old program", sys.executable, error.strerror)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)


def taken() -> Handover | None:
    """What the program that executed this one in its place has left; None when there was none."""
    text = os.environ.pop(_VARIABLE, "")
    with contextlib.suppress(ValueError, TypeError, OSError):
        pid, lock, listener, (path, device, inode) = json.loads(text)
        if pid == os.getpid():  # else it has come down from another supervisor
            for descriptor in (lock, listener):
                os.set_inheritable(descriptor, False)
            return Handover(lock, listener, (path, device, inode))
    return None


def versions() -> dict[str, object]:
    """What counts for whether the program goes on with our containers."""
    return {
        "wherry": wherry.__version__,
        "shim protocol": protocol.VERSION,
        "oldest shim protocol": protocol.OLDEST,
        "records": SCHEMA_VERSION,
    }


async def obstacle() -> str:
    """Why the installed program cannot take our place; "" when it can, as far as that can be told before."""
    words = sys.argv[1:]
    begin = len(sys.orig_argv) - len(words)
    position = begin + words.index("supervisor") + 1
    command = [sys.executable, *sys.orig_argv[1:position], "--check", *sys.orig_argv[position:]]
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return f"cannot execute {sys.executable}: {error.strerror}"
    try:
        out, err = await asyncio.wait_for(process.communicate(), _CHECK_SECONDS)
    except TimeoutError:
        return f"the new program has not said within {_CHECK_SECONDS} seconds that it can be loaded"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        return f"the new program cannot be loaded: {_last_line(err)}"
    return _difference(out)


def _difference(out: bytes) -> str:
    try:
        theirs = dict(json.loads(out))
    except ValueError:
        return f"the new program does not say its versions: {_last_line(out)}"
    oldest, newest, records = (theirs.get(what) for what in ("oldest shim protocol", "shim protocol", "records"))
    if records != SCHEMA_VERSION:
        return f"records: the new program has version {records}, not {SCHEMA_VERSION}; stop all containers first"
    if not (isinstance(oldest, int) and isinstance(newest, int) and oldest <= protocol.VERSION <= newest):
        spoken = f"versions {oldest} to {newest}, not {protocol.VERSION}"
        return f"shim protocol: the new program has {spoken}; stop all containers first"
    _log.info("reloading: version %s takes the place of %s", theirs.get("wherry"), wherry.__version__)
    return ""


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="backslashreplace").strip().splitlines()
    return lines[-1][:500] if lines else "it says nothing"


def monotonic_usec() -> int:
    """For sd_notify(3), MONOTONIC_USEC of RELOADING=1."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
