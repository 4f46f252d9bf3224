"""Soft and hard limits on the memory of whole containers: one protocol, several enforcers.

``limiter`` is the protocol and its data types. Each enforcer is a module of its own, named as the enforcer is
(``kmod``, ``bpf``, ``cgroup``), with one function ``open_limiter``.
"""

from wherry.memory.limiter import (
    Accuracy,
    Alarm,
    Host,
    Kind,
    Limits,
    MemoryEvent,
    MemoryLimiter,
    MemoryUsage,
    Target,
    Traits,
    Unusable,
    Verdict,
    wall_clock,
)

__all__ = [
    "Accuracy",
    "Alarm",
    "Host",
    "Kind",
    "Limits",
    "MemoryEvent",
    "MemoryLimiter",
    "MemoryUsage",
    "Target",
    "Traits",
    "Unusable",
    "Verdict",
    "wall_clock",
]
