"""Limits of version 1 over groups that a container has made: what the kernel refuses is done all the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.root.harness import end_group
from tests.waiting import wait_until

from wherry.kernel import cgroup_trees as trees
from wherry.kernel import cgroups
from wherry.runtime import nested_limits

LAYOUT = cgroups.detect()
pytestmark = [
    pytest.mark.root,
    pytest.mark.host_variant,
    pytest.mark.skipif("cpuset" not in LAYOUT.mounts, reason="version 2 takes any value at any time"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two CPUs"),
]


@pytest.fixture
def group() -> Iterator[cgroups.Group]:
    group = cgroups.Group(LAYOUT, f"wherry-test-{os.getpid()}")
    group.create_for_container()
    yield group
    wait_until(lambda: end_group(group))


def make(group: cgroups.Group, name: str, cpus: str) -> Path:
    directory = Path(group.inner.directories["cpuset"], name)
    directory.mkdir()
    (directory / "cpuset.cpus").write_text(cpus)
    return directory / "cpuset.cpus"


def test_nested_groups_follow(group: cgroups.Group) -> None:
    """Case 19: those that had all, and those that had only what is gone; others keep their choice."""
    files = [make(group, "all", "0-1"), make(group, "all/first", "0"), make(group, "second", "1")]
    empty = make(group, "empty", "\n")

    def have() -> list[str]:
        return [file.read_text().rstrip("\n") for file in files]

    with pytest.raises(OSError, match="busy"):
        group.write("cpuset", "cpuset.cpus", "0")  # what the kernel says of it
    for cpus, expected in (("0", ["0", "0", "0"]), ("1", ["1", "1", "1"]), ("0-1", ["0-1", "0-1", "0-1"])):
        nested_limits.write(group, "cpuset", "cpuset.cpus", cpus)
        assert group.read("cpuset", "cpuset.cpus") == group.inner.read("cpuset", "cpuset.cpus") == cpus
        assert have() == expected
    files[1].write_text("0")
    nested_limits.write(group, "cpuset", "cpuset.cpus", "0-1")
    assert have() == ["0-1", "0", "0-1"]
    assert empty.read_text().strip() == ""


def test_a_quota_of_a_nested_group_goes(group: cgroups.Group) -> None:
    """Case 19."""
    nested_limits.write(group, "cpu", "cpu.cfs_quota_us", "80000")
    group.inner.write("cpu", "cpu.cfs_quota_us", "80000")
    with pytest.raises(OSError, match="argument"):
        group.write("cpu", "cpu.cfs_quota_us", "20000")
    nested_limits.write(group, "cpu", "cpu.cfs_quota_us", "20000")
    assert group.read("cpu", "cpu.cfs_quota_us") == "20000"


def test_a_value_that_is_none_is_refused(group: cgroups.Group) -> None:
    with pytest.raises(OSError, match="argument"):
        nested_limits.write(group, "cpu", "cpu.cfs_quota_us", "5")


def test_who_writes_all_the_time_does_not_win(group: cgroups.Group) -> None:
    """Case 19: a process in the group that wants to have more CPUs again at once; it is frozen for a moment."""
    file = f"{group.inner.directories['cpuset']}/cpuset.cpus"
    pid = os.fork()
    if pid == 0:
        try:
            for path in group.inner.process_files():
                Path(path).write_text("0")
            while True:
                descriptor = os.open(file, os.O_WRONLY)
                try:
                    os.write(descriptor, b"0-1")
                except OSError:
                    pass
                os.close(descriptor)
        finally:
            os._exit(1)
    try:
        wait_until(lambda: group.inner.processes() == [pid])
        for cpus in ("0", "1", "0") * 20:
            nested_limits.write(group, "cpuset", "cpuset.cpus", cpus)
            assert group.read("cpuset", "cpuset.cpus") == cpus
        assert group.read("freezer", "freezer.state") == "THAWED"
    finally:
        trees.kill(group.places)
        os.waitpid(pid, 0)
