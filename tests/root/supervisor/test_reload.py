"""Case 18: SIGHUP executes the installed program in place of the supervisor; no signal ends it without a word."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.root.harness import PACKAGES, Supervisor, Traces, Word
from tests.waiting import wait_until

from wherry import errors
from wherry.client import Client

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

COUNTER = "i=0; while :; do i=$((i+1)); echo $i; [ $((i % 50)) = 0 ] && sleep 0.02; done"


class Installed(Supervisor):
    """Runs an installation of its own, which a test can damage or replace."""

    def __init__(self, directory: Path, rootfs: Path, traces: Traces, *options: Word) -> None:
        super().__init__(directory, rootfs, traces, *options)
        self.package = directory / "lib/wherry"
        shutil.copytree(Path(PACKAGES, "wherry"), self.package)

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"PYTHONPATH": str(self.package.parent)}

    def notices(self) -> list[str]:
        """What systemd has been told since the last call."""
        found = []
        while True:
            try:
                found.append(self._notices.recv(200, socket.MSG_DONTWAIT).decode())
            except BlockingIOError:
                return found

    def reload(self) -> list[str]:
        """Returns what systemd was told, once it is ready again."""
        assert self.process is not None
        told: list[str] = []

        def ready() -> bool:
            told.extend(self.notices())
            return "READY=1" in told

        self.process.send_signal(signal.SIGHUP)
        wait_until(ready, 60)
        assert self.process.poll() is None
        return told


@pytest.fixture
def installed(tmp_path: Path, rootfs: Path, leftovers: Traces) -> Iterator[Installed]:
    instance = Installed(tmp_path, rootfs, leftovers)
    with instance.serving():
        yield instance


def _set_version(package: Path, version: str) -> None:
    """Of another length than before, or compiled code of the same second would count as up to date."""
    path = package / "__init__.py"
    path.write_text(re.sub(r'__version__ = "[^"]*"', f'__version__ = "{version}"', path.read_text()))


def test_the_new_program_goes_on_with_all_that_runs(installed: Installed, rootfs: Path) -> None:
    client = installed.client
    client.start("counter", str(rootfs), ["/bin/sh", "-c", COUNTER], soft_mib=32, hard_mib=64)
    client.start("quiet", str(rootfs), ["/bin/sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done"])
    client.run("done", str(rootfs), ["/bin/sh", "-c", "exit 3"])
    before = {entry["name"]: (entry["state"], entry["pid"], entry["exit_code"]) for entry in installed.ps()}
    process, socket_file = installed.process, os.stat(installed.socket).st_ino
    assert process is not None
    for number in range(3):
        version = "99." + "0" * (number + 1)
        _set_version(installed.package, version)
        told = installed.reload()
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=[0-9]+", told[0])
        assert told[1:] == ["READY=1"]
        assert client.info()["ServerVersion"] == version
        assert installed.info()["pid"] == process.pid
        assert {entry["name"]: (entry["state"], entry["pid"], entry["exit_code"]) for entry in installed.ps()} == before
    assert os.stat(installed.socket).st_ino == socket_file
    assert client.run("after", str(rootfs), ["/bin/echo", "fine"], rm=True).stdout == b"fine\n"
    installed.engine("stop", "counter", "quiet")
    assert client.wait("quiet") == 5
    lines = installed.engine("logs", "counter").stdout.split("\n")[:-1]
    assert [int(line) for line in lines] == list(range(1, len(lines) + 1))


def test_without_containers(installed: Installed) -> None:
    """The shim has nothing to keep, and is another one afterwards: nothing of the old one is left, no zombie either."""
    assert installed.process is not None
    for _ in range(2):
        shim = int(installed.info()["shim_pid"])
        installed.reload()
        assert installed.ps() == []
        assert not Path(f"/proc/{shim}").exists()
        installed._traces.shims.add(int(installed.info()["shim_pid"]))
    children = Path(f"/proc/{installed.process.pid}/task/{installed.process.pid}/children").read_text().split()
    assert children == [str(installed.info()["shim_pid"])]
    descriptors = [os.readlink(f"/proc/{installed.process.pid}/fd/{number}") for number in range(3)]
    assert descriptors[1] == descriptors[2] == str(installed.log)


class Hammer(threading.Thread):
    """A client that connects and asks, again and again. Cut off in the middle it may be, refused not."""

    def __init__(self, ask: Callable[[int], object]) -> None:
        super().__init__()
        self.count = 0
        self.failures: list[errors.WherryError] = []
        self._ask = ask
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.is_set():
            try:
                self._ask(self.count)
            except errors.WherryError as error:
                if "went away" not in str(error) and "reset" not in str(error):
                    self.failures.append(error)
            self.count += 1

    def wait_for_more(self) -> None:
        seen = self.count
        wait_until(lambda: self.count > seen + 1, 60)

    def stop(self) -> None:
        self._done.set()
        self.join()


def test_no_client_is_refused(installed: Installed, rootfs: Path) -> None:
    """The socket listens all the time: who connects meanwhile waits. What changes something comes to its end."""

    def list_all(_number: int) -> None:
        with Client(str(installed.socket)) as client:
            client.ps()

    def start(number: int) -> None:
        with Client(str(installed.socket)) as client:
            client.start(f"c{number}", str(rootfs), ["/bin/true"])

    hammers = [Hammer(list_all), Hammer(start)]
    for hammer in hammers:
        hammer.start()
    try:
        for _ in range(4):
            for hammer in hammers:
                hammer.wait_for_more()
            installed.reload()
    finally:
        for hammer in hammers:
            hammer.stop()
    assert [hammer.failures for hammer in hammers] == [[], []]
    wait_until(lambda: all(entry["state"] == "exited" for entry in installed.ps()))
    assert {(entry["reason"], entry["exit_code"]) for entry in installed.ps()} == {("exited", 0)}


def test_who_follows_or_waits_is_told_to_ask_again(installed: Installed, rootfs: Path) -> None:
    """A follower's stream does not end as that of a container that has ended does."""
    client = installed.client
    client.start("c", str(rootfs), ["/bin/sh", "-c", "echo up; exec sleep 1000"])
    seen = threading.Event()
    outcomes: dict[str, object] = {}

    def follow() -> None:
        try:
            for _stream, _data in Client(str(installed.socket)).logs("c", follow=True):
                seen.set()
            outcomes["logs"] = "ended"
        except errors.WherryError as error:
            outcomes["logs"] = error

    def wait() -> None:
        try:
            outcomes["wait"] = Client(str(installed.socket)).wait("c")
        except errors.WherryError as error:
            outcomes["wait"] = error

    threads = [threading.Thread(target=work) for work in (follow, wait)]
    for thread in threads:
        thread.start()
    with installed.popen("run", "r", rootfs, "/bin/sh", "-c", "echo here; exec sleep 1000") as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "here\n"
        assert seen.wait(30)
        # The server counts who waits: it says so in its state dump.
        assert installed.process is not None
        wait_until(lambda: _dump_has(installed, "Engine.wait"))
        installed.reload()
        assert run.wait(30) not in (0, 137)
    for thread in threads:
        thread.join(30)
    assert isinstance(outcomes["logs"], errors.Unavailable)
    # Its answer had begun, as docker's does, or not: in both cases it is no exit code.
    assert isinstance(outcomes["wait"], errors.WherryError)
    assert [entry["state"] for entry in installed.ps()] == ["running", "running"]


