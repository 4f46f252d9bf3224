"""Which control group layout a host has, and what is written where: on sample texts and in plain directories."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wherry.kernel import cgroups
from wherry.kernel.cgroups import Group, Layout

BASE = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
UNIFIED = "35 31 0:32 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"


def v1(controllers: str, number: int = 32) -> str:
    """A line of mountinfo as systemd mounts controllers: shared propagation, co-mounted ones by a comma."""
    where = f"/sys/fs/cgroup/{controllers.removeprefix('name=')}"
    return f"{number} 31 0:{number} / {where} rw,relatime shared:{number} master:2 - cgroup cgroup rw,{controllers}\n"


@pytest.fixture
def detect(tmp_path: Path) -> Callable[[str], Layout]:
    def detect(text: str) -> Layout:
        (tmp_path / "mountinfo").write_text(text)
        return cgroups.detect(str(tmp_path / "mountinfo"))

    return detect


def test_version_1(detect: Callable[[str], Layout]) -> None:
    """Case 19: a container is in a group of its own in every hierarchy that there is."""
    mounts = [v1("memory"), v1("cpu,cpuacct"), v1("pids"), v1("hugetlb"), v1("name=systemd"), v1("xattr,name=other")]
    layout = detect(BASE + "".join(mounts))
    assert layout.version == 1
    assert layout.mounts == {
        "memory": "/sys/fs/cgroup/memory",
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "pids": "/sys/fs/cgroup/pids",
        "hugetlb": "/sys/fs/cgroup/hugetlb",
        "name=systemd": "/sys/fs/cgroup/systemd",
        "name=other": "/sys/fs/cgroup/xattr,name=other",
    }


def test_version_2(detect: Callable[[str], Layout]) -> None:
    layout = detect("27 1 8:1 / / rw - ext4 /dev/sda1 rw\n31 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    assert (layout.version, layout.mounts) == (2, {"": "/sys/fs/cgroup"})


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_hybrid_host_counts_as_version_1(detect: Callable[[str], Layout], order: list[int]) -> None:
    lines = [UNIFIED, v1("memory")]
    layout = detect(BASE + "".join(lines[number] for number in order))
    assert layout.version == 1
    assert layout.mounts == {"memory": "/sys/fs/cgroup/memory", "unified": "/sys/fs/cgroup/unified"}


def test_a_hybrid_host_whose_controllers_are_in_version_2(detect: Callable[[str], Layout]) -> None:
    """systemd's "hybrid" mounts only a named hierarchy, and perhaps freezer, in version 1."""
    layout = detect(BASE + UNIFIED + v1("name=systemd") + v1("freezer"))
    assert (layout.version, layout.mounts) == (2, {"": "/sys/fs/cgroup/unified"})


def test_of_two_mounts_of_a_hierarchy_the_first_counts(detect: Callable[[str], Layout]) -> None:
    second = v1("memory").replace("/sys/fs/cgroup/memory", "/srv/chroot/cgroup")
    assert detect(v1("memory") + second).mounts == {"memory": "/sys/fs/cgroup/memory"}


@pytest.mark.parametrize("text", ["", BASE, BASE + v1("name=systemd"), BASE + v1("cpuset") + v1("devices")])
def test_no_usable_hierarchy(detect: Callable[[str], Layout], text: str) -> None:
    with pytest.raises(FileNotFoundError, match="no cgroup hierarchy"):
        detect(text)


def test_odd_lines_of_other_file_systems(detect: Callable[[str], Layout]) -> None:
    odd = "40 27 0:40 / /mnt/cgroup\\040-\\040x rw - tmpfs  rw\n41 27 0:41 / /mnt/\xff rw - fuse.x cgroup rw,memory\n"
    assert detect(odd + v1("memory")).mounts == {"memory": "/sys/fs/cgroup/memory"}


def test_this_host_has_a_layout() -> None:
    layout = cgroups.detect()
    assert all(os.path.isfile(f"{directory}/cgroup.procs") for directory in layout.directories(".").values())


@pytest.fixture
def layout1(tmp_path: Path) -> Layout:
    """Version 1 in plain directories: cpu and cpuacct share one."""
    mounts = {"memory": "memory", "cpu": "cpu,cpuacct", "cpuacct": "cpu,cpuacct", "pids": "pids"}
    for name in set(mounts.values()):
        (tmp_path / name).mkdir()
    return Layout(1, {controller: f"{tmp_path}/{name}" for controller, name in mounts.items()})


def test_a_group_is_made_once_in_each_hierarchy(layout1: Layout, tmp_path: Path) -> None:
    group = Group(layout1, "wherry/3f2a/c1")
    group.create()
    group.create()
    for name in ("memory", "cpu,cpuacct", "pids"):
        assert (tmp_path / name / "wherry/3f2a/c1").is_dir()
    assert group.process_files() == [
        f"{tmp_path}/{name}/wherry/3f2a/c1/cgroup.procs" for name in ("memory", "cpu,cpuacct", "pids")
    ]


def test_a_hierarchy_in_the_way_is_named(layout1: Layout, tmp_path: Path) -> None:
    (tmp_path / "pids/wherry").write_text("")
    with pytest.raises(NotADirectoryError) as caught:
        Group(layout1, "wherry/c1").create()
    assert caught.value.filename == f"{tmp_path}/pids/wherry/c1"


def test_remove(layout1: Layout, tmp_path: Path) -> None:
    group = Group(layout1, "wherry/c1")
    group.create()
    (tmp_path / "pids/wherry/c1/busy").mkdir()
    assert not group.remove()
    assert not (tmp_path / "memory/wherry/c1").exists()
    (tmp_path / "pids/wherry/c1/busy").rmdir()
    assert group.remove()
    assert group.remove()
    assert not (tmp_path / "pids/wherry/c1").exists()


