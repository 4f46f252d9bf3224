"""The enforcer ``bpf``: a program on the tracepoint kmem:rss_stat, for hosts that take no kernel module.

What it counts is the sum of VmRSS over the container's processes: anonymous, file and shared memory pages, those that
several processes share once in each. ``bpf/monitor.bpf.c`` is the kernel's half. The process that crosses the hard
limit is killed in its page fault; the first process by whoever reads the event, or, while no supervisor lives, by the
next one. A process that there is no room to count ends a container with a hard limit, too.

A soft crossing that the program could not tell at once (it came too soon after the last, or the buffer was full) is
told later: the program says that there is such a thing, and we have it look again, when nothing changes any more.

Everything lives by descriptors: of the maps, and of the links, which keep the programs attached. The shim keeps them;
so nothing is left when shim and supervisor have gone, unless it is pinned (``pins``). With nothing to watch, nothing
is attached.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import mmap
import os
import resource
import select
import struct
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from wherry.kernel import bpf, procfs
from wherry.kernel.libc import call_error, call_of
from wherry.memory import bpf_layout as layout
from wherry.memory.bpf_looks import Looks
from wherry.memory.bpf_object import BpfObject
from wherry.memory.bpf_programs import Programs
from wherry.memory.bpf_ring import Ring
from wherry.memory.limiter import (
    Accuracy,
    Alarm,
    Host,
    Kind,
    Limits,
    MemoryEvent,
    MemoryUsage,
    Target,
    Traits,
    Unusable,
    Verdict,
    shares_of_a_cpu,
    wall_clock,
)

TRAITS = Traits(names_victims=True, is_pinnable=True)
_OBJECT = Path(__file__).with_name("monitor.bpf.o")
_KERNEL_TYPES = Path("/sys/kernel/btf/vmlinux")
_PAGE = resource.getpagesize()
_PREFIX = f"bpf{layout.VERSION}-"
_MAPS = ("containers", "slots", "mms", "events", ".bss")
_MAX_CPUS = 512
_MAX_PROCESSES = 65536
_FEW_CPUS = 4
"""On so many, summing a counter costs no more than finding out whether it need not be summed."""
_UNSEEN_PAGES = 16
_TICKS = 100
"""Clock ticks a second that the program knows of: without them it does not tell namespaces of one number apart."""
_LINGER_SECONDS = 2.0
"""So long the programs stay attached when there is nothing to watch any more: containers often come one after another,
and the kernel waits for all its CPUs when a tracepoint's last program goes and the next one comes at once. Again as
long after the shim was told to let go of them.
"""
_SOFT_INTERVAL_NS = 50_000_000
"""SOFT_INTERVAL of the program: no soft crossing of a container is told sooner after its last."""
_KINDS = {
    layout.KIND_SOFT: Kind.SOFT,
    layout.KIND_SOFT_CLEARED: Kind.SOFT_CLEARED,
    layout.KIND_HARD: Kind.HARD,
    layout.KIND_OOM_KILL: Kind.OOM_KILL,
}
_DETAILS = {layout.REASON_UNCOUNTED: "uncounted"}


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
        if set(_MAPS) <= set(names) and Programs.are_in(names):
            loaded.maps = {name: os.dup(names[name]) for name in _MAPS}
            programs = Programs.take_over(names)
        else:
            programs = _load(loaded)
        undo.callback(programs.close)
        limiter = BpfLimiter(loaded, programs)
        undo.pop_all()
    return limiter


def _load(loaded: BpfObject) -> Programs:
    try:
        _load_maps(loaded)
        _set_up(loaded)
        return Programs.load(loaded)
    except OSError as error:
        # The verifier's words, which bpf.load_program has put into the text, say more than its EACCES.
        raise Unusable(f"{call_of(error)}: {error.strerror}") from None


def _load_maps(loaded: BpfObject) -> None:
    """Raises Unusable, OSError."""
    cpus = _possible_cpus()
    if len(cpus) > _MAX_CPUS:
        raise Unusable(f"{len(cpus)} CPUs are more than the {_MAX_CPUS} that the BPF program can sum over")
    processes = _most_processes()
    constants: dict[str, int | bytes] = {
        "cpus": len(cpus),
        "cpu_numbers": struct.pack(f"={len(cpus)}H", *cpus),
        "unseen_pages": 0 if len(cpus) <= _FEW_CPUS else _UNSEEN_PAGES,
        "most_processes": processes,
    }
    loaded.load_maps(constants, {"mms": processes})


def _set_up(loaded: BpfObject) -> None:
    program = loaded.load_program("setup")
    try:
        if result := bpf.run_raw_tracepoint(program, 0):
            raise Unusable(f"the BPF program finds no per-CPU counters (step {result})")
    finally:
        os.close(program)


def _possible_cpus() -> list[int]:
    """The numbers of the CPUs that there may ever be: per-CPU memory is for all of these, and for no others."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        return cpu_numbers(file.read())


