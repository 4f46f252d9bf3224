"""What a container is like from inside, and what of it the host can see."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.patience import PATIENCE
from tests.root.harness import Traces
from tests.root.runtime.unsupervised import Unsupervised, tmpfs, volume, with_capability
from tests.waiting import wait_until

from wherry.runtime import presets
from wherry.runtime.spec import Scheduler

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[3]


@pytest.fixture
def unsupervised(rootfs: Path, tmp_path: Path, leftovers: Traces) -> Unsupervised:
    assert leftovers.directory == str(tmp_path)
    return Unsupervised(rootfs, tmp_path)


def test_identity(unsupervised: Unsupervised) -> None:
    script = "echo $$; hostname; pwd; tr '\\0' ' ' </proc/1/cmdline; echo; cut -d' ' -f5-8 /proc/self/stat"
    pid, hostname, directory, cmdline, session = unsupervised.shell(script, domainname="example").lines
    assert (pid, hostname, directory) == ("1", "alpha", "/")
    assert cmdline.startswith("/bin/sh -c echo")
    group, leader, terminal, _ = session.split()
    assert (group, leader, terminal) == ("1", "1", "0")


def test_environment(unsupervised: Unsupervised) -> None:
    ended = unsupervised.run("/usr/bin/env", env=("A=b c", "HOME=/x"))
    assert sorted(ended.lines) == ["A=b c", "HOME=/x", "HOSTNAME=alpha", f"PATH={presets.PATH}"]


def test_arguments_are_handed_over_byte_by_byte(unsupervised: Unsupervised) -> None:
    words = ["", " ", "\n", "'\"", "caf\udce9", "\u20ac", "-x"]
    ended = unsupervised.run("/bin/busybox", "printf", "[%s]", *words)
    assert ended.stdout == "".join(f"[{word}]" for word in words)


def test_no_descriptor_of_ours(unsupervised: Unsupervised) -> None:
    host = os.open("/", os.O_RDONLY)
    script = "for n in $(seq 0 255); do if [ -e /proc/$$/fd/$n ]; then echo $n $(readlink /proc/$$/fd/$n); fi; done"
    try:
        lines = unsupervised.shell(script, extra={"host": host}).lines
    finally:
        os.close(host)
    assert [re.sub(r"\[\d+\]", "[N]", line) for line in lines] == ["0 /dev/null", "1 pipe:[N]", "2 pipe:[N]"]


ALONE = """
import sys
from pathlib import Path
from tests.root.runtime.unsupervised import Unsupervised

def work():
    parked = made.park("/bin/sh", "-c", "echo alone")
    assert parked.wait_ready()
    return parked.end(parked.finish()), sorted(sys.modules)

