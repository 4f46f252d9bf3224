"""SIGKILL, and what a container can do about it: freeze itself, and hide in groups of its own making.

On control groups version 1 a frozen process does not die before it is thawed, and whoever is not frozen can freeze the
rest again; so the tree of groups is thawed again and again until the end has been seen. A process that sits in the
kernel (state D) ends when the kernel lets go of it, and nobody can do anything about that but say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal

from wherry.errors import NotKilled
from wherry.kernel import cgroup_trees as trees
from wherry.kernel.cgroups import INNER, Group, Layout
from wherry.kernel.process_states import ProcessState, state_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wherry.supervisor.processes.children import Child

_log = logging.getLogger(__name__)

KILL_SECONDS = 10.0
"""How long anybody waits for an end after SIGKILL (as dockerd does)."""
_FIRST_LOOK_SECONDS = 0.02
_THOROUGH_SECONDS = 0.5
_LONGEST_SECONDS = 2.0
_SHOWN = 5


def send(child: Child | None, number: int) -> None:
    """A signal to its process. No error when it has ended, or there is none."""
    if child is not None and child.pidfd >= 0:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child.pidfd, number)


def kill(child: Child) -> None:
    """SIGKILL to its first process, which takes all of its pid namespace with it, now; and from then on whatever it
    needs to die of that, in the background. No error when it has ended.
    """
    send(child, signal.SIGKILL)
    if child.killing is None and not child.exited.done():
        child.killing = asyncio.get_running_loop().create_task(_until_it_ends(child))


async def _until_it_ends(child: Child) -> None:
    delay = _FIRST_LOOK_SECONDS
    while not await has_ended(child, delay):
        # First of all the ordinary case: nobody else is there, and it only has to be thawed.
        work = trees.thaw if delay < _THOROUGH_SECONDS else trees.kill
        await asyncio.to_thread(work, child.group.places)
        delay = min(1.5 * delay, _LONGEST_SECONDS)


async def has_ended(child: Child, seconds: float) -> bool:
    """Whether its end is seen within ``seconds``."""
    if not child.exited.done():
        await asyncio.wait([child.exited], timeout=seconds)
    return child.exited.done()


async def not_killed(name: str, child: Child) -> NotKilled:
    """The error that says what of container ``name`` is still there."""
    text = await asyncio.to_thread(remains, child.group, child.pid)
    return NotKilled(f"{name} does not end: SIGKILL was sent {KILL_SECONDS:.0f} s ago or longer; {text}")


def remains(group: Group, first: int = 0) -> str:
    """Which processes are left in and below a group, ``first`` among them, what each does, and where: one line.

    Reads /proc, of every process.
    """
    found = sorted(trees.processes(group.places) | ({first} if first else set()))
    states = [state for pid in found if (state := state_of(pid)) is not None]
    texts = [_described(state, group.layout) for state in states[:_SHOWN]]
    if len(states) > _SHOWN:
        texts.append(f"and {len(states) - _SHOWN} more")
    return "; ".join([*(texts or ["no process of it is to be seen"]), f"control group /{group.path}"])


def _described(state: ProcessState, layout: Layout) -> str:
    words = [f"pid {state.pid} ({state.comm!r}) is in state {state.state}"]
    if state.wchan:
        words.append(f"in the kernel's {state.wchan}")
    if state.tracer:
        words.append(f"traced by pid {state.tracer}")
    if _is_frozen(state, layout):
        words.append("frozen by its control group")
    return ", ".join(words)


def _is_frozen(state: ProcessState, layout: Layout) -> bool:
    return any(
        controllers in layout.mounts and text in (_read(f"{layout.mounts[controllers]}{path}/{file}"))
        for controllers, path in state.groups
        for file, text in (("freezer.state", "FR"), ("cgroup.events", "frozen 1"))  # FROZEN, FREEZING
    )


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


async def remove_group(group: Group, root: int = -1) -> None:
    """rmdir of it and of all below it, again for as long as the kernel still counts a dying process there; a warning
    after two seconds.

    Closes the root mount ``root`` first, in the same thread: closing the last reference to an overlay syncs the file
    system under it. Holding one until here keeps that sync out of the container's own exit.
    """
    removed = await asyncio.to_thread(_close_and_remove, group, root)
    for delay in (0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.3, 0.5, 1):
        if removed:
            return
        await asyncio.sleep(delay)
        removed = await asyncio.to_thread(_close_and_remove, group, -1)
    _log.warning("control group /%s is still busy and stays", group.path)


def _close_and_remove(group: Group, root: int) -> bool:
    if root >= 0:
        os.close(root)
    return trees.remove(group.places, INNER)