def cpu_numbers(text: str) -> list[int]:
    """Of a list as the kernel writes it: "0-3,8-11"."""
    ranges = [piece.split("-") for piece in text.strip().split(",")]
    return [number for ends in ranges for number in range(int(ends[0]), int(ends[-1]) + 1)]


def _most_processes() -> int:
    """How many address spaces may be counted at once. Each has a process, and no container gets more than half."""
    with open("/proc/sys/kernel/pid_max", encoding="ascii") as file:
        return min(2 * int(file.read()), _MAX_PROCESSES)


class BpfLimiter:
    """See ``limiter.MemoryLimiter``."""

    name = "bpf"
    traits = TRAITS

    def __init__(self, loaded: BpfObject, programs: Programs) -> None:
        self._object = loaded
        self._maps = loaded.maps
        self._programs = programs
        self.has_taken_over = programs.are_attached
        entries = loaded.layouts["containers"].entries
        self._containers = mmap.mmap(self._maps["containers"], entries * layout.CONTAINER_BYTES, mmap.MAP_SHARED)
        self._words = memoryview(self._containers).cast("q")
        self._globals = mmap.mmap(self._maps[".bss"], loaded.layouts[".bss"].value_size, mmap.MAP_SHARED)
        self._ring = Ring(self._maps["events"], loaded.layouts["events"].entries)
        self._looks = Looks()
        self._poll = select.epoll()
        for descriptor in (self._maps["events"], self._looks.fileno()):
            self._poll.register(descriptor, select.EPOLLIN)
        self._slots: dict[str, int] = {}
        self._found: dict[str, int] = {}
        """Of an earlier supervisor, until they are adopted or swept."""
        self._free: deque[int] = deque()
        self._hard_told: set[str] = set()
        self._untold = self._counter("untold")
        self._adopted = False
        self._has_rearmed = False
        self._last_used = time.monotonic()
        for slot in range(entries):
            identity = self._identity(slot)
            if any(identity):
                self._found[identity.hex()] = slot
            else:
                self._free.append(slot)

    @property
    def accuracy(self) -> Accuracy:
        return Accuracy(shares_of_a_cpu(), over_bytes=(16 + _faults_untold()) * _PAGE)

    def fileno(self) -> int:
        return self._poll.fileno()

    def descriptors(self) -> dict[str, int]:
        names = self._programs.descriptors()
        if names:
            names |= {name: self._maps[name] for name in _MAPS}
        return {_PREFIX + name: descriptor for name, descriptor in names.items()}

    def arm(self, target: Target, limits: Limits) -> dict[str, int]:
        if not self._free:
            raise call_error(errno.ENOSPC, "arm", f"BPF memory limiter: {len(self._slots)} containers")
        self._last_used = time.monotonic()
        self._programs.attach()
        slot, inode = self._free.popleft(), target.inode
        soft, hard, clear = _pages(limits)
        identity = bytes.fromhex(target.container_id)
        born = procfs.start_ticks(target.pid) & 0xFFFFFFFF if os.sysconf("SC_CLK_TCK") == _TICKS else 0
        state = layout.ContainerState(soft=soft, hard=hard, clear=clear, namespace=inode, born=born, id=identity)
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
        try:
            _load_maps(self._object)
            program = self._object.load_iterator("task", _KERNEL_TYPES.read_bytes())
        except (LookupError, Unusable) as error:
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
        state, pages = self._state(slot), tuple(_pages(limits))
        if pages == (state.soft, state.hard, state.clear):
            return
        for offset, number in zip((layout.SOFT, layout.HARD, layout.CLEAR), pages, strict=True):
            self._words[(slot * layout.CONTAINER_BYTES + offset) // 8] = number
        # What is above them already need not change any more: nobody else would look.
        is_same_soft = pages[0] == state.soft
        self._act(layout.ACT_LOOK if is_same_soft else layout.ACT_UPDATED, container_id)
        self._looks.plan(time.monotonic_ns() + _SOFT_INTERVAL_NS, container_id)

    def stat(self, container_id: str) -> MemoryUsage:
        state = self._state(self._slots[container_id])
        return MemoryUsage(state.total * _PAGE, state.peak * _PAGE, state.processes, state.uncounted)

    def disarm(self, container_id: str) -> Verdict:
        slot = self._slots.pop(container_id)
        self._last_used = time.monotonic()
        self._looks.forget(container_id)
        state, hard = self._state(slot), self._crossing(slot)
        untold = (hard,) if hard is not None and container_id not in self._hard_told else ()
        self._hard_told.discard(container_id)
        self._release(slot, state.namespace)
        return Verdict(state.peak * _PAGE if state.watching else None, hard, untold)

    def read(self) -> list[MemoryEvent]:
        self._look()
        events: list[MemoryEvent] = []
        untold = self._counter("untold")
        for record in self._ring.read():
            event = _event(layout.MonitorEvent.unpack(record))
            if event.kind is Kind.HARD:
                if event.container_id in self._hard_told:
                    continue
                self._hard_told.add(event.container_id)
            elif event.kind is Kind.SOFT_CLEARED:
                self._expect_crossing(event.container_id)
            events.append(event)
        if untold != self._untold or self._adopted:
            self._untold, self._adopted = untold, False
            events += self._untold_crossings()
            self._looks.plan(time.monotonic_ns() + _SOFT_INTERVAL_NS, *self._slots)
        self._detach_when_idle()
        return events

    def _look(self) -> None:
        """What comes of it is in the ring, like all else."""
        for container_id in self._looks.due():
            self._act(layout.ACT_LOOK, container_id)

    def _act(self, what: int, container_id: str) -> None:
        try:
            self._programs.act(what, self._slots[container_id])
        except OSError:  # ENOMEM: the limits are there, and what is above them is told a little later
            self._looks.plan(time.monotonic_ns() + _SOFT_INTERVAL_NS, container_id)

    def _expect_crossing(self, container_id: str) -> None:
        """It is below its soft limit. When it rises over it again before a crossing may be told, nobody tells it."""
        if container_id in self._slots:
            last = self._state(self._slots[container_id]).soft_time
            self._looks.plan(last + _SOFT_INTERVAL_NS, container_id)

    def _detach_when_idle(self) -> None:
        now = time.monotonic()
        is_idle = not self._slots and not self._found and now - self._last_used >= _LINGER_SECONDS
        if not is_idle or not self._programs.are_attached:
            return
        if not self._programs.are_leaving:
            self._programs.leave()
            self._last_used = now
        else:
            self._programs.detach()
            for key in list(bpf.keys(self._maps["mms"], 8)):  # nobody would hear of their ends
                self._programs.act(layout.ACT_FORGET, *struct.unpack("=Q", key))

    def dropped(self) -> int:
        return self._counter("lost_events") + self._counter("lost_processes")

    def close(self) -> None:
        self._words.release()
        self._containers.close()
        self._globals.close()
        self._ring.close()
        self._poll.close()
        self._looks.close()
        self._programs.close()
        self._object.close()

    def counted(self) -> int:
        """How many address spaces are counted at the moment, over all containers."""
        return sum(1 for _ in bpf.keys(self._maps["mms"], 8))

    def _untold_crossings(self) -> Iterator[MemoryEvent]:
        """A hard crossing is in the container's own state as well: none is lost with a full buffer, or because an
        earlier supervisor was killed between reading its event and acting on it.
        """
        for container_id, slot in self._slots.items():
            event = self._crossing(slot)
            if event is not None and container_id not in self._hard_told:
                self._hard_told.add(container_id)
                yield event

    def _crossing(self, slot: int) -> MemoryEvent | None:
        """The flag first: the program sets it after the rest."""
        at = slot * layout.CONTAINER_BYTES + layout.HARD_FIRED
        return _hard_event(self._state(slot)) if any(self._containers[at : at + 4]) else None

    def _release(self, slot: int, inode: int) -> None:
        """Make an element free, its key first; the key of another element for the same namespace stays. Those that
        were freed first are used first: the program may still be running with it on another CPU.
        """
        key = struct.pack("=I", inode)
        with contextlib.suppress(FileNotFoundError):
            if bpf.lookup(self._maps["slots"], key, 4) == struct.pack("=I", slot):
                bpf.delete(self._maps["slots"], key)
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
                    self._programs.act(layout.ACT_FORGET, *struct.unpack("=Q", key))

    def _state(self, slot: int) -> layout.ContainerState:
        begin = slot * layout.CONTAINER_BYTES
        return layout.ContainerState.unpack(self._containers[begin : begin + layout.CONTAINER_BYTES])

    def _identity(self, slot: int) -> bytes:
        begin = slot * layout.CONTAINER_BYTES + layout.ID
        return self._containers[begin : begin + layout.ID_BYTES]

    def _counter(self, name: str) -> int:
        (value,) = struct.unpack_from("=Q", self._globals, self._object.offset_of(name))
        return int(value)


@functools.cache
def _faults_untold() -> int:
    """How many page faults a thread keeps to itself: 64 where the kernel has ``struct mm_rss_stat``, which is up to
    Linux 6.1 (mm/memory.c, TASK_RSS_EVENTS_THRESH), else none. The program decides by the same type.
    """
    return 64 if b"\0mm_rss_stat\0" in _KERNEL_TYPES.read_bytes() else 0


def _pages(limits: Limits) -> Iterator[int]:
    """Soft, hard and clear. Rounded down: a limit holds to the byte."""
    for size in (limits.soft_bytes, limits.hard_bytes, limits.clear_bytes):
        yield layout.NO_LIMIT if size is None else min(size // _PAGE, layout.NO_LIMIT)


def _event(found: layout.MonitorEvent) -> MemoryEvent:
    return MemoryEvent(
        kind=_KINDS[found.kind],
        container_id=found.id.hex(),
        pid=found.pid,
        comm=_text(found.comm),
        rss_bytes=found.pages * _PAGE,
        limit_bytes=found.limit * _PAGE,
        peak_bytes=found.peak * _PAGE,
        monotonic_ns=found.time,
        wall_ns=wall_clock(found.time),
        detail=_DETAILS.get(found.reason, ""),
    )


def _hard_event(state: layout.ContainerState) -> MemoryEvent:
    return MemoryEvent(
        kind=Kind.HARD,
        container_id=state.id.hex(),
        pid=state.hard_pid,
        comm=_text(state.hard_comm),
        rss_bytes=state.hard_pages * _PAGE,
        limit_bytes=state.hard_limit * _PAGE,
        peak_bytes=state.peak * _PAGE,
        monotonic_ns=state.hard_time,
        wall_ns=wall_clock(state.hard_time),
        detail=_DETAILS.get(state.hard_reason, ""),
    )


def _text(comm: bytes) -> str:
    return comm.split(b"\0", 1)[0].decode(errors="replace")
