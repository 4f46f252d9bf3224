"""A timer that polls readable (timerfd_create(2)); Python has it from 3.13 on."""

from __future__ import annotations

import contextlib
import os
import struct
import time

from wherry.kernel import libc

_ABSOLUTE = 1  # TFD_TIMER_ABSTIME, <sys/timerfd.h>


class Timer:
    """Of CLOCK_MONOTONIC, in nanoseconds."""

    def __init__(self) -> None:
        # TFD_NONBLOCK and TFD_CLOEXEC are O_NONBLOCK and O_CLOEXEC.
        self._descriptor = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._descriptor

    def set(self, at: int | None) -> None:
        """Poll readable from the instant ``at`` on, at once when that has been; never with None. What was set before
        is forgotten, also that it was readable.
        """
        seconds, nanoseconds = (0, 0) if at is None else divmod(max(at, 1), 1_000_000_000)
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 8)
        # struct itimerspec: the interval, then the instant, in two words each; zero disarms it.
        libc.timerfd_settime(self._descriptor, _ABSOLUTE, struct.pack("=4q", 0, 0, seconds, nanoseconds), None)

    def close(self) -> None:
        os.close(self._descriptor)
