"""Numbers of pid namespaces that are given away again, while the enforcer still holds their old owners for alive."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from tests.root.memory.armed import GROW, MIB, Armed
from tests.waiting import wait_until

from wherry.kernel import cgroups
from wherry.memory import Host, Limits, selftest
from wherry.memory.bpf import BpfLimiter

pytestmark = pytest.mark.root


def next_with_number(number: int, group: cgroups.Group, made: list[subprocess.Popen[bytes]]) -> bool:
    """Whether the last of ``made`` is the first process of a namespace with that number; others may be quicker."""
    for _attempt in range(50):
        made.append(selftest.start_helper(group, [GROW, "pages", "64", "1"]))
        (pid,) = selftest.read_numbers(made[-1])
        if os.stat(f"/proc/{pid}/ns/pid").st_ino == number:
            return True
    return False


def grow_under_the_number_of_one_that_has_gone(limiter: BpfLimiter, group: cgroups.Group) -> list[int]:
    """How it ended: si_code and si_status; empty when the number was given to somebody else."""
    armed = Armed(limiter, group, Limits(hard_bytes=16 * MIB), GROW, "storm", "0", "1")
    number = armed.target.inode
    armed.go()
    wait_until(lambda: limiter.stat(armed.id).rss_bytes > 0)
    signal.pidfd_send_signal(armed.pidfd, signal.SIGKILL)
    wait_until(armed.has_ended)
    selftest.end_helper(armed.helper)
    for descriptor in (armed.namespace, armed.pidfd, *armed.kept.values()):  # each of them holds it
        os.close(descriptor)
    others: list[subprocess.Popen[bytes]] = []
    ended: list[int] = []
    try:
        if next_with_number(number, group, others):
            stdin = others[-1].stdin
            assert stdin is not None
            stdin.write(b".")
            ended = selftest.read_numbers(others[-1])
    finally:
        for each in others:
            selftest.end_helper(each)
        limiter.disarm(armed.id)
    return ended


def test_the_next_owner_of_a_number_is_another_container(limiter: BpfLimiter, host: Host) -> None:
    """As when supervisor and shim have gone and the programs are pinned: nobody disarms, and nobody holds numbers."""
    group = cgroups.Group(host.layout, host.parent)
    for _attempt in range(20):
        if ended := grow_under_the_number_of_one_that_has_gone(limiter, group):
            assert ended == [os.CLD_EXITED, 0]
            return
    pytest.fail("the number was always given to somebody else")
