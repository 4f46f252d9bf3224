"""System calls through ctypes: what an error says, and that no argument is cut to 32 bits."""

from __future__ import annotations

import ctypes
import errno
import os
import signal

import pytest

from wherry.kernel import capabilities, libc, mounts, namespaces
from wherry.runtime import presets


def test_an_error_is_of_its_own_class_and_knows_call_and_path() -> None:
    error = libc.call_error(errno.ENOENT, "mount", "/proc")
    assert isinstance(error, FileNotFoundError)
    assert (libc.call_of(error), error.filename) == ("mount", "/proc")
    assert libc.describe(error) == "mount /proc: no such file or directory (ENOENT)"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (libc.call_error(errno.EPERM, "pivot_root"), "pivot_root: operation not permitted (EPERM)"),
        (OSError(errno.EIO, "Input/output error", "/dev/x"), "/dev/x: input/output error (EIO)"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on device (ENOSPC)"),
        (libc.call_error(errno.EACCES, "open", "/a b"), "open /a b: permission denied (EACCES)"),
        (OSError(errno.ENOENT, "", b"/caf\xe9"), os.fsdecode(b"/caf\xe9") + ": no such file or directory (ENOENT)"),
    ],
)
def test_describe(error: OSError, text: str) -> None:
    assert libc.describe(error) == text


def test_an_unknown_errno_is_still_described() -> None:
    assert libc.describe_errno(4095) == "unknown error 4095 (4095)"


def test_a_failing_call_raises_its_errno() -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        libc.setns(-1, 0)
    assert libc.call_of(caught.value) == "setns"
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        libc.fsmount(-1, 0, 0)
    assert libc.call_of(caught.value) == "fsmount"


def test_flags_of_openat2_are_64_bits() -> None:
    """Cut to 32 bits this flag would be none, and the call would succeed."""
    with pytest.raises(OSError, match="Invalid argument"):
        libc.openat2(libc.AT_FDCWD, b"/", os.O_PATH | 1 << 40, 0, 0)


def test_mount_attributes_are_64_bits() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        libc.mount_setattr(libc.AT_FDCWD, b"/", 0, 1 << 40, 0, 0)


def test_openat2_knows_its_structure() -> None:
    """A size that the kernel does not know is E2BIG or EINVAL; and this must be a descriptor of the file itself."""
    descriptor = libc.openat2(libc.AT_FDCWD, b"/proc/self/status", os.O_RDONLY | os.O_CLOEXEC, 0, 0)
    try:
        assert os.readlink(f"/proc/self/fd/{descriptor}") == f"/proc/{os.getpid()}/status"
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("structure", "size"),
    [("_CloneArgs", 88), ("_OpenHow", 24), ("_MountAttr", 32), ("_CapHeader", 8), ("_CapData", 12)],
)
def test_structures_are_as_large_as_the_kernels(structure: str, size: int) -> None:
    assert ctypes.sizeof(getattr(libc, structure)) == size


def test_fork_into_no_namespace_is_a_fork() -> None:
    pid, pidfd = namespaces.fork_into([])
    if pid == 0:
        os._exit(7 if pidfd == -1 else 8)
    information = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)
    assert information is not None
    assert (information.si_pid, information.si_status) == (pid, 7)


def test_the_signal_of_a_fork_is_sigchld() -> None:
    received = []
    before = signal.signal(signal.SIGCHLD, lambda number, _frame: received.append(number))
    try:
        pid, pidfd = namespaces.fork_into([])
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        os.close(pidfd)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert received == [signal.SIGCHLD]


def test_namespace_flags() -> None:
    """include/uapi/linux/sched.h, by the copies of it that Python has since 3.12, else by number."""
    assert namespaces.flags_of(["mount", "pid", "mount"]) == 0x00020000 | 0x20000000
    assert namespaces.flags_of(list(namespaces.FLAGS)) == 0x7E020000
    with pytest.raises(KeyError):
        namespaces.flags_of(["mnt"])


def test_mount_errors_name_the_target() -> None:
    for call, name in (
        (lambda: mounts.mount("x", "/nowhere", "tmpfs"), "mount"),
        (lambda: mounts.detach("/nowhere"), "umount2"),
        (lambda: mounts.clone_tree("/nowhere"), "open_tree"),
    ):
        with pytest.raises(OSError, match="/nowhere") as caught:
            call()
        assert libc.call_of(caught.value) == name


def test_capability_numbers() -> None:
    """capabilities(7); podman's default set is known as this mask, docker's has three bits more."""
    assert capabilities.mask_of(list(presets.CAPABILITIES.bounding)) == 0x800405FB
    numbers = {"CAP_CHOWN": 0, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21, "CAP_SETFCAP": 31, "CAP_CHECKPOINT_RESTORE": 40}
    for name, number in numbers.items():
        assert capabilities.mask_of([name, name]) == 1 << number
    with pytest.raises(KeyError, match="CAP_BOGUS"):
        capabilities.mask_of(["CAP_CHOWN", "CAP_BOGUS"])
