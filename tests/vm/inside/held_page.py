"""A page that nobody can touch until it is given: userfaultfd(2), linux/userfaultfd.h."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
from types import TracebackType
from typing import Self

from tests.patience import PATIENCE

from wherry.kernel.polling import readable

_USERFAULTFD = 323  # asm/unistd_64.h
_API, _MISSING = 0xAA, 1
_UFFDIO_API = 3 << 30 | 24 << 16 | 0xAA << 8 | 0x3F
_UFFDIO_REGISTER = 3 << 30 | 32 << 16 | 0xAA << 8
_UFFDIO_ZEROPAGE = 3 << 30 | 32 << 16 | 0xAA << 8 | 4
_libc = ctypes.CDLL(None, use_errno=True)


class HeldPage:
    """Whoever touches ``address``, the kernel included, waits until ``give``, or the end of the block."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._descriptor = _libc.syscall(_USERFAULTFD, os.O_CLOEXEC | os.O_NONBLOCK)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "userfaultfd")
        fcntl.ioctl(self._descriptor, _UFFDIO_API, struct.pack("=QQQ", _API, 0, 0))
        fcntl.ioctl(self._descriptor, _UFFDIO_REGISTER, struct.pack("=QQQQ", *self._range(), _MISSING, 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def is_touched(self) -> bool:
        """Waits for it."""
        return bool(readable([self._descriptor], PATIENCE))

    def give(self) -> None:
        fcntl.ioctl(self._descriptor, _UFFDIO_ZEROPAGE, struct.pack("=QQQq", *self._range(), 0, 0))

    def read(self, descriptor: int, size: int) -> int:
        """read(2) into the page. Raises OSError."""
        done = int(_libc.read(descriptor, ctypes.c_void_p(self.address), size))
        if done < 0:
            raise OSError(ctypes.get_errno(), "read")
        return done

    def content(self, size: int) -> bytes:
        return self._memory[:size]

    def _range(self) -> tuple[int, int]:
        return self.address, mmap.PAGESIZE
