"""``--init``: a pid 1 that starts the command as its child, hands signals on and reaps orphans, as tini does.

It is the prepared Python process itself: nothing of the container is executed as pid 1, and being not dumpable and
without capabilities of its own making it offers the container nothing through /proc/1.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from wherry.kernel import process

_NOT_FORWARDED = (signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU)


def run(execute: Callable[[], int], close_channel: Callable[[], None]) -> int:
    """Run ``execute`` (which ends in execve, or returns an exit code) in a child; returns the container's exit code.

    A child ended by signal N gives 128 + N.
    """
    everything = signal.valid_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, everything)
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os._exit(execute())
    close_channel()
    process.set_title("init")
    process.close_from(0)  # the command may close its streams, and then their other ends are to see it
    while True:
        information = signal.sigwaitinfo(everything)
        if information.si_signo == signal.SIGCHLD:
            status = _reap(child)
            if status is not None:
                return status
        elif information.si_signo not in _NOT_FORWARDED:
            _forward(child, information.si_signo)


def _reap(child: int) -> int | None:
    result = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return result
        if pid == 0:
            return result
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            result = code if code >= 0 else 128 - code


def _forward(child: int, number: int) -> None:
    try:
        os.kill(child, number)
    except ProcessLookupError:
        pass
