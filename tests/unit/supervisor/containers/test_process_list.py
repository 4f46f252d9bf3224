"""What ps prints as rows of a container's own processes, whatever those call themselves; and ps itself, on ours."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry.errors import InternalError, InvalidRequest, NotSupported
from wherry.kernel.cgroups import Group, Layout
from wherry.supervisor.containers import process_list
from wherry.supervisor.containers.process_list import ProcessList, options_of, parse


def test_the_last_column_keeps_its_blanks() -> None:
    output = b"UID   PID CMD\nroot    7 sh -c  x y\nroot    8 other\n"
    assert parse(output, {7}) == ProcessList(["UID", "PID", "CMD"], [["root", "7", "sh -c  x y"]])


@pytest.mark.parametrize(
    "name",
    [b"a b", b"a\x1cb", b"a\xe2\x80\xa8b", b"a\xc2\x85b", b"\xff\xfe", b"PID"],
    ids=["blank", "FS", "LS", "NEL", "no UTF-8", "title"],
)
def test_a_name_makes_no_rows_or_columns(name: bytes) -> None:
    """Blanks of others than ASCII are no blanks."""
    found = parse(b"PID CMD\n7 " + name + b"\n8 x\n", {7})
    assert found.rows == [["7", name.decode("utf-8", "replace")]]


def test_a_name_before_the_pid_can_hide_its_own_row_only() -> None:
    assert parse(b"CMD PID\na 7 7\nb 8\n", {7, 8}).rows == [["b", "8"]]
    assert parse(b"CMD PID TTY\nx 9 7 ?\nb 8 ?\n", {7, 8}).rows == [["b", "8", "?"]]


def test_threads_belong_to_the_process_above() -> None:
    assert parse(b"PID LWP\n7 -\n- 7\n- 9\n8 -\n- 8\n", {7}).rows == [["7", "-"], ["-", "7"], ["-", "9"]]


def test_a_row_that_is_short_has_empty_cells() -> None:
    assert parse(b"PID TTY CMD\n7\n\n", {7}).rows == [["7", "", ""]]


@pytest.mark.parametrize("output", [b"", b"\n", b"UID CMD\n0 x\n", b"PIDS\n1\n"])
def test_without_pids_nothing_can_be_told(output: bytes) -> None:
    with pytest.raises(InvalidRequest, match="no column PID"):
        parse(output, {1})


def test_huge_numbers_are_no_pids() -> None:
    assert parse(b"PID\n" + b"9" * 5000 + b"\n", {9}).rows == []


def test_options() -> None:
    assert options_of("") == options_of("  ") == ["-ef"]
    assert options_of(" aux  -w ") == ["aux", "-w"]
    with pytest.raises(InvalidRequest, match="4097 characters"):
        options_of("x" * 4097)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    """With one process of its own, and one below."""
    processes = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)]
    for folder, process in zip((tmp_path / "g", tmp_path / "g/c"), processes, strict=True):
        folder.mkdir()
        (folder / "cgroup.procs").write_text(f"{process.pid}\n")
    yield Group(Layout(1, {"memory": str(tmp_path)}), "g")
    for process in processes:
        process.communicate(b"\n")


def pids(group: Group) -> set[str]:
    return {
        pid
        for folder in (Path(group.places[0]), Path(group.places[0], "c"))
        for pid in (folder / "cgroup.procs").read_text().split()
    }


def listed(group: Group, *options: str) -> ProcessList:
    return asyncio.run(process_list.list_processes(group, options))


@pytest.mark.parametrize(
    "options", [["-ef"], ["aux"], ["-o", "pid,comm"], ["-eo", "comm,pid"], ["axf"], ["-e", "--sort=-pid"], ["-eLf"]]
)
def test_any_options(group: Group, options: list[str]) -> None:
    found = listed(group, *options)
    place = found.titles.index("PID")
    assert {row[place] for row in found.rows} == pids(group)
    assert {len(row) for row in found.rows} == {len(found.titles)}


@pytest.mark.parametrize(
    ("options", "text"),
    [(["--nosuch"], "ps refuses '--nosuch'"), (["-o", "comm"], "no column PID"), (["-V"], "no column PID")],
)
def test_options_that_cannot_be(group: Group, options: list[str], text: str) -> None:
    with pytest.raises(InvalidRequest, match=text):
        listed(group, *options)


def test_too_many_pids_for_one_argument(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_list, "_MOST_QUICK", 1)
    found = listed(group, "-eo", "pid")
    assert {row[0] for row in found.rows} == pids(group)


def test_an_environment_changes_nothing(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PS_FORMAT", "comm")
    monkeypatch.setenv("COLUMNS", "20")
    assert "PID" in listed(group, "-e").titles


def played(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ps"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(process_list, "_PATH", str(tmp_path))


def test_a_ps_that_never_answers(group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process can keep it in the kernel, which reads the command line from its memory."""
    played(tmp_path, "exec /bin/sleep 1000", monkeypatch)
    monkeypatch.setattr(process_list, "_SECONDS", 0.1)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(InternalError, match="ps does not answer"):
        listed(group)
    assert os.listdir("/proc/self/fd") == before


def test_a_ps_that_prints_without_end(group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played(tmp_path, "exec /bin/cat /dev/zero", monkeypatch)
    monkeypatch.setattr(process_list, "_MOST_OUTPUT", 1 << 20)
    with pytest.raises(InternalError, match="more than 1048576 bytes"):
        listed(group)


def test_no_ps(group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_list, "_PATH", str(tmp_path))
    with pytest.raises(NotSupported, match="this host has no ps"):
        listed(group)
