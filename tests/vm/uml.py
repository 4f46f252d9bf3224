"""Kernels that are programs: User-Mode Linux, Debian's own and one with KASAN, lockdep and kmemleak. Needs root."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from tests.patience import PATIENCE
from tests.vm import kernels
from tests.vm.guest import Guest

KMEMLEAK = "/sys/kernel/debug/kmemleak"
# noreboot: else a panic would run the program anew.
_COMMAND_LINE = (
    "mem=2048M noreboot quiet loglevel=4 panic=-1 oops=panic log_buf_len=8M con=null con0=null,fd:1 ssl=null"
)
_DISK = 256 << 20
# Notes of who allocated what, but no poison and no red zones of SLUB's own: KASAN sees more.
_DEBUG_OPTIONS = "slub_debug=U,kmalloc-*"


class UmlGuest(Guest):
    """A guest like the others, with the console on its standard output and ttyS1 a socket that it inherits."""

    def _boot_until_ready(self) -> None:
        """With a disk at /disk: its tmpfs is too old for ID-mapped mounts (Linux 6.3)."""
        super()._boot_until_ready()
        if self.kernel == kernels.UML:
            self.run("mkdir /disk && mount -t ext4 /dev/ubda /disk")

    def cpu_seconds(self) -> float:
        """Of all of its processes, each of which is one out here: those of a pid namespace of their own."""
        return sum(map(_cpu_seconds_with_children, self._processes()))

    def _processes(self) -> list[int]:
        """``setpriv`` has become ``unshare``, whose child is the kernel; it reaps the rest."""
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def _start(self) -> None:
        disk = self._directory / "disk"
        with disk.open("wb") as file:
            file.truncate(_DISK)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", disk], check=True, timeout=PATIENCE)
        library = str(self._directory / "xstate.so")
        compiling = f"cc -shared -fPIC -O2 -Wall -Wextra -Werror -o {library}".split()
        subprocess.run([*compiling, Path(__file__).with_name("whole_xstate.c")], check=True, timeout=PATIENCE)
        self._connection, theirs = socket.socketpair()
        with theirs, (self._directory / "console").open("wb") as console, self._said.open("wb") as said:
            self._process = subprocess.Popen(
                self._program(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=said,
                pass_fds=[theirs.fileno()],
            )

    def _program(self, line: int) -> list[str]:
        """A pid namespace takes all of its processes along."""
        directories = f"uml_dir={self._directory} umid=guest initrd={self._directory}/initrd"
        directories += f" ubd0={self._directory}/disk"
        return [
            *"setpriv --pdeathsig KILL -- unshare --pid --fork --kill-child --".split(),
            "env",
            f"LD_PRELOAD={self._directory}/xstate.so",
            str(kernels.program(self.kernel)),
            *f"{_COMMAND_LINE} {directories} ssl1=fd:{line} {self._options}".split(),
        ]


class DebugGuest(UmlGuest):
    """One that complains of what its detectors find."""

    def __init__(self, kernel: str, module: Path) -> None:
        super().__init__(kernel, module, options=_DEBUG_OPTIONS)

    def complaints(self) -> list[str]:
        return super().complaints() + self.unreferenced() + self._lockdep_is_off()

    def unreferenced(self) -> list[str]:
        """Allocations that nothing points to any more.

        kmemleak reports none younger than five seconds (MSECS_MIN_AGE in mm/kmemleak.c), and none that has changed
        since the scan before.
        """
        return self.run(f"sleep 6; for _ in 1 2; do echo scan >{KMEMLEAK} || exit; done; cat {KMEMLEAK}").splitlines()

    def _lockdep_is_off(self) -> list[str]:
        """It turns itself off at its first complaint, and when it runs out of memory."""
        found = self.run("cat /proc/lockdep_stats").splitlines()
        return [line for line in found if "debug_locks" in line and line.split()[-1] != "1"]

    def _boot_until_ready(self) -> None:
        """And forget what it said meanwhile: UML 6.1's own fork walks a process's mappings without the lock that
        lib/maple_tree.c asks for ("suspicious RCU usage", from force_flush_all() in arch/um/kernel/tlb.c), which each
        place complains of once.
        """
        super()._boot_until_ready()
        self.run("dmesg -c >/dev/null; echo 'Run /init: tests from here on' >/dev/kmsg")


def _cpu_seconds_with_children(pid: int) -> float:
    """utime, stime, and the same of children that were waited for: proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
