"""Signals to processes that may have ended."""

from __future__ import annotations

import asyncio
import os
import signal

from wherry.kernel.cgroups import Group, Layout
from wherry.supervisor.lifecycle import killing
from wherry.supervisor.processes.children import Child


def pidfd_of_the_dead() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    pidfd = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    return pidfd


def test_a_signal_to_a_process_that_has_ended_is_no_error() -> None:
    async def run(pidfd: int) -> None:
        child = Child("slot", Group(Layout(1, {}), ""), None)
        child.pidfd = pidfd
        killing.send(child, signal.SIGTERM)
        child.close()
        killing.send(child, signal.SIGTERM)
        killing.send(None, signal.SIGTERM)

    asyncio.run(run(pidfd_of_the_dead()))


def test_a_signal_arrives() -> None:
    async def run() -> int:
        process = await asyncio.create_subprocess_exec("sleep", "1000")
        child = Child("slot", Group(Layout(1, {}), ""), None)
        child.pidfd = os.pidfd_open(process.pid)
        killing.send(child, signal.SIGTERM)
        status = await process.wait()
        child.close()
        return status

    assert asyncio.run(run()) == -signal.SIGTERM