def _dump_has(supervisor: Supervisor, text: str) -> bool:
    assert supervisor.process is not None
    before = supervisor.log.stat().st_size
    supervisor.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: "thread MainThread" in supervisor.log.read_text()[before:])
    return text in supervisor.log.read_text()[before:]


BROKEN = {
    "syntax": ("supervisor/engine.py", "def broken(:\n", "SyntaxError"),
    "import": ("supervisor/engine.py", "import nothing_of_the_kind\n", "nothing_of_the_kind"),
    "protocol": (
        "shim/protocol.py",
        "\nOLDEST = VERSION = 99\n",
        "shim protocol: the new program has versions 99 to 99",
    ),
    "records": ("supervisor/records.py", "\nSCHEMA_VERSION = 99\n", "records: the new program has version 99"),
    "silent": ("supervisor/reload.py", "\ndef versions(): return 'nonsense'\n", "does not say its versions"),
    "gone": ("cli/supervise.py", None, "cannot be loaded"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_program_that_cannot_take_over_is_not_tried(installed: Installed, rootfs: Path, fault: str) -> None:
    path, text, complaint = BROKEN[fault]
    pid = installed.client.start("c", str(rootfs), ["/bin/sleep", "1000"]).pid
    file = installed.package / path
    whole = file.read_text()
    if text is None:
        file.unlink()
    else:
        file.write_text(whole + text)
    assert installed.reload()[-1] == "READY=1"
    log = installed.log.read_text()
    assert "not reloaded: " in log
    assert complaint in log.partition("not reloaded: ")[2].partition("\n")[0]
    assert [(entry["name"], entry["pid"]) for entry in installed.ps()] == [("c", pid)]
    assert installed.client.run("fine", str(rootfs), ["/bin/echo", "fine"], rm=True).stdout == b"fine\n"
    file.write_text(whole)
    _set_version(installed.package, "99.1")
    installed.reload()
    assert installed.client.info()["ServerVersion"] == "99.1"
    assert [(entry["name"], entry["pid"]) for entry in installed.ps()] == [("c", pid)]


IGNORED = [signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGPWR]
REAL_TIME = signal.SIGRTMIN + 3


def test_no_signal_ends_it_without_a_word(supervisor: Supervisor, rootfs: Path) -> None:
    process = supervisor.process
    assert process is not None
    pid = supervisor.client.start("c", str(rootfs), ["/bin/sleep", "1000"]).pid
    for number in IGNORED:
        process.send_signal(number)
        wait_until(lambda name=number.name: f"{name} has no meaning here" in supervisor.log.read_text())  # type: ignore[misc]
    os.kill(process.pid, REAL_TIME)
    wait_until(lambda: "SIGRTMIN+3 has no meaning here" in supervisor.log.read_text())
    process.send_signal(signal.SIGPIPE)
    process.send_signal(signal.SIGUSR1)
    wait_until(lambda: "thread MainThread" in supervisor.log.read_text())
    log = supervisor.log.read_text()
    assert "containers: 1 running, 0 paused, 0 restarting, 0 created, 0 exited" in log
    assert re.search(r"descriptors: [0-9]+ of [0-9]+\n", log)
    assert re.search(r"task: 1 times Lifespan\._watch, \S+\.py:[0-9]+\n", log)
    assert "thread wherry-capture" in log
    assert supervisor.ps()[0]["pid"] == pid
    process.send_signal(signal.SIGQUIT)
    assert process.wait(20) == -signal.SIGQUIT
    assert "SIGQUIT: ending at once; containers go on" in supervisor.log.read_text()
    supervisor.kill()
    supervisor.restart()
    assert (supervisor.ps()[0]["state"], supervisor.ps()[0]["pid"]) == ("running", pid)


def test_sigterm_during_a_reload_is_not_lost(installed: Installed, rootfs: Path) -> None:
    """It stops, whichever of the two programs gets to see it."""
    installed.client.start("c", str(rootfs), ["/bin/sleep", "1000"])
    process = installed.process
    assert process is not None
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: any("RELOADING" in line for line in installed.notices()))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not (installed.state_dir / "run/shim.sock").exists()
    installed._gone()
    installed.restart()
    assert installed.ps()[0]["reason"] == "stopped"


_NO_EXECVE = """
import os, sys
from wherry.supervisor import reload

async def nothing() -> str:
    return ""

def refuse(*_arguments: object) -> None:
    raise OSError(2, os.strerror(2))

reload.obstacle, os.execve = nothing, refuse
from wherry.cli.main import main
sys.exit(main())
"""


class Unexecutable(Installed):
    def _command(self, *words: Word) -> list[Word]:
        command = super()._command(*words)
        return [sys.executable, "-c", _NO_EXECVE, *words] if words[0] == "supervisor" else command


def test_the_old_program_goes_on_when_the_new_one_cannot_be_executed(
    tmp_path: Path, rootfs: Path, leftovers: Traces
) -> None:
    """After the check had nothing to say, and with all handed over already."""
    supervisor = Unexecutable(tmp_path, rootfs, leftovers)
    with supervisor.serving():
        pid = supervisor.client.start("c", str(rootfs), ["/bin/sh", "-c", COUNTER]).pid
        for _ in range(2):
            assert supervisor.reload()[-1] == "READY=1"
            assert "going on with the old program" in supervisor.log.read_text()
            assert [(entry["state"], entry["pid"]) for entry in supervisor.ps()] == [("running", pid)]
        assert supervisor.client.run("fine", str(rootfs), ["/bin/echo", "fine"]).stdout == b"fine\n"
        supervisor.engine("stop", "c")
        lines = supervisor.engine("logs", "c").stdout.split("\n")[:-1]
        assert [int(line) for line in lines] == list(range(1, len(lines) + 1))
