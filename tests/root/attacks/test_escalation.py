"""Attacks by which a process of a container becomes more than it was, inside or on the host."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.attacks.programs import kept
from tests.forked import in_child
from tests.root.harness import Supervisor
from tests.root.patched import Weaken
from tests.root.runtime.unsupervised import Unsupervised, unique, with_capability
from tests.waiting import wait_until

from wherry.errors import CommandNotFound
from wherry.kernel import mounts, paths
from wherry.kernel.capabilities import mask_of
from wherry.runtime.steps import DropPrivileges, NewSession, Step, Unshare

pytestmark = pytest.mark.root


@pytest.mark.attack("inheritable-capabilities")
def test_another_user_inherits_nothing(
    unsupervised: Unsupervised, hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program whose file asks for what its caller could hand on: CAP_CHOWN, for user 1000."""
    chown = mask_of(["CAP_CHOWN"])
    (hostile / "inheriting").mkdir()
    program = hostile / "inheriting/grep"
    program.write_bytes((hostile / "bin/busybox").read_bytes())
    program.chmod(0o755)
    # include/uapi/linux/capability.h: VFS_CAP_REVISION_2 with the effective bit, permitted and inheritable halves
    os.setxattr(program, "security.capability", struct.pack("<5I", 0x02000001, 0, chown, 0, 0))
    words = ("/inheriting/grep", "CapEff", "/proc/self/status")
    assert unsupervised.run(*words, user="1000").lines == ["CapEff:\t" + "0" * 16]

    def inherits(plan: list[Step]) -> list[Step]:
        return [
            step._replace(inheritable=chown, no_new_privileges=False) if isinstance(step, DropPrivileges) else step
            for step in plan
        ]

    only_the_set = unsupervised.run(*words, user="1000", finish=inherits, filtered=False)
    assert only_the_set.lines == ["CapEff:\t" + "0" * 16]  # the root is nosuid
    monkeypatch.setattr(mounts, "ROOT_ATTRIBUTES", mounts.MOUNT_ATTR_NODEV)
    shown = unsupervised.run(*words, user="1000", finish=inherits, filtered=False)
    assert shown.lines == [f"CapEff:\t{chown:016x}"]


@pytest.mark.attack("release-agent")
def test_no_program_is_named_for_the_kernel_to_run(unsupervised: Unsupervised) -> None:
    """In a hierarchy of its own, whose root has the file. What is named is not run: no group of it is ever emptied."""
    hierarchy = unique()
    script = f"""
        mkdir /groups; mount -t cgroup -o none,name={hierarchy} groups /groups || exit 1
        echo /bin/false >/groups/release_agent; cat /groups/release_agent; umount /groups
    """
    for filtered in (True, False):
        ended = unsupervised.shell(script, filtered=filtered)
        assert (ended.stdout, ended.status.exit_code) == ("", 1), ended
    granted = with_capability("CAP_SYS_ADMIN")
    ended = unsupervised.shell(script, filtered=False, prepare=granted, finish=granted)
    assert "permission denied" in ended.stderr  # hierarchies are made in the first control group namespace alone

    def in_the_hosts(plan: list[Step]) -> list[Step]:
        return [Unshare([*{*step.types} - {"cgroup"}]) if isinstance(step, Unshare) else step for step in granted(plan)]

    ended = unsupervised.shell(script, filtered=False, prepare=in_the_hosts, finish=granted)
    if "No such device" in ended.stderr:
        pytest.skip("this kernel has no control groups version 1")
    assert ended.stdout == "/bin/false\n", ended


ABSTRACT = """
import socket
abstract = socket.socket(socket.AF_UNIX)
abstract.bind(chr(0) + {!r})
abstract.listen()
"""


def abstract_names(supervisor: Supervisor) -> list[str]:
    """Of the sockets that the supervisor and its shim have open."""
    assert supervisor.process is not None
    inodes = set()
    for pid in (supervisor.process.pid, supervisor.info()["shim_pid"]):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            inodes |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(link)))
    listed = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    return [fields[7] for fields in listed if len(fields) > 7 and fields[6] in inodes and fields[7].startswith("@")]


@pytest.mark.attack("abstract-socket")
@pytest.mark.parametrize("is_blocked", [True, False])
def test_no_socket_of_ours_is_abstract(weaken: Weaken, rootfs: Path, is_blocked: bool) -> None:
    name = unique()
    words = ("--network", "host", "-v", f"{kept('abstract')}:/abstract:ro", "c", rootfs, "/abstract", name)
    with weaken("" if is_blocked else ABSTRACT.format(name)) as supervisor:
        supervisor.client.start("other", str(rootfs), ["/bin/sleep", "1000"])
        assert abstract_names(supervisor) == ([] if is_blocked else [f"@{name}"])
        reached = supervisor.engine("run", *words).stdout.splitlines()
    assert reached == (["end"] if is_blocked else [name, "end"])


def carelessly(root: int, path: str, _limit: int = 0) -> bytes:
    """Reads a file of a root as whoever joins strings does."""
    return Path(os.readlink(f"/proc/self/fd/{root}") + path).read_bytes()


