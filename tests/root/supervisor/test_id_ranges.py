"""``--userns`` through a supervisor: whose ids containers have, when they are given back, and what is refused."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.root.harness import REPOSITORY, Supervisor, Traces, Word
from tests.root.runtime.tinyroot import compile_static
from tests.waiting import wait_until

from wherry.client import Client
from wherry.errors import Conflict, InvalidRequest, StartFailed

pytestmark = pytest.mark.root

UIDS, GIDS = 2000000, 3000000
SIZE = 65536
RANGES = 3
CONFIGURED = ("--userns-range", f"{UIDS}:{GIDS}:{RANGES * SIZE + 7}")
PING = REPOSITORY / "tests/root/runtime/ping.c"
SLEEP = ["/bin/sleep", "1000"]


@pytest.fixture
def mapping(tmp_path: Path, rootfs: Path, leftovers: Traces) -> Iterator[Supervisor]:
    """A supervisor with ids for three containers, whose default is to use them."""
    with Supervisor(tmp_path, rootfs, leftovers, *CONFIGURED, "--userns", "auto").serving() as instance:
        yield instance


def ids_of(supervisor: Supervisor, name: str) -> tuple[int, int]:
    """Who its root is on the host: user and group."""
    (pid,) = (entry["pid"] for entry in supervisor.ps() if entry["name"] == name)
    starts = []
    for file in ("uid_map", "gid_map"):
        _, start, size = (int(number) for number in Path(f"/proc/{pid}/{file}").read_text().split())
        assert size == SIZE
        starts.append(start)
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"\nUid:\t{starts[0]}\t" in status
    assert f"\nGid:\t{starts[1]}\t" in status
    return starts[0], starts[1]


def shell(supervisor: Supervisor, script: str, *options: Word) -> str:
    done = supervisor.engine("run", "--rm", *options, "s", supervisor.rootfs, "/bin/sh", "-c", script)
    return done.stdout


def test_ranges_are_disjoint_and_given_back(mapping: Supervisor) -> None:
    client: Client = mapping.client
    for name in "abc":
        client.start(name, str(mapping.rootfs), SLEEP)
    taken = {ids_of(mapping, name) for name in "abc"}
    assert taken == {(UIDS + n * SIZE, GIDS + n * SIZE) for n in range(RANGES)}
    with pytest.raises(Conflict, match="no ids left for --userns auto: all 3 ranges are in use"):
        client.start("d", str(mapping.rootfs), SLEEP)
    assert {entry["name"] for entry in mapping.ps()} == {"a", "b", "c"}
    assert shell(mapping, "cat /proc/self/uid_map", "--userns", "host").split() == ["0", "0", "4294967295"]
    free = ids_of(mapping, "b")
    mapping.engine("rm", "-f", "b")
    client.start("d", str(mapping.rootfs), SLEEP)
    assert ids_of(mapping, "d") == free
    mapping.engine("kill", "a", "c", "d")


def test_ranges_in_use_outlive_the_supervisor(mapping: Supervisor) -> None:
    """After SIGKILL the next one knows them, and takes them back when their containers end."""
    client: Client = mapping.client
    for name in "abc":
        client.start(name, str(mapping.rootfs), SLEEP)
    before = {name: ids_of(mapping, name) for name in "abc"}
    mapping.kill()
    os.kill(next(_pids_of(before["a"][0])), signal.SIGKILL)  # while nobody is there
    mapping.restart()
    assert {name: ids_of(mapping, name) for name in "bc"} == {name: before[name] for name in "bc"}
    assert client.wait("a") == 137
    wait_until(lambda: _starts(client, "d", mapping.rootfs))
    assert ids_of(mapping, "d") == before["a"]
    with pytest.raises(Conflict, match="in use"):
        client.start("e", str(mapping.rootfs), SLEEP)
    mapping.engine("kill", "b", "c", "d")


def _pids_of(uid: int) -> Iterator[int]:
    for name in filter(str.isdecimal, os.listdir("/proc")):
        if os.stat(f"/proc/{name}").st_uid == uid and b"sleep" in Path(f"/proc/{name}/cmdline").read_bytes():
            yield int(name)


def _starts(client: Client, name: str, rootfs: Path) -> bool:
    """Not while there is something left of a container that has ended."""
    with contextlib.suppress(Conflict):
        client.start(name, str(rootfs), SLEEP)
        return True
    return False


def test_ranges_come_back_when_a_start_fails(mapping: Supervisor) -> None:
    for _ in range(RANGES + 1):
        failed = mapping.engine("run", "a", str(mapping.rootfs), "/not/there", check=False)
        assert failed.returncode == 127
        with pytest.raises(StartFailed, match="ID-mapped"):
            mapping.client.start("b", str(mapping.rootfs), SLEEP, volumes=["/sys/kernel:/v"])
    assert mapping.ps() == []


def test_another_range_at_the_next_start(mapping: Supervisor) -> None:
    """Files of its layer stay its own."""
    script = "[ -e /made ] || { touch /made; chown 7:8 /made; }; stat -c %u:%g /made; cat /proc/self/uid_map"
    mapping.engine("run", "a", mapping.rootfs, "/bin/sh", "-c", script)
    for name in "xyz":  # one of them has what was its range
        wait_until(functools.partial(_starts, mapping.client, name, mapping.rootfs))
    first, ids = mapping.engine("logs", "a").stdout.splitlines()
    others = {name: ids_of(mapping, name) for name in "xyz"}
    free = next(name for name, (uid, _) in others.items() if uid != int(ids.split()[1]))
    mapping.engine("rm", "-f", free)
    mapping.engine("start", "a")
    assert mapping.client.wait("a") == 0
    second, other_ids = mapping.engine("logs", "a").stdout.splitlines()[2:]
    assert (first, second) == ("7:8", "7:8")
    assert int(other_ids.split()[1]) == others[free][0] != int(ids.split()[1])
    mapping.engine("kill", *sorted({*others} - {free}))


def test_files_of_etc(tmp_path: Path, rootfs: Path, leftovers: Traces) -> None:
    """Without any ids it is an error that says where they could come from."""
    if any(line.startswith(("wherry:", "containers:")) for line in Path("/etc/subuid").read_text().splitlines()):
        pytest.skip("this machine has ids for containers")
    with Supervisor(tmp_path, rootfs, leftovers).serving() as engine:
        with pytest.raises(InvalidRequest, match=r"no ids for --userns auto.*/etc/subuid and /etc/subgid"):
            engine.client.start("a", str(rootfs), SLEEP, userns="auto")
        assert engine.ps() == []


def test_everybody_may_ping(mapping: Supervisor, tmp_path: Path) -> None:
    """A user that is kept as well: the kernel compares ids of the host, whatever order those have inside."""
    compile_static(PING, tmp_path / "ping")
    for user in ("0:0", "1000:1000", "1000:200000", "5:1"):
        keeps = () if user == "0:0" else ("--userns", "keep-id")
        words = (*keeps, "-u", user, "-v", f"{tmp_path}/ping:/ping:ro", "c", mapping.rootfs, "/ping")
        done = mapping.engine("run", "--rm", *words, check=False)
        assert done.stdout == f"{user.partition(':')[0]} alive, raw sockets closed\n", (user, done.stderr)


def test_a_lost_container_gives_them_back(mapping: Supervisor) -> None:
    """Neither its process nor the shim is there any more; it can be started again when all ranges were in use."""
    client: Client = mapping.client
    for name in "abc":
        client.start(name, str(mapping.rootfs), SLEEP)
    shim = int(mapping.info()["shim_pid"])
    mapping.kill()
    os.kill(shim, signal.SIGKILL)
    mapping.restart()
    wait_until(lambda: {entry["reason"] for entry in mapping.ps()} == {"lost"})
    for name in "cab":
        mapping.engine("start", name)
    assert len({ids_of(mapping, name) for name in "abc"}) == RANGES
    mapping.engine("kill", "a", "b", "c")


def test_fixed_ids(mapping: Supervisor) -> None:
    """Containers may share them when they say so, but not those of one that has its own."""
    fixed = f"{UIDS + 5}:800000:1000"
    mapping.client.start("a", str(mapping.rootfs), SLEEP)
    assert ids_of(mapping, "a") == (UIDS, GIDS)
    with pytest.raises(Conflict, match=f"ids of --userns {fixed} are those of container a"):
        mapping.client.start("b", str(mapping.rootfs), SLEEP, userns=fixed)
    mapping.engine("rm", "-f", "a")
    for name in "bc":
        mapping.client.start(name, str(mapping.rootfs), SLEEP, userns=fixed)
    mapping.client.start("d", str(mapping.rootfs), SLEEP)
    assert ids_of(mapping, "d")[0] != UIDS
    assert shell(mapping, "cat /proc/self/uid_map", "--userns", fixed).split() == ["0", str(UIDS + 5), "1000"]


def test_few_ids(mapping: Supervisor) -> None:
    """Without group 5, which terminals belong to elsewhere."""
    script = "stat -c %u:%g /etc/passwd /dev/pts; chown 4 /etc/passwd"
    done = mapping.engine("run", "--userns", "7:8:4", "a", mapping.rootfs, "/bin/sh", "-c", script, check=False)
    assert (done.returncode, done.stdout) == (1, "0:0\n0:0\n")
    assert "Invalid argument" in done.stderr


def test_kept_ids(mapping: Supervisor) -> None:
    """One user is the same inside and outside; everybody else is nobody there."""
    script = "echo up; exec sleep 1000"
    mapping.engine("start", "--userns", "keep-id", "--user", "1000:1001", "a", mapping.rootfs, "/bin/sh", "-c", script)
    (pid,) = (entry["pid"] for entry in mapping.ps())
    status = Path(f"/proc/{pid}/status").read_text()
    assert "\nUid:\t1000\t" in status
    assert "\nGid:\t1001\t" in status
    lines = Path(f"/proc/{pid}/uid_map").read_text().splitlines()
    assert [[int(each) for each in line.split()] for line in lines] == [
        [0, UIDS, 1000],
        [1000, 1000, 1],
        [1001, UIDS + 1001, SIZE - 1001],
    ]
    assert shell(mapping, "id -u", "--userns", "keep-id", "--user", "100000:7").strip() == "100000"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "host"}, "cannot share the host's network"),
        ({"userns": "0:0:65536"}, "root inside would be the host's root"),
        ({"userns": "1:1"}, "is not host, auto, keep-id or UID:GID:SIZE"),
        ({"userns": "1:1:0"}, "a size is 1 or more"),
        ({"userns": "1:4294967000:65536"}, "the largest id is 4294967294"),
        ({"userns": "keep-id"}, "as numbers: --user UID:GID"),
        ({"userns": "keep-id", "user": "0:5"}, "would be the host's root"),
        ({"user": "70000"}, "user id 70000 does not exist in the container's user namespace: it has 0-65535"),
        ({"user": "1:70000"}, "group id 70000"),
    ],
)
def test_what_is_refused(mapping: Supervisor, options: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        mapping.client.start("a", str(mapping.rootfs), SLEEP, **options)  # type: ignore[arg-type]
    assert mapping.ps() == []


def test_a_user_by_name(mapping: Supervisor) -> None:
    script = "id -un; echo out >/dev/stdout; touch /t/x; stat -c %U /t/x"
    said = shell(mapping, script, "--user", "daemon", "--tmpfs", "/t:mode=1777", "--read-only", "--nice", "-3")
    assert said == "daemon\nout\ndaemon\n"


def test_memory_is_held_to_its_limit(mapping: Supervisor) -> None:
    script = "head -c 200m /dev/zero | tail | sleep 100"
    done = mapping.engine("run", "--hard-mib", "32", "a", mapping.rootfs, "/bin/sh", "-c", script, check=False)
    assert done.returncode == 137
    (entry,) = mapping.ps()
    assert entry["reason"] == "hard_limit"


def test_stopping(mapping: Supervisor) -> None:
    script = "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.01; done"
    mapping.client.start("a", str(mapping.rootfs), ["/bin/sh", "-c", script], init=True)
    wait_until(lambda: mapping.engine("logs", "a").stdout == "up\n")
    (stats,) = mapping.engine("stats", "--no-stream", "--format", "json", "a").stdout.splitlines()
    assert json.loads(stats)["pids_stats"]["current"] >= 2
    mapping.engine("stop", "-t", str(int(PATIENCE)), "a")
    assert mapping.engine("logs", "a").stdout == "up\nbye\n"
    shown = json.loads(mapping.engine("inspect", "a").stdout)[0]
    assert shown["HostConfig"]["UsernsMode"] == "auto"


def test_a_root_of_its_own(mapping: Supervisor, tmp_path: Path, rootfs: Path) -> None:
    """``--rw-rootfs`` on a copy, and an archive of it."""
    root = tmp_path / "root"
    mapping.command("cp", "-a", str(rootfs), str(root))
    script = "id -u; touch /made; chown 3:4 /made"
    done = mapping.engine("run", "--rm", "--rw-rootfs", "a", root, "/bin/sh", "-c", script)
    assert done.stdout == "0\n"
    assert (os.stat(root / "made").st_uid, os.stat(root / "made").st_gid) == (3, 4)
    archive = tmp_path / "root.tar"
    mapping.command("tar", "-C", str(root), "-cf", str(archive), ".")
    done = mapping.engine("run", "--rm", "a", archive, "/bin/stat", "-c", "%u:%g", "/made", "/etc/passwd")
    assert done.stdout == "3:4\n0:0\n"
