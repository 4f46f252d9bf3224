"""What a container finds in /etc/hostname, /etc/hosts and /etc/resolv.conf: its own name, and the host's names where it
shares the host's network.
"""

from __future__ import annotations

import logging
import os

from wherry.supervisor.containers import name_service
from wherry.supervisor.containers.request import CreateRequest

_log = logging.getLogger(__name__)
_COPIED_MAX = 1 << 20
_OF_HOST = {path: path for path in ("/etc/hosts", "/etc/resolv.conf")}
"""The container's path to the host's."""
_LOOPBACK = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def name_files(hostname: str, request: CreateRequest) -> dict[str, str]:
    """Path and content of each file.

    The container's own name is an address of its loopback, so that ``hostname -f`` and gethostbyname(gethostname())
    have an answer. Without a network no name server can be reached, so /etc/resolv.conf is what the root file system
    has, unless it was asked for. On the host's network both files are copies of the host's at the start, as in docker.
    """
    files = {"/etc/hostname": f"{hostname}\n"}
    hosts: str | None = _LOOPBACK
    resolver: str | None = None
    if request.network == "host":
        hosts, resolver = _of_host("/etc/hosts"), _of_host("/etc/resolv.conf")
    if request.extra_hosts:
        hosts = hosts or ""
    if hosts is not None:
        own = _own_line(hosts, hostname, request.domainname)
        files["/etc/hosts"] = hosts + own + _more_lines(hosts + own, request.extra_hosts)
    dns = (request.dns, request.dns_search, request.dns_options)
    if any(dns):
        resolver = name_service.resolver(resolver or "", *dns)
    if resolver is not None:
        files["/etc/resolv.conf"] = resolver
    return files


def _more_lines(hosts: str, extra: tuple[str, ...]) -> str:
    pairs = (name_service.extra_host(text) for text in extra)
    lines = "".join(f"{address}\t{name}\n" for name, address in pairs)
    return lines if hosts.endswith("\n") or not hosts or not lines else f"\n{lines}"


def _own_line(hosts: str, hostname: str, domainname: str) -> str:
    """The full name first, which makes it the canonical one (hosts(5))."""
    known = {name for line in hosts.split("\n") for name in line.partition("#")[0].split()[1:]}
    names = [hostname]
    if domainname and "." not in hostname:
        names.insert(0, f"{hostname}.{domainname}")
    elif "." in hostname.strip("."):
        names.append(hostname.partition(".")[0])
    if known.issuperset(names):
        return ""
    return ("" if hosts.endswith("\n") or not hosts else "\n") + f"127.0.0.1\t{' '.join(filter(None, names))}\n"


def _of_host(path: str) -> str | None:
    """None when the host has no such file, or one that is too large for a copy in memory."""
    path = _OF_HOST[path]
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            content = file.read(_COPIED_MAX + 1)
    except OSError as error:
        _log.warning("%s: %s: containers on the host's network go without it", path, error.strerror)
        return None
    if len(content) > _COPIED_MAX:
        _log.warning("%s is larger than %d bytes: containers on the host's network go without it", path, _COPIED_MAX)
        return None
    return content.decode("utf-8", "surrogateescape")
