"""When a container that has ended is started again by itself: docker's restart policies, and its back-off."""

from __future__ import annotations

from enum import StrEnum

from wherry.errors import InvalidRequest, quoted

FIRST_NS = 100_000_000
"""The delay before the first new start; each further one is twice as long."""
LONGEST_NS = 60_000_000_000
LONG_RUN_NS = 10_000_000_000
"""A run as long as this was no failure to come up: the delays begin anew."""
_RETRIES_MAX = (1 << 31) - 1


class RestartPolicy(StrEnum):
    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"
    UNLESS_STOPPED = "unless-stopped"


WHATEVER_CODE = frozenset({RestartPolicy.ALWAYS, RestartPolicy.UNLESS_STOPPED})


def check(policy: str, retries: int, auto_remove: bool) -> None:
    """Docker's rules, in its words. Raises InvalidRequest."""
    if policy not in frozenset(RestartPolicy):
        raise InvalidRequest(
            f"invalid restart policy: unknown policy {quoted(policy)}; use one of {', '.join(RestartPolicy)}"
        )
    if not 0 <= retries <= _RETRIES_MAX:
        raise InvalidRequest(f"invalid restart policy: {retries} is not a number of retries from 0 to {_RETRIES_MAX}")
    if retries and policy != RestartPolicy.ON_FAILURE:
        raise InvalidRequest("invalid restart policy: a maximum of retries is for on-failure only")
    if auto_remove and policy != RestartPolicy.NO:
        raise InvalidRequest("a container that is removed when it ends cannot have a restart policy")


def wants(policy: str, retries: int, restarts: int, exit_code: int | None) -> bool:
    """Whether one that has ended by itself is to be started again, after so many ``restarts``; ``exit_code`` None when
    nobody knows it.
    """
    if policy in WHATEVER_CODE:
        return True
    return policy == RestartPolicy.ON_FAILURE and exit_code != 0 and not 0 < retries <= restarts


def next_delay(last_ns: int, ran_ns: int) -> int:
    """Nanoseconds, after a run of ``ran_ns`` that had waited ``last_ns`` for its start (0: not at all)."""
    return min(2 * last_ns, LONGEST_NS) if last_ns and ran_ns < LONG_RUN_NS else FIRST_NS
