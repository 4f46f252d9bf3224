"""Case 21: walking, emptying and removing trees of groups, in plain directories; real ones are in tests/root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wherry.kernel import cgroup_trees as trees

HOSTILE = ["-rf", " ", "\n", "\x1b[2J", "*", "\udcff\udcfe", "cgroup.procs.d", "x" * 255]


def chain(top: Path, depth: int) -> None:
    """Directories with long names, one in the other: their path is longer than PATH_MAX."""
    at = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d" * 200, dir_fd=at)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def test_each_group_is_entered_left_and_left_behind_once(tmp_path: Path) -> None:
    for path in ("a/b", "a/c", "d"):
        (tmp_path / path).mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    seen = [(what, depth, name) for what, _, depth, name in trees.walk(str(tmp_path))]
    assert len(os.listdir("/proc/self/fd")) == before
    assert seen[0] == (trees.ENTER, 0, "")
    assert seen[-1] == (trees.LEAVE, 0, "")
    for what in (trees.ENTER, trees.LEAVE):
        assert sorted(name for kind, _, name in seen if kind == what) == ["", "a", "b", "c", "d"]
    assert sorted(name for kind, _, name in seen if kind == trees.LEFT) == ["a", "b", "c", "d"]
    for inner, outer in (("b", "a"), ("c", "a"), ("d", "")):
        order = [(kind, name) for kind, _, name in seen]
        assert order.index((trees.ENTER, outer)) < order.index((trees.ENTER, inner))
        assert order.index((trees.LEAVE, inner)) < order.index((trees.LEAVE, outer))


def test_what_is_not_there_has_no_groups() -> None:
    assert list(trees.walk("/nowhere")) == []
    assert trees.processes(["/nowhere"]) == set()
    assert trees.remove(["/nowhere"], "c")


def test_a_link_is_no_group(tmp_path: Path) -> None:
    (tmp_path / "group").mkdir()
    (tmp_path / "group/link").symlink_to(tmp_path)
    assert len(list(trees.walk(str(tmp_path / "group")))) == 2


def test_hostile_names_and_depth_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "slot"
    top.mkdir()
    for name in HOSTILE:
        (top / "c" / name / name).mkdir(parents=True)
    chain(top / "c", 200)
    assert trees.remove([str(top)], "c")
    assert os.listdir(tmp_path) == []


def test_a_walk_is_bounded(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / str(number)).mkdir()
    assert sum(what == trees.ENTER for what, *_ in trees.walk(str(tmp_path), 10)) == 11


def test_what_vanishes_meanwhile_is_left_out(tmp_path: Path) -> None:
    for path in ("a/b/c", "d/e"):
        (tmp_path / path).mkdir(parents=True)
    seen = []
    for what, _, _, name in trees.walk(str(tmp_path)):
        seen.append(name)
        if what == trees.ENTER and name in ("b", "d"):
            for path in ("a/b/c", "a/b", "a", "d/e", "d"):
                if (tmp_path / path).exists():
                    (tmp_path / path).rmdir()
    assert set(seen) <= {"", "a", "b", "d"}


def test_members_are_those_of_all_groups(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "cgroup.procs").write_text("1\n2\n")
    (tmp_path / "a/cgroup.procs").write_text("")
    (tmp_path / "a/b/cgroup.procs").write_text("0\n30\n")
    (tmp_path / "tasks").write_text("1\n2\n")
    (tmp_path / "a/tasks").write_text("3\n")
    assert trees.processes([str(tmp_path), "/nowhere"]) == {1, 2, 30}
    assert trees.threads([str(tmp_path)]) == {1, 2, 3}


def test_thawing_begins_with_the_deepest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 20."""
    (tmp_path / "a/b").mkdir(parents=True)
    for path in ("", "a", "a/b"):
        (tmp_path / path / "freezer.state").write_text("FROZEN")
    written: list[str] = []

    def write(descriptor: int, file: str, value: str) -> None:
        assert (file, value) == ("freezer.state", "THAWED")
        written.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(trees, "write_at", write)
    trees.thaw([str(tmp_path)])
    assert written == [f"{tmp_path}/a/b", f"{tmp_path}/a", str(tmp_path)]


def test_nobody_else_is_killed(tmp_path: Path) -> None:
    """A number in cgroup.procs may be another process's by the time it is killed: here our own."""
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    assert trees.kill([str(tmp_path)]) == {os.getpid()}