made = Unsupervised(Path(sys.argv[1]), Path(sys.argv[2]))
ended, loaded = made.apart(work)
print(*ended.lines, *(name for name in {*loaded, *sys.modules} if name.startswith("wherry.supervisor")))
"""


def test_no_supervisor_is_loaded(rootfs: Path, tmp_path: Path, leftovers: Traces) -> None:
    """What wherry-oci will be: a container from a spec, by the runtime alone."""
    assert leftovers.directory == str(tmp_path)
    command = [sys.executable, "-c", ALONE, str(rootfs), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.stdout, done.stderr) == ("alone\n", "")
    loading = ["import wherry.supervisor.engine\n" + ALONE if word is ALONE else word for word in command]
    (tmp_path / "again").mkdir()
    again = subprocess.run(
        [*loading[:-1], str(tmp_path / "again")], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert "wherry.supervisor.engine" in again.stdout


SAFE = "nosuid,nodev,noexec,relatime"
MOUNTS = [
    ("/", "rw,nosuid,nodev,relatime", "overlay"),
    *((path, f"rw,{SAFE}", "tmpfs") for path in ("/etc/hostname", "/etc/hosts")),
    ("/proc", f"rw,{SAFE}", "proc"),
    *((path, f"ro,{SAFE}", "proc") for path in presets.READONLY_PATHS if os.path.exists(path)),
    ("/dev", "rw,nosuid,nodev", "tmpfs"),
    *((f"/dev/{name}", "ro,nosuid,noexec,relatime", "devtmpfs") for name in ("null", "zero", "full", "random")),
    *((f"/dev/{name}", "ro,nosuid,noexec,relatime", "devtmpfs") for name in ("urandom", "tty")),
    ("/dev/pts", "rw,nosuid,noexec,relatime", "devpts"),
    ("/dev/shm", f"rw,{SAFE}", "tmpfs"),
    ("/dev/mqueue", f"rw,{SAFE}", "mqueue"),
    ("/sys", f"ro,{SAFE}", "sysfs"),
]


def mounted(lines: list[str]) -> list[tuple[str, str, str]]:
    """Mount point, options and file system of lines of mountinfo."""
    fields = (line.split(" ") for line in lines)
    return [(each[4], each[5], each[each.index("-") + 1]) for each in fields]


def test_the_mounts_are_these_and_no_others(unsupervised: Unsupervised) -> None:
    lines = unsupervised.run("/bin/cat", "/proc/self/mountinfo").lines
    found = mounted(lines)
    masked = [mount for mount in found if mount[0] in presets.MASKED_PATHS]
    assert sorted(mount for mount in found if mount not in masked) == sorted(MOUNTS)
    existing = [path for path in presets.MASKED_PATHS if os.path.lexists(path)]
    assert sorted(path for path, _, _ in masked) == sorted(existing)
    assert all((kind == "tmpfs" and options.startswith("ro,")) or kind == "devtmpfs" for _, options, kind in masked)
    assert not any("shared:" in line or "master:" in line for line in lines)


def test_masked_paths_show_nothing(unsupervised: Unsupervised) -> None:
    paths = " ".join(presets.MASKED_PATHS)
    script = f"for p in {paths}; do if [ -d $p ]; then ls -A $p; elif [ -e $p ]; then cat $p; fi; done; echo end"
    assert unsupervised.shell(script).lines == ["end"]


def test_read_only_paths(unsupervised: Unsupervised) -> None:
    targets = ["/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/kernel/mm/ksm/run"]
    for target in (path for path in targets if os.path.exists(path)):
        ended = unsupervised.shell(f"echo x >{target}")
        assert ended.status.exit_code != 0
        assert "Read-only file system" in ended.stderr


def test_devices(unsupervised: Unsupervised) -> None:
    script = """
        ls /dev; for l in fd stdin stdout stderr ptmx core; do readlink /dev/$l; done
        head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c; echo x >/dev/null
        (echo x >/dev/full) 2>/dev/null || echo full
        stat -c %a /dev/null /dev/shm /dev/ptmx /dev/pts/ptmx; cat; exec 3<>/dev/ptmx && ls /dev/pts
    """
    names, rest = unsupervised.shell(script).lines[:15], unsupervised.shell(script).lines[15:]
    assert sorted(names) == sorted(
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero".split()
    )
    links = ["/proc/self/fd", *(f"/proc/self/fd/{number}" for number in range(3)), "pts/ptmx", "/proc/kcore"]
    assert rest == [*links, "3", "5", "full", "666", "1777", "777", "666", "0", "ptmx"]


def test_the_hosts_device_files_cannot_be_changed(unsupervised: Unsupervised) -> None:
    before = os.stat("/dev/null")
    script = "chmod 0 /dev/null; chown 5 /dev/null; rm /dev/null; mknod /dev/kmsg c 1 11; cat /dev/kmsg"
    ended = unsupervised.shell(script, prepare=with_capability("CAP_MKNOD"), finish=with_capability("CAP_MKNOD"))
    assert ended.status.exit_code != 0
    after = os.stat("/dev/null")
    assert (before.st_mode, before.st_uid) == (after.st_mode, after.st_uid)
    assert "can't open '/dev/kmsg': Permission denied" in ended.stderr


def status_of(unsupervised: Unsupervised, **fields: Any) -> dict[str, str]:
    lines = unsupervised.run("/bin/cat", "/proc/self/status", **fields).lines
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_privileges_of_root(unsupervised: Unsupervised) -> None:
    status = status_of(unsupervised)
    assert [status[f"Cap{name}"] for name in ("Eff", "Prm", "Bnd")] == ["00000000800405fb"] * 3
    assert [status[f"Cap{name}"] for name in ("Inh", "Amb")] == ["0" * 16] * 2
    assert (status["NoNewPrivs"], status["Uid"], status["Groups"]) == ("1", "0\t0\t0\t0", "0 1 2")
    assert (status["SigIgn"], status["SigBlk"], status["Umask"]) == ("0" * 16, "0" * 16, "0022")


def test_privileges_of_another_user(unsupervised: Unsupervised) -> None:
    status = status_of(unsupervised, user="guest")
    assert [status[f"Cap{name}"] for name in ("Eff", "Prm", "Inh", "Amb")] == ["0" * 16] * 4
    assert status["CapBnd"] == "00000000800405fb"
    assert (status["Uid"].split(), status["Gid"].split()) == (["405"] * 4, ["100"] * 4)
    assert status["Groups"] == "100"


def test_another_user_can_write_its_output_by_name(unsupervised: Unsupervised) -> None:
    assert unsupervised.shell("echo out >/dev/stdout; id -u", user="1234:5678").lines == ["out", "1234"]


@pytest.mark.parametrize("network", ["none", "host"])
def test_namespaces(unsupervised: Unsupervised, network: str) -> None:
    names = ["cgroup", "ipc", "mnt", "net", "pid", "uts"]
    links = unsupervised.shell(
        f"cd /proc/self/ns; for n in {' '.join(names)}; do readlink $n; done", network=network
    ).lines
    shared = [name for name, link in zip(names, links, strict=True) if os.readlink(f"/proc/self/ns/{name}") == link]
    assert shared == (["net"] if network == "host" else [])


def test_the_network_is_a_loopback_that_works(unsupervised: Unsupervised) -> None:
    script = """
        tail -n +3 /proc/net/dev | cut -d: -f1
        nc -l -p 7777 -e echo alive & until nc 127.0.0.1 7777 2>/dev/null; do :; done
    """
    interface, alive = unsupervised.shell(script).lines
    assert (interface.strip(), alive) == ("lo", "alive")


def test_processes_of_the_host_are_not_seen(unsupervised: Unsupervised) -> None:
    # The shell alone: it is not known when the processes of a pipeline begin.
    assert unsupervised.shell("set -- /proc/[0-9]*; echo $# $1").lines == ["1 /proc/1"]


def test_limits_of_the_process(unsupervised: Unsupervised) -> None:
    script = "ulimit -n; cut -d' ' -f19 /proc/1/stat; cat /proc/1/oom_score_adj"
    assert unsupervised.shell(script, scheduler=Scheduler(nice=7)).lines == ["1024", "7", "0"]
    assert unsupervised.shell(script).lines == ["1024", "0", "0"]


@pytest.mark.parametrize(("policy", "number"), [("OTHER", 0), ("BATCH", 3), ("IDLE", 5)])
def test_the_scheduling_policy_is_inherited(unsupervised: Unsupervised, policy: str, number: int) -> None:
    """Field 41 of /proc/PID/stat (proc_pid_stat(5))."""
    ended = unsupervised.shell(
        "sh -c 'cut -d\" \" -f41 /proc/self/stat'", scheduler=Scheduler(policy=f"SCHED_{policy}")
    )
    assert ended.lines == [str(number)]


def test_writes_go_to_the_layer(unsupervised: Unsupervised, rootfs: Path) -> None:
    assert unsupervised.shell("echo hello >/new; rm /etc/profile; cat /new").lines == ["hello"]
    (upper,) = unsupervised.layers.glob("*/upper")
    assert (upper / "new").read_text() == "hello\n"
    assert not (rootfs / "new").exists()
    assert (rootfs / "etc/profile").exists()


def test_a_read_only_root(unsupervised: Unsupervised) -> None:
    ended = unsupervised.shell(
        "echo x >/new; echo y >/tmp/fine; cat /tmp/fine", read_only=True, mounts=(tmpfs("/tmp"),)
    )
    assert ended.stdout == "y\n"
    assert "Read-only file system" in ended.stderr


def test_volumes(unsupervised: Unsupervised, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    (data / "file").write_text("data\n")
    os.mknod(data / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    volumes = (
        volume(data, "/a/new/place"),
        volume(data, "/conf", "ro"),
        volume(data / "file", "/etc/hosts", "ro"),
    )
    script = """
        cat /a/new/place/file /etc/hosts; echo x >/a/new/place/sub/written
        for f in /conf/x /etc/hosts; do (echo x >$f) 2>&1 | sed 's/.*: //'; done
        (cat /a/new/place/null) 2>&1 | sed 's/.*: //'
    """
    lines = unsupervised.shell(script, mounts=volumes).lines
    assert lines == ["data", "data", "Read-only file system", "Read-only file system", "Permission denied"]
    assert (data / "sub/written").read_text() == "x\n"


def test_a_volume_is_what_was_named_on_the_host(unsupervised: Unsupervised, tmp_path: Path) -> None:
    """A link of the host is resolved on the host; what it leads to is not looked for in the container."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_text("real\n")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    mounts = (volume(tmp_path / "link", "/data"),)
    assert unsupervised.shell("cat /data/file", mounts=mounts).lines == ["real"]


