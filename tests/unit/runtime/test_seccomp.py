"""Seccomp profiles: what of them holds on which machine and for which capabilities, and what is refused."""

from __future__ import annotations

import base64
import errno
import json
import os
import struct
from typing import Any

import pytest

from wherry.api.docker import security_options
from wherry.errors import InvalidRequest, NotSupported
from wherry.kernel import seccomp as kernel
from wherry.runtime import plan, presets, seccomp, steps
from wherry.runtime.spec import Linux, Process, Root, Seccomp, SeccompRule, Spec

ALLOW = {"defaultAction": "SCMP_ACT_ALLOW"}
_NATIVE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
_KERNEL = ".".join(os.uname().release.split("-")[0].split(".")[:2])


def profile(**fields: Any) -> str:
    return json.dumps(ALLOW | fields)


def rule(name: str = "read", **fields: Any) -> dict[str, Any]:
    return {"names": [name], "action": "SCMP_ACT_ERRNO", **fields}


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({}, True),
        ({"includes": {"caps": ["CAP_CHOWN"]}}, True),
        ({"includes": {"caps": ["CAP_CHOWN", "CAP_BPF"]}}, False),
        ({"excludes": {"caps": ["CAP_BPF"]}}, True),
        ({"excludes": {"caps": ["CAP_CHOWN", "CAP_BPF"]}}, False),
        ({"includes": {"arches": [_NATIVE, "mips"]}}, True),
        ({"includes": {"arches": ["mips"]}}, False),
        ({"excludes": {"arches": [_NATIVE]}}, False),
        ({"includes": {"minKernel": "4.8"}}, True),
        ({"includes": {"minKernel": _KERNEL}}, True),
        ({"includes": {"minKernel": "99.0"}}, False),
        ({"excludes": {"minKernel": "4.8"}}, False),
        ({"includes": {}, "excludes": {"caps": None}}, True),
    ],
)
def test_conditions(condition: dict[str, Any], holds: bool) -> None:
    resolved = seccomp.resolve(seccomp.parse(profile(syscalls=[rule(**condition)])), frozenset({"CAP_CHOWN"}))
    assert len(resolved.syscalls) == holds


def test_an_errno_by_its_name() -> None:
    """As in podman's profiles."""
    text = profile(
        defaultAction="SCMP_ACT_ERRNO", defaultErrno="ENOSYS", syscalls=[rule(errno="EACCES", errnoRet=errno.EACCES)]
    )
    resolved = seccomp.resolve(seccomp.parse(text), frozenset())
    assert (resolved.default_errno_ret, resolved.syscalls[0].errno_ret) == (errno.ENOSYS, errno.EACCES)


def test_architectures_that_come_with_the_native_one() -> None:
    native = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}[os.uname().machine]
    text = profile(
        archMap=[
            {"architecture": native, "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_S390X", "subArchitectures": ["SCMP_ARCH_S390"]},
        ]
    )
    assert seccomp.resolve(seccomp.parse(text), frozenset()).architectures == (native, "SCMP_ARCH_X86")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[]", "Expected `object`"),
        ("{}", "defaultAction"),
        ("nonsense", "malformed"),
        ("\ud800", "invalid seccomp profile"),
        (profile(syscall=[]), "syscall"),
        (profile(syscalls=[rule(argz=[])]), "argz"),
        (profile(defaultAction="SCMP_ACT_PARDON"), "defaultAction: unknown action 'SCMP_ACT_PARDON'"),
        (profile(syscalls=[rule(action="ERRNO")]), "the action for read: unknown action 'ERRNO'"),
        (profile(syscalls=[rule(errnoRet=4096)]), "4096 is not an errno"),
        (profile(syscalls=[rule(args=[{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}])]), "no argument 6"),
        (profile(syscalls=[rule(args=[{"index": 0, "value": 1, "op": "EQ"}])]), "unknown operator 'EQ'"),
        (profile(syscalls=[rule(args=[{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}])]), "-1 is not a number"),
        (profile(syscalls=[rule(includes={"minKernel": "new"})]), "minKernel 'new'"),
        (profile(syscalls=[{"action": "SCMP_ACT_ERRNO"}]), "either names or name"),
        (profile(syscalls=[rule() | {"name": "read"}]), "either names or name"),
        (profile(syscalls=[rule(errno="ENOTHING")]), "errno 'ENOTHING'"),
        (profile(defaultErrno="ENOSYS", defaultErrnoRet=1), "defaultErrno 'ENOSYS'"),
        (profile(architectures=["SCMP_ARCH_X86"], archMap=[{"architecture": "SCMP_ARCH_X86"}]), "both"),
    ],
)
def test_bad_profiles_are_refused_by_what_is_wrong(text: str, wanted: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid seccomp profile") as raised:
        seccomp.parse(text)
    assert wanted in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        profile(defaultAction="SCMP_ACT_NOTIFY"),
        profile(flags=["SECCOMP_FILTER_FLAG_NEW"]),
        profile(listenerPath="/run/x"),
    ],
)
def test_what_is_not_carried_out_is_refused(text: str) -> None:
    with pytest.raises(NotSupported):
        seccomp.parse(text)


