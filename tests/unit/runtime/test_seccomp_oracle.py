"""Our filters against libseccomp's of the same profile, for every system call number and boundary argument.

Both programs are run by an interpreter of classic BPF. Left out are numbers that one of the two has no name for
(libseccomp 2.5.4 is older than our tables), and i386's socketcall and ipc, whose meaning libseccomp takes apart.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Iterator

import pyseccomp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry.kernel import seccomp as kernel
from wherry.runtime import presets, seccomp
from wherry.runtime.spec import Seccomp, SeccompArgument, SeccompRule

_TABLE: dict[str, list[int | None]] = seccomp._numbers()
_ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", pyseccomp.Arch.X86_64, kernel.AUDIT_ARCH["x86_64"]),
    "x32": ("SCMP_ARCH_X32", pyseccomp.Arch.X32, kernel.AUDIT_ARCH["x86_64"]),
    "i386": ("SCMP_ARCH_X86", pyseccomp.Arch.X86, kernel.AUDIT_ARCH["i386"]),
    "aarch64": ("SCMP_ARCH_AARCH64", pyseccomp.Arch.AARCH64, kernel.AUDIT_ARCH["aarch64"]),
}
_MULTIPLEXED = {("i386", 102), ("i386", 117)}
_EVERYTHING = ("x86_64", "x32", "i386", "aarch64")

Call = tuple[int, int, tuple[int, ...]]
"""Number, architecture, arguments."""


def run(program: bytes, call: Call) -> int:
    """What a filter says to a system call: the value of its return instruction."""
    number, architecture, arguments = call
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("<HBBI", program))
    at = accumulator = 0
    while True:
        code, yes, no, operand = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x05:
            at += operand
        elif code == 0x06:
            return int(operand)
        else:
            at += (
                yes
                if {0x15: accumulator == operand, 0x25: accumulator > operand, 0x35: accumulator >= operand}[code]
                else no
            )


def by_libseccomp(description: Seccomp, architectures: tuple[str, ...]) -> bytes:
    """Raises nothing for names that libseccomp does not know: they are passed over, as in runc."""
    oracle = pyseccomp.SyscallFilter(_action(description.default_action, description.default_errno_ret))
    for name in architectures:
        if name != os.uname().machine:
            oracle.add_arch(_ARCHITECTURES[name][1])
    if os.uname().machine not in architectures:
        oracle.remove_arch(pyseccomp.system_arch())
    for rule in description.syscalls:
        if rule.action == description.default_action and rule.errno_ret == description.default_errno_ret:
            continue  # runc
        for name in rule.names:
            arguments = [_argument(each) for each in rule.args]
            if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) != -1:
                oracle.add_rule(_action(rule.action, rule.errno_ret), name, *arguments)
    with tempfile.TemporaryFile() as file:
        oracle.export_bpf(file)
        file.seek(0)
        return file.read()


def _action(name: str, number: int | None) -> int:
    return seccomp._action(name, number, "")


def _argument(argument: SeccompArgument) -> object:
    operator = getattr(pyseccomp, argument.op.removeprefix("SCMP_CMP_"))
    if operator == pyseccomp.MASKED_EQ:
        return pyseccomp.Arg(argument.index, operator, argument.value, argument.value_two)
    return pyseccomp.Arg(argument.index, operator, argument.value)


def _calls(description: Seccomp, architecture: str, upto: int) -> Iterator[Call]:
    bit = kernel.X32_BIT if architecture == "x32" else 0
    values = sorted({edge for rule in description.syscalls for each in rule.args for edge in _edges(each)})
    named = {_number(name, architecture): rule.args for rule in description.syscalls for name in rule.names}
    audit = _ARCHITECTURES[architecture][2]
    for number in range(bit, bit + upto):
        yield number, audit, (0,) * 6
        for argument in named.get(number, ()):
            for value in values:
                for others in (0, 1, (1 << 64) - 1):
                    arguments = [others] * 6
                    arguments[argument.index] = value
                    yield number, audit, tuple(arguments)


def _edges(argument: SeccompArgument) -> set[int]:
    around = {argument.value, argument.value_two, argument.value ^ 1 << 32, argument.value ^ 1 << 63}
    return {value for each in around for value in (each - 1, each, each + 1) if 0 <= value < 1 << 64}


def _number(name: str, architecture: str) -> int | None:
    return _TABLE.get(name, [None] * 4)[_EVERYTHING.index(architecture)]


def _known_to_both(number: int, architecture: str) -> bool:
    if (architecture, number) in _MULTIPLEXED:
        return False
    column = _EVERYTHING.index(architecture)
    name = next((name for name, numbers in _TABLE.items() if numbers[column] == number), "")
    theirs = pyseccomp.resolve_syscall(_ARCHITECTURES[architecture][1], name) if name else number
    return bool(theirs & 0x3FFFFFFF == number & 0x3FFFFFFF)


def differences(description: Seccomp, architectures: tuple[str, ...], upto: int) -> list[tuple[str, Call, str, str]]:
    """Calls that the two filters answer differently; not those behind the youngest that the profile names (ENOSYS)."""
    ours, _ = seccomp.compile_filter(description)
    theirs = by_libseccomp(description, architectures)
    found = []
    for architecture in architectures:
        for call in _calls(description, architecture, upto):
            mine, their = run(ours, call), run(theirs, call)
            younger = mine == kernel.ERRNO | 38 and their == _action(
                description.default_action, description.default_errno_ret
            )
            if mine != their and not younger and _known_to_both(call[0], architecture):
                found.append((architecture, call, hex(mine), hex(their)))
    return found


@pytest.mark.parametrize("capabilities", [(), presets.CAPABILITIES.bounding, ("CAP_SYS_ADMIN", "CAP_SYS_PTRACE")])
def test_the_default_profile_is_what_libseccomp_makes_of_it(capabilities: tuple[str, ...]) -> None:
    description = seccomp.resolve(seccomp.parse(""), frozenset(capabilities))
    assert differences(description, ("x86_64", "x32", "i386"), 520) == []


_names = st.sampled_from(sorted(name for name, numbers in _TABLE.items() if None not in numbers))
_actions = st.sampled_from(
    ["SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP", "SCMP_ACT_ERRNO", "SCMP_ACT_LOG", "SCMP_ACT_ALLOW"]
)
_operators = st.sampled_from([f"SCMP_CMP_{name}" for name in sorted({*kernel.OPERATORS, "MASKED_EQ"})])
_values = st.one_of(
    st.integers(0, 40), st.integers(0, (1 << 64) - 1), st.sampled_from([1 << 32, (1 << 32) - 1, (1 << 64) - 1])
)


@st.composite
def _rules(draw: st.DrawFn) -> list[SeccompRule]:
    names = draw(st.lists(_names, min_size=1, max_size=60, unique=True))
    rules = []
    while names:
        count = draw(st.integers(1, len(names)))
        taken, names = names[:count], names[count:]
        indices = draw(st.lists(st.integers(0, 5), max_size=3, unique=True))
        arguments = tuple(
            SeccompArgument(index=index, op=draw(_operators), value=draw(_values), value_two=draw(_values))
            for index in indices
        )
        rules.append(SeccompRule(names=tuple(taken), action=draw(_actions), args=arguments))
    return rules


@settings(max_examples=15, deadline=None)
@given(rules=_rules(), default=_actions)
def test_any_profile_is_what_libseccomp_makes_of_it(rules: list[SeccompRule], default: str) -> None:
    kept = tuple(rule for rule in rules if rule.action != default)
    for architectures in (("x86_64",), ("x86_64", "i386"), _EVERYTHING):
        names = tuple(_ARCHITECTURES[name][0] for name in architectures)
        description = Seccomp(default_action=default, architectures=names, syscalls=kept)
        assert differences(description, architectures, 60) == []


def test_the_interpreter_is_not_blind() -> None:
    allowed = Seccomp(default_action="SCMP_ACT_ALLOW")
    refused = Seccomp(
        default_action="SCMP_ACT_ALLOW", syscalls=(SeccompRule(names=("read",), action="SCMP_ACT_ERRNO"),)
    )
    call = (0, kernel.AUDIT_ARCH["x86_64"], ())
    assert run(seccomp.compile_filter(allowed)[0], call) == kernel.ALLOW
    assert run(seccomp.compile_filter(refused)[0], call) == kernel.ERRNO | 1
    assert json.loads(json.dumps(run(by_libseccomp(refused, ("x86_64",)), call))) == kernel.ERRNO | 1
