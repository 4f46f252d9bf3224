"""Case 13: what a container finds in /etc/hosts, /etc/hostname and /etc/resolv.conf."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from wherry.supervisor import namefiles
from wherry.supervisor.containers.request import CreateRequest


def files(hostname: str = "alpha", **fields: Any) -> dict[str, str]:
    return namefiles.name_files(hostname, CreateRequest(rootfs="/r", command=("/bin/true",), **fields))


def last_line(text: str) -> str:
    assert text.endswith("\n")
    return text.splitlines()[-1]


def test_without_a_network_a_container_knows_itself() -> None:
    made = files()
    assert set(made) == {"/etc/hostname", "/etc/hosts"}
    assert made["/etc/hostname"] == "alpha\n"
    assert made["/etc/hosts"].startswith("127.0.0.1\tlocalhost\n::1\tlocalhost ")
    assert last_line(made["/etc/hosts"]) == "127.0.0.1\talpha"


def test_what_was_asked_for_comes_last() -> None:
    made = files(extra_hosts=("db:10.0.0.1", "six=[::1]"), dns=("10.0.0.2", "::1"), dns_options=("ndots:1",))
    assert made["/etc/hosts"].splitlines()[-3:] == ["127.0.0.1\talpha", "10.0.0.1\tdb", "::1\tsix"]
    assert made["/etc/resolv.conf"] == "nameserver 10.0.0.2\nnameserver ::1\noptions ndots:1\n"


HOSTS_OWN = "# made\nnameserver 1.1.1.1\ndomain old\nsearch old\noptions edns0\nsortlist x"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"dns": ("10.0.0.2",)}, "# made\ndomain old\nsearch old\noptions edns0\nsortlist x\nnameserver 10.0.0.2\n"),
        ({"dns_search": (".",)}, "# made\nnameserver 1.1.1.1\noptions edns0\nsortlist x\n"),
        (
            {"dns_search": ("a", "b"), "dns_options": ("rotate",)},
            "# made\nnameserver 1.1.1.1\nsortlist x\nsearch a b\noptions rotate\n",
        ),
    ],
)
def test_it_takes_the_place_of_the_hosts_lines_of_its_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], expected: str
) -> None:
    (tmp_path / "resolv.conf").write_text(HOSTS_OWN)
    monkeypatch.setitem(namefiles._OF_HOST, "/etc/resolv.conf", str(tmp_path / "resolv.conf"))
    assert files(network="host", **fields)["/etc/resolv.conf"] == expected


@pytest.mark.parametrize(
    ("hostname", "domainname", "names"),
    [
        ("alpha", "example.org", "alpha.example.org alpha"),
        ("web.example.org", "", "web.example.org web"),
        ("web.example.org", "ignored", "web.example.org web"),
        ("-", "", "-"),
        ("..", "", ".."),
        (".x", "", ".x"),
    ],
)
def test_the_full_name_is_the_canonical_one(hostname: str, domainname: str, names: str) -> None:
    made = files(hostname, domainname=domainname)
    assert last_line(made["/etc/hosts"]) == f"127.0.0.1\t{names}"
    assert made["/etc/hostname"] == f"{hostname}\n"


def test_a_name_that_is_there_already_is_not_said_twice() -> None:
    assert last_line(files("localhost")["/etc/hosts"]) == "ff02::2\tip6-allrouters"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which the host's files are looked for."""
    for path in ("/etc/hosts", "/etc/resolv.conf"):
        monkeypatch.setitem(namefiles._OF_HOST, path, str(tmp_path / os.path.basename(path)))
    return tmp_path


def test_on_the_hosts_network_names_are_the_hosts(host: Path) -> None:
    (host / "hosts").write_bytes(b"10.0.0.1 db # alpha\n10.0.0.2 caf\xe9")
    (host / "resolv.conf").write_text("nameserver 10.0.0.3\n")
    made = files(network="host")
    hosts = os.fsencode(made["/etc/hosts"])
    assert hosts == b"10.0.0.1 db # alpha\n10.0.0.2 caf\xe9\n127.0.0.1\talpha\n"
    assert made["/etc/resolv.conf"] == "nameserver 10.0.0.3\n"


def test_the_hosts_own_entry_for_the_name_stays(host: Path) -> None:
    (host / "hosts").write_text("10.0.0.1 alpha\n")
    assert files(network="host")["/etc/hosts"] == "10.0.0.1 alpha\n"


def test_files_that_the_host_does_not_have_or_that_are_huge(host: Path) -> None:
    (host / "hosts").touch()
    os.truncate(host / "hosts", 1 << 30)  # sparse
    (host / "resolv.conf").symlink_to("nowhere")
    assert set(files(network="host")) == {"/etc/hostname"}
