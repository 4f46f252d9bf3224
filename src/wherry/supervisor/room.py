"""Whether there is room for one container more: descriptors, of which a container holds 6 to 12 in the supervisor and 5
to 9 in the shim for as long as it lives.

Looked at before anything is made: a start that runs out of them half-way is undone, but it takes those that clients
need to connect with, to stop a container for example.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from wherry.errors import InvalidRequest, StartFailed
from wherry.kernel import descriptors

_RESERVE = 256
"""For clients' connections, for taking over, and for stopping all."""
_STARTING = 24
"""What one start has open at the same time, in the middle of it."""
_ADOPTED = 3
"""What a container that is taken over opens, beside what the shim has handed over: log, index, OOM watch."""
_MEND = "raise the limit (LimitNOFILE= of the service, ulimit -n)"


class Room:
    """Of one supervisor and its shim; belongs to the loop."""

    def __init__(self) -> None:
        self._starting = 0

    @contextlib.contextmanager
    def start(self, shim_pid: int) -> Iterator[None]:
        """Around a start. Raises StartFailed when there are too few descriptors left for it."""
        needed = _STARTING * (self._starting + 1)
        for who, pid in (("supervisor", 0), ("shim", shim_pid)):
            try:
                limit, used = descriptors.limit(pid), descriptors.count(pid)
            except OSError:
                continue  # a shim that has just died; the start will find that out
            if used + needed + _reserve(limit) > limit:
                raise StartFailed(
                    f"the {who} has {used} of {limit} descriptors open, too many for another container: {_MEND}"
                )
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1


def check_takeover(shim_pid: int, containers: int) -> None:
    """Before ``containers`` are taken over, whose descriptors are here already. Raises InvalidRequest.

    Gives the shim, which may be of a supervisor with a lower limit, as much room as we have.
    """
    with contextlib.suppress(OSError):
        descriptors.raise_limit(shim_pid, descriptors.limit())
    limit, used = descriptors.limit(), descriptors.count()
    needed = used + containers * _ADOPTED
    if needed + _reserve(limit) // 4 > limit:
        raise InvalidRequest(
            f"taking over {containers} containers needs about {needed} descriptors, and {limit} is the limit: {_MEND}; "
            "the containers go on"
        )


def _reserve(limit: int) -> int:
    return min(_RESERVE, limit // 4)
