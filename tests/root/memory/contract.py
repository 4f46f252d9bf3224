"""What each memory enforcer promises, case by case: tests/root/memory/test_contract.py holds them to it, and
docs/memory-limits.md shows it (tests/unit/memory/test_contract_page.py holds the page to this table).

An enforcer stands alone in the first two tables. In the third the memory group stands behind kmod and bpf.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

COLUMNS = {"bpf": "bpf", "kmod": "kmod", "cgroup1": "cgroup, version 1", "cgroup2": "cgroup, version 2"}


class Promise(StrEnum):
    """What happens, in the words of the page."""

    ALL = "all die"
    CROSSER = "who crosses dies, then all"
    VICTIM = "one dies, then all"
    TOLD = "told, then all die"
    LIVES = "not counted"
    UNHELD = "nobody holds it"
    REFUSED = "refused, the old one holds"
    IN_THE_FAULT = "in the page fault"
    AT_THE_CHECK = "at the check after it"
    AT_THE_READING = "when it is read"
    ONCE = "once"
    ALWAYS = "yes"
    NEVER = "no"
    HARD_LIMIT = "ends, `hard_limit`"
    OOM = "ends, `oom`"
    GOES_ON = "goes on"


MEANINGS = {
    Promise.ALL: "the kernel's half ends every process, whether or not anybody reads the event",
    Promise.CROSSER: "the process whose page fault crosses dies in it, and every other that grows; whoever reads the"
    " event, or the next supervisor, ends the rest",
    Promise.VICTIM: "the OOM killer ends a process of its choice; the rest as above",
    Promise.TOLD: "the event comes at once, without another page, and whoever reads it ends the container",
}
"""Of the words that do not say it all; the page begins with these."""


class Case(NamedTuple):
    """``promises`` are in the order of COLUMNS; ``grows_on`` that the first process goes on to grow after a crossing
    by another one, and so must end although nobody reads an event.
    """

    title: str
    promises: tuple[Promise, Promise, Promise, Promise]
    grows_on: bool = True

    def promised(self, column: str) -> Promise:
        return dict(zip(COLUMNS, self.promises, strict=True))[column]


_P = Promise
_COUNTED = (_P.CROSSER, _P.ALL, _P.VICTIM, _P.ALL)
_BY_THE_GROUP_ONLY = (_P.LIVES, _P.LIVES, _P.VICTIM, _P.ALL)
_NOBODY = (_P.LIVES, _P.LIVES, _P.LIVES, _P.LIVES)
_YES = (_P.ALWAYS, _P.ALWAYS, _P.ALWAYS, _P.ALWAYS)

ENDS: dict[str, Case] = {
    "anonymous": Case("private memory", _COUNTED),
    "shared": Case("a shared mapping", _COUNTED),
    "clone_vm": Case("a process with the same memory (CLONE_VM) crosses", _COUNTED),
    "vfork": Case("a child of vfork crosses", _COUNTED),
    "exiting": Case("a thread crosses in its own exit", _COUNTED),
    "threads": Case("a thousand threads, 32 pages each", _COUNTED),
    "fork_storm": Case("300 children, 25 pages each, all forked before", _COUNTED, grows_on=False),
    "remote_write": Case(
        "process_vm_writev from outside the container", (_P.TOLD, _P.ALL, _P.VICTIM, _P.ALL), grows_on=False
    ),
    "memfd": Case("a memfd, written and not mapped", _BY_THE_GROUP_ONLY),
    "tmpfs": Case("a file in a tmpfs, the same", _BY_THE_GROUP_ONLY),
    "page_tables": Case("page tables", _BY_THE_GROUP_ONLY),
    "swap": Case("private memory that was swapped out (the groups forbid swap)", _BY_THE_GROUP_ONLY),
    "hugetlb": Case("huge pages of the machine's pool (hugetlbfs)", _NOBODY),
    "lowered_idle": Case(
        "hard limit set below what an idle container has", (_P.TOLD, _P.ALL, _P.REFUSED, _P.ALL), grows_on=False
    ),
    "lowered_growing": Case("hard limit lowered again and again while it grows", _COUNTED),
    "raised": Case("hard limit raised, then crossed", _COUNTED),
    "full_map": Case("another container has filled the table of processes", _COUNTED),
    "refused_arm": Case("a second watch of the same container was refused", _COUNTED),
    "shim_dead": Case("no shim, a supervisor lives", _COUNTED),
    "supervisor_dead": Case("no supervisor, the shim lives", _COUNTED),
    "neither": Case("neither of them", (_P.UNHELD, _P.UNHELD, _P.VICTIM, _P.ALL)),
    "too_late": Case("neither, and then a new supervisor comes", (_P.TOLD, _P.ALL, _P.VICTIM, _P.ALL), grows_on=False),
    "both_dead": Case("a new supervisor has come after both died", _COUNTED),
    "other_layout": Case("a new supervisor that knows other maps than the shim has", _COUNTED),
}
"""A hard limit is crossed."""

TELLS: dict[str, Case] = {
    "instant": Case(
        "instant that a soft crossing has", (_P.IN_THE_FAULT, _P.AT_THE_CHECK, _P.AT_THE_READING, _P.AT_THE_READING)
    ),
    "once": Case("soft crossing told, by a descriptor that polls readable", (_P.ONCE, _P.ONCE, _P.ONCE, _P.ONCE)),
    "flap": Case("up, down, and up again for good within 50 ms: the last word is that it is above", _YES),
    "new_limit": Case("a new soft limit is a new crossing", _YES),
    "full_ring": Case("crossings are told although another container's have filled the buffer", _YES),
    "unread": Case("an unread soft crossing outlives the supervisor", _YES),
    "short_processes": Case("hundreds of short processes cross nothing and leave nothing in the figures", _YES),
}
"""What is told, and when."""

_BEHIND = (_P.OOM, _P.OOM, _P.HARD_LIMIT, _P.HARD_LIMIT)
SUPERVISED: dict[str, Case] = {
    "anonymous": Case("private memory", (_P.HARD_LIMIT, _P.HARD_LIMIT, _P.HARD_LIMIT, _P.HARD_LIMIT)),
    "memfd": Case("a memfd, written and not mapped", _BEHIND),
    "tmpfs": Case("a file in a tmpfs, the same", _BEHIND),
    "tables": Case("page tables", _BEHIND),
    "pageout": Case("private memory, given to swap where there is some", (_P.HARD_LIMIT,) * 4),
    "hugetlb": Case("huge pages of the machine's pool", (_P.GOES_ON,) * 4),
}
"""A container of a supervisor takes half as much again as its hard limit, and the host has a memory controller."""


def page() -> str:
    """The part of docs/memory-limits.md, in Markdown."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield from (f"- *{promise}*: {meaning}" for promise, meaning in MEANINGS.items())
    tables = (("hard limit crossed by", ENDS), ("soft limit", TELLS), ("with a supervisor", SUPERVISED))
    for heading, cases in tables:
        yield ""
        yield f"| {heading} | {' | '.join(COLUMNS.values())} |"
        yield "|" + "---|" * (len(COLUMNS) + 1)
        yield from (f"| {case.title} | {' | '.join(case.promises)} |" for case in cases.values())
