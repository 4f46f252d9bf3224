"""What the tests drive a supervisor with, and how they see what it leaves on the machine."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE
from tests.waiting import wait_until

import wherry
from wherry.client import Client
from wherry.kernel import cgroup_trees as trees
from wherry.kernel import cgroups
from wherry.kernel.polling import readable

REPOSITORY = Path(__file__).parents[2]
PACKAGES = str(Path(wherry.__file__).parents[1])
Word = str | Path
PREPARED = 2
"""How many containers a supervisor prepares ahead, if it is not told."""


def end_group(group: cgroups.Group) -> bool:
    """Kill what is in it and below it, and remove it all. False when that has to be done again."""
    trees.kill(group.places)
    return trees.remove(group.places, cgroups.INNER)


class Traces:
    """What containers can leave on a machine, found by ``directory`` (a test's own) and by control groups.

    Looks at nothing else, so that other supervisors and tests may come and go meanwhile.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = str(directory)
        self.groups: set[str] = set()
        """Relative to the hierarchies' mount points, such as wherry/3f2a."""
        self.shims: set[int] = set()
        """Process ids."""
        self.mounts: set[str] = set()
        """Mount points of the test itself, which are to be there."""

    def find(self) -> list[str]:
        shims = (f"shim {pid}" for pid in self._shims())
        return [*self._groups(), *shims, *self._processes(), *self._sockets()]

    def clear(self) -> None:
        """After a failure: end what is left, so that the machine does not fill up."""
        layout = cgroups.detect()
        below = ((parent, name) for parent in self.groups for name in cgroups.children(layout, parent))
        groups = [cgroups.Group(layout, f"{parent}/{name}") for parent, name in below]
        for pid in self._shims():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for group in (*groups, *(cgroups.Group(layout, parent) for parent in self.groups)):
            with contextlib.suppress(AssertionError):
                wait_until(functools.partial(end_group, group))

    def _shims(self) -> Iterator[int]:
        for pid in self.shims:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{pid}/cmdline").read_text().startswith("wherry-shim"):  # else its number is another's
                    yield pid

    def _groups(self) -> Iterator[str]:
        layout = cgroups.detect()
        for group in self.groups:
            for directory in set(layout.directories(group).values()):
                if os.path.exists(directory):
                    yield f"control group {directory}"

    def _processes(self) -> Iterator[str]:
        for name in os.listdir("/proc"):
            # A process can end while we look at it; a dying one may not be looked at (EACCES, EINVAL).
            if name.isdecimal() and int(name) != os.getpid():
                with contextlib.suppress(OSError):
                    yield from self._process(f"/proc/{name}")

    def _process(self, path: str) -> Iterator[str]:
        name, _, status = Path(path, "stat").read_text().rpartition(")")
        if status.split()[0] in "ZX":
            return
        groups = re.findall(r":/(.*)", Path(path, "cgroup").read_text())
        if any(group == ours or group.startswith(f"{ours}/") for group in groups for ours in self.groups):
            yield f"process {name}) in a control group of ours"
        if self.directory in Path(path, "cmdline").read_text():
            yield f"process {name})"
        for link in (f"{path}/cwd", *(f"{path}/fd/{number}" for number in os.listdir(f"{path}/fd"))):
            if os.readlink(link).startswith(self.directory):
                yield f"process {name}): {link} -> {os.readlink(link)}"
        for line in Path(path, "mountinfo").read_text().splitlines():
            if self.directory in line and line.split(" ")[4] not in self.mounts:
                yield f"mount seen by process {name}): {line}"

    def _sockets(self) -> Iterator[str]:
        for line in Path("/proc/net/unix").read_text().splitlines():
            if self.directory in line:
                yield f"socket {line}"


class Supervisor:
    """``engine supervisor`` as a process, with its state directory and socket below ``directory``."""

    def __init__(self, directory: Path, rootfs: Path, traces: Traces, *options: Word) -> None:
        self.options = options
        self.directory = directory
        self.state_dir = directory / "state"
        self.socket = directory / "engine.sock"
        self.log = directory / "supervisor.log"
        self.client = Client(str(self.socket))
        self.process: subprocess.Popen[bytes] | None = None
        self.rootfs = rootfs
        self._traces = traces
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def start(self) -> None:
        """Returns when it serves: it says so as to systemd."""
        self._notices.close()
        path = self.directory / "notices.sock"
        path.unlink(missing_ok=True)
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notices.bind(str(path))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command("supervisor", self.rootfs, "--state-dir", self.state_dir, "--debug", *self.options),
                env=self._environment() | {"NOTIFY_SOCKET": str(path)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._wait_ready(self.process)
        info = self.info()
        self._traces.groups.add(info["cgroup_parent"].lstrip("/"))
        self._traces.shims.add(info["shim_pid"])

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        pidfd = os.pidfd_open(process.pid)
        try:
            ready = readable([self._notices.fileno(), pidfd], PATIENCE)
        finally:
            os.close(pidfd)
        if self._notices.fileno() not in ready:
            process.kill()
            raise AssertionError(f"the supervisor is not ready, exit code {process.wait()}: {self.log.read_text()}")
        assert self._notices.recv(100) == b"READY=1"

    def _command(self, *words: Word) -> list[Word]:
        return [sys.executable, "-m", "wherry.cli", *words]

    def _environment(self) -> dict[str, str]:
        return os.environ | {"ENGINE_SOCKET": str(self.socket), "PYTHONPATH": PACKAGES}

    def engine(self, *words: Word, check: bool = True, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Run the command line against this supervisor; with ``check`` an exit code other than 0 is a failure."""
        done = subprocess.run(
            self._command(*words),
            check=False,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, done
        return done

    def command(self, *words: Word) -> str:
        """What another command prints; it must exit with 0."""
        return subprocess.run(words, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout

    def popen(self, *words: Word) -> subprocess.Popen[str]:
        """The command line, running; its output is in pipes."""
        return subprocess.Popen(
            self._command(*words),
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def popen_fed(self, *words: Word) -> subprocess.Popen[bytes]:
        """The command line, running; all its streams are in pipes, as bytes."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self._command(*words), env=self._environment(), stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0
        )

    def ps(self) -> list[dict[str, Any]]:
        """What ``engine ps --format json`` prints: newest first."""
        listing: list[dict[str, Any]] = [*map(json.loads, self.engine("ps", "--format", "json").stdout.splitlines())]
        return listing

    def info(self) -> dict[str, Any]:
        """What only Wherry tells of itself, keys as in ``EngineInfo``: shim_pid, cgroup_parent and so on."""
        ours: dict[str, Any] = self.client.info()["Wherry"]
        return {re.sub(r"(?<!^)(?=[A-Z])", "_", key).lower(): value for key, value in ours.items()}

    def group(self, name: str) -> cgroups.Group:
        """The group of a running container that holds its limits; its processes are in ``inner``, or below that."""
        (pid,) = (entry["pid"] for entry in self.ps() if entry["name"] == name)
        parent = self.info()["cgroup_parent"]
        found = re.search(rf":{parent}/([0-9a-f]+)(?:/|$)", Path(f"/proc/{pid}/cgroup").read_text(), re.MULTILINE)
        assert found is not None
        return cgroups.Group(cgroups.detect(), f"{parent.lstrip('/')}/{found[1]}")

    def remains(self) -> list[str]:
        """What there is of containers besides those that are prepared: records, logs, groups, processes, layers."""
        info = self.info()
        prepared = info["spares"]
        groups = cgroups.children(cgroups.detect(), info["cgroup_parent"].lstrip("/"))
        shim = Path(f"/proc/{info['shim_pid']}/task/{info['shim_pid']}/children")
        return [
            *(f"container {entry.name}" for entry in self.client.ps()),
            *(f"log {name}" for name in os.listdir(self.state_dir / "logs")),
            *(f"group {name}" for name in groups[prepared:]),
            *(f"process {pid}" for pid in shim.read_text().split()[prepared:]),
            *(f"layer {name}" for name in os.listdir(self.state_dir / "containers")[PREPARED:]),
        ]

    def connections(self) -> int:
        """Sockets that the supervisor holds: its clients, and a few of its own, when all is prepared that will be."""
        assert self.process is not None
        wait_until(lambda: self.info()["spares"] == PREPARED)  # each has a socket, and they come in the background
        count = 0
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                count += os.readlink(link).startswith("socket:")
        return count

    def control_file(self, name: str, controller: str, version1: str, version2: str) -> str:
        """The content of a control file of a running container: one name on each version of control groups."""
        group = self.group(name)
        text = group.read(controller, version1 if group.layout.version == 1 else version2)
        assert text is not None
        return text

    @contextlib.contextmanager
    def serving(self) -> Iterator[Supervisor]:
        """Ready to serve; in the end stopped by SIGTERM, where it must exit with 0 and have nothing to complain of."""
        self.start()
        try:
            yield self
        finally:
            if self.process is None and (self.state_dir / "run/shim.sock").exists():
                self.start()  # only a supervisor can clear up after one that was killed
            if self.process is not None:
                self.stop()
            log = self.log.read_text()
            print(log)
        assert "Traceback" not in log
        assert (self.state_dir / "run/shim.log").read_text() == ""

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it with a signal; it must exit with 0."""
        assert self.process is not None
        self.process.send_signal(number)
        try:
            assert self.process.wait(PATIENCE) == 0
        finally:
            self._gone()

    def kill(self) -> None:
        """SIGKILL; its containers and its shim live on."""
        self._gone()

    def restart(self) -> None:
        """A new one on the same state directory and socket, after ``stop`` or ``kill``."""
        assert self.process is None
        self.start()

    def _gone(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE)
        self.process = None
        self.client.close()
        self._notices.close()
