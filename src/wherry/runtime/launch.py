"""The parent's side of a first process: clone it, send it messages, read what it reports (``init``, ``messages``)."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
from typing import Any, NamedTuple

from wherry.errors import CommandNotFound, NotExecutable, StartFailed
from wherry.kernel import namespaces
from wherry.kernel.libc import describe_errno
from wherry.runtime import init
from wherry.runtime.messages import EXECVE, Message, Said, Wanted, packed
from wherry.runtime.steps import AwaitIds, Step, encode
from wherry.runtime.user_namespace import UserNamespace

_NOT_FOUND = (errno.ENOENT, errno.ENOTDIR)


CHANNEL = "channel"
TARGET = "target"
GATE = "gate"
"""Names of descriptors that a child is made with: its end of the socket; a pidfd of the process that it joins; where it
waits for its ids.
"""


def spawn(
    prepare: list[Step],
    descriptors: dict[str, int],
    new: list[str],
    joined: list[str],
    namespace: UserNamespace | None = None,
) -> tuple[int, int]:
    """Clone a process in ``new`` namespaces, which runs ``prepare`` and parks; returns (pid, pidfd).

    It has the ``descriptors``, which stay the caller's, CHANNEL among them. With "pid" among ``joined`` it is in the
    pid namespace of TARGET; others are joined by the step JoinNamespaces. ``namespace`` goes with "user" among ``new``.
    The calling process must have one thread: a copy of a process whose other thread held a lock would wait for it for
    ever.

    Raises OSError: ESRCH or ENOMEM when TARGET has ended.
    """
    if namespace is not None:
        return _spawn_mapped(prepare, descriptors, new, namespace)
    with contextlib.ExitStack() as around:
        if "pid" in joined:
            around.enter_context(namespaces.children_in_pid_namespace_of(descriptors[TARGET]))
        return _clone(prepare, descriptors, new)


def _clone(prepare: list[Step], descriptors: dict[str, int], new: list[str]) -> tuple[int, int]:
    pid, pidfd = namespaces.fork_into(new)
    if pid == 0:
        own = dict(descriptors)
        init.main(own.pop(CHANNEL), prepare, own)
    return pid, pidfd


def _spawn_mapped(
    prepare: list[Step], descriptors: dict[str, int], new: list[str], namespace: UserNamespace
) -> tuple[int, int]:
    gate, opener = os.pipe()
    try:
        try:
            pid, pidfd = _clone([AwaitIds(GATE), *prepare], descriptors | {GATE: gate}, new)
        except OSError as error:
            error.strerror = f"{error.strerror}: cannot make a user namespace (/proc/sys/user/max_user_namespaces)"
            raise
        try:
            namespace.give(pid)
            os.write(opener, b"1")
        except BaseException:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
            os.close(pidfd)
            raise
    finally:
        os.close(gate)
        os.close(opener)
    return pid, pidfd


def finish_message(names: list[str], finish: list[Step], args: list[str], env: list[str], with_init: bool) -> bytes:
    """The message that lets a parked child go; ``names`` are those of the descriptors sent with it, in order."""
    content: Message = {Wanted.DESCRIPTORS: names, Wanted.STEPS: encode(finish)}
    return packed({**content, Wanted.ARGUMENTS: args, Wanted.ENVIRONMENT: env, Wanted.INIT: with_init})


class Report(NamedTuple):
    """What the child has said so far: ``complete`` after end of file."""

    ready: bool = False
    executed: bool = False
    failure: dict[str, Any] | None = None


def parse_reports(text: bytes) -> Report:
    """The child's lines; an incomplete last line is left out."""
    ready = executed = False
    failure = None
    for line in text.split(b"\n")[:-1]:
        content = json.loads(line)
        ready |= Said.READY in content
        executed |= Said.EXECUTING in content
        failure = content if Said.FAILED in content else failure
    return Report(ready, executed, failure)


def start_error(name: str, failure: dict[str, Any], doing: str = "start") -> StartFailed:
    """The error for a client: ``cannot start alpha: mount /proc: operation not permitted (EPERM)``."""
    step, call, path, number = (failure.get(key) for key in ("step", "call", "path", "errno"))
    what = str(step)
    if path and path not in what:
        what += f": {call or 'open'} {path}"
    elif call and call not in what:
        what += f": {call}"
    text = f"cannot {doing} {name}: {what}: {_reason(number or 0, str(failure.get('message', '')))}"
    if failure.get("kind") == EXECVE:
        return CommandNotFound(text) if number in _NOT_FOUND else NotExecutable(text)
    return StartFailed(text)


def _reason(number: int, message: str) -> str:
    if number == 0:
        return message
    known = describe_errno(number)
    return known if not message or message == os.strerror(number) else f"{message} ({errno.errorcode.get(number)})"
