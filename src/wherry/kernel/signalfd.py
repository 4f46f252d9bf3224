"""A signal as a descriptor: signalfd(2)."""

from __future__ import annotations

import contextlib
import os
import signal
import struct

from wherry.kernel import libc

_INFO = 128  # struct signalfd_siginfo
_SET = 128  # sigset_t


class SignalDescriptor:
    """Polls readable when the signal has come, of which there may have been several. Blocks the signal in this thread,
    for good.
    """

    def __init__(self, number: signal.Signals) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {number})
        # SFD_NONBLOCK and SFD_CLOEXEC are O_NONBLOCK and O_CLOEXEC.
        wanted = struct.pack("=Q", 1 << (number - 1)).ljust(_SET, b"\0")  # unsigned longs of the machine's order
        self._descriptor = libc.signalfd(-1, wanted, os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._descriptor

    def clear(self) -> None:
        """Poll readable for what comes from now on."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, _INFO)

    def close(self) -> None:
        os.close(self._descriptor)
