"""Case 13: a container knows its own name, by files that nobody else sees; and users are written as for docker."""

from __future__ import annotations

import contextlib
import http.client
import socket
from pathlib import Path

import pytest
from tests.root.harness import Supervisor
from tests.root.runtime import tinyroot
from tests.waiting import wait_until

pytestmark = pytest.mark.root


@pytest.fixture
def supervisor(shared: Supervisor) -> Supervisor:
    return shared


@pytest.fixture
def root(rootfs: Path, tmp_path: Path) -> Path:
    """Without /etc/hosts and /etc/hostname."""
    return tinyroot.make(rootfs, tmp_path / "tiny")


def shell(supervisor: Supervisor, root: Path, script: str, *options: str) -> list[str]:
    done = supervisor.engine("run", "--rm", *options, "alpha", root, "/bin/sh", "-c", script)
    return done.stdout.splitlines()


def test_a_container_finds_itself(supervisor: Supervisor, root: Path) -> None:
    """busybox's hostname asks gethostbyname(3) for these."""
    script = "hostname; hostname -f; hostname -i; cat /etc/hostname"
    assert shell(supervisor, root, script) == ["alpha", "alpha", "127.0.0.1", "alpha"]
    assert shell(supervisor, root, script, "--network", "host")[::3] == ["alpha", "alpha"]
    named = shell(supervisor, root, script, "--hostname", "web.example.org", "-u", "1000:")
    assert named == ["web.example.org", "web.example.org", "127.0.0.1", "web.example.org"]
    assert tinyroot.listing(root / "etc") == ["group", "passwd"]


def test_roots_without_a_place_for_names(supervisor: Supervisor, root: Path) -> None:
    (root / "etc/hosts").mkdir()
    assert shell(supervisor, root, "ls /etc") == ["group", "hostname", "hosts", "passwd"]
    (root / "etc/hosts").rmdir()
    (root / "etc").rename(root / "else")
    assert shell(supervisor, root, "hostname -f; ls /etc") == ["alpha", "hostname", "hosts"]


def test_a_read_only_container_cannot_change_them(supervisor: Supervisor, root: Path) -> None:
    script = "(echo x >> /etc/hosts) 2>/dev/null || echo kept; hostname -f"
    assert shell(supervisor, root, script, "--read-only") == ["kept", "alpha"]
    assert shell(supervisor, root, "echo 127.0.0.1 also >> /etc/hosts; hostname -f") == ["alpha"]


def test_who_mounts_their_own_wins(supervisor: Supervisor, root: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "hosts").write_text("127.0.0.1 mine.example alpha\n")
    assert shell(supervisor, root, "hostname -f", "-v", f"{own}/hosts:/etc/hosts") == ["mine.example"]
    # Neither covered nor filled with files that nobody asked for.
    assert shell(supervisor, root, "ls /etc; hostname -f", "-v", f"{own}:/etc") == ["hosts", "mine.example"]
    assert tinyroot.listing(own) == ["hosts"]
    assert shell(supervisor, root, "ls /etc", "--tmpfs", "/etc") == ["hostname", "hosts"]


def test_they_are_there_again_after_restarts(supervisor: Supervisor, root: Path, tmp_path: Path) -> None:
    """Of the container, which gets them anew, and of the supervisor, which does not touch them."""
    (tmp_path / "v").mkdir()
    script = "echo 127.0.0.1 more >> /etc/hosts; while [ ! -e /v/go ]; do sleep 0.05; done; cat /etc/hosts; hostname -f"
    supervisor.engine("start", "-v", f"{tmp_path}/v:/v", "alpha", root, "/bin/sh", "-c", script)
    supervisor.kill()
    supervisor.restart()
    (tmp_path / "v/go").touch()
    for run in (1, 2):
        assert supervisor.client.wait("alpha") == 0
        wait_until(lambda run=run: supervisor.engine("logs", "alpha").stdout.count("\nalpha\n") == run)  # type: ignore[misc]
        lines = supervisor.engine("logs", "alpha").stdout.splitlines()
        assert lines[-3:] == ["127.0.0.1\talpha", "127.0.0.1 more", "alpha"]
        if run == 1:
            _start(supervisor)


def _start(supervisor: Supervisor) -> None:
    with contextlib.closing(http.client.HTTPConnection("localhost")) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(supervisor.socket))
        connection.request("POST", "/containers/alpha/start")
        assert connection.getresponse().status == 204


@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ("bob", "uid=1000(bob) gid=100(users) groups=10(wheel),100(users)"),
        ("bob:", "uid=1000(bob) gid=100(users) groups=10(wheel),100(users)"),
        ("1000:", "uid=1000(bob) gid=100(users) groups=10(wheel),100(users)"),
        ("bob:wheel", "uid=1000(bob) gid=10(wheel) groups=10(wheel)"),
        (":100", "uid=0(root) gid=100(users) groups=100(users)"),
        ("4321:", "uid=4321 gid=0(root) groups=0(root)"),
    ],
)
def test_users_as_docker_writes_them(supervisor: Supervisor, root: Path, user: str, ids: str) -> None:
    assert shell(supervisor, root, "id", "-u", user) == [ids]


@pytest.mark.parametrize(
    "user", ["nobody:", "-1", "-1:", "bob:-1", str(2**32 - 1), f"bob:{2**32}", "bob:nogroup", "::"]
)
def test_users_that_are_none(supervisor: Supervisor, root: Path, user: str) -> None:
    done = supervisor.engine("run", f"--user={user}", "c", root, "/bin/true", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (125, 1), done
    assert supervisor.ps() == []
