"""What a child's reports come to, and the words a client gets."""

from __future__ import annotations

import errno
import json
import os
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.errors import CommandNotFound, NotExecutable, StartFailed
from wherry.kernel.libc import call_error
from wherry.runtime import init, launch, steps


def failure(step: str, call: str = "", path: str = "", number: int = 0, message: str | None = None) -> dict[str, Any]:
    text = os.strerror(number) if message is None else message
    return {"step": step, "call": call, "path": path, "errno": number, "message": text}


def test_reports_in_order() -> None:
    ready, executed = b'{"ready": true}\n', b'{"exec": true}\n'
    assert launch.parse_reports(b"") == (False, False, None)
    assert launch.parse_reports(ready) == (True, False, None)
    assert launch.parse_reports(ready + executed) == (True, True, None)
    failed = failure("mount /proc", "mount", "/proc", errno.EPERM)
    assert launch.parse_reports(ready + json.dumps(failed).encode() + b"\n") == (True, False, failed)


@given(st.integers(0, 60))
def test_a_line_counts_when_it_is_whole(size: int) -> None:
    text = b'{"ready": true}\n{"exec": true}\n'
    report = launch.parse_reports(text[:size])
    assert (report.ready, report.executed) == (size >= 16, size >= len(text))


def test_the_message_of_the_specification() -> None:
    error = launch.start_error("alpha", failure("mount /proc", "mount", "/proc", errno.EPERM))
    assert type(error) is StartFailed
    assert str(error) == "cannot start alpha: mount /proc: operation not permitted (EPERM)"
    assert error.exit_code == 125


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (failure("pivot_root", "pivot_root", "", errno.EINVAL), "pivot_root: invalid argument (EINVAL)"),
        (failure("bring up lo", "", "", errno.EPERM), "bring up lo: operation not permitted (EPERM)"),
        (
            failure("join cgroups", "write", "/sys/fs/cgroup/pids/x/cgroup.procs", errno.EAGAIN),
            "join cgroups: write /sys/fs/cgroup/pids/x/cgroup.procs: resource temporarily unavailable (EAGAIN)",
        ),
        (
            failure("connect stdio", "", "/dev/null", errno.ENOENT),
            "connect stdio: open /dev/null: no such file or directory (ENOENT)",
        ),
        (
            failure("mount volume /a", "", "/a", errno.EPERM, "the destination is inside /proc"),
            "mount volume /a: the destination is inside /proc (EPERM)",
        ),
        (failure("enter stage", "umount2", "", errno.EBUSY), "enter stage: umount2: device or resource busy (EBUSY)"),
        (failure("mask /proc/x", message="ValueError: no"), "mask /proc/x: ValueError: no"),
        ({"step": "make devices", "errno": 0, "message": "TypeError: x"}, "make devices: TypeError: x"),
    ],
)
def test_messages(report: dict[str, Any], text: str) -> None:
    error = launch.start_error("alpha", report)
    assert (type(error), str(error)) == (StartFailed, f"cannot start alpha: {text}")


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (errno.ENOENT, CommandNotFound, 127),
        (errno.ENOTDIR, CommandNotFound, 127),
        (errno.EACCES, NotExecutable, 126),
        (errno.ENOEXEC, NotExecutable, 126),
        (errno.E2BIG, NotExecutable, 126),
        (errno.ELOOP, NotExecutable, 126),
    ],
)
def test_a_command_that_cannot_be_executed(number: int, kind: type[StartFailed], code: int) -> None:
    report = {**failure("execute frobnicate", number=number), "kind": "execve"}
    error = launch.start_error("alpha", report)
    step = launch.start_error("alpha", failure("execute frobnicate", number=number))  # whatever a step is called
    assert type(step) is StartFailed
    assert (type(error), error.exit_code) == (kind, code)
    assert str(error).startswith("cannot start alpha: execute frobnicate: ")
    assert str(error).endswith(f"({errno.errorcode[number]})")


def test_the_finish_message() -> None:
    message = launch.finish_message(["root"], [steps.EnterRoot()], ["/bin/\udce9"], ["A=\0b"], True)
    (size,) = struct.unpack(">I", message[:4])
    assert size == len(message) - 4
    assert json.loads(message[4:]) == {
        "descriptors": ["root"],
        "steps": [["EnterRoot"]],
        "args": ["/bin/\udce9"],
        "env": ["A=\0b"],
        "init": True,
    }


def test_candidates_for_a_command() -> None:
    candidates = init._candidates
    assert candidates("sh", b"/usr/bin:/bin") == ["/usr/bin/sh", "/bin/sh"]
    assert candidates("./sh", b"/bin") == ["./sh"]
    assert candidates("/sh", b"/bin") == ["/sh"]
    assert candidates("sub/sh", b"/bin") == ["sub/sh"]
    assert candidates("sh", b"/bin::/caf\xe9") == ["/bin/sh", "./sh", os.fsdecode(b"/caf\xe9/sh")]


class Refusals:
    """In the place of execve: an errno for each candidate, in order."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)
        self.tried: list[str] = []

    def __call__(self, path: str, _arguments: object, _environment: object) -> None:
        self.tried.append(path)
        raise OSError(self.numbers.pop(0), "")


NOENT, NOTDIR, ACCES, NOEXEC = errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC


@pytest.mark.parametrize(
    ("numbers", "tried", "reported", "code"),
    [
        ([NOENT, NOENT, NOENT], 3, NOENT, 127),
        ([NOENT, NOTDIR, NOENT], 3, NOTDIR, 127),
        ([ACCES, NOENT, NOENT], 3, ACCES, 126),
        ([NOENT, ACCES, NOENT], 3, ACCES, 126),
        ([NOENT, NOENT, ACCES], 3, ACCES, 126),
        ([NOEXEC, NOENT, NOENT], 1, NOEXEC, 126),
        ([ACCES, NOEXEC, NOENT], 2, NOEXEC, 126),
        ([NOENT, errno.ETXTBSY, NOENT], 2, errno.ETXTBSY, 126),
    ],
)
def test_which_failure_of_the_search_counts(
    monkeypatch: pytest.MonkeyPatch, numbers: list[int], tried: int, reported: int, code: int
) -> None:
    """As execvp(3): what is there and cannot be executed counts more than what is not there, and ends the search."""
    refusals, sent = Refusals(*numbers), list[dict[str, Any]]()
    monkeypatch.setattr(os, "execve", refusals)
    monkeypatch.setattr(init, "say", lambda _parent, report: sent.append(report))
    result = init._execute_command(None, ["tool"], [b"PATH=/a:/b:/c"])  # type: ignore[arg-type]
    assert (result, len(refusals.tried)) == (code, tried)
    assert [(report["step"], report["errno"]) for report in sent] == [("execute tool", reported)]


def test_a_report_of_an_error_of_ours_keeps_call_and_path() -> None:
    report = init._failure("mount /proc", call_error(errno.EPERM, "mount", "/proc"))
    assert report == failure("mount /proc", "mount", "/proc", errno.EPERM)