def test_a_volume_in_a_tmpfs(unsupervised: Unsupervised, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    mounts = (tmpfs("/tmp", "size=1m,mode=1777"), volume(tmp_path / "data", "/tmp/data"))
    script = "echo x >/tmp/lost; echo y >/tmp/data/kept; cat /proc/self/mountinfo"
    lines = unsupervised.shell(script, mounts=mounts).lines
    assert {"/tmp", "/tmp/data"} <= {point for point, _, _ in mounted(lines)}
    assert (tmp_path / "data/kept").read_text() == "y\n"


def test_tmpfs_options(unsupervised: Unsupervised) -> None:
    script = (
        "cat /proc/self/mountinfo; stat -c %a /safe /free; cp /bin/busybox /free/cat; /free/cat /dev/null && echo ran"
    )
    mounts = (tmpfs("/safe", "size=64k,mode=700"), tmpfs("/free", "exec,suid,dev"))
    lines = unsupervised.shell(script, mounts=mounts).lines
    found = {point: options for point, options, _ in mounted(lines[:-3])}
    assert (found["/safe"], found["/free"]) == (f"rw,{SAFE}", "rw,nodev,relatime")
    assert lines[-3:] == ["700", "1777", "ran"]


def test_a_default_mount_can_be_replaced(unsupervised: Unsupervised) -> None:
    lines = unsupervised.shell(
        "df -k /dev/shm | tail -1; grep -c ' /dev/shm ' /proc/mounts", mounts=(tmpfs("/dev/shm", "size=2m"),)
    ).lines
    assert (lines[0].split()[1], lines[1]) == ("2048", "1")


def test_the_working_directory(unsupervised: Unsupervised) -> None:
    assert unsupervised.run("/bin/pwd", working_dir="/a/new/one").lines == ["/a/new/one"]
    assert unsupervised.run("/bin/pwd", working_dir="/tmp/../usr/bin/").lines == ["/usr/bin"]


def test_a_parked_process_pins_nothing_of_the_host(unsupervised: Unsupervised, tmp_path: Path) -> None:
    def work() -> tuple[list[str], set[str], str]:
        parked = unsupervised.park("/bin/true")
        assert parked.wait_ready()
        lines = Path(f"/proc/{parked.pid}/mountinfo").read_text().splitlines()
        open_files = {os.readlink(path) for path in Path(f"/proc/{parked.pid}/fd").iterdir()}
        seen = os.listdir(f"/proc/{parked.pid}/root")
        parked.channel.shutdown(socket.SHUT_WR)
        assert parked.wait().exit_code == 125
        return [point for point, _, _ in mounted(lines)], open_files, " ".join(sorted(seen))

    points, open_files, seen = unsupervised.apart(work)
    tops = {"/proc", "/dev", "/sys"}
    assert [point for point in points if point != "/" and "/" + point.split("/")[1] not in tops] == []
    assert seen == "dev etc proc root sys"
    assert not any(str(tmp_path) in name for name in open_files)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_the_first_process_is_closed_to_the_container(unsupervised: Unsupervised) -> None:
    """CVE-2019-5736 and its kin: under --init, pid 1 is our own interpreter for the container's whole life."""
    script = """
        for f in exe cwd root; do readlink /proc/1/$f && echo open; done
        for f in environ mem maps; do head -c 1 /proc/1/$f && echo open; done
        readlink /proc/1/fd/0 && echo open; head -c 1 /proc/1/fd/1 && echo open; (echo x >/proc/1/exe) && echo open
        (echo x >/proc/1/mem) && echo open; echo end
    """
    ended = unsupervised.shell(script, init=True)
    assert (ended.stdout, ended.status.exit_code) == ("end\n", 0)
    assert "Permission denied" in ended.stderr


def test_nothing_is_mounted_on_the_host_meanwhile(unsupervised: Unsupervised, tmp_path: Path) -> None:
    def work() -> str:
        parked = unsupervised.park("/bin/sleep", "1000", mounts=(tmpfs("/tmp"),))
        assert parked.wait_ready()
        outputs = parked.finish()
        assert parked.wait_executed().executed
        wait_until(lambda: Path(f"/proc/{parked.pid}/comm").read_text() == "sleep\n")
        seen = Path("/proc/self/mountinfo").read_text()
        os.kill(parked.pid, 9)
        assert parked.end(outputs).status.signal == 9
        return seen

    assert str(tmp_path) not in unsupervised.apart(work)
