"""Which enforcer this host gets: the first that passes its self-test, and why not the others."""

from __future__ import annotations

import functools
import importlib
from typing import NamedTuple

from wherry.kernel.libc import describe
from wherry.memory import selftest
from wherry.memory.limiter import Host, MemoryLimiter, Traits, Unusable

ENFORCERS = ("kmod", "bpf", "cgroup")
"""In the order in which ``auto`` tries them."""
AUTO = "auto"


class Choice(NamedTuple):
    """``limiter`` is None when none works. ``refused`` is enforcer -> why it was not taken, in one line, of those that
    were tried.
    """

    limiter: MemoryLimiter | None
    refused: dict[str, str]


def choose(wanted: str, host: Host, taken_over: dict[str, MemoryLimiter]) -> Choice:
    """``wanted`` is ``auto`` or the name of an enforcer. ``taken_over`` are those that an earlier supervisor chose,
    which have passed already.

    Raises Unusable when the wanted one does not work; with ``auto`` that is no error.
    """
    refused: dict[str, str] = {}
    for name in ENFORCERS if wanted == AUTO else (wanted,):
        try:
            return Choice(taken_over.get(name) or _tested(name, host), refused)
        except Unusable as reason:
            refused[name] = str(reason)
    if wanted != AUTO:
        raise Unusable(f"memory enforcer {wanted}: {refused[wanted]}")
    return Choice(None, refused)


@functools.cache
def traits_of(name: str) -> Traits:
    """Of the enforcer that a record names, which this version may not have; "" is nobody."""
    if name not in ENFORCERS:
        return Traits() if name else Traits(not_counted=())
    traits: Traits = importlib.import_module(f"wherry.memory.{name}").TRAITS
    return traits


def take_over(name: str, host: Host, kept: dict[str, int]) -> MemoryLimiter:
    """An enforcer that an earlier supervisor used. One that had to be opened afresh, because nothing in ``kept`` is of
    use to it, has to pass its self-test like any other. Raises Unusable.
    """
    limiter = open_limiter(name, host, kept)
    return limiter if limiter.has_taken_over else _checked(limiter, host)


def open_limiter(name: str, host: Host, kept: dict[str, int]) -> MemoryLimiter:
    """Raises Unusable."""
    try:
        module = importlib.import_module(f"wherry.memory.{name}")
    except ModuleNotFoundError:
        raise Unusable("this version of wherry does not have it") from None
    try:
        limiter: MemoryLimiter = module.open_limiter(host, kept)
    except OSError as error:
        raise Unusable(describe(error)) from None
    return limiter


def _tested(name: str, host: Host) -> MemoryLimiter:
    return _checked(open_limiter(name, host, {}), host)


def _checked(limiter: MemoryLimiter, host: Host) -> MemoryLimiter:
    try:
        selftest.check(limiter, host)
    except BaseException:
        limiter.close()
        raise
    return limiter
