"""The enforcer ``bpf``: a program on the tracepoint kmem:rss_stat, for hosts that take no kernel module.

What it counts is the sum of VmRSS over the container's processes: anonymous, file and shared memory pages, those that
several processes share once in each: to the page near a limit, and at most some 15 pages a process behind far below
it. ``bpf/monitor.bpf.c`` is the kernel's half. The process that crosses the hard
limit is killed in its page fault; the first process by whoever reads the event, or, while no supervisor lives, by the
next one.

Everything lives by descriptors: of the maps, and of the links, which keep the programs attached. The shim keeps them;
nothing is pinned, so nothing is left when shim and supervisor have gone.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import struct
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from wherry.kernel import bpf
from wherry.kernel.libc import call_error, call_of
from wherry.memory import bpf_layout as layout
from wherry.memory.bpf_object import BpfObject
from wherry.memory.bpf_ring import Ring
from wherry.memory.limiter import Alarm, Event, Host, Kind, Limits, Target, Unusable, Usage, Verdict, wall_clock

_OBJECT = Path(__file__).with_name("monitor.bpf.o")
_KERNEL_TYPES = Path("/sys/kernel/btf/vmlinux")
_PAGE = resource.getpagesize()
_PREFIX = f"bpf{layout.VERSION}-"
_MAPS = ("containers", "slots", "mms", "events", ".bss")
_PROGRAMS = ("rss_stat", "sched_process_exec", "exit_mmap", "mark_victim")
_OPTIONAL = frozenset({"exit_mmap", "mark_victim"})
"""Tracepoints that some kernels do not have; nothing is miscounted without them."""
_MAX_CPUS = 512
_MAX_PROCESSES = 65536
_KINDS = {
    layout.KIND_SOFT: Kind.SOFT,
    layout.KIND_SOFT_CLEARED: Kind.SOFT_CLEARED,
    layout.KIND_HARD: Kind.HARD,
    layout.KIND_OOM_KILL: Kind.OOM_KILL,
}


def open_limiter(_host: Host, kept: dict[str, int]) -> BpfLimiter:
    """Load the programs and attach them, or go on with those of an earlier supervisor. Raises Unusable."""
    try:
        data = _OBJECT.read_bytes()
    except OSError:
        raise Unusable("this installation has no BPF object; `make setup` builds it") from None
    try:
        return _open(BpfObject(data), kept)
    except (LookupError, ValueError, struct.error) as error:
        raise Unusable(f"the BPF object is not of this version ({error!r}); `make setup` builds it") from error


def _open(loaded: BpfObject, kept: dict[str, int]) -> BpfLimiter:
    names = {name.removeprefix(_PREFIX): each for name, each in kept.items() if name.startswith(_PREFIX)}
    with contextlib.ExitStack() as undo:
        undo.callback(loaded.close)
        # All of it or none: maps without the programs that write to them would hold no limit.
        if set(_MAPS) | (set(_PROGRAMS) - _OPTIONAL) <= set(names):
            loaded.maps = {name: os.dup(names[name]) for name in _MAPS}
            links = {name: os.dup(each) for name, each in names.items() if name in _PROGRAMS}
        else:
            links = _load(loaded, undo)
        limiter = BpfLimiter(loaded, links)
        undo.pop_all()
    return limiter


def _load(loaded: BpfObject, undo: contextlib.ExitStack) -> dict[str, int]:
    try:
        _load_maps(loaded)
        _set_up(loaded)
        links = {}
        for name in _PROGRAMS:
            link = _attach(loaded, name)
            if link >= 0:
                links[name] = link
                undo.callback(os.close, link)
        return links
    except OSError as error:
        # The verifier's words, which bpf.load_program has put into the text, say more than its EACCES.
        raise Unusable(f"{call_of(error)}: {error.strerror}") from None


def _load_maps(loaded: BpfObject) -> None:
    """Those that are missing. Raises Unusable, OSError."""
    cpus = _possible_cpus()
    if cpus > _MAX_CPUS:
        raise Unusable(f"{cpus} CPUs are more than the {_MAX_CPUS} that the BPF program can sum over")
    # lib/percpu_counter.c: what one CPU may hold back of one counter; three counters are summed.
    constants = {"cpus": cpus, "held_back_pages": 3 * max(32, 2 * cpus)}
    loaded.load_maps(constants, {"mms": _most_processes()})


def _set_up(loaded: BpfObject) -> None:
    program = loaded.load_program("setup")
    try:
        if result := bpf.run_raw_tracepoint(program, 1):
            raise Unusable(f"the BPF program finds no per-CPU counters (step {result})")
    finally:
        os.close(program)


def _attach(loaded: BpfObject, name: str) -> int:
    """The link; -1 when this kernel does not have the tracepoint and we can do without."""
    program = loaded.load_program(name)
    try:
        return bpf.attach_raw_tracepoint(program, name)
    except OSError as error:
        if error.errno != errno.ENOENT or name not in _OPTIONAL:
            raise
        return -1
    finally:
        os.close(program)  # the link holds it


def _possible_cpus() -> int:
    """The highest number a CPU may ever have, plus one: per-CPU memory is for all of these."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        return int(file.read().strip().replace(",", "-").split("-")[-1]) + 1


