"""Cases 22 and 28: what a container may do when nobody says otherwise."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path

import pytest
from tests.forked import in_child
from tests.root.harness import Supervisor
from tests.root.runtime import tinyroot

from wherry.runtime.steps import Context, NewSession

pytestmark = pytest.mark.root


@pytest.fixture
def root(rootfs: Path, tmp_path: Path) -> Path:
    return tinyroot.make(rootfs, tmp_path / "tiny")


def pids_max(supervisor: Supervisor, name: str) -> str:
    return supervisor.control_file(name, "pids", "pids.max", "pids.max")


def test_the_number_of_processes_is_limited(supervisor: Supervisor, root: Path) -> None:
    """Case 28: by 2048 as with podman, unless somebody says otherwise; 0 and -1 are no limit."""
    sleep = ["/bin/sleep", "1000"]
    for name, options, expected in (
        ("default", [], 2048),
        ("own", ["--pids-limit", "7"], 7),
        ("none", ["--pids-limit", "-1"], None),
        ("zero", ["--pids-limit", "0"], None),
    ):
        supervisor.engine("start", *options, name, root, *sleep)
        assert pids_max(supervisor, name) == str(expected or "max")
        assert supervisor.client.inspect(name)["HostConfig"]["PidsLimit"] == expected
    for limit, expected in (("20", 20), ("0", None), ("30", 30), ("-1", None)):
        supervisor.engine("update", "--pids-limit", limit, "default")
        assert pids_max(supervisor, "default") == str(expected or "max")
        assert supervisor.client.inspect("default")["HostConfig"]["PidsLimit"] == expected


@pytest.mark.attack("fork-bomb")
@pytest.mark.parametrize(("option", "expected"), [("5", 5), ("-1", None)])
def test_the_supervisor_has_another_default(
    supervisor: Supervisor, root: Path, option: str, expected: int | None
) -> None:
    supervisor.stop()
    supervisor.options = ("--default-pids-limit", option)
    supervisor.start()
    supervisor.engine("start", "c", root, "/bin/sleep", "1000")
    assert pids_max(supervisor, "c") == str(expected or "max")
    assert supervisor.client.inspect("c")["HostConfig"]["PidsLimit"] == expected
    script = "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; kill -9 -1; echo all"
    done = supervisor.engine("run", "d", root, "/bin/sh", "-c", script, check=False)
    assert ("can't fork" in done.stderr, done.stdout) == ((True, "") if expected else (False, "all\n"))


def test_ping_needs_no_raw_sockets(supervisor: Supervisor, root: Path) -> None:
    """Case 28: by anybody, also when the file asks for CAP_NET_RAW, as Debian's ping does."""
    tinyroot.compile_static(Path(__file__).with_name("ping.c"), root / "bin/ping")
    tinyroot.compile_static(Path(__file__).with_name("ping.c"), root / "bin/debians")
    # include/uapi/linux/capability.h: VFS_CAP_REVISION_2 with the effective bit, permitted and inheritable halves
    capability = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
    os.setxattr(root / "bin/debians", "security.capability", capability)
    for user in ("0", "1000"):
        for program in ("/bin/ping", "/bin/debians"):
            done = supervisor.engine("run", "--rm", "-u", user, "c", root, program)
            assert done.stdout == f"{user} alive, raw sockets closed\n"
    group_range = Path("/proc/sys/net/ipv4/ping_group_range").read_text()
    supervisor.engine("run", "--rm", "--network", "host", "c", root, "/bin/true")
    assert Path("/proc/sys/net/ipv4/ping_group_range").read_text() == group_range


# include/uapi/linux/keyctl.h
SESSION = -3
GET_KEYRING_ID, JOIN_SESSION_KEYRING, SEARCH, READ = 0, 1, 10, 11
ADD_KEY, KEYCTL = {"x86_64": (248, 250)}.get(os.uname().machine, (217, 219))


def call(number: int, *arguments: object) -> int:
    """A system call's result, or minus its errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.syscall(number, *arguments))
    return -ctypes.get_errno() if result == -1 else result


def test_a_container_has_a_session_keyring_of_its_own() -> None:
    """Case 22: empty, another for each container, and no way to the keys of the session that the supervisor is in."""

    def new_session() -> tuple[int, int, int, int]:
        key = call(ADD_KEY, b"user", b"wherry-test", b"secret", 6, SESSION)
        assert key > 0
        assert call(KEYCTL, SEARCH, SESSION, b"user", b"wherry-test", 0) == key
        NewSession().execute(Context())
        own = call(KEYCTL, GET_KEYRING_ID, SESSION, 0)
        buffer = ctypes.create_string_buffer(64)
        links = call(KEYCTL, READ, own, buffer, 64)
        found = call(KEYCTL, SEARCH, SESSION, b"user", b"wherry-test", 0)
        return own, links, found, call(KEYCTL, READ, key, buffer, 64)

    def two_containers() -> list[tuple[int, int, int, int]]:
        assert call(KEYCTL, JOIN_SESSION_KEYRING, None) > 0
        return [in_child(new_session), in_child(new_session), (call(KEYCTL, GET_KEYRING_ID, SESSION, 0), 0, 0, 0)]

    first, second, hosts = in_child(two_containers)
    assert len({first[0], second[0], hosts[0]}) == 3
    for _, links, found, read in (first, second):
        assert (links, found, read) == (0, -errno.ENOKEY, -errno.EACCES)
