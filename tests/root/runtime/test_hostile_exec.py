"""An exec into a container whose processes lie in wait for it: what they can reach, and what they make of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tests.attacks.programs import kept
from tests.root.harness import Supervisor, Traces
from tests.root.patched import Patched, in_shim
from tests.waiting import wait_until

from wherry import errors

pytestmark = pytest.mark.root
SLOW = """
import time
from wherry.runtime import init
start = init._start
def slow(parent, message):
    time.sleep(0.1)
    return start(parent, message)
init._start = slow
"""
DUMPABLE = """
from wherry.kernel import process
process.set_dumpable = lambda dumpable: None
"""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Holds the programs."""
    path = tmp_path / "volume"
    path.mkdir()
    for name in ("lie_in_wait", "brother"):
        shutil.copy(kept(name), path / name)
    return path


def test_nothing_of_ours_is_in_reach(supervisor: Supervisor, rootfs: Path, volume: Path) -> None:
    """Also where the command is a script whose interpreter is our own executable (CVE-2019-5736)."""
    client = supervisor.client
    (volume / "evil").write_text("#!/proc/self/exe\n")
    (volume / "evil").chmod(0o755)
    client.start("c", str(rootfs), ["/v/lie_in_wait"], volumes=[f"{volume}:/v"])
    wait_until(lambda: "waiting" in supervisor.engine("logs", "c").stdout)
    for number in range(30):
        assert client.exec("c", ["/bin/true"]).exit_code == 0
        if number % 5 == 0:  # the interpreter's loader, libraries and modules are not there
            try:
                assert client.exec("c", ["/v/evil"]).exit_code != 0
            except errors.StartFailed as error:
                assert "execute /v/evil" in str(error)  # noqa: PT017 (either is right)
    (volume / "stop").touch()
    assert client.wait("c") == 0
    lines = supervisor.engine("logs", "c").stdout.splitlines()
    assert set(lines[:-1]) <= {"waiting", "held the host's executable"}
    assert int(lines[-1].removeprefix("seen ")) > 0


@pytest.mark.attack("exec-inspected")
@pytest.mark.parametrize("is_dumpable", [False, True])
def test_its_last_moment_is_not_laid_open(
    tmp_path: Path, rootfs: Path, leftovers: Traces, volume: Path, is_dumpable: bool
) -> None:
    """From the loss of its capabilities on, which others lack as well, up to execve: longer here than it is."""
    patched = Patched(tmp_path, rootfs, leftovers)
    patched.prelude = in_shim(SLOW + (DUMPABLE if is_dumpable else ""))
    with patched.serving() as supervisor:
        client = supervisor.client
        client.start("c", str(rootfs), ["/v/lie_in_wait"], volumes=[f"{volume}:/v"])
        wait_until(lambda: "waiting" in supervisor.engine("logs", "c").stdout)

        def lines() -> set[str]:
            assert client.exec("c", ["/bin/true"]).exit_code == 0
            return set(supervisor.engine("logs", "c").stdout.splitlines())

        if is_dumpable:
            wait_until(lambda: {"opened mem", "opened fd/1", "traced"} <= lines())
        else:
            for _ in range(20):
                assert lines() <= {"waiting", "held the host's executable"}
        (volume / "stop").touch()
        assert client.wait("c") == 0


def test_a_planted_file_is_not_read_as_code(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    own = tmp_path / "rootfs"
    subprocess.run(["cp", "-a", rootfs, own], check=True)
    names = ["os.py", "encodings/__init__.py", "usr/lib/python3.11/os.py", "etc/ld.so.preload", "etc/nsswitch.conf"]
    for path in [own / name for name in names]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("open('/touched', 'w')\n")
    supervisor.engine("start", "--rw-rootfs", "c", own, "/bin/sleep", "1000")
    for user in (None, "0", "root"):
        assert supervisor.client.exec("c", ["/bin/echo", "fine"], user=user).stdout == b"fine\n"
    assert not (own / "touched").exists()


def test_users_are_looked_up_inside(supervisor: Supervisor, rootfs: Path) -> None:
    """/etc/passwd that leads out of the root, or is no file, names nobody, and keeps nobody waiting."""
    client = supervisor.client
    for number, script in enumerate(
        (
            "ln -s ../../../../../../etc/shadow /etc/passwd",
            "ln -s /proc/self/root/etc/passwd /etc/passwd",
            "mkfifo /etc/passwd",
            "mkdir /etc/passwd",
        )
    ):
        name = f"c{number}"
        client.start(name, str(rootfs), ["sh", "-c", f"rm /etc/passwd; {script}; echo done; exec sleep 1000"])
        wait_until(lambda name=name: supervisor.engine("logs", name).stdout == "done\n")  # type: ignore[misc]
        with pytest.raises(errors.InvalidRequest, match="/etc/passwd"):
            client.exec(name, ["/bin/true"], user="games")


def test_a_brother_is_counted_and_reaped(supervisor: Supervisor, rootfs: Path, volume: Path) -> None:
    client = supervisor.client
    client.start("small", str(rootfs), ["/bin/sleep", "1000"], volumes=[f"{volume}:/v"], hard_mib=16)
    client.exec("small", ["/v/brother", "64"])
    assert client.wait("small") == 137
    assert client.inspect("small")["Wherry"]["Reason"] == "hard_limit"
    client.start("c", str(rootfs), ["/bin/sleep", "1000"], volumes=[f"{volume}:/v"])
    for _ in range(3):
        assert client.exec("c", ["/v/brother"]).exit_code == 0
    assert client.exec("c", ["/v/brother", "1"]).exit_code == 0
    supervisor.engine("kill", "c")
    assert client.wait("c") == 137


def test_fifty_at_once(supervisor: Supervisor, rootfs: Path) -> None:
    client = supervisor.client
    client.start("c", str(rootfs), ["/bin/sleep", "1000"])
    clients = [supervisor.popen("exec", "c", "/bin/sh", "-c", f"echo {number}; exit {number}") for number in range(50)]
    found = []
    for each in clients:
        out, err = each.communicate(timeout=120)
        found.append((each.returncode, out, err))
    assert found == [(number, f"{number}\n", "") for number in range(50)]
    (pid,) = (entry["pid"] for entry in supervisor.ps())
    group = supervisor.group("c").inner
    wait_until(lambda: group.processes() == [pid])
    shim = int(supervisor.info()["shim_pid"])
    assert len(Path(f"/proc/{shim}/task/{shim}/children").read_text().split()) == 1 + supervisor.info()["spares"]
