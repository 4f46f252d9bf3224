"""System calls through ctypes: the only file of the package that imports ctypes.

Every call is declared once, with its argument types and an ``errcheck`` that turns -1 into an OSError, so that
callers never look at return codes. ``argtypes`` never change afterwards (an integer passed without argtypes is cut to
32 bits). Calls younger than Debian 12's glibc wrappers go through ``syscall(2)``; their numbers are the same on all
64-bit architectures (include/uapi/asm-generic/unistd.h; x86_64 joined that numbering at 424).
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong, c_void_p
from typing import Any

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000  # include/uapi/linux/fcntl.h
AT_RECURSIVE = 0x8000


def at_flags(recursive: bool) -> int:
    """For a call about the mount that a descriptor is open on."""
    return AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)


def call_error(number: int, call: str, path: str | None = None) -> OSError:
    """The OSError (FileNotFoundError and so on) for an errno, which also knows the system call: ``call_of`` tells
    it.
    """
    error = OSError(number, os.strerror(number), path)
    error.call = call  # type: ignore[attr-defined]  # a subclass of our own would not be caught as FileNotFoundError
    return error


def call_of(error: OSError) -> str:
    """The name, in section 2 of the manual, of the call that failed; "" when the error was not raised here."""
    return str(getattr(error, "call", ""))


def describe(error: OSError) -> str:
    """For example ``mount /proc: permission denied (EACCES)``."""
    words = [word for word in (call_of(error), os.fsdecode(error.filename or "")) if word]
    return ": ".join([*([" ".join(words)] if words else []), describe_errno(error.errno or 0)])


def describe_errno(number: int) -> str:
    """For example ``permission denied (EACCES)``."""
    text = os.strerror(number)
    return f"{text[:1].lower()}{text[1:]} ({errno.errorcode.get(number, number)})"


_libc = ctypes.CDLL(None, use_errno=True)


def _checked(call: str) -> Callable[[Any, Any, Any], Any]:
    def errcheck(result: Any, _function: Any, _arguments: Any) -> Any:
        if result == -1:
            raise call_error(ctypes.get_errno(), call)
        return result

    return errcheck


def _function(name: str, *argtypes: Any) -> Callable[..., int]:
    function = ctypes.CFUNCTYPE(c_int, *argtypes, use_errno=True)((name, _libc))
    function.errcheck = _checked(name)
    return function


def _syscall(name: str, number: int, *argtypes: Any) -> Callable[..., int]:
    # A prototype of its own for each call: one shared `syscall` object would need its argtypes changed all the time.
    function = ctypes.CFUNCTYPE(c_long, c_long, *argtypes, use_errno=True)(("syscall", _libc))
    function.errcheck = _checked(name)

    def call(*arguments: Any) -> int:
        result: int = function(number, *arguments)
        return result

    return call


# <sys/mount.h>, mount(2), umount2(2), pivot_root(2) (exported by glibc without a header)
mount = _function("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
umount2 = _function("umount2", c_char_p, c_int)
pivot_root = _function("pivot_root", c_char_p, c_char_p)

# <sched.h>, unshare(2), setns(2)
unshare = _function("unshare", c_int)
setns = _function("setns", c_int, c_int)

# <unistd.h>, sethostname(2), setdomainname(2)
sethostname = _function("sethostname", c_char_p, c_size_t)
setdomainname = _function("setdomainname", c_char_p, c_size_t)

syncfs = _function("syncfs", c_int)

# <sys/fsuid.h>, setfsuid(2): of the calling thread alone. The result is the id before.
setfsuid = _function("setfsuid", c_uint)
setfsgid = _function("setfsgid", c_uint)

# <sys/timerfd.h>, timerfd_create(2)
timerfd_create = _function("timerfd_create", c_int, c_int)
timerfd_settime = _function("timerfd_settime", c_int, c_int, c_char_p, c_void_p)

# <sys/signalfd.h>, signalfd(2): the set has 1,024 bits (sigset_t)
signalfd = _function("signalfd", c_int, c_char_p, c_int)

# <sys/prctl.h>, prctl(2); <linux/capability.h>, capset(2) and capget(2)
prctl = _function("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
prctl_string = _function("prctl", c_int, c_char_p, c_ulong, c_ulong, c_ulong)
capset = _function("capset", c_void_p, c_void_p)
capget = _function("capget", c_void_p, c_void_p)

# asm-generic/unistd.h
open_tree = _syscall("open_tree", 428, c_int, c_char_p, c_uint)
move_mount = _syscall("move_mount", 429, c_int, c_char_p, c_int, c_char_p, c_uint)
fsopen = _syscall("fsopen", 430, c_char_p, c_uint)
fsconfig = _syscall("fsconfig", 431, c_int, c_uint, c_char_p, c_char_p, c_int)
fsmount = _syscall("fsmount", 432, c_int, c_uint, c_uint)
_clone3 = _syscall("clone3", 435, c_void_p, c_size_t)
close_range = _syscall("close_range", 436, c_uint, c_uint, c_uint)
_openat2 = _syscall("openat2", 437, c_int, c_char_p, c_void_p, c_size_t)
_mount_setattr = _syscall("mount_setattr", 442, c_int, c_char_p, c_uint, c_void_p, c_size_t)


# keyctl(2) is older than the common numbering.
_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271, "s390x": 280}
keyctl = _syscall("keyctl", _KEYCTL.get(os.uname().machine, -1), c_int, c_char_p)  # -1: ENOSYS


# bpf(2) is older than the common numbering, too.
_BPF = {"x86_64": 321, "ppc64le": 361, "s390x": 351}.get(os.uname().machine, 280)
bpf = _syscall("bpf", _BPF, c_int, c_void_p, c_uint)


# seccomp(2), likewise.
_SECCOMP = {"x86_64": 317, "ppc64le": 358, "s390x": 348}.get(os.uname().machine, 277)
seccomp = _syscall("seccomp", _SECCOMP, c_uint, c_uint, c_char_p)


class CBuffer:
    """Memory with an address, for system calls whose arguments point to more: ``content``, and zeros up to ``size``."""

    def __init__(self, content: bytes = b"", size: int = 0) -> None:
        self._memory = ctypes.create_string_buffer(content, max(size, len(content), 1))
        self.address = ctypes.addressof(self._memory)

    @property
    def content(self) -> bytes:
        return self._memory.raw


_RT_SIGACTION = {"x86_64": 13, "ppc64le": 173, "s390x": 174}.get(os.uname().machine, 134)
_rt_sigaction = _syscall("rt_sigaction", _RT_SIGACTION, c_int, c_char_p, c_void_p, c_size_t)


def default_action(signal: int) -> None:
    """SIG_DFL for ``signal``, also for the two that glibc keeps for itself and whose dispositions are inherited too."""
    _rt_sigaction(signal, bytes(32), None, 8)  # struct kernel_sigaction of zeros, a signal set of 64 bits


class _CloneArgs(ctypes.Structure):  # struct clone_args, include/uapi/linux/sched.h, CLONE_ARGS_SIZE_VER2
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


def clone3(flags: int, exit_signal: int) -> tuple[int, int]:
    """Fork with namespaces. Returns (pid, pidfd) in the parent, (0, -1) in the child. ``flags`` gets CLONE_PIDFD added.

    The calling process must have one thread. The child keeps a copy-on-write stack, as after fork(2).
    """
    pidfd = c_int(-1)
    arguments = _CloneArgs(flags=flags | 0x1000, pidfd=ctypes.addressof(pidfd), exit_signal=exit_signal)
    pid = _clone3(ctypes.byref(arguments), ctypes.sizeof(arguments))
    return pid, pidfd.value if pid else -1


class _OpenHow(ctypes.Structure):  # struct open_how, include/uapi/linux/openat2.h
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def openat2(dirfd: int, path: bytes, flags: int, mode: int, resolve: int) -> int:
    how = _OpenHow(flags=flags, mode=mode, resolve=resolve)
    return _openat2(dirfd, path, ctypes.byref(how), ctypes.sizeof(how))


class _MountAttr(ctypes.Structure):  # struct mount_attr, include/uapi/linux/mount.h
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def mount_setattr(
    dirfd: int, path: bytes, flags: int, attr_set: int, attr_clr: int, propagation: int, userns: int = 0
) -> None:
    attributes = _MountAttr(attr_set=attr_set, attr_clr=attr_clr, propagation=propagation, userns_fd=userns)
    _mount_setattr(dirfd, path, flags, ctypes.byref(attributes), ctypes.sizeof(attributes))


def overwrite(address: int, content: bytes) -> None:
    """Write ``content`` to this process's memory at ``address``."""
    ctypes.memmove(address, content, len(content))


class _CapHeader(ctypes.Structure):  # struct __user_cap_header_struct, include/uapi/linux/capability.h
    _fields_ = [("version", ctypes.c_uint32), ("pid", c_int)]


class _CapData(ctypes.Structure):  # struct __user_cap_data_struct
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


_CAPABILITY_VERSION_3 = 0x20080522


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) of the calling thread; each argument is a bit mask of 64 capabilities."""
    header = _CapHeader(version=_CAPABILITY_VERSION_3, pid=0)
    data = (_CapData * 2)(
        *(
            _CapData(
                effective=effective >> shift & 0xFFFFFFFF,
                permitted=permitted >> shift & 0xFFFFFFFF,
                inheritable=inheritable >> shift & 0xFFFFFFFF,
            )
            for shift in (0, 32)
        )
    )
    capset(ctypes.byref(header), ctypes.byref(data))
