"""What a test run inherits from whoever starts it (a script's background job, nohup, cron), made what a shell gives."""

from __future__ import annotations

import os
import signal

_NAMES = frozenset({"COLUMNS", "LANG", "LANGUAGE", "LINES", "NO_COLOR", "NOTIFY_SOCKET"})
_PREFIXES = ("DOCKER_", "ENGINE_", "LC_")
"""Variables that what is tested looks at: the daemon of somebody's shell is not the tests'."""


def make_ordinary() -> None:
    """For this process and all that it starts: tests say themselves where they want anything else."""
    _restore_signals()
    _open_standard_streams()
    os.umask(0o022)
    for name in [name for name in os.environ if name in _NAMES or name.startswith(_PREFIXES)]:
        del os.environ[name]
    os.environ["LANG"] = "C.UTF-8"


def _restore_signals() -> None:
    """None ignored or blocked: execve(2) keeps both. A script has its background jobs ignore SIGINT and SIGQUIT, nohup
    SIGHUP.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    left_to_python = {signal.SIGPIPE, signal.SIGXFSZ}  # it ignores them itself, and subprocess restores them
    for number in signal.valid_signals() - left_to_python:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _open_standard_streams() -> None:
    """Else the next file that is opened would be somebody's standard input."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            assert os.open(os.devnull, os.O_RDWR) == number
