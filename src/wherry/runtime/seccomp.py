"""Seccomp profiles: from docker's format to the OCI specification's, and from that to a filter for the kernel.

Docker's profiles are the specification's ``linux.seccomp`` and conditions besides: a rule may hold for some
architectures, capabilities or kernels only, and ``archMap`` names architectures that come with the native one. The
default, ``seccomp_default.json``, has the rules of moby/profiles, seccomp/default.json (Apache-2.0), at 02e898b137ae.

Names that no table knows are passed over, as in runc: a profile may be younger than the tables. When system calls are
refused with an errno, those younger than any that the profile names get ENOSYS instead of it, as in runc, so that a C
library falls back to the older call.
"""

from __future__ import annotations

import errno
import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from wherry.errors import InvalidRequest, NotSupported
from wherry.kernel import seccomp
from wherry.kernel.seccomp import Condition, Rule
from wherry.runtime.spec import Seccomp, SeccompArgument, SeccompRule

_ACTIONS = {
    "SCMP_ACT_KILL": seccomp.KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": seccomp.KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": seccomp.KILL_PROCESS,
    "SCMP_ACT_TRAP": seccomp.TRAP,
    "SCMP_ACT_ERRNO": seccomp.ERRNO,
    "SCMP_ACT_TRACE": seccomp.TRACE,
    "SCMP_ACT_LOG": seccomp.LOG,
    "SCMP_ACT_ALLOW": seccomp.ALLOW,
}
_WITH_DATA = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_TABLES = ("x86_64", "x32", "i386", "aarch64")
"""The columns of kernel/syscalls.json."""
_ARCHITECTURES = {
    "SCMP_ARCH_X86_64": "x86_64",
    "SCMP_ARCH_X86": "i386",
    "SCMP_ARCH_X32": "x32",
    "SCMP_ARCH_AARCH64": "aarch64",
}
_GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_NARROW = ("x32", "i386")
"""Their arguments are of 32 bits: what stands above is nobody's, and not compared (libseccomp neither)."""
_OPERATORS = {f"SCMP_CMP_{name}" for name in (*seccomp.OPERATORS, "MASKED_EQ")}
_NUMBERS_64 = 1 << 64


