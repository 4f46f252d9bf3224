"""The programs of ``bpf/monitor.bpf.c``: loaded once, attached only while there is something to watch."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping

from wherry.kernel import bpf
from wherry.memory.bpf_object import BpfObject

_ACT = "act"
NEEDED = ("rss_stat", "sched_process_exec")
OPTIONAL = ("exit_mmap", "mark_victim")
"""Tracepoints that some kernels do not have; nothing is miscounted without them."""


class Programs:
    """``programs`` and ``links`` are descriptors by name, from here on this object's. A program runs for as long as
    somebody holds its link, here or in the shim.
    """

    def __init__(self, programs: dict[str, int], links: dict[str, int]) -> None:
        self._programs = programs
        self._links = links
        self._is_leaving = False

    @classmethod
    def load(cls, loaded: BpfObject) -> Programs:
        """Raises OSError, LookupError."""
        programs: dict[str, int] = {}
        with contextlib.ExitStack() as undo:
            for name in (*NEEDED, *OPTIONAL, _ACT):
                programs[name] = loaded.load_program(name)
                undo.callback(os.close, programs[name])
            undo.pop_all()
        return cls(programs, {})

    @staticmethod
    def are_in(kept: Mapping[str, int]) -> bool:
        """Whether ``kept`` is what ``descriptors`` of an earlier supervisor gave while they were attached."""
        return {*NEEDED, _ACT} <= set(kept)

    @classmethod
    def take_over(cls, kept: Mapping[str, int]) -> Programs:
        """Raises OSError."""
        programs: dict[str, int] = {}
        links: dict[str, int] = {}
        with contextlib.ExitStack() as undo:
            programs[_ACT] = os.dup(kept[_ACT])
            undo.callback(os.close, programs[_ACT])
            for name in kept.keys() & {*NEEDED, *OPTIONAL}:
                links[name] = os.dup(kept[name])
                undo.callback(os.close, links[name])
                programs[name] = bpf.program_of(links[name])
                undo.callback(os.close, programs[name])
            undo.pop_all()
        return cls(programs, links)

    @property
    def are_attached(self) -> bool:
        return bool(self._links)

    def attach(self) -> None:
        """All or, when this raises OSError, none. Does nothing when they are."""
        self._is_leaving = False
        if self._links:
            return
        links: dict[str, int] = {}
        with contextlib.ExitStack() as undo:
            for name in [name for name in (*NEEDED, *OPTIONAL) if name in self._programs]:
                link = self._attach(name)
                if link >= 0:
                    links[name] = link
                    undo.callback(os.close, link)
            undo.pop_all()
        self._links = links

    def _attach(self, name: str) -> int:
        """The link; -1 when this kernel does not have the tracepoint and we can do without."""
        try:
            return bpf.attach_raw_tracepoint(self._programs[name], name)
        except OSError as error:
            if error.errno != errno.ENOENT or name not in OPTIONAL:
                raise
            return -1

    @property
    def are_leaving(self) -> bool:
        return self._is_leaving

    def leave(self) -> None:
        """The shim is to let go of its duplicates, and ``detach`` follows when it has had time to. Until it has, they
        cannot be attached a second time (EEXIST on Linux 6.1), and with our own links they need not be.
        """
        self._is_leaving = True

    def detach(self) -> None:
        links, self._links, self._is_leaving = self._links, {}, False
        for link in links.values():
            os.close(link)

    def act(self, what: int, on: int) -> None:
        """Run the program ``act``: ``what`` is one of the layout's ``ACT_``, ``on`` an element or a key."""
        bpf.run_raw_tracepoint(self._programs[_ACT], what, on)

    def descriptors(self) -> dict[str, int]:
        """What the next supervisor needs to go on; {} while nothing is attached, or soon will be."""
        return {**self._links, _ACT: self._programs[_ACT]} if self._links and not self._is_leaving else {}

    def close(self) -> None:
        self.detach()
        for program in self._programs.values():
            os.close(program)
        self._programs = {}
