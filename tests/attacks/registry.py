"""The attacks that are known, each with the threat and what stands against it.

A test says by the marker ``attack(NAME)`` that it mounts one and shows both halves: it is blocked, and it succeeds when
the defence is out. ``attack(NAME, "blocked")`` and ``attack(NAME, "undefended")`` are tests of one half. The table that
``make test-attacks`` prints, and the one in docs/security.md, come from here; tests/unit/test_attack_registry.py holds
them together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCKED, UNDEFENDED = "blocked", "undefended"
TESTS = Path(__file__).parents[1]
_MARKER = re.compile(r'mark\.attack\("([\w-]+)"(?:, "(\w+)")?\)')
_FUNCTION = re.compile(r"^def (test_\w+)", re.MULTILINE)


class Attack(NamedTuple):
    threat: str
    defence: str
    known_as: str = ""


ATTACKS = {
    "program-overwritten": Attack(
        "a container writes to the runtime's own program by /proc/1/exe, and owns the host at the next start",
        "the interpreter runs from a read-only mount in no namespace; the first process is not dumpable",
        "CVE-2019-5736",
    ),
    "descriptor-inherited": Attack(
        "a directory of the host is still open in the first process: as working directory it leads out",
        "all descriptors but four are closed after clone; a working directory must lie inside; no magic links",
        "CVE-2024-21626",
    ),
    "mount-point-race": Attack(
        "another container swaps a part of a mount point for a link while it is made: files are made on the host",
        "openat2(RESOLVE_IN_ROOT) for each step, mounts by descriptor",
        "CVE-2021-30465, CVE-2023-28642, CVE-2024-45310",
    ),
    "kernel-mount-moved": Attack(
        "/proc, /dev or /sys of the root file system is a link, so that they are mounted where it leads",
        "no link is followed to them",
        "CVE-2019-19921, CVE-2023-27561, CVE-2026-41579",
    ),
    "volume-in-proc": Attack(
        "a link of the root file system leads a volume into /proc, which then lies to the runtime",
        "the target's file system is compared with /proc's",
        "CVE-2019-16884",
    ),
    "null-device-forged": Attack(
        "/dev/null of the root file system is a link: what is to mask a path shows another one, writable",
        "masks and devices are made ahead, from the host's /dev, before the root is in sight",
        "CVE-2025-31133",
    ),
    "proc-write-redirected": Attack(
        "links in the image's /proc send what the runtime writes there to another file of the kernel",
        "all writes to /proc are done in one of our own, before the root is in sight",
        "CVE-2025-52881",
    ),
    "kernel-settings": Attack(
        "root in a container writes to /proc/sys or /sys: core_pattern starts programs on the host",
        "/sys, /proc/sys, /proc/sysrq-trigger and others are read-only mounts",
    ),
    "kernel-information": Attack(
        "a container reads the host's keys, timers, firmware in /proc and /sys",
        "docker's masked paths, an empty device or directory over each",
    ),
    "device-files": Attack(
        "the root file system brings a device file of the host's disk or memory",
        "every mount of a container is nodev; no CAP_MKNOD; device rules on version 1",
    ),
    "inheritable-capabilities": Attack(
        "another user of the container gets capabilities from a file that asks for inheritable ones",
        "the inheritable set is empty; no_new_privs; the root is nosuid",
        "CVE-2022-24769, CVE-2022-29162",
    ),
    "release-agent": Attack(
        "a container mounts a control group hierarchy and names a program that the kernel runs on the host",
        "no CAP_SYS_ADMIN, and mount(2) is refused by the filter",
        "CVE-2022-0492",
    ),
    "abstract-socket": Attack(
        "a container on the host's network connects to an abstract socket of the runtime",
        "all sockets are files in directories of root; none is abstract",
        "CVE-2020-15257",
    ),
    "user-files": Attack(
        "/etc/passwd of the root file system is a link to the host's, a FIFO, a device, or huge",
        "read as data, confined, at most 1 MiB, never blocking",
    ),
    "code-planted": Attack(
        "the root file system brings modules, libraries and NSS plug-ins for the runtime to load",
        "nothing is imported and nothing executed after clone; users are looked up as data",
        "CVE-2019-14271",
    ),
    "init-inspected": Attack(
        "a container reads memory, environment and descriptors of our first process",
        "it is not dumpable until execve",
    ),
    "exec-inspected": Attack(
        "processes of a container lie in wait for an exec: they read its memory, take its descriptors, trace it",
        "it is not dumpable until execve",
        "CVE-2016-9962",
    ),
    "root-of-the-host": Attack(
        "root of a container has got all capabilities, or a file of somebody whom it does not know",
        "a user namespace (`--userns`): its root is nobody outside, and what it may is its own",
    ),
    "keys": Attack(
        "a container reads keys of the host's users",
        "keyctl(2) is refused by the filter; a session keyring of its own; keys of its own with `--userns`",
    ),
    "system-calls": Attack(
        "io_uring, userfaultfd, perf, bpf, AF_VSOCK, namespaces inside; by the doors of i386 and x32 too",
        "docker's seccomp list, for all architectures of the kernel",
    ),
    "limits-lifted": Attack(
        "a container mounts its control groups in a user namespace and takes the limits away",
        "limits stand on a group above the one that it sees",
    ),
    "frozen": Attack(
        "a container freezes itself, so that SIGKILL does not end it",
        "the tree is thawed until the end is seen",
    ),
    "groups-left": Attack(
        "a container hides processes and leaves control groups behind in groups of its own making",
        "the whole tree is walked by descriptors, depth first",
    ),
    "fork-bomb": Attack(
        "a container takes all processes of the machine",
        "2048 processes a container",
    ),
    "event-flood": Attack(
        "a container causes so many events that those of others are forgotten",
        "a quota for each container and kind, and a share of the history",
    ),
    "log-flood": Attack(
        "a container fills the disk with what it writes",
        "rotation by size and number, on unless who starts it says otherwise",
    ),
    "environment-wildcard": Attack(
        "a pattern among a container's variables brings it those of the engine",
        "names are taken as they are; nothing of the supervisor's environment is handed on",
        "CVE-2026-57231",
    ),
    "engine-socket": Attack(
        "a container that was given the engine's socket starts another one on the host's root",
        "peers in a control group of ours are refused",
    ),
    "archive-escape": Attack(
        "an archive brings links and names that lead out of the place where it is unpacked",
        "openat2(RESOLVE_IN_ROOT), O_EXCL, attributes by descriptor",
    ),
    "archive-bomb": Attack(
        "an archive unpacks to more bytes, files or time than there is",
        "cumulative limits on space, number and tar data",
    ),
    "terminal-escapes": Attack(
        "names, commands and errors bring escape sequences that rewrite a terminal, or lines that forge a log",
        "everything but a container's own output is escaped, in the supervisor's log too",
    ),
    "terminal-injected": Attack(
        "a container types into the terminal of who started it (TIOCSTI)",
        "a session of its own, so that /dev/tty is nobody's",
    ),
    "state-directory": Attack(
        "another user prepares a part of the state directory as a link to elsewhere",
        "owner, mode and kind of each part are checked, none is followed",
    ),
}


class Shown(NamedTuple):
    """A test that shows one or both halves of an attack."""

    attack: str
    half: str
    file: Path
    function: str


def mounted() -> Iterator[Shown]:
    """By the sources: every use of the marker, with the function below it."""
    for file in sorted(TESTS.rglob("test_*.py")):
        text = file.read_text()
        for found in _MARKER.finditer(text):
            function = _FUNCTION.search(text, found.end())
            if function is not None:
                yield Shown(found[1], found[2] or "", file, function[1])


def table() -> str:
    """For docs/security.md."""
    shown: dict[str, list[str]] = {}
    for each in mounted():
        names = shown.setdefault(each.attack, [])
        name = f"`{each.file.name}::{each.function}`"
        if name not in names:
            names.append(name)
    lines = ["| threat | known as | defence | test |", "|---|---|---|---|"]
    for name, attack in ATTACKS.items():
        lines.append(f"| {attack.threat} | {attack.known_as} | {attack.defence} | {', '.join(shown.get(name, []))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