def test_children_are_found_in_any_hierarchy(layout1: Layout, tmp_path: Path) -> None:
    for path in ("memory/wherry/b", "pids/wherry/a", "cpu,cpuacct/wherry/b"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "memory/wherry/cgroup.procs").write_text("")
    assert cgroups.children(layout1, "wherry") == ["a", "b"]
    assert cgroups.children(layout1, "nobody") == []


def test_control_files(layout1: Layout, tmp_path: Path) -> None:
    group = Group(layout1, "c1")
    group.create()
    (tmp_path / "pids/c1/pids.max").write_text("max\n")
    assert group.read("pids", "pids.max") == "max"
    group.write("pids", "pids.max", 12)
    assert (tmp_path / "pids/c1/pids.max").read_text().startswith("12")
    assert group.read("pids", "pids.peak") is None
    assert group.read("hugetlb", "x") is None


@pytest.mark.parametrize("controller", ["memory", "hugetlb"])
def test_a_control_file_that_is_not_there(layout1: Layout, controller: str) -> None:
    """Also when this host has no such controller: a limit that cannot be set is an OSError, and the start fails."""
    with pytest.raises(OSError, match=controller):
        Group(layout1, "c1").write(controller, f"{controller}.max", 1)


def test_processes(layout1: Layout, tmp_path: Path) -> None:
    group = Group(layout1, "c1")
    assert group.processes() == []
    group.create()
    (tmp_path / "memory/c1/cgroup.procs").write_text("12\n345\n")
    assert group.processes() == [12, 345]


OFFERED = "cpuset cpu io memory hugetlb pids"


@pytest.fixture
def layout2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """Version 2 in plain directories. As in the kernel's, a new group is offered what its parent hands down."""

    def populate(path: str, offered: str) -> None:
        Path(path, "cgroup.controllers").write_text(offered)
        Path(path, "cgroup.subtree_control").write_text("")

    mkdir = os.mkdir

    def make_group(path: str, mode: int = 0o777) -> None:
        mkdir(path, mode)
        populate(path, handed_down(Path(path).parent))

    populate(str(tmp_path), OFFERED)
    monkeypatch.setattr(os, "mkdir", make_group)
    return Layout(2, {"": str(tmp_path)})


def handed_down(group: Path) -> str:
    return (group / "cgroup.subtree_control").read_text().replace("+", "")


def test_version_2_hands_controllers_down_to_the_group(layout2: Layout, tmp_path: Path) -> None:
    Group(layout2, "wherry/3f2a").create()
    group = Group(layout2, "wherry/3f2a/c1")
    group.create()
    assert group.process_files() == [f"{tmp_path}/wherry/3f2a/c1/cgroup.procs"]
    controllers = (tmp_path / "wherry/3f2a/c1/cgroup.controllers").read_text().split()
    assert {"memory", "cpu", "pids"} <= set(controllers) <= set(OFFERED.split())


def test_version_2_asks_for_nothing_that_is_not_offered(layout2: Layout, tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("memory pids\n")
    Group(layout2, "wherry/c1").create()
    assert set(handed_down(tmp_path).split()) == {"memory", "pids"}


def test_version_2_leaves_alone_what_is_handed_down_already(layout2: Layout, tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").write_text(OFFERED)
    Group(layout2, "wherry").create()
    assert (tmp_path / "cgroup.subtree_control").read_text() == OFFERED


def test_version_2_control_files(layout2: Layout, tmp_path: Path) -> None:
    group = Group(layout2, "wherry")
    group.create()
    (tmp_path / "wherry/memory.max").write_text("max")
    group.write("memory", "memory.max", 4096)
    assert group.read("memory", "memory.max") == "4096"


def test_devices_are_denied_before_any_is_allowed(layout1: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, str | int]] = []

    def write(_group: Group, controller: str, file: str, value: str | int) -> None:
        assert controller == "devices"
        written.append((file, value))

    monkeypatch.setattr(Group, "write", write)
    cgroups.restrict_devices(Group(layout1, "wherry"))
    assert written == []
    cgroups.restrict_devices(Group(Layout(1, {"devices": "/d"}), "wherry"))
    assert written[0] == ("devices.deny", "a")
    assert {file for file, _ in written[1:]} == {"devices.allow"}
    readable = {value for _, value in written[1:] if not str(value).endswith(" m")}
    numbers = ("1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:1", "5:2", "136:*")
    assert readable == {f"c {number} rwm" for number in numbers}


@pytest.mark.parametrize(
    ("shares", "weight"), [(2, 1), (1024, 100), (262144, 10000), (0, 1), (1 << 40, 10000), (88761, 3918), (15, 5)]
)
def test_version_2_weights_of_shares(shares: int, weight: int) -> None:
    assert cgroups.weight_of_shares(shares) == weight


@pytest.mark.parametrize(
    ("version", "mounts", "expected"),
    [
        (2, {"": "/v2"}, {"": "/v2"}),
        (1, {"cpuset": "/c", "memory": "/m", "pids": "/p"}, {"memory": "/m"}),
        (1, {"cpuset": "/c", "memory": "/m", "unified": "/u"}, {"unified": "/u"}),
        (1, {"cpuset": "/all", "cpu": "/all", "pids": "/p"}, {"pids": "/p"}),
        (1, {"cpuset": "/all", "memory": "/all"}, None),
    ],
)
def test_a_new_group_takes_processes_at_once(
    version: int, mounts: dict[str, str], expected: dict[str, str] | None
) -> None:
    found = Layout(version, mounts).taking_processes()
    assert (found and found.mounts) == expected
    assert found is None or found.version == version
