"""Case 28: a process in a control group of a container may not connect, on either version of control groups."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest
from tests.root.harness import Supervisor

from wherry.kernel import cgroups
from wherry.kernel.namespaces import fork_into

pytestmark = pytest.mark.root


def test_a_process_in_a_container_s_group_is_refused(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 28, on either version of control groups: the group decides, and one below it as well."""
    started = supervisor.client.start("sleeper", str(rootfs), ["/bin/sleep", "1000"])
    layout = cgroups.detect()
    (line,) = [
        each.split(":", 2)[2]
        for each in Path(f"/proc/{started.pid}/cgroup").read_text().splitlines()
        if ("pids" if layout.version == 1 else "") in each.split(":", 2)[1].split(",")
    ]
    inner = Path(layout.mounts["pids" if layout.version == 1 else ""] + line)
    assert connect(supervisor.socket, None).startswith(b"HTTP/1.0 200")
    assert connect(supervisor.socket, inner / "cgroup.procs").startswith(b"HTTP/1.1 403 Forbidden")
    supervisor.client.rm("sleeper", force=True)


def connect(path: Path, procs: Path | None) -> bytes:
    """What a process in a pid namespace of its own is answered, in a control group if one is given."""
    reader, writer = os.pipe()
    pid, pidfd = fork_into(["pid"])
    if pid == 0:
        try:
            if procs is not None:
                procs.write_text("0")
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                with contextlib.suppress(OSError):
                    sock.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                os.write(writer, sock.recv(4096))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        found = answer.read()
    os.close(pidfd)
    os.waitpid(pid, 0)
    return found
