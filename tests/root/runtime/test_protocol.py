"""The protocol between a container's first process and its parent: each way to fail, and --init."""

from __future__ import annotations

import json
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.forked import in_child
from tests.root.harness import Traces
from tests.root.runtime.unsupervised import Change, Parked, Unsupervised, unique, volume
from tests.waiting import wait_until

from wherry.kernel import cgroups, procfs
from wherry.kernel.cgroups import Group
from wherry.runtime import steps
from wherry.runtime.exit_status import ExitStatus
from wherry.runtime.launch import Report
from wherry.runtime.steps import Context, Step
from wherry.runtime.steps.workdir import EnterDirectory

pytestmark = pytest.mark.root
SETUP_FAILED = ExitStatus(os.CLD_EXITED, 125)


@pytest.fixture
def unsupervised(rootfs: Path, tmp_path: Path, leftovers: Traces) -> Unsupervised:
    assert leftovers.directory == str(tmp_path)
    return Unsupervised(rootfs, tmp_path)


def replaced(old: type[Step], *new: Step) -> Change:
    """A change of a plan: ``new`` in the place of the first step that is an ``old``."""

    def change(plan: list[Step]) -> list[Step]:
        (first, *_) = (number for number, step in enumerate(plan) if isinstance(step, old))
        return [*plan[:first], *new, *plan[first + 1 :]]

    return change


NOT_PERMITTED = "operation not permitted (EPERM)"
PREPARE: list[tuple[Change, str]] = [
    (
        replaced(steps.JoinCgroups, steps.JoinCgroups(["/sys/fs/cgroup/nowhere/cgroup.procs"])),
        "join cgroups: open /sys/fs/cgroup/nowhere/cgroup.procs: no such file or directory (ENOENT)",
    ),
    (
        replaced(steps.MountStage, steps.MountStage("/nowhere")),
        "mount stage /nowhere: no such file or directory (ENOENT)",
    ),
    (
        replaced(steps.MountStaged, steps.MountStaged("/proc", "proc", "proc", 0, "bogus=1")),
        "mount /proc: invalid argument (EINVAL)",
    ),
    (
        replaced(steps.MountStaged, steps.MountStaged("/proc", "nosuchfs", "proc", 0, "")),
        "mount /proc: no such device (ENODEV)",
    ),
    (
        replaced(steps.MakeDevices, steps.MakeDevices(["nosuch"])),
        "make devices: open_tree /dev/nosuch: no such file or directory (ENOENT)",
    ),
    (replaced(steps.LoopbackUp, steps.NewSession()), f"start a session: {NOT_PERMITTED}"),
]


@pytest.mark.parametrize(("change", "message"), PREPARE)
def test_a_prepare_step_fails(unsupervised: Unsupervised, change: Change, message: str) -> None:
    ended = unsupervised.run("/bin/true", prepare=change)
    assert (ended.error, ended.status) == (f"cannot start alpha: {message}", SETUP_FAILED)
    assert (ended.report.ready, ended.report.executed) == (False, False)


FINISH: list[tuple[Change, str]] = [
    (
        replaced(steps.MoveStaged, steps.MoveStaged("/nosuch")),
        "mount /nosuch: no such file or directory (ENOENT)",
    ),
    (
        replaced(steps.EnterRoot, steps.MountTmpfs("/mnt", [("bogus", "1")], 0), steps.EnterRoot()),
        "mount tmpfs /mnt: fsconfig: Invalid argument: tmpfs: Unknown parameter 'bogus' (EINVAL)",
    ),
    (
        replaced(steps.SetHostname, steps.SetHostname("x" * 65, "")),
        f"set hostname {'x' * 65}: sethostname: invalid argument (EINVAL)",
    ),
    (
        replaced(steps.SetRlimits, steps.SetRlimits([(7, 1 << 40, 1 << 40)])),
        f"set resource limits: setrlimit RLIMIT_NOFILE: {1 << 40} is more than this host allows: {NOT_PERMITTED}",
    ),
    (replaced(steps.SetStdio, steps.SetStdio("stdout", "nobody", 0, 0)), "connect stdio: KeyError: 'nobody'"),
]