class _Strict(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    pass


class _Filter(_Strict, frozen=True, kw_only=True):
    arches: tuple[str, ...] | None = None
    caps: tuple[str, ...] | None = None
    min_kernel: str = ""


class _Rule(_Strict, frozen=True, kw_only=True):
    action: str
    names: tuple[str, ...] | None = None
    name: str = ""
    errno_ret: int | None = None
    errno: str = ""
    args: tuple[SeccompArgument, ...] | None = None
    includes: _Filter = _Filter()
    excludes: _Filter = _Filter()
    comment: str = ""


class _Architecture(_Strict, frozen=True, kw_only=True):
    architecture: str
    sub_architectures: tuple[str, ...] | None = None


class Profile(_Strict, frozen=True, kw_only=True):
    """A profile of docker's (moby/profiles, seccomp/seccomp_linux.go) or the specification's ``linux.seccomp``."""

    default_action: str
    default_errno_ret: int | None = None
    default_errno: str = ""
    arch_map: tuple[_Architecture, ...] | None = None
    architectures: tuple[str, ...] | None = None
    flags: tuple[str, ...] | None = None
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[_Rule, ...] | None = None


@functools.lru_cache(maxsize=32)
def parse(text: str) -> Profile:
    """A profile in JSON; "" is the default. Raises InvalidRequest saying what is wrong and where, NotSupported."""
    if not text:
        text = Path(__file__).with_name("seccomp_default.json").read_text(encoding="utf-8")
    try:
        profile = msgspec.json.decode(text, type=Profile)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidRequest(f"invalid seccomp profile: {error}") from None
    if profile.architectures and profile.arch_map:
        raise InvalidRequest("invalid seccomp profile: it has both architectures and archMap")
    compile_filter(resolve(profile, frozenset()))
    return profile


@functools.lru_cache(maxsize=32)
def resolve(profile: Profile, capabilities: frozenset[str]) -> Seccomp:
    """What the profile says on this machine about a container with these capabilities (of its bounding set)."""
    native = os.uname().machine
    architectures = list(profile.architectures or ())
    for entry in profile.arch_map or ():
        if _ARCHITECTURES.get(entry.architecture) == native:
            architectures += [entry.architecture, *(entry.sub_architectures or ())]
    return Seccomp(
        default_action=profile.default_action,
        default_errno_ret=_number(profile.default_errno_ret, profile.default_errno, "defaultErrno"),
        architectures=tuple(architectures),
        flags=profile.flags or (),
        listener_path=profile.listener_path,
        listener_metadata=profile.listener_metadata,
        syscalls=tuple(
            SeccompRule(
                names=_names(rule),
                action=rule.action,
                errno_ret=_number(rule.errno_ret, rule.errno, "errno"),
                args=rule.args or (),
            )
            for rule in profile.syscalls or ()
            if _applies(rule, _GO_ARCHITECTURES.get(native, native), capabilities)
        ),
    )


def _names(rule: _Rule) -> tuple[str, ...]:
    """``name`` is the form of docker before 1.11."""
    if bool(rule.names) == bool(rule.name):
        raise InvalidRequest("invalid seccomp profile: a rule needs either names or name")
    return rule.names or (rule.name,)


def _number(number: int | None, name: str, field: str) -> int | None:
    """An errno by its name (ENOSYS), as podman's profiles have it beside ``number``; the two must agree."""
    if not name:
        return number
    named = next((code for code, text in errno.errorcode.items() if text == name), None)
    if named is None or number not in (None, named):
        raise InvalidRequest(f"invalid seccomp profile: {field} {name!r} is unknown, or not the number beside it")
    return named


def _applies(rule: _Rule, architecture: str, capabilities: frozenset[str]) -> bool:
    wanted, unwanted = rule.includes, rule.excludes
    if (wanted.arches and architecture not in wanted.arches) or architecture in (unwanted.arches or ()):
        return False
    if not capabilities.issuperset(wanted.caps or ()) or not capabilities.isdisjoint(unwanted.caps or ()):
        return False
    if wanted.min_kernel and _kernel() < _version(wanted.min_kernel):
        return False
    return not (unwanted.min_kernel and _kernel() >= _version(unwanted.min_kernel))


def _kernel() -> tuple[int, ...]:
    return _version(".".join(os.uname().release.split("-")[0].split(".")[:2]))


def _version(text: str) -> tuple[int, ...]:
    words = text.split(".")
    if len(words) != 2 or not all(word.isascii() and word.isdecimal() and len(word) < 6 for word in words):
        raise InvalidRequest(f"invalid seccomp profile: minKernel {text!r} is not MAJOR.MINOR")
    return tuple(int(word) for word in words)


@functools.lru_cache(maxsize=32)
def compile_filter(description: Seccomp) -> tuple[bytes, int]:
    """The filter's program and its flags. Raises InvalidRequest, NotSupported."""
    if description.listener_path or description.listener_metadata:
        raise NotSupported("seccomp profile: listenerPath is not supported yet")
    unknown = [flag for flag in description.flags if flag not in seccomp.FLAGS]
    if unknown:
        raise NotSupported(f"seccomp profile: flag {unknown[0]!r} is not supported")
    default = _action(description.default_action, description.default_errno_ret, "defaultAction")
    native = os.uname().machine
    names = {native, *(_ARCHITECTURES.get(name, "") for name in description.architectures)}
    if native not in seccomp.AUDIT_ARCH:
        raise NotSupported(f"seccomp filters for {native} are not supported: there is no table of its system calls")
    sections = {
        seccomp.AUDIT_ARCH[name]: _section(description, name, default, with_x32="x32" in names)
        for name in seccomp.AUDIT_ARCH
        if name in names
    }
    try:
        program = seccomp.assemble(sections, seccomp.KILL_THREAD)
    except ValueError as error:
        raise InvalidRequest(f"seccomp profile: {error}") from None
    return program, sum(seccomp.FLAGS[flag] for flag in set(description.flags))


def _section(description: Seccomp, name: str, default: int, *, with_x32: bool) -> list[seccomp.Range]:
    rules = _rules_by_number(description, name)
    defaults = _defaults(rules, 0, default)
    if name == "x86_64":
        x32 = _rules_by_number(description, "x32") if with_x32 else {}
        rules |= x32
        defaults += _defaults(x32, seccomp.X32_BIT, default if with_x32 else seccomp.KILL_THREAD)
    return seccomp.ranges(rules, defaults)


def _defaults(rules: dict[int, tuple[Rule, ...]], first: int, default: int) -> list[tuple[int, int]]:
    """The default action from number ``first`` on, and ENOSYS behind the youngest call that is named."""
    younger = [(max(rules) + 1, seccomp.ERRNO | errno.ENOSYS)] if rules and _is_errno(default) else []
    return [(first, default), *younger]


def _is_errno(action: int) -> bool:
    return action & 0xFFFF0000 == seccomp.ERRNO


def _rules_by_number(description: Seccomp, architecture: str) -> dict[int, tuple[Rule, ...]]:
    numbers, column = _numbers(), _TABLES.index(architecture)
    found: dict[int, tuple[Rule, ...]] = {}
    bits = 32 if architecture in _NARROW else 64
    for rule in description.syscalls:
        compiled = tuple(_compiled(rule, bits))
        for name in rule.names:
            number = numbers.get(name, _NOWHERE)[column]
            if number is not None:
                found[number] = (*found.get(number, ()), *compiled)
    return found


def _compiled(rule: SeccompRule, bits: int) -> Iterator[Rule]:
    """One rule; where two conditions look at the same argument, one for each: they are alternatives then (runc)."""
    action = _action(rule.action, rule.errno_ret, f"the action for {', '.join(rule.names[:3])}")
    conditions = tuple(_condition(argument, bits) for argument in rule.args)
    if len({condition.argument for condition in conditions}) < len(conditions):
        yield from (Rule(action, (condition,)) for condition in conditions)
    else:
        yield Rule(action, conditions)


def _condition(argument: SeccompArgument, bits: int) -> Condition:
    if argument.op not in _OPERATORS:
        raise InvalidRequest(f"invalid seccomp profile: unknown operator {argument.op!r}")
    if not 0 <= argument.index <= 5:
        raise InvalidRequest(f"invalid seccomp profile: a system call has no argument {argument.index}")
    for value in (argument.value, argument.value_two):
        if not 0 <= value < _NUMBERS_64:
            raise InvalidRequest(f"invalid seccomp profile: {value} is not a number of 64 bits")
    all_bits = (1 << bits) - 1
    operator = argument.op.removeprefix("SCMP_CMP_")
    if operator == "MASKED_EQ":
        mask = argument.value & all_bits
        return Condition(argument.index, "EQ", argument.value_two & mask, mask)
    return Condition(argument.index, operator, argument.value & all_bits, all_bits)


def _action(name: str, number: int | None, where: str) -> int:
    if name == "SCMP_ACT_NOTIFY":
        raise NotSupported("seccomp profile: SCMP_ACT_NOTIFY is not supported yet")
    if name not in _ACTIONS:
        raise InvalidRequest(f"invalid seccomp profile: {where}: unknown action {name!r}")
    if name not in _WITH_DATA:
        return _ACTIONS[name]
    number = errno.EPERM if number is None else number
    if not 0 <= number <= 4095:  # MAX_ERRNO, include/linux/err.h
        raise InvalidRequest(f"invalid seccomp profile: {where}: {number} is not an errno")
    return _ACTIONS[name] | number


_NOWHERE: list[int | None] = [None] * len(_TABLES)


@functools.cache
def _numbers() -> dict[str, list[int | None]]:
    """System call name to its numbers, in the order of ``_TABLES``."""
    text = Path(seccomp.__file__).with_name("syscalls.json").read_bytes()
    numbers: dict[str, Any] = json.loads(text)
    return numbers
