"""What is written and read to freeze a group, in plain directories; tests/root/test_pause.py has the kernel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from wherry.kernel import cgroup_freezer as freezer
from wherry.kernel.cgroups import Group, Layout


class Files:
    """The group ``g`` of one layout, and the file by which it is frozen."""

    def __init__(self, root: Path, version: int, controller: str) -> None:
        self.folder = root / "g"
        self.folder.mkdir()
        self.group = Group(Layout(version, {controller: str(root)}), "g")
        self.is_v1 = controller == "freezer"
        self.control = self.folder / ("freezer.state" if self.is_v1 else "cgroup.freeze")

    def set(self, *, wanted: bool, frozen: bool) -> None:
        """As the kernel shows it."""
        if self.is_v1:
            self.control.write_text("FROZEN\n" if frozen else "FREEZING\n" if wanted else "THAWED\n")
            (self.folder / "freezer.self_freezing").write_text(f"{wanted:d}\n")
        else:
            self.control.write_text(f"{wanted:d}\n")
            (self.folder / "cgroup.events").write_text(f"populated 1\nfrozen {frozen:d}\n")


@pytest.fixture(params=[(1, "freezer"), (1, "unified"), (2, "")], ids=["version 1", "version 1 and 2", "version 2"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return Files(tmp_path, *request.param)


def test_freeze_and_thaw(files: Files) -> None:
    files.set(wanted=False, frozen=False)
    assert freezer.is_there(files.group)
    freezer.freeze(files.group)
    assert files.control.read_text().strip("\n") == ("FROZEN" if files.is_v1 else "1")
    freezer.thaw(files.group)
    assert files.control.read_text().strip("\n") == ("THAWED" if files.is_v1 else "0")


@pytest.mark.parametrize(("wanted", "frozen"), [(False, False), (True, False), (True, True)])
def test_how_far_it_is(files: Files, wanted: bool, frozen: bool) -> None:
    files.set(wanted=wanted, frozen=frozen)
    assert (freezer.is_wanted(files.group), freezer.is_frozen(files.group)) == (wanted, frozen)


def test_version_1_s_freezer_comes_before_version_2_s_tree(tmp_path: Path) -> None:
    """Freezing by both would need both to be thawed."""
    old = Files(tmp_path, 1, "freezer")
    layout = Layout(1, {"unified": "/nowhere", **old.group.layout.mounts})
    old.set(wanted=False, frozen=False)
    freezer.freeze(Group(layout, "g"))
    assert old.control.read_text() == "FROZEN"


def test_a_host_without(tmp_path: Path) -> None:
    """No controller at all, and a kernel without the file (Linux 5.1 and older have no cgroup.freeze)."""
    group = Group(Layout(1, {"memory": str(tmp_path)}), "g")
    assert not freezer.is_there(group)
    assert not freezer.is_wanted(group)
    assert not freezer.is_frozen(group)
    with pytest.raises(OSError, match="freezer"):
        freezer.freeze(group)
    (tmp_path / "g").mkdir()
    assert not freezer.is_there(Group(Layout(2, {"": str(tmp_path)}), "g"))