def test_a_profile_too_large_for_the_kernel_is_refused() -> None:
    arguments = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in range(2000)]
    with pytest.raises(InvalidRequest, match="4096"):
        seccomp.parse(profile(syscalls=[rule(args=arguments)]))


def test_calls_younger_than_the_profile_do_not_exist() -> None:
    """As in runc: a C library falls back to an older call after ENOSYS, and fails after EPERM."""
    description = Seccomp(
        default_action="SCMP_ACT_ERRNO", syscalls=(SeccompRule(names=("read", "openat2"), action="SCMP_ACT_ALLOW"),)
    )
    program, _ = seccomp.compile_filter(description)
    actions = {operand for code, _, _, operand in _instructions(program) if code == 0x06}
    assert actions == {kernel.ALLOW, kernel.ERRNO | 1, kernel.ERRNO | 38, kernel.KILL_THREAD}


def _instructions(program: bytes) -> list[tuple[int, int, int, int]]:
    return [tuple(each) for each in struct.iter_unpack("<HBBI", program)]


def _spec(**linux: Any) -> Spec:
    namespaces = presets.NAMESPACES
    return Spec(process=Process(args=("/bin/true",)), root=Root(path="/"), linux=Linux(namespaces=namespaces, **linux))


def test_the_filter_is_the_last_step() -> None:
    description = seccomp.resolve(seccomp.parse(""), frozenset(presets.CAPABILITIES.bounding))
    *_, last = plan.make_plan(_spec(seccomp=description), "/stage").finish(set())
    assert isinstance(last, steps.InstallFilter)
    assert base64.b64decode(last.program) == seccomp.compile_filter(description)[0]


def test_no_filter_without_no_new_privileges() -> None:
    spec = _spec(seccomp=Seccomp(default_action="SCMP_ACT_ALLOW"))
    process = Process(args=("/bin/true",), no_new_privileges=False)
    changed = Spec(process=process, root=spec.root, linux=spec.linux)
    with pytest.raises(NotSupported, match="noNewPrivileges"):
        plan.make_plan(changed, "/stage").finish(set())


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), ""),
        (("seccomp=builtin",), ""),
        (("seccomp=unconfined",), "unconfined"),
        (("seccomp:unconfined",), "unconfined"),
        (("no-new-privileges", "no-new-privileges=true", "no-new-privileges:true"), ""),
        ((f"seccomp={profile()}",), profile()),
    ],
)
def test_security_options(options: tuple[str, ...], wanted: str) -> None:
    assert security_options.seccomp_profile(options) == wanted


@pytest.mark.parametrize(
    "option", ["apparmor=x", "label=disable", "no-new-privileges=false", "seccomp=/file", "", "systempaths=unconfined"]
)
def test_other_security_options_are_refused(option: str) -> None:
    with pytest.raises(InvalidRequest):
        security_options.seccomp_profile([option])
