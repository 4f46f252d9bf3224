"""Seccomp filters: seccomp(2), Documentation/userspace-api/seccomp_filter.rst.

A filter is a program of classic BPF over ``struct seccomp_data`` {int nr; u32 arch; u64 ip; u64 args[6]}. ``assemble``
makes one: a comparison of the architecture, then a binary tree over ranges of system call numbers, and at its leaves
an action, or comparisons of arguments. It writes the program from its end to its beginning, so that every jump, which
classic BPF has forwards only, goes to what is there already.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from wherry.kernel import libc

# include/uapi/linux/seccomp.h: SECCOMP_RET_*; the lower 16 bits are data (an errno, a message for a tracer).
KILL_THREAD = 0x00000000
KILL_PROCESS = 0x80000000
TRAP = 0x00030000
ERRNO = 0x00050000
TRACE = 0x7FF00000
LOG = 0x7FFC0000
ALLOW = 0x7FFF0000

FLAGS = {"SECCOMP_FILTER_FLAG_TSYNC": 1, "SECCOMP_FILTER_FLAG_LOG": 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4}

# include/uapi/linux/audit.h: the ELF machine, 64-bit and little-endian bits
AUDIT_ARCH = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000
"""Set in the numbers of x32's system calls, which come with the architecture of x86_64."""

_SET_MODE_FILTER = 1
_MAXIMUM_INSTRUCTIONS = 4096  # BPF_MAXINSNS, include/uapi/linux/bpf_common.h
_FARTHEST = 255  # the two offsets of a conditional jump are bytes
_END = 1 << 32

# include/uapi/linux/bpf_common.h
_LOAD, _AND, _JUMP, _RETURN = 0x20, 0x54, 0x05, 0x06  # BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_JMP|JA, BPF_RET|K
_IF_EQUAL, _IF_GREATER, _IF_NOT_LESS = 0x15, 0x25, 0x35  # BPF_JMP | BPF_JEQ, BPF_JGT, BPF_JGE, with BPF_K
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16

OPERATORS = frozenset({"EQ", "NE", "LT", "LE", "GE", "GT"})


class Condition(NamedTuple):
    """The bits of ``mask`` of one argument (0 to 5), as an unsigned number, against ``value``."""

    argument: int
    operator: str
    value: int
    mask: int = (1 << 64) - 1


class Rule(NamedTuple):
    """``action`` when all conditions hold."""

    action: int
    conditions: tuple[Condition, ...] = ()


class Range(NamedTuple):
    """System calls from number ``first`` up to the next range: the first rule that holds, else ``otherwise``."""

    first: int
    rules: tuple[Rule, ...]
    otherwise: int


def assemble(sections: Mapping[int, Sequence[Range]], foreign: int) -> bytes:
    """The program, an array of ``struct sock_filter``.

    ``sections`` has for each AUDIT_ARCH value ranges in the order of their numbers, the first from 0; ``foreign`` is
    the action for every other architecture. Raises ValueError when the program is longer than the kernel takes.
    """
    program = _Program()
    target = program.action(foreign)
    for architecture, ranges in reversed(list(sections.items())):
        program.go_on_at(program.tree(ranges))
        target = program.branch(_IF_EQUAL, architecture, program.load(_NUMBER_AT), target)
    program.load(_ARCHITECTURE_AT)
    return program.encoded()