@pytest.mark.attack("user-files")
def test_users_are_not_those_of_the_host(
    unsupervised: Unsupervised, hostile: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link of the image to a file of the host: whoever starts the container learns what is in it, or is it."""
    (victim / "passwd").write_text("secret:x:4711:4712::/:/bin/sh\n")
    (hostile / "etc/passwd").unlink()
    (hostile / "etc/passwd").symlink_to(victim / "passwd")
    with pytest.raises(AssertionError, match="InvalidRequest: user 'secret' is not in the rootfs's /etc/passwd"):
        unsupervised.shell("id -u", user="secret")
    directory = os.open(hostile, os.O_PATH)
    try:
        monkeypatch.setattr(paths, "read_small_file", lambda _root, path, limit=0: carelessly(directory, path, limit))
        assert unsupervised.shell("id -u", user="secret").lines == ["4711"]
    finally:
        os.close(directory)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))  # /dev/zero never ends


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


@pytest.mark.attack("user-files", "blocked")
@pytest.mark.parametrize("make", [fifo, device, huge])
@pytest.mark.parametrize("name", ["passwd", "group"])
def test_user_files_that_never_end_are_refused(
    supervisor: Supervisor, hostile: Path, make: Callable[[Path], None], name: str
) -> None:
    path = hostile / "etc" / name
    path.unlink()
    make(path)
    done = supervisor.engine("run", "-u", "guest:guest", "c", hostile, "/bin/true", check=False)
    assert done.returncode == 125
    assert f"the rootfs's /etc/{name}: " in done.stderr
    assert supervisor.ps() == []


BELL = "\x1b]0;owned\x07"


@pytest.mark.attack("terminal-escapes")
def test_what_a_container_chose_does_not_reach_a_terminal_as_it_is(
    supervisor: Supervisor, rootfs: Path, tmp_path: Path
) -> None:
    """By lists; and by a name, which is refused."""
    raw = "from wherry.cli import terminal\nterminal.escaped = lambda text: text\n"
    main = "import sys\nfrom wherry.cli.main import main\nsys.exit(main())"
    supervisor.client.start("long", str(rootfs), ["/bin/sleep", "1000", BELL], labels={"x": BELL})
    words = [["ps"], ["ps", "--format", "{{.Command}}"], ["run", f"b{BELL}", str(rootfs), "/bin/true"]]
    for command in words:
        shown = []
        for prelude in ("", raw):
            done = subprocess.run(
                [*supervisor._command()[:1], "-c", prelude + main, *command],
                env=supervisor._environment(),
                capture_output=True,
                check=False,
                cwd=tmp_path,
            )
            shown.append(b"\x1b" in done.stdout + done.stderr)
            assert b"owned" in done.stdout + done.stderr, done
        assert shown == [False, True], command


RAW_LOG = "from wherry.supervisor import log_lines\nlog_lines.printable = lambda text: text"


@pytest.mark.attack("terminal-escapes")
@pytest.mark.parametrize("is_blocked", [True, False])
def test_names_of_files_do_not_write_the_supervisors_log(weaken: Weaken, rootfs: Path, is_blocked: bool) -> None:
    """A directory that cannot be deleted, with a line and an escape sequence in its name."""
    name = f"{BELL}\nERROR forged"
    with weaken("" if is_blocked else RAW_LOG) as supervisor:
        supervisor.client.run("c", str(rootfs), ["/bin/mkdir", f"/{name}"])
        (busy,) = supervisor.state_dir.glob(f"containers/*/upper/{name}")
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", busy], check=True)
        try:
            supervisor.client.rm("c")
            wait_until(lambda: "cannot delete layer" in supervisor.log.read_text())
        finally:
            subprocess.run(["umount", busy], check=True)
        told = supervisor.log.read_text()
    assert ("\nERROR forged" in told, BELL in told) == (not is_blocked, not is_blocked)


@pytest.mark.attack("terminal-injected")
@pytest.mark.parametrize("is_blocked", [True, False])
def test_the_terminal_of_who_started_it_is_not_the_containers(unsupervised: Unsupervised, is_blocked: bool) -> None:
    """It could type into it (TIOCSTI), or write over what is there, after the engine has gone."""

    def without_session(plan: list[Step]) -> list[Step]:
        return [step for step in plan if is_blocked or not isinstance(step, NewSession)]

    def on_a_terminal() -> tuple[str, bytes]:
        master, slave = os.openpty()
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        ended = unsupervised.shell("(echo typed >/dev/tty) 2>&1 | sed 's/.*: //'; echo end", prepare=without_session)
        os.set_blocking(master, False)
        try:
            return ended.stdout, os.read(master, 100)
        except BlockingIOError:
            return ended.stdout, b""

    expected = ("No such device or address\nend\n", b"") if is_blocked else ("end\n", b"typed\r\n")
    assert in_child(on_a_terminal) == expected


RAW_ANSWERS = "from wherry.api.http import replies\nreplies.printable = lambda text: text"


@pytest.mark.attack("terminal-escapes")
@pytest.mark.parametrize("is_blocked", [True, False])
def test_answers_are_printable(weaken: Weaken, rootfs: Path, is_blocked: bool) -> None:
    """docker's client prints them as they are."""
    with weaken("" if is_blocked else RAW_ANSWERS) as supervisor:
        with pytest.raises(CommandNotFound) as caught:
            supervisor.client.run(None, str(rootfs), [f"/bin/{BELL}"])
        with pytest.raises(CommandNotFound) as started:
            supervisor.client.start("c", str(rootfs), [f"/bin/{BELL}"])
    assert [str(each.value).isprintable() for each in (caught, started)] == [is_blocked] * 2
