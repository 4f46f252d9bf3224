"""Which descriptors can be read now: poll(2).

Never select(2): its sets have room for descriptors below 1,024 (FD_SETSIZE), and a supervisor with 150 containers has
more than that. The linter bans it (TID251).
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterable


def readable(descriptors: Iterable[int], seconds: float | None = 0) -> set[int]:
    """Those that can be read, are at their end or in error, after at most ``seconds``; None waits for ever.

    A pidfd can be read once its process has ended. Raises OSError (EBADF) for one that is not open.
    """
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    found = poll.poll(None if seconds is None else max(seconds, 0) * 1000)
    if any(events & select.POLLNVAL for _, events in found):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return {descriptor for descriptor, _ in found}