def _most_processes() -> int:
    """How many address spaces there can be at once: each has a process."""
    with open("/proc/sys/kernel/pid_max", encoding="ascii") as file:
        return min(int(file.read()), _MAX_PROCESSES)


class BpfLimiter:
    """See ``limiter.MemoryLimiter``."""

    name = "bpf"

    def __init__(self, loaded: BpfObject, links: dict[str, int]) -> None:
        self._object = loaded
        self._maps = loaded.maps
        self._links = links
        entries = loaded.layouts["containers"].entries
        self._containers = mmap.mmap(self._maps["containers"], entries * layout.CONTAINER_BYTES, mmap.MAP_SHARED)
        self._words = memoryview(self._containers).cast("q")
        self._globals = mmap.mmap(self._maps[".bss"], loaded.layouts[".bss"].value_size, mmap.MAP_SHARED)
        self._ring = Ring(self._maps["events"], loaded.layouts["events"].entries)
        self._slots: dict[str, int] = {}
        self._found: dict[str, int] = {}
        """Of an earlier supervisor, until they are adopted or swept."""
        self._free: deque[int] = deque()
        self._hard_told: set[str] = set()
        self._lost = self._counter("lost_events")
        self._adopted = False
        self._has_rearmed = False
        for slot in range(entries):
            identity = self._identity(slot)
            if any(identity):
                self._found[identity.hex()] = slot
            else:
                self._free.append(slot)

    def fileno(self) -> int:
        return self._maps["events"]

    def descriptors(self) -> dict[str, int]:
        names = {**self._links, **{name: self._maps[name] for name in _MAPS}}
        return {_PREFIX + name: descriptor for name, descriptor in names.items()}

    def arm(self, target: Target, limits: Limits) -> dict[str, int]:
        if not self._free:
            raise call_error(errno.ENOSPC, "arm", f"BPF memory limiter: {len(self._slots)} containers")
        slot, inode = self._free.popleft(), target.inode
        soft, hard, clear = _pages(limits)
        state = layout.ContainerState(
            *(0, 0, 0, soft, hard, clear, 0, 0, 0, b"", 0, 0, 0, 0),
            namespace=inode,
            soft_time=0,
            id=bytes.fromhex(target.container_id),
        )
        # Everything before the identity, and that before the key by which the program finds the element.
        self._containers[slot * layout.CONTAINER_BYTES : (slot + 1) * layout.CONTAINER_BYTES] = state.pack()
        try:
            bpf.update(self._maps["slots"], struct.pack("=I", inode), struct.pack("=I", slot), bpf.NOEXIST)
            namespace = os.dup(target.namespace)
        except OSError:
            self._release(slot, inode)
            raise
        self._slots[target.container_id] = slot
        return {"memory-namespace": namespace}

    def adopt(self, target: Target, limits: Limits, kept: dict[str, int]) -> None:
        self._slots[target.container_id] = self._found.pop(target.container_id)
        self.update(target.container_id, limits)
        self._adopted = True

    def rearm(self, target: Target, limits: Limits) -> dict[str, int]:
        kept = self.arm(target, limits)
        at = self._slots[target.container_id] * layout.CONTAINER_BYTES + layout.WATCHING
        self._containers[at : at + 4] = struct.pack("=I", 1)  # its first execve has been
        self._has_rearmed = True
        return kept

    def take_stock(self) -> None:
        if not self._has_rearmed:
            return
        _load_maps(self._object)
        try:
            program = self._object.load_iterator("task", _KERNEL_TYPES.read_bytes())
        except LookupError as error:
            raise call_error(errno.ENOSYS, "iterate", str(error)) from None
        try:
            bpf.iterate(program)
        finally:
            os.close(program)
        self._has_rearmed, self._adopted = False, True  # who is over its limit may be in no event

    def alarm(self) -> Alarm:
        return Alarm(
            id=f"bpf map {bpf.map_id(self._maps['containers'])}",
            array=f"{_PREFIX}containers",
            wake=f"{_PREFIX}events",
            stride=layout.CONTAINER_BYTES,
            flag=layout.HARD_FIRED,
        )

    def alarm_of(self, container_id: str) -> int:
        return self._slots[container_id]

    def sweep(self) -> None:
        for slot in self._found.values():
            self._release(slot, self._state(slot).namespace)
        self._found.clear()

    def update(self, container_id: str, limits: Limits) -> None:
        slot = self._slots[container_id]
        for offset, pages in zip((layout.SOFT, layout.HARD, layout.CLEAR), _pages(limits), strict=True):
            self._words[(slot * layout.CONTAINER_BYTES + offset) // 8] = pages

    def stat(self, container_id: str) -> Usage:
        state = self._state(self._slots[container_id])
        return Usage(state.total * _PAGE, state.peak * _PAGE, state.processes)

    def disarm(self, container_id: str) -> Verdict:
        slot = self._slots.pop(container_id)
        self._hard_told.discard(container_id)
        state = self._state(slot)
        self._release(slot, state.namespace)
        return Verdict(state.peak * _PAGE if state.watching else None, _hard_event(state))

    def read(self) -> list[Event]:
        events: list[Event] = []
        lost = self._counter("lost_events")
        for record in self._ring.read():
            event = _event(layout.MonitorEvent.unpack(record))
            if event.kind is Kind.HARD:
                if event.container_id in self._hard_told:
                    continue
                self._hard_told.add(event.container_id)
            events.append(event)
        if lost != self._lost or self._adopted:
            self._lost, self._adopted = lost, False
            events += self._untold_crossings()
        return events

    def dropped(self) -> int:
        return self._counter("lost_events") + self._counter("lost_processes")

    def close(self) -> None:
        self._words.release()
        self._containers.close()
        self._globals.close()
        self._ring.close()
        for link in self._links.values():
            os.close(link)
        self._object.close()

    def counted(self) -> int:
        """How many address spaces are counted at the moment, over all containers."""
        return sum(1 for _ in bpf.keys(self._maps["mms"], 8))

    def _untold_crossings(self) -> Iterator[Event]:
        """A hard crossing is in the container's own state as well: none is lost with a full buffer, or because an
        earlier supervisor was killed between reading its event and acting on it.
        """
        for container_id, slot in self._slots.items():
            event = _hard_event(self._state(slot))
            if event is not None and container_id not in self._hard_told:
                self._hard_told.add(container_id)
                yield event

    def _release(self, slot: int, inode: int) -> None:
        """Make an element free, the key first. Those that were freed first are used first: the program may still be
        running with it on another CPU.
        """
        bpf.delete(self._maps["slots"], struct.pack("=I", inode))
        if self._state(slot).processes:
            self._forget_processes(slot)
        self._containers[slot * layout.CONTAINER_BYTES : (slot + 1) * layout.CONTAINER_BYTES] = bytes(
            layout.CONTAINER_BYTES
        )
        self._free.append(slot)

    def _forget_processes(self, slot: int) -> None:
        for key in list(bpf.keys(self._maps["mms"], 8)):
            with contextlib.suppress(FileNotFoundError):  # it is gone by now
                entry = bpf.lookup(self._maps["mms"], key, layout.MM_BYTES)
                if struct.unpack_from("=I", entry, layout.MM_SLOT)[0] == slot:
                    bpf.delete(self._maps["mms"], key)

    def _state(self, slot: int) -> layout.ContainerState:
        begin = slot * layout.CONTAINER_BYTES
        return layout.ContainerState.unpack(self._containers[begin : begin + layout.CONTAINER_BYTES])

    def _identity(self, slot: int) -> bytes:
        begin = slot * layout.CONTAINER_BYTES + layout.ID
        return self._containers[begin : begin + layout.ID_BYTES]

    def _counter(self, name: str) -> int:
        (value,) = struct.unpack_from("=Q", self._globals, self._object.offset_of(name))
        return int(value)


def _pages(limits: Limits) -> Iterator[int]:
    """Soft, hard and clear. Rounded down: a limit holds to the byte."""
    for size in (limits.soft_bytes, limits.hard_bytes, limits.clear_bytes):
        yield layout.NO_LIMIT if size is None else min(size // _PAGE, layout.NO_LIMIT)


def _event(found: layout.MonitorEvent) -> Event:
    return Event(
        kind=_KINDS[found.kind],
        container_id=found.id.hex(),
        pid=found.pid,
        comm=_text(found.comm),
        rss_bytes=found.pages * _PAGE,
        limit_bytes=found.limit * _PAGE,
        peak_bytes=found.peak * _PAGE,
        monotonic_ns=found.time,
        wall_ns=wall_clock(found.time),
    )


def _hard_event(state: layout.ContainerState) -> Event | None:
    if not state.hard_fired:
        return None
    return Event(
        kind=Kind.HARD,
        container_id=state.id.hex(),
        pid=state.hard_pid,
        comm=_text(state.hard_comm),
        rss_bytes=state.hard_pages * _PAGE,
        limit_bytes=state.hard_limit * _PAGE,
        peak_bytes=state.peak * _PAGE,
        monotonic_ns=state.hard_time,
        wall_ns=wall_clock(state.hard_time),
    )


def _text(comm: bytes) -> str:
    return comm.split(b"\0", 1)[0].decode(errors="replace")
