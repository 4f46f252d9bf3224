"""A Debian kernel under qemu's emulation, with a root shell on a serial line. Needs no KVM, network or root.

ttyS0 is the kernel's console, into a file; on ttyS1 goes one line a command and comes its output (``image``).
"""

from __future__ import annotations

import base64
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from tests.patience import PATIENCE
from tests.vm import image, kernels
from tests.vm.inside import watched

_BOOT_SECONDS = 300
# oops=panic and panic=-1 end a broken guest at once, not at somebody's time limit. slub_debug writes down who
# allocated what, checks every free, and poisons.
_COMMAND_LINE = (
    "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic hung_task_panic=1 softlockup_panic=1"
    " rcupdate.rcu_cpu_stall_timeout=60 slub_debug=FZPU,kmalloc-*"
)


class GuestDied(AssertionError):
    """The emulator has ended, or says nothing more; the message ends with the kernel's console."""


class Result(NamedTuple):
    status: int
    output: str


class Guest:
    """A booted guest; a context manager.

    ``parallel`` runs each virtual CPU in a thread of its own, which races need in order to happen. qemu 7.2 can then
    run stale code where the kernel patches itself, so that a 6.12 kernel now and then dies at boot; a boot that dies
    is tried again, a guest that dies later is not.
    """

    def __init__(
        self, kernel: str, module: Path | None, *, parallel: bool = False, options: str = "", cpus: int = 2
    ) -> None:
        self.kernel = kernel
        self._parallel = parallel
        self._options = options
        self._cpus = cpus
        self._directory = Path(tempfile.mkdtemp(prefix="wherry-guest-"))
        self._said = self._directory / "said"
        self._buffer = b""
        try:
            image.build(kernel, module, self._directory / "initrd")
            self._boot_until_ready()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def console(self) -> str:
        path = self._directory / "console"
        return path.read_text(errors="replace") if path.exists() else ""

    def sh(self, command: str, seconds: float = 300) -> Result:
        """Run a shell command. Raises GuestDied when it does not end within ``seconds``."""
        tag = secrets.token_hex(4)
        self._connection.sendall(f"{tag} {base64.b64encode(command.encode()).decode()}\n".encode())
        answer = self._receive_until(f"{tag}.\n".encode(), seconds)
        output, _, status = answer.rpartition(f"\n{tag} ".encode())
        return Result(int(status), output.decode(errors="replace"))

    def run(self, command: str, seconds: float = 300) -> str:
        """``sh`` for a command that must succeed; returns its output."""
        done = self.sh(command, seconds)
        assert done.status == 0, f"{command}: exit status {done.status}\n{done.output}"
        return done.output

    def python(self, arguments: str, seconds: float = 300, **environment: str) -> Result:
        """``python ARGUMENTS``, with package and tests on its path."""
        environment |= {"PYTHONPATH": image.python_path(), "PYTHONDONTWRITEBYTECODE": "1"}
        settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
        return self.sh(f"{settings} {image.PYTHON} {arguments}", seconds)

    def pytest(self, arguments: str, seconds: float, **environment: str) -> str:
        """Run tests in there, and return their output; fails with it when one fails or is skipped."""
        options = "-q --tb=short -p no:cacheprovider --timeout=600 --durations=10"
        done = self.python(f"-m pytest {options} {arguments}", seconds, **environment)
        assert done.status == 0, f"{done.output}\n{self.console()[-3000:]}"
        assert "skipped" not in done.output, done.output
        return done.output

    def complaints(self) -> list[str]:
        """What the kernel has to complain of by now."""
        return watched.complaints(self.run("dmesg").splitlines())

    def cpu_seconds(self) -> float:
        """CPU time that the emulator has used: utime and stime of proc(5)."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        process = getattr(self, "_process", None)
        if process is not None:
            process.kill()
            process.wait()
            self._connection.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _boot_until_ready(self) -> None:
        for attempt in range(3):
            try:
                self._buffer = b""
                self._start()
                self._receive_until(b"READY\n", _BOOT_SECONDS)
                return
            except GuestDied:
                if attempt == 2:
                    raise
                self._process.kill()
                self._process.wait()
                self._connection.close()

    def _start(self) -> None:
        """Sets ``_process``, and ``_connection`` to the other end of ttyS1."""
        path = self._directory / "shell"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener, self._said.open("wb") as said:
            listener.bind(str(path))
            listener.listen(1)
            self._process = subprocess.Popen(
                self._command(path), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said
            )
            listener.settimeout(PATIENCE)
            self._connection, _ = listener.accept()

    def _command(self, shell: Path) -> list[str | Path]:
        mode = "multi" if self._parallel else "single"
        serials = ["-serial", f"file:{self._directory}/console"]
        serials += ["-chardev", f"socket,id=shell,path={shell}", "-serial", "chardev:shell"]
        return [
            # A test run that is killed leaves no emulator. The signal comes when the thread that has started it ends.
            *"setpriv --pdeathsig KILL --".split(),
            *"qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot -M q35 -cpu max".split(),
            *f"-accel tcg,thread={mode} -smp {self._cpus} -m 2048 -kernel".split(),
            kernels.vmlinux(self.kernel),
            "-initrd",
            self._directory / "initrd",
            "-append",
            f"{_COMMAND_LINE} {self._options}",
            *serials,
        ]

    def _receive_until(self, mark: bytes, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        while mark not in self._buffer:
            self._connection.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                received = self._connection.recv(65536)
            except TimeoutError:
                raise GuestDied(self._last_words(f"no answer within {seconds} s")) from None
            except ConnectionResetError:
                received = b""
            if not received:
                raise GuestDied(self._last_words("it has ended"))
            self._buffer += received
        answer, _, self._buffer = self._buffer.partition(mark)
        return answer

    def _last_words(self, what: str) -> str:
        said = self._buffer.decode(errors="replace")[-4000:]
        emulator = self._said.read_text(errors="replace")
        return f"guest with {kernels.release(self.kernel)}: {what}\n{said}\n{emulator}\n{self.console()[-6000:]}"