@pytest.mark.parametrize(("change", "message"), FINISH)
def test_a_finish_step_fails(unsupervised: Unsupervised, change: Change, message: str) -> None:
    ended = unsupervised.run("/bin/true", finish=change)
    assert (ended.error, ended.status) == (f"cannot start alpha: {message}", SETUP_FAILED)
    assert (ended.report.ready, ended.report.executed, ended.stdout) == (True, False, "")


FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"working_dir": "/etc/passwd"}, "make working directory /etc/passwd: it is a file, not a directory (ENOTDIR)"),
    ({"working_dir": "/etc/passwd/x"}, "make working directory /etc/passwd/x: openat2: not a directory (ENOTDIR)"),
    ({"working_dir": "/proc/nosuch"}, "make working directory /proc/nosuch: no such file or directory (ENOENT)"),
    (
        {"mounts": (volume("/etc/hostname", "/etc"),)},
        "mount volume /etc: it is a directory, not a file (EISDIR)",
    ),
    (
        {"mounts": (volume("/etc", "/etc/passwd"),)},
        "mount volume /etc/passwd: it is a file, not a directory (ENOTDIR)",
    ),
    (
        {"mounts": (volume("/etc", "/dev/pts/x/y"),)},
        f"mount volume /dev/pts/x/y: {NOT_PERMITTED}",
    ),
]


@pytest.mark.parametrize(("fields", "message"), FIELDS)
def test_what_was_asked_for_cannot_be(unsupervised: Unsupervised, fields: dict[str, Any], message: str) -> None:
    ended = unsupervised.run("/bin/true", **fields)
    assert (ended.error, ended.status) == (f"cannot start alpha: {message}", SETUP_FAILED)


def layer_with(unsupervised: Unsupervised, plant: Callable[[Path], None], rootfs: Path) -> None:
    """Let the containers of this test run over a copy of ``rootfs`` in which something was planted."""
    copy = unsupervised.stage.parent / "copy"
    (copy / "bin").mkdir(parents=True)
    os.link(rootfs / "bin/busybox", copy / "bin/busybox")
    for name in ("sh", "true", "cat"):
        (copy / "bin" / name).symlink_to("busybox")
    plant(copy)
    unsupervised.rootfs = copy


@pytest.mark.parametrize("target", ["/proc", "/proc/tty", "../proc/sys", "/proc/self"])
def test_a_volume_led_into_proc(unsupervised: Unsupervised, rootfs: Path, tmp_path: Path, target: str) -> None:
    """CVE-2019-16884: faked files there could tell the runtime anything of the process it sets up."""
    layer_with(unsupervised, lambda copy: (copy / "data").symlink_to(target), rootfs)
    (tmp_path / "volume").mkdir()
    mounts = (volume(tmp_path / "volume", "/data"),)
    assert unsupervised.run("/bin/true", mounts=mounts).error == (
        "cannot start alpha: mount volume /data: the destination is inside /proc (EPERM)"
    )


@pytest.mark.parametrize("name", ["proc", "dev", "sys"])
@pytest.mark.parametrize("target", ["/bin", "..", "nowhere", "/proc/self/cwd"])
def test_a_link_for_a_kernel_file_system(unsupervised: Unsupervised, rootfs: Path, name: str, target: str) -> None:
    layer_with(unsupervised, lambda copy: (copy / name).symlink_to(target), rootfs)
    ended = unsupervised.run("/bin/true")
    assert ended.error.startswith(f"cannot start alpha: mount /{name}: ")
    assert ended.error.endswith(("(ELOOP)", "(ENOTDIR)"))


