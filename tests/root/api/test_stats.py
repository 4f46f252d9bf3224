"""engine stats and docker stats: what a container uses, and the counters of its log's buffer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.root.harness import Supervisor, Traces
from tests.waiting import wait_until

from wherry import errors
from wherry.kernel.cgroups import Group, Layout
from wherry.supervisor.containers.usage import measure

pytestmark = [pytest.mark.root]
SCRIPT = "head -c 100000 /dev/zero; while :; do :; done"


def test_a_busy_container(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.client.start("busy", str(rootfs), ["/bin/sh", "-c", SCRIPT], memory=64 << 20, pids_limit=7)
    wait_until(lambda: supervisor.client.stats("busy")["Wherry"]["Log"]["BytesOut"] == 100_000)
    first = supervisor.client.stats("busy")
    used = first["cpu_stats"]["cpu_usage"]["total_usage"]
    wait_until(lambda: supervisor.client.stats("busy")["cpu_stats"]["cpu_usage"]["total_usage"] > used > 0)
    second = supervisor.client.stats("busy")
    assert second["cpu_stats"]["system_cpu_usage"] >= first["cpu_stats"]["system_cpu_usage"] > 0
    assert second["memory_stats"]["limit"] == 64 << 20
    assert 0 < second["memory_stats"]["usage"] < 64 << 20
    assert second["pids_stats"] == {"current": 1, "limit": 7}
    (line,) = supervisor.engine("stats", "--no-stream", "--format", "json").stdout.splitlines()
    assert json.loads(line)["name"] == "/busy"
    shown = supervisor.engine("stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}").stdout
    assert (shown.startswith("busy 1 "), shown.endswith(" / 64 MiB\n")) == (True, True)
    header, row = supervisor.engine("stats", "--no-stream").stdout.splitlines()
    assert header.split() == "NAME CPU MEMORY / LIMIT PIDS LOG IN HELD MOST LOST FULL".split()
    assert row.startswith("busy ")
    assert "97.66 KiB" in row


@pytest.mark.parametrize("enforcer", ["bpf", "cgroup"])
def test_memory_is_that_of_the_limit_that_kills(tmp_path: Path, rootfs: Path, leftovers: Traces, enforcer: str) -> None:
    """Case 8: what the enforcer counts and the hard limit, not the group's limit behind it, which is higher."""
    with Supervisor(tmp_path, rootfs, leftovers, "--memory-enforcer", enforcer).serving() as supervisor:
        command = ["/bin/sh", "-c", "head -c 16777216 /dev/zero >/file; echo written; exec sleep 1000"]
        supervisor.client.start("plain", str(rootfs), command, hard_mib=64)
        supervisor.client.start("low", str(rootfs), command, hard_mib=64, memory=32 << 20)
        wait_until(lambda: [supervisor.engine("logs", name).stdout for name in ("plain", "low")] == ["written\n"] * 2)
        plain = supervisor.client.stats("plain")
        memory = plain["memory_stats"]
        assert memory["limit"] == 64 << 20
        assert supervisor.client.stats("low")["memory_stats"]["limit"] == 32 << 20
        if enforcer == "bpf":  # the file's pages are charged to the group, and held against nobody
            assert memory["usage"] == plain["Wherry"]["Memory"]["Rss"] < 16 << 20
            assert set(memory["stats"].values()) == {0}
        header, *rows = supervisor.engine("stats", "--no-stream").stdout.splitlines()
        limits = {row.split()[0]: row[header.index("MEMORY") :].split("/ ")[1].split()[0] for row in rows}
        assert limits == {"plain": "64", "low": "32"}


@pytest.mark.docker
def test_docker_shows_the_limit_that_kills(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 8."""
    supervisor.client.start("busy", str(rootfs), ["/bin/sh", "-c", SCRIPT], hard_mib=64)
    command = [shutil.which("docker") or "docker", "-H", f"unix://{supervisor.socket}", "stats", "--no-stream"]
    assert supervisor.command(*command, "--format", "{{.MemUsage}}").endswith(" / 64MiB\n")


@pytest.mark.docker
def test_docker_reads_them(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.client.start("busy", str(rootfs), ["/bin/sh", "-c", SCRIPT], pids_limit=7)
    command = [shutil.which("docker") or "docker", "-H", f"unix://{supervisor.socket}", "stats", "--no-stream"]
    done = supervisor.command(*command, "--format", "{{.Name}} {{.PIDs}} {{.CPUPerc}}")
    name, pids, share = done.split()
    assert (name, pids) == ("busy", "1")
    assert float(share.rstrip("%")) > 1


def test_what_does_not_run_uses_nothing_and_what_is_not_there_is_an_error(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.client.run("done", str(rootfs), ["/bin/echo", "hello"])
    found = supervisor.client.stats("done")
    assert (found["memory_stats"], found["pids_stats"]) == ({}, {})
    assert found["Wherry"]["Log"]["BytesOut"] == 6
    with pytest.raises(errors.NotFound):
        supervisor.client.stats("nobody")
    assert supervisor.engine("stats", "nobody", check=False).returncode == 1


def test_version_2_files(tmp_path: Path) -> None:
    folder = tmp_path / "group"
    folder.mkdir()
    files = {
        "cpu.stat": "usage_usec 7\nuser_usec 5\nsystem_usec 2\nnr_periods 9\nnr_throttled 4\nthrottled_usec 3\n",
        "memory.current": "4096\n",
        "memory.max": "max\n",
        "memory.stat": "anon 1\ninactive_file 1024\n",
        "pids.current": "3\n",
        "pids.max": "max\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    used = measure(Group(Layout(2, {"": str(tmp_path)}), "group"))
    assert used == (7000, 5000, 2000, (9, 4, 3000), 4096, 1024, None, 3, None)
    assert measure(Group(Layout(2, {"": str(tmp_path)}), "gone")) == (0, 0, 0, (0, 0, 0), None, 0, None, None, None)


def test_many_at_once(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 33: one request for all that run, or for those named, says what a request for each says."""
    for name in ("a", "b"):
        supervisor.client.start(name, str(rootfs), ["/bin/sleep", "1000"], soft_mib=32, memory=64 << 20)
    supervisor.client.run("done", str(rootfs), ["/bin/echo", "hello"])
    found = {each["name"]: each for each in supervisor.client.stats_of()}
    assert set(found) == {"/a", "/b"}
    for name in ("a", "b"):
        alone, together = supervisor.client.stats(name), found[f"/{name}"]
        assert together.keys() == alone.keys()
        assert together["memory_stats"]["limit"] == 64 << 20
        assert together["id"] == alone["id"]
        assert together["Wherry"]["Memory"]["Rss"] == alone["Wherry"]["Memory"]["Rss"]
    assert [each["name"] for each in supervisor.client.stats_of(["b", "done", found["/a"]["id"]])] == [
        "/b",
        "/done",
        "/a",
    ]
    for name in ("nobody", "a,b", "a%2Cb", "", "..", "a/json"):
        with pytest.raises(errors.NotFound):
            supervisor.client.stats_of(["a", name])
    assert supervisor.engine("stats", "--no-stream", "a", "nobody", check=False).returncode == 1
    supervisor.engine("stop", "-t", "0", "a", "b")
    assert supervisor.client.stats_of() == []


def test_a_thousand_named(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 33: more names than fit into a request's first line."""
    supervisor.client.start("a", str(rootfs), ["/bin/sleep", "1000"])
    assert len(supervisor.client.stats_of(["a"] * 1000)) == 1000
