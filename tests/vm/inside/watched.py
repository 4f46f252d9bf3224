"""What the tests inside a guest share: loading the module, processes in pid namespaces of their own, records."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import re
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.patience import PATIENCE
from tests.waiting import wait_until

from wherry.kernel import namespaces
from wherry.kernel.container_monitor import Monitor, MonitorRecord
from wherry.kernel.polling import readable

GROW = "/wherry/build/vm/grow"
MIB = 1 << 20
_BAD_NEWS = re.compile(
    r"BUG|WARNING:|Oops|Call Trace|INFO: (task|rcu)|self-detected stall|[Ll]ockup|Poison|Redzone|KFENCE:|"
    r"scheduling while atomic|sleeping function|refcount_t|general protection"
)


# finit_module(2) and delete_module(2) without a process for each: asm/unistd_64.h
_FINIT_MODULE, _DELETE_MODULE = 313, 176
_libc = ctypes.CDLL(None, use_errno=True)


def insmod(**parameters: object) -> None:
    words = " ".join(f"{name}={value}" for name, value in parameters.items())
    with open("/monitor.ko", "rb") as file:
        _module_call(_FINIT_MODULE, file.fileno(), words.encode(), 0)


def rmmod() -> None:
    """Raises OSError: EWOULDBLOCK while the device is open."""
    _module_call(_DELETE_MODULE, b"monitor", os.O_NONBLOCK)


def _module_call(*arguments: int | bytes) -> None:
    if _libc.syscall(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "monitor.ko")


@contextlib.contextmanager
def loaded(**parameters: object) -> Iterator[None]:
    insmod(**parameters)
    try:
        yield
    finally:
        rmmod()


def kernel_log() -> list[str]:
    return subprocess.run(["dmesg"], check=True, capture_output=True, text=True).stdout.splitlines()


def complaints(log: list[str]) -> list[str]:
    """What the kernel has complained of since it started /init. The trace of an OOM kill is no complaint."""
    booted = next((number for number, line in enumerate(log) if "Run /init" in line), 0)
    return [
        line
        for number, line in enumerate(log)
        if number > booted and _BAD_NEWS.search(line) and "oom-killer" not in "".join(log[max(number - 6, 0) : number])
    ]


def allocations() -> list[str]:
    """What the module has allocated and not freed, by slub_debug's notes; call sites of a module that is no longer
    there have an address for a name.
    """
    ours = re.compile(r"^\s*\d+ (\S+\+0x\S+ \[monitor\]|0xffffffffc\S+)")
    return [
        f"{path.split('/')[5]}: {line.strip()}"
        for path in glob.glob("/sys/kernel/debug/slab/kmalloc-*/alloc_traces")
        for line in Path(path).read_text().splitlines()
        if ours.match(line)
    ]


class Contained:
    """``grow WORDS`` as the first process of a pid namespace, waiting at the word "wait"; killed on exit."""

    def __init__(self, *words: object) -> None:
        reader, self._writer = os.pipe()
        self.pid, self.pidfd = namespaces.fork_into(["pid"])
        if self.pid == 0:
            os.dup2(reader, 0)
            os.execv(GROW, ["grow", *(str(word) for word in words)])
        os.close(reader)
        self.status: int | None = None

    def __enter__(self) -> Contained:
        wait_until(self._has_executed)
        return self

    def __exit__(self, *_: object) -> None:
        if self.status is None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self.wait()
        os.close(self._writer)
        os.close(self.pidfd)

    def go(self) -> None:
        """Past a "wait"."""
        os.write(self._writer, b".")

    def wait(self, seconds: float = PATIENCE) -> int:
        """How it ended: the exit code, or minus the signal."""
        assert readable([self.pidfd], seconds), "it has not ended"
        _, status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def is_running(self) -> bool:
        return not readable([self.pidfd])

    def resident(self) -> int:
        return resident(self.pid)

    def _has_executed(self) -> bool:
        return Path(f"/proc/{self.pid}/comm").read_text() == "grow\n"


def resident(pid: int | str) -> int:
    """Bytes, counted in a process's page table and not from the kernel's batched counters."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.findall(r"^Rss:\s+(\d+) kB", rollup, re.MULTILINE)[0]) << 10


def records(monitor: Monitor, count: int, seconds: float = PATIENCE) -> list[MonitorRecord]:
    """The next ``count`` records (or more, where they came together)."""
    found: list[MonitorRecord] = []
    deadline = time.monotonic() + seconds
    while len(found) < count:
        left = deadline - time.monotonic()
        assert left > 0, f"{len(found)} records of {count} within {seconds} s: {found}"
        if readable([monitor.fileno()], left):
            found += monitor.read()
    return found


def touched(path: Path) -> int:
    """Bytes that ``grow progress PATH`` has touched."""
    (count,) = struct.unpack("=Q", path.read_bytes()[:8])
    return int(count)