def test_a_file_for_a_kernel_file_system(unsupervised: Unsupervised, rootfs: Path) -> None:
    def plant(copy: Path) -> None:
        (copy / "dev").write_text("")

    layer_with(unsupervised, plant, rootfs)
    assert unsupervised.run("/bin/true").error.endswith("(ENOTDIR)")


def test_a_working_directory_outside_of_the_root(unsupervised: Unsupervised, tmp_path: Path) -> None:
    """CVE-2024-21626: a descriptor that leads out, were one left open."""
    (tmp_path / "secret").mkdir()
    errors = []
    for number in range(3, 12):
        outside = os.open(tmp_path / "secret", os.O_RDONLY)
        ended = unsupervised.run("/bin/pwd", working_dir=f"/proc/self/fd/{number}", extra={"outside": outside})
        os.close(outside)
        assert ended.stdout == "/\n" or ended.report.failure is not None
        errors += [ended.error] if ended.report.failure else []
    # No link of /proc that leads to an open file is followed (RESOLVE_NO_MAGICLINKS).
    assert any("too many levels of symbolic links (ELOOP)" in error for error in errors)


def test_a_directory_that_is_not_below_the_root_is_told(tmp_path: Path) -> None:
    """The second barrier: whatever led there."""

    def work() -> str:
        outside = os.open("/", os.O_PATH)
        os.chroot(tmp_path)
        os.fchdir(outside)
        with pytest.raises(PermissionError) as refused:
            EnterDirectory(".").execute(Context())
        return str(refused.value)

    assert "the working directory is outside the rootfs" in in_child(work)


NO_PROGRAM = "exec format error: it is neither an ELF program nor a script that begins with #! (ENOEXEC)"
COMMANDS = {
    "nosuch": ("execute nosuch: no such file or directory (ENOENT)", 127),
    "/nosuch": ("execute /nosuch: no such file or directory (ENOENT)", 127),
    "/bin/true/x": ("execute /bin/true/x: not a directory (ENOTDIR)", 127),
    "/etc": ("execute /etc: permission denied: it is a directory (EACCES)", 126),
    "/etc/passwd": ("execute /etc/passwd: permission denied (EACCES)", 126),
    "/planted/text": (f"execute /planted/text: {NO_PROGRAM}", 126),
    "/planted/interpreter": ("execute /planted/interpreter: its interpreter '/nosuch' is not there (ENOENT)", 127),
    "/planted/loop": ("execute /planted/loop: too many levels of symbolic links (ELOOP)", 126),
    "text": (f"execute text: execve /planted/text: {NO_PROGRAM}", 126),
    "hidden": ("execute hidden: execve /planted/hidden: permission denied (EACCES)", 126),
}


def plant_commands(copy: Path) -> None:
    (copy / "etc").mkdir()
    (copy / "etc/passwd").write_text("")
    (copy / "planted").mkdir()
    for name, text, mode in (
        ("text", "just text", 0o755),
        ("interpreter", "#!/nosuch\n", 0o755),
        ("hidden", "#!/bin/sh\n", 0o644),
    ):
        (copy / "planted" / name).write_text(text)
        (copy / "planted" / name).chmod(mode)
    (copy / "planted/loop").symlink_to("loop")


@pytest.mark.parametrize("init", [False, True])
@pytest.mark.parametrize("command", list(COMMANDS))
def test_a_command_that_cannot_be_executed(unsupervised: Unsupervised, rootfs: Path, command: str, init: bool) -> None:
    layer_with(unsupervised, plant_commands, rootfs)
    message, code = COMMANDS[command]
    ended = unsupervised.run(command, init=init, env=("PATH=/planted:/nosuch:/bin",))
    assert ended.error == f"cannot start alpha: {message}"
    assert ended.status == ExitStatus(os.CLD_EXITED, code)


