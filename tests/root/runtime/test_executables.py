"""Case 12: a command that cannot be executed says what is missing, though the kernel says ENOENT for all of it."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import pytest
from tests.root.harness import Supervisor
from tests.root.runtime import tinyroot

pytestmark = pytest.mark.root

LOADER = b"/lib64/ld-none.so.2\0"


@pytest.fixture
def root(rootfs: Path, tmp_path: Path) -> Path:
    path = tinyroot.make(rootfs, tmp_path / "tiny")
    (path / "x").mkdir()
    return path


def elf(machine: int, kind: int = 2, interpreter: bytes = b"") -> bytes:
    """elf(5): a 64 bit header and, with an interpreter, one program header."""
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, int(bool(interpreter)), 0, 0, 0)
    program = struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(interpreter), len(interpreter), 1)
    return header + (program + interpreter if interpreter else b"")


MACHINE = struct.unpack_from("<H", Path("/proc/self/exe").read_bytes()[:20], 18)[0]
FOREIGN = 0x0F3 if MACHINE != 0x0F3 else 0xB7
HERE = os.uname().machine
NAME = "riscv64" if FOREIGN == 0x0F3 else "aarch64"
FILES = {
    "no-interpreter": (b"#!/no/such -x\n", 127, "its interpreter '/no/such' is not there (ENOENT)"),
    "carriage-return": (
        b"#!/bin/sh\r\necho\r\n",
        127,
        "its interpreter '/bin/sh\\r' is not there: the script's lines end in CR LF (ENOENT)",
    ),
    "chain": (b"#! /x/inner\n", 127, "the interpreter '/gone' of '/x/inner' is not there (ENOENT)"),
    "file-in-the-way": (b"#!/etc/passwd/sh\n", 127, "its interpreter '/etc/passwd/sh' cannot be reached: not a direct"),
    "no-loader": (
        elf(MACHINE, interpreter=LOADER),
        127,
        "its program interpreter '/lib64/ld-none.so.2' is not there (ENOENT)",
    ),
    "escapes": (b"#!\t/a\x1b[31m\xff b\n", 127, r"its interpreter '/a\x1b[31m\udcff' is not there (ENOENT)"),
    "text": (b"echo hi\n", 126, "exec format error: it is neither an ELF program nor a script that begins with #! (EN"),
    "empty": (b"", 126, "exec format error: it is empty (ENOEXEC)"),
    "nothing-named": (b"#! \n", 126, "exec format error: it names no interpreter after #! (ENOEXEC)"),
    "long": (b"#!/" + b"y" * 300, 126, "exec format error: it names an interpreter of more than 254 bytes (ENOEXEC)"),
    "machine": (elf(FOREIGN), 126, f"exec format error: it is a program for {NAME}, and this machine is {HERE} (ENO"),
    "machine-of-interpreter": (b"#!/x/foreign\n", 126, f"its interpreter '/x/foreign' is a program for {NAME}, and"),
    "object": (elf(MACHINE, kind=1), 126, "exec format error: it is an ELF file, but not a program (ENOEXEC)"),
    "cut-off": (b"\x7fELF\x02", 126, "exec format error: it is cut off (ENOEXEC)"),
    "not-executable": (b"#!/etc/passwd\n", 126, "permission denied: its interpreter '/etc/passwd' cannot be executed"),
}


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o755)


@pytest.fixture
def files(root: Path) -> Path:
    """All of them, and what they lead to; the root."""
    write(root / "x/inner", b"#!/gone\n")
    write(root / "x/foreign", elf(FOREIGN))
    for name, (content, _, _) in FILES.items():
        write(root / "x" / name, content)
    return root


def test_what_is_missing_is_named(supervisor: Supervisor, files: Path) -> None:
    """Exit codes are docker's: 127 for what is not there, 126 for what cannot be executed."""
    for name, (_, code, message) in FILES.items():
        for options in ([], ["--init", "-u", "bob"]):
            done = supervisor.engine("run", *options, "c", files, f"/x/{name}", check=False)
            assert done.returncode == code, done
            assert done.stderr.startswith(f"engine: cannot start c: execute /x/{name}: "), done
            assert message in done.stderr, done
            assert done.stderr.count("\n") == 1
            assert "\x1b" not in done.stderr
    assert supervisor.ps() == []


def test_a_command_that_is_looked_for(supervisor: Supervisor, files: Path) -> None:
    """The file that was found is named; one further on that can be executed is taken."""
    done = supervisor.engine("run", "-e", "PATH=/bin:/x", "c", files, "carriage-return", check=False)
    assert done.returncode == 127
    assert "execute carriage-return: execve /x/carriage-return: its interpreter '/bin/sh\\r' is not" in done.stderr
    write(files / "x/true", FILES["no-interpreter"][0])
    assert supervisor.engine("run", "--rm", "-e", "PATH=/none:/x:/bin", "c", files, "true").returncode == 0


def test_a_file_that_may_be_executed_and_not_read(supervisor: Supervisor, files: Path) -> None:
    """Nothing is read with more rights than the container's user has."""
    (files / "x/no-interpreter").chmod(0o711)
    done = supervisor.engine("run", "-u", "bob", "c", files, "/x/no-interpreter", check=False)
    assert (
        done.returncode,
        done.stderr.endswith("execute /x/no-interpreter: no such file or directory (ENOENT)\n"),
    ) == (
        127,
        True,
    )


def test_directories_and_noexec(supervisor: Supervisor, files: Path, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    shutil.copy(files / "bin/busybox", tmp_path / "v/true")
    done = supervisor.engine("run", "c", files, "/tmp", check=False)
    assert (done.returncode, "execute /tmp: permission denied: it is a directory (EACCES)" in done.stderr) == (
        126,
        True,
    )
    os.mkfifo(files / "x/fifo", 0o755)
    done = supervisor.engine("run", "c", files, "/x/fifo", check=False)
    assert (done.returncode, "it is not a regular file (EACCES)" in done.stderr) == (126, True)
