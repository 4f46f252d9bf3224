"""The pipes between a container and its log."""

from __future__ import annotations

import fcntl
import logging
import os
import select
import stat
import struct
import termios
from pathlib import Path

from wherry import errors
from wherry.logs.index import STDERR, STDOUT

PIPE_SIZE = 1024 * 1024

logger = logging.getLogger(__name__)


def make_pipe() -> tuple[int, int]:
    """A close-on-exec pipe (read end, write end) of PIPE_SIZE bytes.

    Smaller where the kernel refuses that: fcntl(2) F_SETPIPE_SZ fails with EPERM beyond /proc/sys/fs/pipe-max-size and,
    for users without CAP_SYS_RESOURCE, beyond pipe-user-pages-soft in all pipes of the user.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except OSError as error:  # also ENOMEM: a small pipe is slower, not wrong
        logger.debug("a log pipe keeps its default size: %s", error)
    return read_end, write_end


def duplicate_pipe(read_end: int, write_end: int) -> tuple[int, int]:
    """More descriptors of the same pipe, for a second stream that is to be one with the first."""
    again = os.dup(read_end)
    try:
        return again, os.dup(write_end)
    except OSError:
        os.close(again)
        raise


class Pipe:
    """The read end of one stream of one container.

    ``left`` is how many bytes are still to be taken from it, None for all until its end.
    """

    def __init__(self, fd: int, stream: int) -> None:
        self.fd = fd
        self.stream = stream
        self.left: int | None = None

    def waiting_bytes(self) -> int:
        """What is in the pipe now (pipe(7), FIONREAD)."""
        count: int = struct.unpack("i", fcntl.ioctl(self.fd, termios.FIONREAD, b"\0\0\0\0"))[0]
        return count

    def is_at_end(self) -> bool:
        """No byte is in it, and nobody has the writing end (poll(2): POLLHUP alone)."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return any(events & select.POLLHUP and not events & select.POLLIN for _, events in poll.poll(0))


def distinct_pipes(stdout: int, stderr: int, path: Path) -> list[Pipe]:
    """The pipes to read for the log at ``path``; -1 stands for none, and two ends of one pipe are one, stdout.

    Raises InvalidRequest for a descriptor that is no pipe: splice(2) needs one.
    """
    found: dict[tuple[int, int], Pipe] = {}
    for fd, stream in ((stdout, STDOUT), (stderr, STDERR)):
        if fd < 0:
            continue
        status = os.fstat(fd)
        if not stat.S_ISFIFO(status.st_mode):
            raise errors.InvalidRequest(f"descriptor {fd} for log {path} is not a pipe")
        found.setdefault((status.st_dev, status.st_ino), Pipe(fd, stream))
    return list(found.values())
