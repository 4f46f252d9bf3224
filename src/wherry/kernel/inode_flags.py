"""Flags of files that keep even root from deleting them: ioctl_iflags(2), chattr(1)."""

from __future__ import annotations

import fcntl
import os
import stat
import struct

from wherry.kernel.libc import call_error

IMMUTABLE = 0x10  # include/uapi/linux/fs.h: FS_IMMUTABLE_FL, FS_APPEND_FL
APPEND_ONLY = 0x20


def _ioctl(direction: int, number: int) -> int:
    # asm-generic/ioctl.h: _IOC; FS_IOC_GETFLAGS and FS_IOC_SETFLAGS say that they take a long, and take an int.
    return direction << 30 | struct.calcsize("l") << 16 | ord("f") << 8 | number


_GET = _ioctl(2, 1)
_SET = _ioctl(1, 2)


def change(descriptor: int, clear: int = 0, add: int = 0) -> bool:
    """Of an open file or directory (not O_PATH); whether they were others before.

    Raises OSError: ENOTTY or EOPNOTSUPP from file systems that have none.
    """
    try:
        (flags,) = struct.unpack("i", fcntl.ioctl(descriptor, _GET, bytes(4)))
        wanted = flags & ~clear | add
        if wanted == flags:
            return False
        fcntl.ioctl(descriptor, _SET, struct.pack("i", wanted))
    except OSError as error:
        raise call_error(error.errno or 0, "ioctl FS_IOC_SETFLAGS") from error
    return True


def make_removable(directory: int, name: str) -> None:
    """Let the entry ``name`` of an open directory be deleted, as far as flags of either forbid it. Raises OSError."""
    change(directory, IMMUTABLE | APPEND_ONLY)
    kind = stat.S_IFMT(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR):  # opening a device or a FIFO may have consequences
        return
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        change(file, IMMUTABLE | APPEND_ONLY)
    finally:
        os.close(file)
