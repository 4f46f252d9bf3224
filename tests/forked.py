"""Run a function in a forked process: for what changes the calling process for good (namespaces, capabilities, its
user), or must not be done by one with several threads.
"""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from collections.abc import Callable
from typing import NoReturn, TypeVar

from wherry.kernel import process

T = TypeVar("T")


def in_child(function: Callable[[], T]) -> T:
    """What ``function`` returns, called in a child; what it raises is an AssertionError here, with its traceback.

    Processes that the function has started and not waited for are killed, and are a failure; orphans become the
    child's, not the machine's.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _run(function, writer)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as results:
            answer = results.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(child, 0)
    if not answer:
        raise AssertionError(f"the child ended by itself: {os.waitstatus_to_exitcode(status)}")
    succeeded, result = pickle.loads(answer)
    if not succeeded:
        raise AssertionError(f"in the child:\n{result}")
    returned: T = result
    return returned


def _run(function: Callable[[], object], writer: int) -> NoReturn:
    # The end of pytest's copy is here, whatever happens: none of its own clean-up may run twice.
    try:
        process.become_subreaper()
        children = os.open("/proc/thread-self/children", os.O_RDONLY)  # now: the function may leave this /proc
        try:
            answer = pickle.dumps((True, function()))
            if left := _kill_children(children):
                answer = pickle.dumps((False, f"processes left over: {left}"))
        except BaseException:
            answer = pickle.dumps((False, traceback.format_exc()))
            _kill_children(children)
        with os.fdopen(writer, "wb") as results:
            results.write(answer)
    finally:
        os._exit(0)


def _kill_children(children: int) -> list[int]:
    """Until there are none: one that ends can leave us its own children."""
    killed = []
    while True:
        for pid in map(int, os.pread(children, 1 << 16, 0).split()):
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return killed
