"""The options of start and run do what docker users expect, seen from inside the container."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.root.harness import Supervisor, Word
from tests.waiting import wait_until

from wherry.kernel import cgroups

pytestmark = pytest.mark.root


@pytest.fixture
def supervisor(shared: Supervisor) -> Supervisor:
    return shared


def shell(supervisor: Supervisor, rootfs: Path, script: str, *options: Word) -> list[str]:
    """Standard output of ``sh -c script``, in lines."""
    done = supervisor.engine("run", "--rm", *options, "c", rootfs, "/bin/sh", "-c", script)
    return done.stdout.splitlines()


def test_the_default_world(supervisor: Supervisor, rootfs: Path) -> None:
    script = """
        hostname; pwd; id -u; echo $HOME $PATH $HOSTNAME; umask; ulimit -n
        ls /proc/self/fd | wc -l; ls -l /proc/self/fd/0 | sed 's/.* //'
        grep -E '^(CapEff|CapBnd|CapInh|CapAmb|NoNewPrivs|SigIgn)' /proc/self/status | tr -d '\\t'
        cat /proc/self/oom_score_adj; ip link | grep -c LOOPBACK,UP; ls /dev | tr '\\n' ' '; echo
        cut -d' ' -f6 /proc/self/stat
    """
    lines = shell(supervisor, rootfs, script)
    assert lines[:6] == [
        *("c", "/", "0", "/root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin c", "0022", "1024"),
    ]
    assert lines[6:8] == ["4", "/dev/null"]  # 0, 1, 2 and the one that ls opened
    assert sorted(lines[8:14]) == [
        *("CapAmb:0000000000000000", "CapBnd:00000000800405fb", "CapEff:00000000800405fb"),
        *("CapInh:0000000000000000", "NoNewPrivs:1", "SigIgn:0000000000000000"),
    ]
    assert lines[-4:-1] == [
        *("0", "1", "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero "),
    ]
    assert lines[-1] == "1"  # its own session


def test_masked_and_read_only_paths(supervisor: Supervisor, rootfs: Path) -> None:
    script = """
        cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c; ls /sys/firmware | wc -l
        for path in /proc/sys/kernel/hostname /proc/sysrq-trigger /sys/kernel/profiling; do
            echo x 2>/dev/null > $path || echo refused
        done
    """
    assert shell(supervisor, rootfs, script) == ["0", "0", "refused", "refused", "refused"]


def test_mounts_of_the_host_are_out_of_sight(supervisor: Supervisor, rootfs: Path) -> None:
    for line in shell(supervisor, rootfs, "cat /proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fstype = after.split()[0]
        assert fstype in {"overlay", "proc", "tmpfs", "devtmpfs", "devpts", "mqueue", "sysfs"}, line
        if fstype not in {"devtmpfs", "devpts"}:
            assert "nodev" in before.split()[5], line


def test_environment_and_directory(supervisor: Supervisor, rootfs: Path) -> None:
    options = ["-e", "A=1", "-e", "PATH=/bin", "-e", "EMPTY=", "-w", "/made/for/me", "--hostname", "other"]
    lines = shell(supervisor, rootfs, 'echo "$A $PATH [$EMPTY]"; pwd; hostname', *options)
    assert lines == ["1 /bin []", "/made/for/me", "other"]


def test_users(supervisor: Supervisor, rootfs: Path) -> None:
    script = (
        "id -u; id -g; echo $HOME; grep CapEff /proc/self/status | cut -f2; echo x > /dev/stdout; touch /x || echo no"
    )
    lines = shell(supervisor, rootfs, script, "-u", "1234:5678")
    assert lines == ["1234", "5678", "/", "0000000000000000", "x", "no"]
    assert shell(supervisor, rootfs, "id -u", "-u", "nobody") == ["65534"]


def test_read_only_tmpfs_and_volumes(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "file").write_text("old\n")
    script = """
        touch /x 2>/dev/null || echo read-only
        touch /scratch/x && echo scratch; mount | grep ' /scratch ' | grep -o size=1024k
        echo new > /data/out; cat /config; echo y 2>/dev/null > /config || echo kept
    """
    options = [
        "--read-only",
        "--tmpfs",
        "/scratch:size=1m",
        "-v",
        f"{tmp_path}/data:/data",
        "-v",
        f"{tmp_path}/file:/config:ro",
    ]
    # The mount points do not exist in the root file system: they are made in the layer before it is made read-only.
    lines = shell(supervisor, rootfs, script, *options)
    assert lines == ["read-only", "scratch", "size=1024k", "old", "kept"]
    assert (tmp_path / "data/out").read_text() == "new\n"


def test_the_host_network(supervisor: Supervisor, rootfs: Path) -> None:
    host = os.readlink("/proc/self/ns/net")
    assert shell(supervisor, rootfs, "readlink /proc/self/ns/net", "--network", "host") == [host]
    assert shell(supervisor, rootfs, "readlink /proc/self/ns/net") != [host]


def test_limits_reach_the_control_group(supervisor: Supervisor, rootfs: Path) -> None:
    memory = ("--memory", "64m", "--memory-reservation", "32m", "--memory-swap", "96m")
    options = (*memory, "--pids-limit", "7", "--cpus", "0.5", "--nice", "10")
    supervisor.engine("start", *options, "c", rootfs, "/bin/sleep", "1000")
    files = {
        ("memory", "memory.limit_in_bytes", "memory.max"): {str(64 << 20)},
        ("memory", "memory.soft_limit_in_bytes", "memory.low"): {str(32 << 20)},
        ("pids", "pids.max", "pids.max"): {"7"},
        ("cpu", "cpu.cfs_quota_us", "cpu.max"): {"50000", "50000 100000"},
        ("cpu", "cpu.shares", "cpu.weight.nice"): {"110", "10"},
    }
    for file, values in files.items():
        assert supervisor.control_file("c", *file) in values, file
    if cgroups.detect().version == 2:
        assert supervisor.control_file("c", "memory", "", "memory.swap.max") == str(32 << 20)
    config = supervisor.client.inspect("c")["HostConfig"]
    sizes = [config[name] >> 20 for name in ("Memory", "MemoryReservation", "MemorySwap")]
    assert (sizes, config["PidsLimit"], config["NanoCpus"]) == ([64, 32, 96], 7, 500_000_000)
    assert supervisor.ps()[0]["nice"] == 10


def test_the_limit_of_processes_holds(supervisor: Supervisor, rootfs: Path) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait"
    with supervisor.popen("run", "--pids-limit", "4", "c", rootfs, "/bin/sh", "-c", script) as client:
        wait_until(lambda: "can't fork" in supervisor.engine("logs", "c", check=False).stderr)
        supervisor.engine("kill", "c", check=False)  # unless the shell has given up by itself
        _, complaints = client.communicate(timeout=PATIENCE)
    assert "can't fork" in complaints


def test_init_reaps_and_forwards(supervisor: Supervisor, rootfs: Path) -> None:
    script = "trap 'echo got it; exit 4' TERM; (sleep 0.01 &) ; echo $$; while :; do sleep 0.01; done"
    supervisor.engine("start", "--init", "c", rootfs, "/bin/sh", "-c", script)
    wait_until(lambda: supervisor.engine("logs", "c").stdout == "2\n")
    pid = supervisor.ps()[0]["pid"]
    assert Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0") == b"init"
    supervisor.engine("stop", "c")
    assert supervisor.ps()[0]["exit_code"] == 4
    assert supervisor.engine("logs", "c").stdout == "2\ngot it\n"


def test_init_passes_on_exit_codes_and_signals(supervisor: Supervisor, rootfs: Path) -> None:
    for script, code in (("exit 9", 9), ("kill -9 $$", 137)):
        done = supervisor.engine("run", "--rm", "--init", "c", rootfs, "/bin/sh", "-c", script, check=False)
        assert done.returncode == code
    alone = supervisor.engine("run", "--init", "--pids-limit", "1", "c", rootfs, "/bin/true", check=False)
    assert alone.returncode == 125
    assert "cannot start c: start the command under init" in alone.stderr


def test_a_directory_itself(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    subprocess.run(["cp", "-a", rootfs, own], check=True)
    supervisor.engine("start", "--rw-rootfs", "first", own, "/bin/sh", "-c", "echo here > /file; sleep 1000")
    wait_until((own / "file").exists)
    for options in (["--rw-rootfs"], []):
        done = supervisor.engine("run", *options, "second", own, "/bin/true", check=False)
        assert done.returncode == 125
        assert "in use by first" in done.stderr
    supervisor.engine("stop", "first")
    assert supervisor.engine("run", "--rw-rootfs", "second", own, "/bin/cat", "/file").stdout == "here\n"


def test_an_archive(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    archive = tmp_path / "rootfs.tar.xz"
    with tarfile.open(archive, "w:xz", preset=0) as tar:
        tar.add(rootfs, arcname=".")
    for name in ("one", "two"):
        assert supervisor.engine("run", name, archive, "/bin/hostname").stdout == f"{name}\n"
    assert len(list((supervisor.state_dir / "rootfs").glob("*/"))) >= 1


def test_nothing_of_a_container_reaches_the_host(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    """Where the host's mounts are shared (systemd makes them so), what is mounted on a volume must not appear there."""
    shared = tmp_path / "shared"
    shared.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "shared", shared], check=True)
    try:
        subprocess.run(["mount", "--make-shared", shared], check=True)
        (shared / "volume").mkdir()
        subprocess.run(["cp", "-a", rootfs, shared / "rootfs"], check=True)
        before = Path("/proc/self/mountinfo").read_text()
        supervisor.engine(
            *("start", "-v", f"{shared}/volume:/data", "--tmpfs", "/data/sub", "v", rootfs, "/bin/sleep", "1000")
        )
        supervisor.engine("start", "--rw-rootfs", "rw", shared / "rootfs", "/bin/sleep", "1000")
        assert Path("/proc/self/mountinfo").read_text() == before
        supervisor.engine("rm", "-f", "v", "rw")
        assert Path("/proc/self/mountinfo").read_text() == before
    finally:
        subprocess.run(["umount", "-R", shared], check=True)


