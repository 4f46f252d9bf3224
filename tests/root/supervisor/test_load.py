"""What one container or one client does is neither the others' loss nor the supervisor's end."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest
from tests.attacks.programs import kept
from tests.root.harness import Supervisor, Traces
from tests.waiting import wait_until

from wherry.errors import InvalidRequest
from wherry.supervisor.containers import bounds
from wherry.supervisor.quiet_log import BURST

pytestmark = pytest.mark.root
LONGEST = "x" * bounds.STRING_MAX


@pytest.fixture(scope="module")
def load() -> Path:
    return kept("load")


def test_what_is_taken_can_be_executed(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 24: execve takes what create takes, and what it does not take leaves nothing."""
    words = ["/bin/true", *[LONGEST] * 8]
    size = sum(len(word) + 9 for word in words)
    room = (2 << 20) - 8192 - size
    variables = {f"V{number}": LONGEST[: room // 8 - 20] for number in range(8)}
    result = supervisor.client.run(None, str(rootfs), words, env=variables)
    assert (result.exit_code, result.reason) == (0, "exited")
    (shown,) = supervisor.client.ps()
    assert len(" ".join(shown.command)) < 5000
    assert supervisor.client.inspect(shown.name)["Args"] == words[1:]
    supervisor.client.rm(shown.name)
    for wrong, field in (
        ({"V": LONGEST}, "environment"),
        ({**variables, "W": LONGEST[:2000]}, "command and environment"),
    ):
        with pytest.raises(InvalidRequest, match=f"^invalid {field}: "):
            supervisor.client.run("refused", str(rootfs), words, env=wrong)
    assert supervisor.client.ps() == []
    assert list((supervisor.state_dir / "logs").iterdir()) == []


def test_hostile_user_files(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    """Case 23: they are read in a thread, and those above 1 MiB are refused."""
    tree = tmp_path / "hostile"
    shutil.copytree(rootfs, tree, symlinks=True)
    for content in (b"a:\n" * 340_000, b":" * (1 << 20)):
        (tree / "etc/passwd").write_bytes(b"a:x:77:78::/:/bin/sh\n" + content[: (1 << 20) - 21])
        (tree / "etc/group").write_bytes(content)
        result = supervisor.client.run(None, str(tree), ["/bin/sh", "-c", "id -u; id -g"], user="a", rm=True)
        assert result.stdout == b"77\n78\n"
    (tree / "etc/passwd").write_bytes(b"a" * (64 << 20))
    with pytest.raises(InvalidRequest, match="the rootfs's /etc/passwd: file too large"):
        supervisor.client.run("c", str(tree), ["/bin/true"], user="a")
    assert supervisor.client.ps() == []


def test_a_storm_of_soft_limits(supervisor: Supervisor, rootfs: Path, load: Path) -> None:
    """Case 27: it is told some times, then added up; and the supervisor's log stays short."""
    volume = [f"{load}:/load:ro"]
    with contextlib.closing(supervisor.client.events()) as events:
        supervisor.client.start(
            "storm", str(rootfs), ["/load", "memory", "16"], soft_mib=4, hard_mib=256, volumes=volume
        )
        told = 0
        for event in events:
            told += event.kind in ("soft-limit", "soft-limit-cleared")
            if int(event.attributes.get("suppressed", "0")) >= 5:
                break
    lines = [line for line in supervisor.log.read_text().splitlines() if "storm: soft" in line]
    assert told <= len(lines) + 5
    assert len(lines) <= 2 * BURST + told
    supervisor.client.rm("storm", force=True)


def ask(supervisor: Supervisor, rootfs: Path, load: Path, *words: str) -> str:
    """What a container gets that has our socket as a volume."""
    volumes = [f"{load}:/load:ro", f"{supervisor.socket}:/engine.sock"]
    command = ["/bin/sh", "-c", f"/load connect /engine.sock {' '.join(words)}; sleep 1"]
    return supervisor.client.run("driver", str(rootfs), command, volumes=volumes, rm=True).stdout.decode()


@pytest.mark.attack("engine-socket", "blocked")
def test_a_container_cannot_drive_its_supervisor(supervisor: Supervisor, rootfs: Path, load: Path) -> None:
    """Case 28."""
    answer = ask(supervisor, rootfs, load)
    assert answer.startswith("HTTP/1.1 403 Forbidden\r\n")
    assert "runs in a container of this machine" in answer
    assert "403 Forbidden" in ask(supervisor, rootfs, load, "orphan")
    assert supervisor.client.ps() == []


@pytest.mark.attack("engine-socket", "undefended")
def test_a_container_may_where_that_is_wanted(tmp_path: Path, rootfs: Path, leftovers: Traces, load: Path) -> None:
    """Case 28: ``--allow-containers``."""
    with Supervisor(tmp_path, rootfs, leftovers, "--allow-containers").serving() as supervisor:
        answer = ask(supervisor, rootfs, load)
        assert answer.startswith("HTTP/1.0 200 OK\r\n")
        assert json.loads(answer.partition("\r\n\r\n")[2])[0]["Names"] == ["/driver"]


def test_a_container_of_many_threads_is_stopped(supervisor: Supervisor, rootfs: Path, load: Path) -> None:
    """Case 23: others are served meanwhile; and it ends at once when no time is given."""
    volumes = [f"{load}:/load:ro"]
    supervisor.client.start("threads", str(rootfs), ["/load", "threads", "3000"], volumes=volumes)
    wait_until(lambda: b"threads" in b"".join(data for _, data in supervisor.client.logs("threads")))
    supervisor.client.stop("threads", seconds=0)
    assert supervisor.client.inspect("threads")["State"]["Status"] == "exited"
