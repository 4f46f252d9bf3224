"""The memory controller's files, version 1 and 2, as plain files: what is written, and what is made of what is there.

That the kernel does its part is for the tests with real groups.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from wherry.kernel import cgroup_memory
from wherry.kernel.cgroups import Group, Layout
from wherry.memory import Host, Kind, Limits, Unusable, cgroup
from wherry.memory.cgroup import _Version2

MIB = 1 << 20
UNLIMITED = str((1 << 63) - 4096)


class Files:
    """A group whose control files are a dictionary of texts."""

    def __init__(self, directory: Path, version: int, **files: str) -> None:
        self.directory = directory / "g"
        self.directory.mkdir()
        mounts = {"memory": str(directory)} if version == 1 else {"": str(directory)}
        self.group = Group(Layout(version, mounts), "g")
        for name, text in files.items():
            self[name] = text

    def __setitem__(self, name: str, text: str) -> None:
        (self.directory / name.replace("__", ".")).write_text(text + "\n")

    def __getitem__(self, name: str) -> str:
        return (self.directory / name.replace("__", ".")).read_text().strip()


@pytest.fixture
def version1(tmp_path: Path) -> Files:
    return Files(
        tmp_path,
        1,
        memory__limit_in_bytes=UNLIMITED,
        memory__usage_in_bytes="4096",
        memory__max_usage_in_bytes="8192",
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 3",
    )


@pytest.fixture
def version2(tmp_path: Path) -> Files:
    files = {"memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 5", "memory.events.local": "high 0\noom_kill 3"}
    files |= {"memory.high": "max", "memory.max": "max", "memory.current": "4096", "memory.peak": "8192"}
    files |= {"memory.oom.group": "0", "memory.swap.max": "max"}
    return Files(tmp_path, 2, **{name.replace(".", "__"): text for name, text in files.items()})


@pytest.fixture(params=["version1", "version2"])
def either(request: pytest.FixtureRequest) -> Files:
    files: Files = request.getfixturevalue(request.param)
    return files


def test_what_is_read(either: Files) -> None:
    group = either.group
    found = (
        cgroup_memory.usage(group),
        cgroup_memory.peak(group),
        cgroup_memory.limit(group),
        cgroup_memory.oom_kills(group),
    )
    assert found == (4096, 8192, None, 3)
    assert cgroup_memory.is_there(group)


def test_a_kernel_without_local_events_counts_all(version2: Files) -> None:
    (version2.directory / "memory.events.local").unlink()
    assert cgroup_memory.oom_kills(version2.group) == 5


def test_no_controller(tmp_path: Path) -> None:
    for number, layout in enumerate((Layout(1, {"cpu": str(tmp_path)}), Layout(2, {"": str(tmp_path)}))):
        group = Group(layout, f"g{number}")
        assert not cgroup_memory.is_there(group)
        assert (cgroup_memory.usage(group), cgroup_memory.limit(group), cgroup_memory.oom_kills(group)) == (
            None,
            None,
            0,
        )
        with pytest.raises(Unusable, match="no memory controller"):
            cgroup.open_limiter(Host(layout, f"g{number}"), {})


def test_limits_are_written(either: Files) -> None:
    cgroup_memory.set_limit(either.group, 64 * MIB)
    assert cgroup_memory.limit(either.group) == 64 * MIB
    if either.group.layout.version == 2:
        assert either["memory.swap.max"] == "0"


@pytest.mark.parametrize(("before", "size", "order"), [(UNLIMITED, 64, "memory first"), ("1048576", 64, "memsw first")])
def test_memory_and_swap_together_are_never_below_memory(
    version1: Files, monkeypatch: pytest.MonkeyPatch, before: str, size: int, order: str
) -> None:
    version1["memory.memsw.limit_in_bytes"] = version1["memory.limit_in_bytes"] = before
    written: list[str] = []
    monkeypatch.setattr(Group, "write", lambda _self, _controller, file, _value: written.append(file))
    cgroup_memory.set_limit(version1.group, size * MIB, swap=MIB)
    assert written[0] == ("memory.limit_in_bytes" if order == "memory first" else "memory.memsw.limit_in_bytes")
    assert len(written) == 2


def test_soft_on_version_2_is_told_once_and_slows_nobody_down(version2: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = _Version2(version2.group)
    try:
        watch.limit(Limits(32 * MIB, 64 * MIB))
        state = [version2[name] for name in ("memory.high", "memory.max", "memory.oom.group")]
        assert state == [str(32 * MIB), str(64 * MIB), "1"]
        assert watch.crossings() == []
        version2["memory.current"] = str(33 * MIB)
        version2["memory.events.local"] = "high 7\noom_kill 3"
        assert watch.crossings() == [Kind.SOFT]
        assert version2["memory.high"] == "max"
        monkeypatch.setattr(cgroup, "_SOFT_INTERVAL_NS", 10**18)
        version2["memory.events.local"] = "high 9\noom_kill 3"
        version2["memory.current"] = str(31 * MIB)  # above the point where it is over
        assert watch.crossings() == []
        version2["memory.current"] = str(29 * MIB)
        assert watch.crossings() == [Kind.SOFT_CLEARED]
        assert version2["memory.high"] == str(32 * MIB)
        version2["memory.events.local"] = "high 10\noom_kill 3"
        assert watch.crossings() == []  # so soon after the last one
        assert watch.is_unsettled()
        assert watch.crossings() == []
        assert not watch.is_unsettled()  # it did not last
        version2["memory.events.local"], version2["memory.current"] = "high 11\noom_kill 3", str(33 * MIB)
        assert watch.crossings() == []
        monkeypatch.setattr(cgroup, "_SOFT_INTERVAL_NS", 0)
        assert watch.crossings() == [Kind.SOFT]
        version2["memory.events.local"] = "high 10\noom 1\noom_kill 4"
        assert watch.crossings() == [Kind.HARD]
    finally:
        watch.close()


TAKEOVERS = {
    "told by the one before": ("max", 40, "high 3\noom_kill 0", []),
    "crossed while nobody looked": (str(32 * MIB), 32, "high 3\noom_kill 0", [Kind.SOFT]),
    "told, and over": (str(32 * MIB), 4, "high 3\noom_kill 0", []),
    "killed while nobody looked": (str(32 * MIB), 4, "high 3\noom 1\noom_kill 1", [Kind.HARD]),
    "killed for a shortage elsewhere": (str(32 * MIB), 4, "high 3\noom 0\noom_kill 1", []),
}


@pytest.mark.parametrize(("high", "current", "events", "expected"), TAKEOVERS.values(), ids=TAKEOVERS.keys())
def test_version_2_taken_over(version2: Files, high: str, current: int, events: str, expected: list[Kind]) -> None:
    version2["memory.high"], version2["memory.max"] = high, str(64 * MIB)
    version2["memory.current"], version2["memory.events.local"] = str(current * MIB), events
    watch = _Version2.adopt(version2.group, Limits(32 * MIB, 64 * MIB))
    try:
        assert watch.crossings() == expected
    finally:
        watch.close()


def test_a_lower_limit_of_the_groups_own_is_not_the_hard_limit(version2: Files) -> None:
    """``--memory`` below ``--hard-mib``: the OOM killer kills one process, and the container lives."""
    version2["memory.max"] = str(16 * MIB)
    watch = _Version2(version2.group)
    try:
        watch.limit(Limits(hard_bytes=64 * MIB))
        assert (version2["memory.max"], version2["memory.oom.group"]) == (str(16 * MIB), "0")
        version2["memory.events.local"] = "high 0\noom 1\noom_kill 4"
        assert watch.crossings() == []
    finally:
        watch.close()


def test_where_a_soft_crossing_is_over() -> None:
    assert [Limits(soft_bytes=size).clear_bytes for size in (160 * MIB, MIB, 4096)] == [150 * MIB, MIB - 65536, 0]


def test_a_backstop_ends_the_whole_container_where_the_kernel_can(version2: Files) -> None:
    cgroup_memory.set_backstop(version2.group, 64 * MIB)
    assert (version2["memory.max"], version2["memory.oom.group"]) == (str(64 * MIB), "1")


def test_a_backstop_on_version_1(version1: Files) -> None:
    cgroup_memory.set_backstop(version1.group, 64 * MIB)
    assert version1["memory.limit_in_bytes"] == str(64 * MIB)


@pytest.mark.parametrize("throttles", [False, True])
def test_memory_high_stays_at_the_soft_limit_for_who_is_to_be_slowed_down(version2: Files, throttles: bool) -> None:
    """It tells of the crossing either way."""
    watch = _Version2(version2.group, throttles)
    try:
        watch.limit(Limits(16 * MIB))
        assert version2["memory.high"] == str(16 * MIB)
        version2["memory.events.local"] = "high 3\noom_kill 0"
        version2["memory.current"] = str(17 * MIB)
        assert watch.crossings() == [Kind.SOFT]
        assert version2["memory.high"] == (str(16 * MIB) if throttles else "max")
        version2["memory.current"] = str(8 * MIB)
        assert watch.crossings() == [Kind.SOFT_CLEARED]
        assert version2["memory.high"] == str(16 * MIB)
    finally:
        watch.close()
