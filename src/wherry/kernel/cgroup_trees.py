"""Control groups with all that is below them.

A container can make groups below its own: it unshares user, mount and cgroup namespaces and mounts the hierarchies. So
what is below may be deep, many, oddly named, frozen, and changing while one looks. Trees are walked by descriptors and
"..", one level open at a time: neither a path nor the table of descriptors grows with the depth. A walk ends after
``LIMIT`` groups; version 1 bounds neither their number nor their depth.

The shim loads this file: its imports are few on purpose.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal

from wherry.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LIMIT = 1 << 17
ENTER, LEAVE, LEFT = range(3)

_FREEZERS = (("freezer.state", "THAWED"), ("cgroup.freeze", "0"))
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def walk(directory: str, limit: int = LIMIT) -> Iterator[tuple[int, int, int, str]]:
    """(what, descriptor, depth, name) for each group of a tree, the one at ``directory`` included, at depth 0.

    ENTER comes before the groups below, LEAVE after them, with a descriptor of the group; LEFT comes last, for all but
    the first group, with one of the group *above* and the name in it. Descriptors are good until the next step. What
    vanishes meanwhile is left out.
    """
    try:
        current = os.open(directory, _FLAGS)
    except OSError:
        return
    waiting: list[list[str]] = []
    names = [""]
    try:
        yield ENTER, current, 0, ""
        waiting.append(_below(current))
        while True:
            if waiting[-1] and limit > 0:
                name = waiting[-1].pop()
                try:
                    child = os.open(name, _FLAGS, dir_fd=current)
                except OSError:
                    continue
                limit -= 1
                os.close(current)
                current = child
                names.append(name)
                yield ENTER, current, len(waiting), name
                waiting.append(_below(current))
                continue
            waiting.pop()
            yield LEAVE, current, len(waiting), names[-1]
            if not waiting:
                return
            try:
                parent = os.open("..", _FLAGS, dir_fd=current)
            except OSError:  # removed, and those above it as well
                return
            os.close(current)
            current = parent
            yield LEFT, current, len(waiting), names.pop()
    finally:
        os.close(current)


def _below(descriptor: int) -> list[str]:
    try:
        # kernfs counts directories in st_nlink, and a group has files by the dozen.
        if os.fstat(descriptor).st_nlink == 2:
            return []
        with os.scandir(descriptor) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:  # ENODEV, ENOENT: it has just been removed
        return []


def read_at(descriptor: int, file: str) -> str | None:
    """The content of a control file of an open group without its newline; None when that cannot be read."""
    try:
        control = os.open(file, os.O_RDONLY | os.O_CLOEXEC, dir_fd=descriptor)
    except OSError:
        return None
    try:
        parts = []
        while part := os.read(control, 1 << 16):
            parts.append(part)
        return b"".join(parts).decode("ascii", "replace").rstrip("\n")
    except OSError:  # of a threaded group: EOPNOTSUPP; its processes are listed further up
        return None
    finally:
        os.close(control)


def write_at(descriptor: int, file: str, value: str) -> None:
    """Raises OSError."""
    control = os.open(file, os.O_WRONLY | os.O_CLOEXEC, dir_fd=descriptor)
    try:
        os.write(control, value.encode())
    finally:
        os.close(control)


def processes(directories: Iterable[str]) -> set[int]:
    """Of all groups in these trees, by the pids of our pid namespace."""
    return _members(directories, ("cgroup.procs",))


def threads(directories: Iterable[str]) -> set[int]:
    """Ids of the threads of all groups in these trees: the files of version 1 and of version 2."""
    return _members(directories, ("tasks", "cgroup.threads"))


def _members(directories: Iterable[str], files: Iterable[str]) -> set[int]:
    found: set[int] = set()
    for directory in directories:
        for file in files:
            if os.path.exists(f"{directory}/{file}"):
                for what, descriptor, _depth, _name in walk(directory):
                    if what == ENTER:
                        found.update(map(int, (read_at(descriptor, file) or "").split()))
    return found - {0}  # whoever is in a pid namespace that is not below ours


def thaw(directories: Iterable[str]) -> None:
    """Let what has been frozen go on, on either version of control groups; children first, so that all of a tree goes
    on at the same moment.

    A frozen process of version 1 does not die of SIGKILL (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst);
    and whoever is not frozen can freeze the rest again. Call it until they have ended.
    """
    for directory in directories:
        for file, value in _FREEZERS:
            if os.path.exists(f"{directory}/{file}"):
                _write_everywhere(directory, file, value)


def _write_everywhere(directory: str, file: str, value: str) -> None:
    """Children first; a group that is just going is left out."""
    for what, descriptor, _depth, _name in walk(directory):
        if what == LEAVE:
            with contextlib.suppress(OSError):
                write_at(descriptor, file, value)


def kill(directories: Iterable[str]) -> set[int]:
    """SIGKILL to every process in these trees, which are one group in all its hierarchies; and thaw them.

    Returns who was found. Processes that are forked meanwhile may be missed, except where there is cgroup.kill (Linux
    5.14, version 2's tree): call it until nobody is found.
    """
    directories = list(directories)
    for directory in directories:
        if os.path.exists(f"{directory}/cgroup.kill"):
            with contextlib.suppress(OSError), open(f"{directory}/cgroup.kill", "wb", buffering=0) as file:
                file.write(b"1")
    found = processes(directories)
    slots = {os.path.basename(directory) for directory in directories}
    for pid in found:
        _kill_member(pid, slots)
    thaw(directories)
    return found


def _kill_member(pid: int, slots: set[str]) -> None:
    """By a pidfd, and only what is in or below a group of one of these names: its number may be another's by now."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            if any(slots & set(line.rstrip("\n").split("/")) for line in file):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass
    finally:
        os.close(pidfd)


def remove(directories: Iterable[str], inner: str) -> bool:
    """rmdir of these trees, children first. False when a process still keeps a group of them (EBUSY), or when there
    were more than ``LIMIT`` in one: call it again later. ``inner`` is the name of the one child that is nearly always
    there.

    Raises OSError.
    """
    outcomes = [_remove_tree(directory, inner) for directory in directories]  # one that is busy keeps no other
    return all(outcomes)


def _remove_tree(directory: str, inner: str) -> bool:
    if _rmdir(f"{directory}/{inner}") and _rmdir(directory):
        return True
    for what, descriptor, _depth, name in walk(directory):
        if what == LEFT:
            _rmdir(name, descriptor)
    return _rmdir(directory)


def _rmdir(path: str, directory: int | None = None) -> bool:
    try:
        os.rmdir(path, dir_fd=directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise libc.call_error(error.errno or 0, "rmdir", path) from error
    return True