def test_more_arguments_than_the_kernel_takes(unsupervised: Unsupervised) -> None:
    ended = unsupervised.run("/bin/true", *["x" * 100_000] * 40)
    assert ended.error == "cannot start alpha: execute /bin/true: argument list too long (E2BIG)"
    assert ended.status.exit_code == 126


def test_the_first_hit_of_the_search_is_executed(unsupervised: Unsupervised, rootfs: Path) -> None:
    layer_with(unsupervised, plant_commands, rootfs)
    assert unsupervised.run("true", env=("PATH=/nosuch:/bin/true:/bin:/planted",)).status == ExitStatus(
        os.CLD_EXITED, 0
    )


def ending(unsupervised: Unsupervised, end: Callable[[Parked], object]) -> tuple[Report, ExitStatus]:
    """How a parked child ends after ``end``."""

    def work() -> tuple[Report, ExitStatus]:
        parked = unsupervised.park("/bin/sleep", "1000")
        assert parked.wait_ready()
        end(parked)
        report = parked.wait_executed()
        return report, parked.wait()

    return unsupervised.apart(work)


def half_a_message(parked: Parked) -> None:
    parked.send(struct.pack(">I", 1000) + b"{", [])
    parked.channel.shutdown(1)


def wrong_descriptors(parked: Parked) -> None:
    body = json.dumps({"descriptors": ["a", "b"], "steps": [], "args": ["x"], "env": [], "init": False}).encode()
    parked.send(struct.pack(">I", len(body)) + body, [0])


@pytest.mark.parametrize(
    "end",
    [
        lambda parked: parked.channel.shutdown(1),
        half_a_message,
        wrong_descriptors,
        lambda parked: parked.send(b"\0", []) or parked.channel.shutdown(1),
        lambda parked: parked.send(struct.pack(">I", 4) + b"null", []),
        lambda parked: parked.send(struct.pack(">I", 4) + b"\xff\xff\xff\xff", []),
    ],
)
def test_a_parent_that_does_not_finish(unsupervised: Unsupervised, end: Callable[[Parked], object]) -> None:
    """The end of the parent looks like the first of these: the parked child goes by itself."""
    report, status = ending(unsupervised, end)
    assert (report.ready, report.executed, status) == (True, False, SETUP_FAILED)


def test_a_parked_child_goes_with_the_process_that_made_it(unsupervised: Unsupervised) -> None:
    reader, writer = os.pipe()

    def work() -> None:
        pid = os.fork()
        if pid == 0:
            try:
                parked = unsupervised.park("/bin/true")
                parked.wait_ready()
                os.write(writer, str(parked.pid).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        # We are the subreaper of the child that is an orphan now.
        orphan, status = os.waitpid(int(os.read(reader, 20)), 0)
        assert (orphan > 0, os.waitstatus_to_exitcode(status)) == (True, 125)

    try:
        unsupervised.apart(work)
    finally:
        os.close(reader)
        os.close(writer)


def test_a_killed_child(unsupervised: Unsupervised) -> None:
    report, status = ending(unsupervised, lambda parked: os.kill(parked.pid, signal.SIGKILL))
    assert report == Report(ready=True, executed=False, failure=None)
    assert (status.exit_code, status.signal) == (137, 9)


@pytest.mark.parametrize("init", [False, True])
@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("exit 255", 255)])
def test_exit_codes(unsupervised: Unsupervised, script: str, code: int, init: bool) -> None:
    ended = unsupervised.shell(script, init=init)
    assert (ended.report, ended.status) == (Report(True, True, None), ExitStatus(os.CLD_EXITED, code))


def test_a_command_under_init_that_is_killed(unsupervised: Unsupervised) -> None:
    assert unsupervised.shell("kill -9 $$", init=True).status == ExitStatus(os.CLD_EXITED, 137)


def test_init_is_pid_1_and_its_own_session_is_the_commands(unsupervised: Unsupervised) -> None:
    script = "echo $$ $PPID; cut -d' ' -f6 /proc/self/stat; cat /proc/1/comm"
    assert unsupervised.shell(script, init=True).lines == ["2 1", "2", "init"]


