"""The seccomp filter of containers: on by default, each attack blocked, and each shown to work without the filter."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.attacks.programs import kept
from tests.patience import PATIENCE
from tests.root.harness import Supervisor

OPEN_WITHOUT = ("keyctl", "add_key", "request_key", "io_uring_setup", "userfaultfd", "unshare")
"""What this kernel lets a container do when there is no filter, with any configuration that Debian or we run on."""

pytestmark = pytest.mark.root


def attempts(supervisor: Supervisor, rootfs: Path, program: Path, *options: str) -> dict[str, int]:
    """System call (or what it is for) -> errno, 0 for one that went through."""
    where = (f"{program}:/attack:ro", rootfs)
    done = supervisor.engine("run", "--rm", "a", *options, "-v", *where, "/attack")
    lines = (line.split() for line in done.stdout.splitlines())
    return {name: int(number) for name, number in lines}


@pytest.mark.attack("system-calls")
def test_what_a_container_must_not_call_is_refused(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 28: AF_VSOCK, io_uring, userfaultfd, perf and user namespaces; also by the doors of i386 and x32."""
    program = kept("system_calls")
    filtered = attempts(supervisor, rootfs, program)
    assert filtered.pop("clone3") == 38  # ENOSYS: a C library then uses clone, whose flags a filter can see
    assert set(filtered.values()) == {1}, filtered
    unfiltered = attempts(supervisor, rootfs, program, "--security-opt", "seccomp=unconfined")
    assert {name: unfiltered[name] for name in OPEN_WITHOUT if unfiltered[name] == 1} == {}
    assert unfiltered["i386-keyctl"] != 1


@pytest.fixture
def host_key() -> Iterator[Path]:
    """A key in the host's root's user keyring; the program that reads it."""
    program = kept("user_keys")
    subprocess.run([program, "add", "wherry-test-key", "secret of the host"], check=True, timeout=PATIENCE)
    yield program
    subprocess.run([program, "remove", "wherry-test-key"], check=True, timeout=PATIENCE)


@pytest.mark.attack("keys")
def test_keys_of_host_users_are_out_of_reach(supervisor: Supervisor, rootfs: Path, host_key: Path) -> None:
    """Case 22."""
    volume = ("-v", f"{host_key}:/attack:ro", rootfs, "/attack", "read", "wherry-test-key")
    filtered = supervisor.engine("run", "--rm", "a", *volume, check=False)
    assert (filtered.returncode, filtered.stdout) == (1, "Operation not permitted\n")
    unfiltered = supervisor.engine("run", "--rm", "a", "--security-opt", "seccomp=unconfined", *volume)
    assert unfiltered.stdout == "secret of the host\n"


@pytest.mark.parametrize("init", [(), ("--init",)])
def test_every_process_of_a_container_is_filtered(supervisor: Supervisor, rootfs: Path, init: tuple[str, ...]) -> None:
    read = "grep -h ^Seccomp: /proc/1/status /proc/self/status"
    done = supervisor.engine("run", "--rm", "a", *init, rootfs, "/bin/sh", "-c", read)
    assert done.stdout.split() == ["Seccomp:", "2"] * 2


def test_a_profile_from_a_file(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    """As docker's: conditions on capabilities and architectures; what is left of the record survives a restart."""
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
            {"names": ["rmdir"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
        ],
    }
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(profile))
    words = (rootfs, "/bin/sh", "-c", "mkdir /x; rmdir /tmp; ls -d /tmp")
    done = supervisor.engine("run", "a", "--security-opt", f"seccomp={file}", *words, check=False)
    assert "'/x': No space left on device" in done.stderr
    assert "No such file or directory" in done.stderr  # rmdir was allowed
    security = supervisor.client.inspect("a")["HostConfig"]["SecurityOpt"]
    assert json.loads(next(option for option in security if option.startswith("seccomp=")).partition("=")[2]) == profile


def test_a_bad_profile_leaves_nothing(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    for text, wanted in (
        ("{", "invalid seccomp profile"),
        ('{"defaultAction": "SCMP_ACT_PARDON"}', "unknown action 'SCMP_ACT_PARDON'"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "sysalls": []}', "sysalls"),
        ('{"defaultAction": "SCMP_ACT_NOTIFY"}', "not supported yet"),
    ):
        file.write_text(text)
        words = ("--security-opt", f"seccomp={file}", rootfs, "/bin/true")
        done = supervisor.engine("run", "a", *words, check=False)
        assert (done.returncode, wanted in done.stderr) == (125, True), done.stderr
    missing = supervisor.engine("run", "a", "--security-opt", "seccomp=/none", rootfs, "/bin/true", check=False)
    assert (missing.returncode, "/none" in missing.stderr) == (125, True)
    assert supervisor.ps() == []


def test_a_filter_that_kills_says_so(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    """SIGSYS at the first system call of the command is an end by a signal, not a failed start."""
    file = tmp_path / "profile.json"
    rule = {"names": ["execve", "sendto", "write", "close"], "action": "SCMP_ACT_ALLOW"}
    file.write_text(json.dumps({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [rule]}))
    words = ("--security-opt", f"seccomp={file}", rootfs, "/bin/true")
    done = supervisor.engine("run", "a", *words, check=False)
    assert done.returncode == 128 + 31
    assert supervisor.client.inspect("a")["State"]["ExitCode"] == 128 + 31
