"""What a process that does not end is doing: proc(5)."""

from __future__ import annotations

from typing import NamedTuple


class ProcessState(NamedTuple):
    """``state`` is a letter and a word ("D (disk sleep)"); ``wchan`` the kernel's function that it waits in, "" when
    it does not or that is not to be seen; ``tracer`` the pid of who traces it, or 0; ``groups`` its control groups as
    (controllers, path), such as ("cpu,cpuacct", "/x"), ("", "/x") for version 2.
    """

    pid: int
    comm: str
    state: str
    wchan: str
    tracer: int
    groups: tuple[tuple[str, str], ...]


def state_of(pid: int) -> ProcessState | None:
    """What it does at the moment; None when it is gone."""
    try:
        fields = dict(line.split(":", 1) for line in _read(f"/proc/{pid}/status").splitlines() if ":" in line)
        groups = tuple(_group(line) for line in _read(f"/proc/{pid}/cgroup").splitlines() if line.count(":") >= 2)
        state, tracer = fields["State"].strip(), int(fields["TracerPid"])
        return ProcessState(pid, fields["Name"].strip(), state, _wchan(pid), tracer, groups)
    except (OSError, LookupError, ValueError):
        return None


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _group(line: str) -> tuple[str, str]:
    _number, controllers, path = line.split(":", 2)
    return controllers, path


def _wchan(pid: int) -> str:
    try:
        found = _read(f"/proc/{pid}/wchan").strip()
    except OSError:
        return ""
    return "" if found == "0" else found
