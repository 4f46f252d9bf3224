"""``engine inspect``, ``info`` and ``version``."""

from __future__ import annotations

import wherry
from wherry import errors
from wherry.cli import formats, sizes, template, terminal
from wherry.cli.names import add_names
from wherry.client import Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from wherry.cli.parser import Namespace, Parser

_GIB = 1 << 30
_STATES = ("Running", "Paused", "Restarting", "Created", "Exited")


def add_inspect(parser: Parser) -> None:
    parser.description = (
        "Print everything known of containers as a JSON array: Docker's inspect, with what only Wherry knows in the\n"
        'object "Wherry". 1 is the exit code if one of them is unknown.'
    )
    add_names(parser, many=True)
    parser.epilog = formats.ABOUT
    about = "json or a template, see below (default: a JSON array)"
    check = formats.checked(["json"], None)
    parser.option("-f", "--format", metavar="FORMAT", type=check, help=about)
    parser.run = inspect


def add_info(parser: Parser) -> None:
    parser.description = "Show the supervisor and its machine."
    parser.epilog = formats.ABOUT
    formats.add(parser, "text")
    parser.run = info


def add_version(parser: Parser) -> None:
    parser.description = "Show the versions of this client and of the supervisor."
    parser.epilog = formats.ABOUT
    formats.add(parser, "text")
    parser.run = version


def inspect(args: Namespace) -> int:
    found: list[dict[str, Any]] = []
    failures: list[errors.WherryError] = []
    with Client(args.socket) as client:
        for name in args.names:
            try:
                found.append(client.inspect(name))
            except errors.Unavailable:
                raise
            except errors.WherryError as error:
                failures.append(error)
    for text in _rendered(args.format, found, failures):
        print(text, end="", flush=True)
    for failure in failures:
        terminal.complain(failure)
    return 1 if failures else 0


def _rendered(form: str | None, found: list[dict[str, Any]], failures: list[errors.WherryError]) -> Iterator[str]:
    """What one of them lacks costs the others nothing."""
    if not form:
        yield template.safe_json(found, indent=4) + "\n"
        return
    for each in found:
        try:
            yield formats.rendered(form, [each])
        except errors.InvalidRequest as error:
            failures.append(error)


def info(args: Namespace) -> int:
    with Client(args.socket) as client:
        about = client.info()
    if args.format != "text":
        print(formats.rendered(args.format, [about]), end="")
        return 0
    ours = about.get("Wherry") or {}
    memory = about.get("MemTotal")
    rows = {
        "Supervisor": f"{about.get('ServerVersion', '?')}, pid {ours.get('Pid', '?')}",
        "Shim": f"pid {ours.get('ShimPid', '?')}",
        "Socket": ours.get("Socket"),
        "State directory": ours.get("StateDir"),
        "Containers": ", ".join(f"{ours.get(f'Containers{state}', '?')} {state.lower()}" for state in _STATES),
        "Prepared ahead": ours.get("Spares"),
        "Memory limits by": _enforcer(ours),
        "Backstop": _backstop(ours),
        "Cgroups": f"v{ours.get('CgroupVersion', '?')}, below {ours.get('CgroupParent', '?')}",
        "Disk": _disk(ours.get("Disk") or {}),
        "Kernel": about.get("KernelVersion"),
        "System": about.get("OperatingSystem"),
        "Host": about.get("Name"),
        "CPUs": about.get("NCPU"),
        "Memory": f"{memory / _GIB:.1f} GiB" if isinstance(memory, int) else None,
    }
    print(_lines(rows), end="")
    return 0


def _disk(found: Mapping[str, Any]) -> str | None:
    """Free space, and what unpacked archives take of the rest."""
    if not found:
        return None
    taken = f"{sizes.shown(found['ArchiveBytes'])} in {found['Archives']} unpacked archives"
    unused = f"{sizes.shown(found['UnusedArchiveBytes'])} of it used by no container"
    return f"{sizes.shown(found['FreeBytes'])} free; {taken}, {unused}"


def _enforcer(ours: Mapping[str, Any]) -> str:
    """Who holds memory limits, and why not those before it."""
    refused = [f"{name} not taken: {reason}" for name, reason in (ours.get("EnforcersRefused") or {}).items()]
    if lost := ours.get("EnforcerDropped"):
        refused.append(f"{lost} events or processes lost for want of room")
    if drift := ours.get("EnforcerDrift"):
        refused.append(f"counts {drift:+,} bytes beside what the kernel shows of {ours.get('EnforcerDriftOf')}")
    name = ours.get("Enforcer", "?") or "nobody"
    return f"{name} ({'; '.join(refused)})" if refused else str(name)


def _backstop(ours: Mapping[str, Any]) -> str | None:
    """What stands behind a hard limit, and what it is blind to."""
    if "Backstop" not in ours:
        return None
    behind = "the containers' memory groups" if ours["Backstop"] else "no backstop (no memory controller)"
    missed = ", ".join(ours.get("NotCounted") or ())
    return f"{behind}; hard limits do not count {missed}" if missed else behind


def _lines(rows: Mapping[str, object]) -> str:
    """Aligned "Key: value" lines; what the supervisor did not say is a question mark."""
    width = max(map(len, rows)) + 1
    shown = {key: "?" if value is None else terminal.escaped(str(value)) for key, value in rows.items()}
    return "".join(f"{key + ':':{width}} {value}\n" for key, value in shown.items())


def version(args: Namespace) -> int:
    """As docker: the client's version is shown even when no supervisor answers, and then the exit code is 1."""
    about: dict[str, Any] | None = None
    failure: errors.WherryError | None = None
    try:
        with Client(args.socket) as client:
            about = client.version()
    except errors.WherryError as error:
        failure = error
    if args.format != "text":
        both = {"Client": {"Version": wherry.__version__}, "Server": about}
        print(formats.rendered(args.format, [both]), end="", flush=True)
    else:
        print(_lines(_versions(about)), end="", flush=True)
    if failure:
        terminal.complain(failure)
    return 1 if failure else 0


def _versions(about: Mapping[str, Any] | None) -> dict[str, object]:
    rows: dict[str, object] = {"Client": f"wherry {wherry.__version__}"}
    if about:
        platform = about.get("Platform") or {}
        rows["Supervisor"] = f"{str(platform.get('Name', '?')).lower()} {about.get('Version', '?')}"
        rows["API"] = f"{about.get('ApiVersion', '?')} (oldest: {about.get('MinAPIVersion', '?')})"
        rows["Kernel"] = about.get("KernelVersion")
    return rows