def test_a_layer_deeper_than_anybody_recurses(supervisor: Supervisor, rootfs: Path) -> None:
    script = "i=0; while [ $i -lt 1500 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done; echo deep"
    assert shell(supervisor, rootfs, script) == ["deep"]
    wait_until(lambda: not any((supervisor.state_dir / "containers").glob("*/upper/d")))


def test_descriptors_do_not_pile_up(supervisor: Supervisor, rootfs: Path) -> None:
    """Over ends, failed starts and changes of template, in the supervisor and in the shim."""
    assert supervisor.process is not None
    pids = (supervisor.process.pid, int(supervisor.info()["shim_pid"]))

    def count() -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]

    def exercise(rounds: int) -> None:
        for number in range(rounds):
            supervisor.client.run(None, str(rootfs), ["/bin/true"], rm=True)
            supervisor.client.run(None, str(rootfs), ["/bin/true"], rm=True, tmpfs={"/dev/shm": f"size={number + 1}m"})
            with pytest.raises(Exception, match="cannot start"):
                supervisor.client.run(None, str(rootfs), ["/bin/nope"])

    exercise(5)
    before = count()
    exercise(20)
    wait_until(lambda: all(now <= then + 4 for now, then in zip(count(), before, strict=True)))


def test_inspect_and_formats(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.engine("run", "c", rootfs, "/bin/sh", "-c", "exit 5", check=False)
    inspected = json.loads(supervisor.engine("inspect", "c").stdout)[0]
    assert (inspected["State"]["ExitCode"], inspected["Wherry"]["Reason"]) == (5, "exited")
    assert supervisor.engine("ps", "--format", "{{.Name}} {{.State}}").stdout.startswith("c ")
    assert supervisor.engine("ps", "-q").stdout.strip() == inspected["Id"][:12]
    assert supervisor.engine("ps", "--running", "-q").stdout == ""