class _Program:
    """Instructions, the last one first; a label is an index into them."""

    def __init__(self) -> None:
        self._reversed: list[tuple[int, int, int, int]] = []
        self._actions: dict[int, int] = {}

    def encoded(self) -> bytes:
        if len(self._reversed) > _MAXIMUM_INSTRUCTIONS:
            raise ValueError(
                f"a filter of {len(self._reversed)} instructions, the kernel takes {_MAXIMUM_INSTRUCTIONS}"
            )
        return b"".join(struct.pack("=HBBI", *instruction) for instruction in reversed(self._reversed))

    def _emit(self, code: int, operand: int, yes: int = 0, no: int = 0) -> int:
        self._reversed.append((code, yes, no, operand))
        return len(self._reversed) - 1

    def load(self, offset: int) -> int:
        return self._emit(_LOAD, offset)

    def action(self, action: int) -> int:
        """One that is there already serves for as long as it is near."""
        label = self._actions.get(action)
        if label is None or len(self._reversed) - label > _FARTHEST // 2:
            label = self._actions[action] = self._emit(_RETURN, action)
        return label

    def go_on_at(self, label: int) -> None:
        """What is emitted next is to be followed by what is at ``label``."""
        if label != len(self._reversed) - 1:
            self._emit(_JUMP, len(self._reversed) - label - 1)

    def branch(self, code: int, operand: int, yes: int, no: int) -> int:
        """A conditional jump to two labels."""
        while True:
            here = len(self._reversed)
            if here - yes - 1 > _FARTHEST:
                yes = self._nearer(yes)
            elif here - no - 1 > _FARTHEST:
                no = self._nearer(no)
            else:
                return self._emit(code, operand, here - yes - 1, here - no - 1)

    def _nearer(self, target: int) -> int:
        code, _, _, operand = self._reversed[target]
        if code == _RETURN:
            self._actions.pop(operand, None)
            return self.action(operand)
        return self._emit(_JUMP, len(self._reversed) - target - 1)

    def tree(self, ranges: Sequence[Range]) -> int:
        if len(ranges) == 1:
            return self._decision(ranges[0])
        middle = len(ranges) // 2
        upper = self.tree(ranges[middle:])
        lower = self.tree(ranges[:middle])
        return self.branch(_IF_NOT_LESS, ranges[middle].first, upper, lower)

    def _decision(self, of: Range) -> int:
        conditional = list(itertools.takewhile(lambda rule: rule.conditions, of.rules))
        sure = of.rules[len(conditional) :]
        target = self.action(sure[0].action if sure else of.otherwise)
        for rule in reversed(conditional):
            failed, target = target, self.action(rule.action)
            for condition in reversed(rule.conditions):
                target = self._compare(condition, target, failed)
        return target

    def _compare(self, condition: Condition, yes: int, no: int) -> int:
        """The upper half of the argument, and where that does not decide, the lower half."""
        if condition.operator in ("NE", "LT", "LE"):
            yes, no = no, yes
        code = {"GE": _IF_NOT_LESS, "LT": _IF_NOT_LESS, "GT": _IF_GREATER, "LE": _IF_GREATER}
        lower = self._half(condition, 0, code.get(condition.operator, _IF_EQUAL), yes, no)
        if not condition.mask >> 32:
            return lower
        if condition.operator not in code:
            return self._half(condition, 32, _IF_EQUAL, lower, no)
        equal = self.branch(_IF_EQUAL, condition.value >> 32, lower, no)
        return self._half(condition, 32, _IF_GREATER, yes, equal)

    def _half(self, condition: Condition, shift: int, code: int, yes: int, no: int) -> int:
        mask, value = (number >> shift & 0xFFFFFFFF for number in (condition.mask, condition.value))
        self.branch(code, value, yes, no)
        if mask != 0xFFFFFFFF:
            self._emit(_AND, mask)
        return self.load(_ARGUMENTS_AT + 8 * condition.argument + shift // 8)


def ranges(rules: Mapping[int, tuple[Rule, ...]], defaults: Sequence[tuple[int, int]]) -> list[Range]:
    """What ``assemble`` takes, from the rules of each number, and ``defaults``: (first number, action) pairs in order,
    the first from 0, for where no rule says anything.
    """
    edges = {first for first, _ in defaults} | set(rules) | {number + 1 for number in rules}
    result: list[Range] = []
    for first in sorted(edge for edge in edges if edge < _END):
        otherwise = next(action for start, action in reversed(defaults) if start <= first)
        following = Range(first, rules.get(first, ()), otherwise)
        if not result or result[-1][1:] != following[1:]:
            result.append(following)
    return result


def install(program: bytes, flags: int) -> None:
    """Put the calling thread, and all that it will fork and execute, under a filter; it cannot be taken off.

    Needs no_new_privs or CAP_SYS_ADMIN (EACCES else). Raises OSError.
    """
    instructions = libc.CBuffer(program)
    libc.seccomp(_SET_MODE_FILTER, flags, struct.pack("@HP", len(program) // 8, instructions.address))
