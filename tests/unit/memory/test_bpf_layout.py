"""The structs that Python and the BPF program share, against the compiled header and the compiled object."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from wherry.memory import bpf
from wherry.memory import bpf_layout as layout
from wherry.memory.bpf_object import BpfObject, Elf

ROOT = Path(__file__).parents[3]
OBJECT = ROOT / "src/wherry/memory/monitor.bpf.o"

CONTAINER = {
    "total": layout.TOTAL,
    "peak": layout.PEAK,
    "processes": layout.PROCESSES,
    "uncounted": layout.UNCOUNTED,
    "soft": layout.SOFT,
    "hard": layout.HARD,
    "clear": layout.CLEAR,
    "hard_time": layout.HARD_TIME,
    "hard_pages": layout.HARD_PAGES,
    "hard_limit": layout.HARD_LIMIT,
    "hard_comm": layout.HARD_COMM,
    "hard_pid": layout.HARD_PID,
    "hard_reason": layout.HARD_REASON,
    "hard_begun": layout.HARD_BEGUN,
    "hard_fired": layout.HARD_FIRED,
    "born": layout.BORN,
    "soft_fired": layout.SOFT_FIRED,
    "watching": layout.WATCHING,
    "namespace_inode": layout.NAMESPACE,
    "soft_time": layout.SOFT_TIME,
    "id": layout.ID,
}
KINDS = {
    "MONITOR_SOFT": layout.KIND_SOFT,
    "MONITOR_SOFT_CLEARED": layout.KIND_SOFT_CLEARED,
    "MONITOR_HARD": layout.KIND_HARD,
    "MONITOR_OOM_KILL": layout.KIND_OOM_KILL,
    "MONITOR_CROSSED": layout.REASON_CROSSED,
    "MONITOR_UNCOUNTED": layout.REASON_UNCOUNTED,
    "MONITOR_LOOK": layout.ACT_LOOK,
    "MONITOR_UPDATED": layout.ACT_UPDATED,
    "MONITOR_FORGET": layout.ACT_FORGET,
}
EVENT = layout.MonitorEvent(1, 2, 3, 4, 5, 6, 7, b"comm".ljust(16, b"\0"), b"i" * 32)
LINE = 64
"""Bytes of a cache line."""


def run(directory: Path, body: str) -> str:
    source = directory / "layout.c"
    includes = "".join(f"#include {name}\n" for name in ("<stddef.h>", "<stdio.h>", "<string.h>", '"monitor.h"'))
    source.write_text(f"{includes}int main(void) {{{body}}}\n")
    program = directory / "layout"
    subprocess.run(["cc", "-I", ROOT / "bpf", "-o", program, source], check=True)
    return subprocess.run([program], capture_output=True, check=True).stdout.decode()


def printed(name: str, expression: str) -> str:
    return f'printf("{name} %lld\\n", (long long)({expression}));'


def test_offsets_sizes_and_constants_are_those_of_the_header(tmp_path: Path) -> None:
    lines = [printed(name, f"offsetof(struct monitor_container, {name})") for name in CONTAINER]
    lines += [printed(name, name) for name in (*KINDS, "MONITOR_NO_LIMIT", "MONITOR_ID_BYTES")]
    lines += [printed(f"{name}_size", f"sizeof(struct monitor_{name})") for name in ("container", "event", "mm")]
    lines += [printed(name, f"offsetof(struct monitor_mm, {name})") for name in ("key", "slot")]
    found = {name: int(value) for name, value in (line.split() for line in run(tmp_path, "".join(lines)).splitlines())}
    assert found == {
        **CONTAINER,
        **KINDS,
        "MONITOR_NO_LIMIT": layout.NO_LIMIT,
        "MONITOR_ID_BYTES": layout.ID_BYTES,
        "container_size": layout.CONTAINER_BYTES,
        "event_size": layout.EVENT_BYTES,
        "mm_size": layout.MM_BYTES,
        "key": layout.MM_KEY,
        "slot": layout.MM_SLOT,
    }


def test_an_event_of_c_is_unpacked_field_by_field(tmp_path: Path) -> None:
    body = (
        "struct monitor_event event = { .time = 1, .pages = 2, .peak = 3, .limit = 4, .kind = 5, .reason = 6,"
        " .pid = 7, .comm = \"comm\" }; memset(event.id, 'i', 32); fwrite(&event, sizeof(event), 1, stdout);"
    )
    assert layout.MonitorEvent.unpack(run(tmp_path, body).encode()) == EVENT


def test_a_container_comes_back_as_it_was_packed() -> None:
    state = layout.ContainerState._make([*range(1, 18), b"c" * 16, 19, 20, b"i" * 32])
    content = state.pack()
    assert (len(content), layout.ContainerState.unpack(content)) == (layout.CONTAINER_BYTES, state)
    assert content[layout.ID :][: layout.ID_BYTES] == state.id


def test_what_every_fault_writes_shares_a_cache_line_with_nothing_else() -> None:
    written = {layout.TOTAL, layout.PEAK, layout.PROCESSES, layout.UNCOUNTED}
    assert {offset // LINE for offset in written} == {0}
    assert 0 not in {offset // LINE for offset in set(CONTAINER.values()) - written}
    assert layout.CONTAINER_BYTES % LINE == 0


def test_the_object_declares_maps_of_these_sizes() -> None:
    layouts = BpfObject(OBJECT.read_bytes()).layouts
    assert layouts["containers"].value_size == layout.CONTAINER_BYTES
    assert layouts["mms"].value_size == layout.MM_BYTES
    assert {"containers", "slots", "mms", "refused", "events", "percpu", ".rodata", ".bss"} == set(layouts)


def test_the_object_is_licensed_as_the_kernel_wants_it() -> None:
    assert Elf(OBJECT.read_bytes()).by_name["license"].content == b"GPL\0"


@pytest.mark.parametrize(("text", "numbers"), [("0\n", [0]), ("0-3\n", [0, 1, 2, 3]), ("0-1,4,8-9\n", [0, 1, 4, 8, 9])])
def test_cpus_that_there_may_be_can_have_holes(text: str, numbers: list[int]) -> None:
    assert bpf.cpu_numbers(text) == numbers


@pytest.mark.parametrize("data", [b"", b"\x7fELF\x01\x01" + bytes(100), b"text"], ids=["empty", "32 bits", "text"])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="ELF64"):
        BpfObject(data)