def test_the_command_of_init_has_no_signal_blocked_or_ignored(unsupervised: Unsupervised) -> None:
    lines = unsupervised.run("/bin/grep", "-E", "Sig(Blk|Ign)", "/proc/self/status", init=True).lines
    assert lines == [f"SigBlk:\t{0:016x}", f"SigIgn:\t{0:016x}"]


def test_init_reaps_orphans(unsupervised: Unsupervised) -> None:
    script = """
        (sleep 0 & echo $! >/tmp/orphan) ; orphan=$(cat /tmp/orphan)
        while [ -e /proc/$orphan ]; do :; done; echo gone
    """
    assert unsupervised.shell(script, init=True).lines == ["gone"]


class Running:
    """A container that runs in the process that made it."""

    def __init__(self, unsupervised: Unsupervised, script: str, **fields: Any) -> None:
        self.parked = unsupervised.park("/bin/sh", "-c", script, **fields)
        assert self.parked.wait_ready()
        self.outputs = self.parked.finish()
        report = self.parked.wait_executed()
        assert report == Report(True, True, None)

    def read_line(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            byte = os.read(self.outputs[0], 1)
            assert byte
            line += byte
        return line.decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT, signal.SIGRTMIN + 3])
def test_init_hands_signals_on(unsupervised: Unsupervised, number: int) -> None:
    def work() -> tuple[int, str]:
        running = Running(
            unsupervised, f"trap 'echo got; exit 5' {int(number)}; echo up; while :; do sleep 0.01; done", init=True
        )
        assert running.read_line() == "up\n"
        os.kill(running.parked.pid, number)
        ended = running.parked.end(running.outputs)
        return ended.status.exit_code, ended.stdout

    assert unsupervised.apart(work) == (5, "got\n")


def test_init_can_be_asked_to_stop(unsupervised: Unsupervised) -> None:
    """``engine stop`` kills at once what could not hear: init waits for every signal, so it hears."""

    def work() -> bool:
        running = Running(unsupervised, "echo up; sleep 1000", init=True)
        assert running.read_line() == "up\n"
        # Its state must have settled: between two signals they are blocked, while it waits they are not.
        wait_until(lambda: "State:\tS" in Path(f"/proc/{running.parked.pid}/status").read_text())
        received = procfs.receives(running.parked.pid, signal.SIGTERM)
        os.kill(running.parked.pid, signal.SIGTERM)
        assert running.parked.end(running.outputs).status.exit_code == 128 + signal.SIGTERM
        return received

    assert unsupervised.apart(work)


def test_init_holds_no_end_of_the_output(unsupervised: Unsupervised) -> None:
    """The log ends when the command has closed its output, not when the container ends."""

    def work() -> None:
        running = Running(unsupervised, "echo x; exec >&- 2>&-; sleep 1000", init=True)
        with os.fdopen(running.outputs[0]) as output:
            assert output.read() == "x\n"
        with os.fdopen(running.outputs[1]) as output:
            assert output.read() == ""
        os.kill(running.parked.pid, signal.SIGKILL)
        running.parked.wait()

    unsupervised.apart(work)


def test_no_process_left_for_the_command_of_init(unsupervised: Unsupervised, leftovers: Traces) -> None:
    group = Group(cgroups.detect(), unique())
    leftovers.groups.add(group.path)
    group.create()
    group.write("pids", "pids.max", 1)
    join = replaced(steps.JoinCgroups, steps.JoinCgroups(group.process_files()))
    ended = unsupervised.run("/bin/true", prepare=join, init=True)
    wait_until(group.remove)
    assert ended.error == (
        "cannot start alpha: start the command under init: resource temporarily unavailable (EAGAIN)"
    )
    assert ended.status == SETUP_FAILED
