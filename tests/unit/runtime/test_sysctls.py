"""Kernel parameters: which are a container's own, and that no name leads elsewhere."""

from __future__ import annotations

import pytest

from wherry.errors import InvalidRequest, NotSupported
from wherry.runtime import sysctls

OWN = ("ipc", "network")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced"),
        ("fs.mqueue.msg_max", "fs/mqueue/msg_max"),
    ],
)
def test_the_two_spellings(name: str, path: str) -> None:
    assert sysctls.path_of(name) == path
    sysctls.check([(name, "1")], OWN)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "kernel.core_pattern",
            "vm.overcommit_memory",
            "fs.file-max",
            "kernel.msgmax2",
            "kernelxmsgmax",
            "net",
            "",
            ".",
        ),
        *("net/../kernel/core_pattern", "net..kernel", "net/./x", "net//x", "/net/x", "net/ipv4/", "net/..", "net.//x"),
        *("net/x\0", "net/x\n", "net/a b", "fs.mqueue./x", "fs/mqueue/../file-max", "kernel/msgmax/", "net/\u0661"),
    ],
)
def test_what_is_the_hosts_is_refused(name: str) -> None:
    with pytest.raises(NotSupported, match="it is the host's"):
        sysctls.check([(name, "1")], OWN)


def test_a_namespace_that_is_shared_has_none() -> None:
    for name, types in (("net.ipv4.ip_forward", ("ipc",)), ("kernel.msgmax", ("network",))):
        with pytest.raises(NotSupported, match="shares that namespace"):
            sysctls.check([(name, "1")], types)


@pytest.mark.parametrize("value", ["1\n2", "\0", "x" * 4097, "\x1b[m"])
def test_a_value_is_one_line(value: str) -> None:
    with pytest.raises(InvalidRequest):
        sysctls.check([("net.ipv4.ip_forward", value)], OWN)
    sysctls.check([("kernel.sem", "1\t2 3")], OWN)
