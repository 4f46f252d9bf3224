"""What a client may have a container find in its /etc/hosts and /etc/resolv.conf: docker's ExtraHosts, Dns, DnsSearch
and DnsOptions.

Each becomes a line of a file, so nothing is taken that could be two.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sized

from wherry.errors import InvalidRequest, NotSupported, quoted

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,253}")
_ADDRESS = re.compile(r"[0-9a-fA-F:.]{2,45}(%[a-zA-Z0-9_.-]{1,15})?")
_OPTION = re.compile(r"[a-z0-9-]{1,40}(:[0-9]{1,9})?")
HOSTS_MAX = 1024
SERVERS_MAX = 64


def extra_host(text: str) -> tuple[str, str]:
    """Name and address of "NAME:IP", or "NAME=IP"; an IPv6 address may stand in brackets. Raises InvalidRequest,
    NotSupported.
    """
    name, _, address = text.partition("=" if "=" in text else ":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if address == "host-gateway":
        raise NotSupported(f"extra host {quoted(text)} is not supported: containers have no gateway to the host")
    if not _NAME.fullmatch(name) or not _is_address(address):
        raise InvalidRequest(f"invalid extra host: {quoted(text)} is not NAME:IP")
    return name, address


def check(hosts: Iterable[str], servers: Iterable[str], search: Iterable[str], options: Iterable[str]) -> None:
    """Raises InvalidRequest naming the value, NotSupported."""
    _count("extra hosts", [extra_host(text) for text in hosts], HOSTS_MAX)
    _all("DNS server", servers, _is_address)
    _all("DNS search domain", search, lambda text: bool(_NAME.fullmatch(text)))
    _all("DNS option", options, lambda text: bool(_OPTION.fullmatch(text)))


def _all(what: str, values: Iterable[str], is_right: Callable[[str], bool]) -> None:
    given = list(values)
    for value in given:
        if not is_right(value):
            raise InvalidRequest(f"invalid {what}: {quoted(value)}")
    _count(f"{what}s", given, SERVERS_MAX)


def _count(what: str, given: Sized, most: int) -> None:
    if len(given) > most:
        raise InvalidRequest(f"too many {what}: there are {len(given)}, and the most is {most}")


def _is_address(text: str) -> bool:
    if not _ADDRESS.fullmatch(text):
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def resolver(host: str, servers: Iterable[str], search: Iterable[str], options: Iterable[str]) -> str:
    """A resolv.conf(5): ``host``, the host's, with what was asked for in the place of its lines of that kind, as in
    docker. A search domain "." is none.
    """
    lines = {
        "nameserver": [f"nameserver {server}" for server in servers],
        "search": [f"search {' '.join(found)}"] if (found := list(search)) not in ([], ["."]) else [],
        "options": [f"options {' '.join(given)}"] if (given := list(options)) else [],
    }
    replaced = {kind for kind, own in lines.items() if own} | ({"search"} if found else set())
    replaced |= {"domain"} if "search" in replaced else set()
    kept = [line for line in host.splitlines() if (line.split() or [""])[0] not in replaced]
    return "".join(f"{line}\n" for line in (*kept, *(line for own in lines.values() for line in own)))
