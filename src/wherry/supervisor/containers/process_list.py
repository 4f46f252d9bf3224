"""The processes of a container, as the host's ps(1) lists them with any of its options.

Nothing of the container is executed, and ps knows them by the host's pids. What it prints is the container's to choose
in part (names, arguments): rows are told apart by the column PID, and never more of them than the container has.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from wherry.errors import InternalError, InvalidRequest, NotSupported, quoted
from wherry.kernel import cgroup_trees as trees
from wherry.kernel.cgroups import Group
from wherry.kernel.polling import readable

_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
_ENVIRONMENT = {"PATH": _PATH, "LC_ALL": "C.UTF-8"}
"""None of ours: PS_FORMAT and others change what it prints."""
_DEFAULT = "-ef"
_MOST_OPTIONS = 4096
_MOST_QUICK = 64 * 1024
"""Bytes of pids in one argument, of which the kernel takes 128 KiB: above that ps lists all, and we choose."""
_MOST_OUTPUT = 8 << 20
_SECONDS = 10.0
"""What a process does may keep ps in the kernel, which reads its command line from its memory."""


class ProcessList(NamedTuple):
    """``titles`` are the columns; every row has a cell for each."""

    titles: list[str]
    rows: list[list[str]]


def options_of(text: str) -> list[str]:
    """The words of ``text``, "-ef" for none. Raises InvalidRequest."""
    if len(text) > _MOST_OPTIONS:
        raise InvalidRequest(f"ps options of {len(text)} characters are more than {_MOST_OPTIONS}")
    return text.split() or [_DEFAULT]


async def list_processes(group: Group, options: Sequence[str]) -> ProcessList:
    """Those in the group and below. Raises InvalidRequest for options that ps refuses, or that show no PID;
    NotSupported without a ps, InternalError when it does not answer.
    """
    return await asyncio.to_thread(_list, group, list(options))


def _list(group: Group, options: list[str]) -> ProcessList:
    before = trees.processes(group.places)
    quick = "-q" + ",".join(map(str, sorted(before)))
    output = None
    if before and len(quick) <= _MOST_QUICK:
        with contextlib.suppress(InvalidRequest):  # some options cannot be used with -q
            output = _run([*options, quick])
    if output is None:
        output = _run(options)
    # Only who was there all the time: a pid may have become another process's.
    return parse(output, before & trees.processes(group.places))


def parse(output: bytes, pids: set[int]) -> ProcessList:
    """The rows of ps's ``output`` that are of ``pids``. Cells are cut at ASCII's blanks alone: others may be part of a
    name. A row with "-" for a PID is a thread of the process above it.
    """
    head, *lines = output.split(b"\n")
    titles = head.split()
    if b"PID" not in titles:
        raise InvalidRequest("the ps options show no column PID")
    place = titles.index(b"PID")
    rows = []
    is_ours = False
    for line in lines:
        cells = line.split(None, len(titles) - 1)
        pid = cells[place] if len(cells) > place else b""
        if pid != b"-":
            is_ours = pid.isdigit() and int(pid[:10]) in pids
        if is_ours:
            cells += [b""] * (len(titles) - len(cells))
            rows.append([cell.decode("utf-8", "replace") for cell in cells])
    return ProcessList([title.decode("utf-8", "replace") for title in titles], rows)


def _run(words: list[str]) -> bytes:
    program = shutil.which("ps", path=_PATH)
    if program is None:
        raise NotSupported("processes cannot be listed: this host has no ps (package procps)")
    read, write = os.pipe2(os.O_CLOEXEC)
    complaints = os.memfd_create("ps", os.MFD_CLOEXEC)
    try:
        with open(read, "rb", buffering=0) as output:
            try:
                process = subprocess.Popen(
                    [program, *words],
                    stdin=subprocess.DEVNULL,
                    stdout=write,
                    stderr=complaints,
                    cwd="/",
                    env=_ENVIRONMENT,
                )
            finally:
                os.close(write)
            return _output(process, output.fileno(), complaints, words)
    except (OSError, ValueError) as error:
        raise InternalError(f"cannot run ps: {error}") from error
    finally:
        os.close(complaints)


def _output(process: subprocess.Popen[bytes], descriptor: int, complaints: int, words: list[str]) -> bytes:
    deadline = time.monotonic() + _SECONDS
    try:
        output = b"".join(_pieces(descriptor, deadline))
        code = process.wait(max(deadline - time.monotonic(), 0.1))
    except (TimeoutError, subprocess.TimeoutExpired):
        raise InternalError(f"ps does not answer within {_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it sits in the kernel: the next Popen collects it
                process.wait(1)
    if code:
        text = os.pread(complaints, 300, 0).decode("utf-8", "replace").strip().partition("\n")[0]
        raise InvalidRequest(f"ps refuses {quoted(' '.join(words))}: {quoted(text) if text else f'exit code {code}'}")
    return output


def _pieces(descriptor: int, deadline: float) -> Iterator[bytes]:
    left = _MOST_OUTPUT
    while True:
        if not readable([descriptor], deadline - time.monotonic()):
            raise TimeoutError
        piece = os.read(descriptor, min(left, 65536))
        if not piece:
            return
        left -= len(piece)
        if not left:
            raise InternalError(f"ps prints more than {_MOST_OUTPUT} bytes")
        yield piece
