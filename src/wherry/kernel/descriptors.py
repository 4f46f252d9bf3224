"""How many descriptors a process has open and may have: getrlimit(2), RLIMIT_NOFILE."""

from __future__ import annotations

import os
import resource


def raise_own_limit() -> int:
    """Raise our soft limit to the hard one, and return it."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def limit(pid: int = 0) -> int:
    """How many ``pid`` (0: this process) may have open. Raises OSError (ProcessLookupError, PermissionError)."""
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]


def raise_limit(pid: int, size: int) -> None:
    """Let another process have ``size`` open, or as many as its hard limit allows where we may not raise that
    (CAP_SYS_RESOURCE). Raises OSError, as ``limit``.
    """
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    if soft >= size:
        return
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (size, max(hard, size)))
    except PermissionError:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(size, hard), hard))


def count(pid: int = 0) -> int:
    """How many ``pid`` (0: this process) has open. Raises OSError when it is gone.

    From Linux 6.2 on the directory's size is their number (proc_fd_getattr in fs/proc/fd.c); before it is 0, and they
    are counted one by one, which takes some 3 ms for 10,000.
    """
    path = f"/proc/{pid or 'self'}/fd"
    return os.stat(path).st_size or len(os.listdir(path))
