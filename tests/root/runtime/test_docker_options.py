"""Options of docker's ``run``: what a container finds by them, and what ``inspect`` says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.root.harness import Supervisor, Word
from tests.waiting import wait_until

from wherry.kernel.capabilities import mask_of
from wherry.runtime import presets

pytestmark = pytest.mark.root


def shell(supervisor: Supervisor, rootfs: Path, script: str, *options: Word) -> list[str]:
    """Standard output of ``sh -c script``, in lines."""
    done = supervisor.engine("run", "--rm", *options, "c", rootfs, "/bin/sh", "-c", script)
    return done.stdout.splitlines()


def refused(supervisor: Supervisor, rootfs: Path, *options: Word, code: int = 125) -> str:
    """What a start with these options says; nothing is left of it."""
    before = supervisor.ps()
    done = supervisor.engine("start", *options, "c", rootfs, "/bin/true", check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert supervisor.ps() == before
    return done.stderr


def inspected(supervisor: Supervisor, name: str = "c") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(supervisor.engine("inspect", name).stdout)[0]
    return found


def test_labels_variables_and_the_id_by_files(supervisor: Supervisor, rootfs: Path, tmp_path: Path) -> None:
    (tmp_path / "v").write_text("A=1\nB=two words\n")
    (tmp_path / "l").write_text("app=web\n")
    files = ("--env-file", tmp_path / "v", "--label-file", tmp_path / "l", "--cidfile", tmp_path / "id")
    done = supervisor.engine("run", *files, "-e", "A=2", "-l", "tier=1", "c", rootfs, "/bin/sh", "-c", 'echo "$A $B"')
    assert done.stdout == "2 two words\n"
    shown = inspected(supervisor)
    assert (shown["Config"]["Labels"], shown["Id"]) == ({"app": "web", "tier": "1"}, (tmp_path / "id").read_text())
    assert supervisor.engine("prune", "--containers", "--label", "app=web", "--force").returncode == 0
    assert supervisor.ps() == []
    assert "--cidfile" in refused(supervisor, rootfs, "--cidfile", tmp_path / "id")


def test_the_stop_signal_and_its_time(supervisor: Supervisor, rootfs: Path) -> None:
    script = "trap 'echo got USR1; exit 3' USR1; echo ready; while :; do sleep 0.01; done"
    options = ("--stop-signal", "USR1", "--stop-timeout", "60", "--domainname", "example")
    supervisor.engine("start", *options, "c", rootfs, "/bin/sh", "-c", script)
    wait_until(lambda: supervisor.engine("logs", "c").stdout == "ready\n")
    config = inspected(supervisor)["Config"]
    assert (config["StopSignal"], config["StopTimeout"], config["Domainname"]) == ("USR1", 60, "example")
    supervisor.engine("stop", "c")
    assert supervisor.engine("logs", "c").stdout == "ready\ngot USR1\n"
    assert (supervisor.ps()[0]["exit_code"], supervisor.ps()[0]["reason"]) == (3, "stopped")
    supervisor.engine("rm", "c")
    assert "invalid signal: 'WISH'" in refused(supervisor, rootfs, "--stop-signal", "WISH")
    assert "'1.5' is not a whole number of seconds" in refused(supervisor, rootfs, "--stop-timeout", "1.5")


def test_the_entry_point(supervisor: Supervisor, rootfs: Path) -> None:
    done = supervisor.engine("run", "--entrypoint", "/bin/echo", "c", rootfs, "a", "b")
    assert done.stdout == "a b\n"
    shown = inspected(supervisor)
    assert (shown["Path"], shown["Args"]) == ("/bin/echo", ["a", "b"])
    assert (shown["Config"]["Entrypoint"], shown["Config"]["Cmd"]) == (["/bin/echo"], ["a", "b"])
    assert supervisor.engine("start", "c").returncode == 0  # as it was made
    supervisor.client.wait("c")
    assert supervisor.engine("logs", "c").stdout == "a b\n" * 2
    supervisor.engine("rm", "c")
    alone = supervisor.client.run(None, rootfs, [], entrypoint=["/bin/echo", "-n", "x"])
    assert alone.stdout == b"x"
    supervisor.client.rm(supervisor.ps()[0]["name"])
    assert "/nosuch" in refused(supervisor, rootfs, "--entrypoint", "/nosuch", code=127)


def test_memory_limits_as_sizes(supervisor: Supervisor, rootfs: Path) -> None:
    supervisor.engine("start", "--soft-limit", "8m", "--hard-limit", "0.5g", "c", rootfs, "/bin/sleep", "1000")
    ours = inspected(supervisor)["Wherry"]
    assert (ours["SoftLimit"], ours["HardLimit"]) == (8 << 20, 1 << 29)
    supervisor.engine("update", "--hard-limit", "16m", "c")
    assert inspected(supervisor)["Wherry"]["HardLimit"] == 16 << 20
    for wrong in (("--soft-limit", "0"), ("--hard-mib", "2", "--hard-limit", "2m"), ("--hard-limit", "lots")):
        assert supervisor.engine("start", *wrong, "d", rootfs, "/bin/true", check=False).returncode == 125
    both = supervisor.engine("update", "--hard-limit", "2m", "--hard-mib", "2", "c", check=False)
    assert "say the same: give one" in both.stderr
    assert inspected(supervisor)["Wherry"]["HardLimit"] == 16 << 20


def may_raise_limits() -> bool:
    """Whether this machine gives root CAP_SYS_RESOURCE, which a virtual machine's or a container's may lack."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(line.split()[1], 16) & mask_of(["CAP_SYS_RESOURCE"]))


def test_ulimits(supervisor: Supervisor, rootfs: Path) -> None:
    options = (
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "core=0",
        "--ulimit",
        "nproc=50:60",
        "--ulimit",
        "stack=1048576",
    )
    script = "ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/self/limits | grep -E 'Max (processes|stack)' | tr -s ' '"
    assert shell(supervisor, rootfs, script, *options) == [
        *("100", "200", "0", "Max stack size 1048576 1048576 bytes ", "Max processes 50 60 processes ")
    ]
    # Without a descriptor to spare the command is executed all the same, and a number above the host's is an error.
    assert shell(supervisor, rootfs, "echo $((1+1))", "--ulimit", "nofile=3:3") == ["2"]
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    assert "RLIMIT_NOFILE: " in refused(supervisor, rootfs, "--ulimit", f"nofile=1024:{most + 1}")
    assert "'locks' is not one of" in refused(supervisor, rootfs, "--ulimit", "locks=1")
    assert "soft 5 is above hard 4" in refused(supervisor, rootfs, "--ulimit", "core=5:4")
    assert "is not NAME=SOFT[:HARD]" in refused(supervisor, rootfs, "--ulimit", "nofile=many")
    supervisor.client.start("c", rootfs, ["/bin/true"], ulimits={"core": 5, "nproc": (7, 8)})
    assert inspected(supervisor)["HostConfig"]["Ulimits"] == [
        {"Name": "core", "Soft": 5, "Hard": 5},
        {"Name": "nproc", "Soft": 7, "Hard": 8},
    ]


def test_the_oom_score_and_the_size_of_shm(supervisor: Supervisor, rootfs: Path) -> None:
    script = "cat /proc/self/oom_score_adj; df -k /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2; touch /dev/shm/x"
    for options, expected in (
        (("--oom-score-adj", "500", "--shm-size", "1m"), ["500", "1024"]),
        (("--oom-score-adj", "300", "--read-only"), ["300", "65536"]),  # docker's: /dev/shm can be written to still
        ((), ["0", "65536"]),
    ):
        assert shell(supervisor, rootfs, script, *options) == expected
    supervisor.engine("run", "--oom-score-adj", "7", "--shm-size", "2m", "c", rootfs, "/bin/true")
    host = inspected(supervisor)["HostConfig"]
    assert (host["OomScoreAdj"], host["ShmSize"]) == (7, 2 << 20)
    supervisor.engine("rm", "c")
    if not may_raise_limits():
        assert "set oom_score_adj -5: permission denied" in refused(supervisor, rootfs, "--oom-score-adj", "-5")
    else:
        assert shell(supervisor, rootfs, "cat /proc/self/oom_score_adj", "--oom-score-adj", "-5") == ["-5"]
    assert "'1001' is not a whole number from -1000 to 1000" in refused(supervisor, rootfs, "--oom-score-adj", "1001")
    assert "--shm-size: '0' is not a size above 0" in refused(supervisor, rootfs, "--shm-size", "0")


def test_a_read_only_root_has_dockers_tmpfs(supervisor: Supervisor, rootfs: Path) -> None:
    script = """
        for d in / /tmp /etc /dev /dev/shm /dev/mqueue; do touch $d/x 2>/dev/null && echo $d; done
        echo x 2>/dev/null > /etc/hosts || echo kept
    """
    assert shell(supervisor, rootfs, script, "--read-only") == ["/dev", "/dev/shm", "/dev/mqueue", "kept"]


def test_hosts_and_name_servers(supervisor: Supervisor, rootfs: Path) -> None:
    hosts = ("--add-host", "db:10.0.0.1", "--add-host", "six=[fe80::1]", "--add-host", "other:::2")
    dns = ("--dns", "10.0.0.53", "--dns", "::1", "--dns-search", "a.example", "--dns-option", "ndots:2")
    script = "tail -n 3 /etc/hosts; grep -c c /etc/hosts; cat /etc/resolv.conf"
    resolver = ["search a.example", "nameserver 10.0.0.53", "nameserver ::1", "options ndots:2"]
    lines = shell(supervisor, rootfs, script, *hosts, *dns)
    assert lines[:3] == ["10.0.0.1\tdb", "fe80::1\tsix", "::2\tother"]
    assert int(lines[3]) >= 1
    assert sorted(lines[4:]) == sorted(resolver)
    shared = shell(supervisor, rootfs, "tail -n 1 /etc/hosts; cat /etc/resolv.conf", *hosts, *dns, "--network", "host")
    assert shared[0] == "::2\tother"
    assert set(resolver) <= set(shared)
    assert len([line for line in shared if line.startswith("nameserver")]) == 2
    supervisor.engine("run", *hosts, *dns, "c", rootfs, "/bin/true")
    host = inspected(supervisor)["HostConfig"]
    assert host["ExtraHosts"] == ["db:10.0.0.1", "six=[fe80::1]", "other:::2"]
    assert [host[name] for name in ("Dns", "DnsSearch", "DnsOptions")] == [
        *(["10.0.0.53", "::1"], ["a.example"], ["ndots:2"])
    ]
    supervisor.engine("rm", "c")
    assert "'db:wish' is not NAME:IP" in refused(supervisor, rootfs, "--add-host", "db:wish")
    assert "no gateway to the host" in refused(supervisor, rootfs, "--add-host", "db:host-gateway")
    assert "invalid DNS server: 'fe80::1%a\\nnameserver 6.6.6.6'" in refused(
        supervisor, rootfs, "--dns", "fe80::1%a\nnameserver 6.6.6.6"
    )


def test_further_groups(supervisor: Supervisor, rootfs: Path) -> None:
    groups = ("--group-add", "4242", "--group-add", "nogroup")
    for options, own in (((), {"0"}), (("-u", "1234:5678"), {"5678"})):
        found = set(shell(supervisor, rootfs, "grep Groups /proc/self/status | cut -f2", *groups, *options)[0].split())
        assert {"4242", "65533", *own} <= found or {"4242", "65534", *own} <= found
    assert "group 'nosuch' is not in the rootfs's /etc/group" in refused(supervisor, rootfs, "--group-add", "nosuch")
    assert "invalid group: 'a b'" in refused(supervisor, rootfs, "--group-add", "a b")
    supervisor.client.start("c", rootfs, ["/bin/true"], group_add=[4242])
    assert inspected(supervisor)["HostConfig"]["GroupAdd"] == ["4242"]


CAPABILITIES = "grep -E 'Cap(Eff|Bnd)' /proc/self/status | cut -f2"


def test_capabilities_are_added_and_dropped(supervisor: Supervisor, rootfs: Path) -> None:
    def both(*names: str) -> list[str]:
        return [f"{mask_of(list(names)):016x}"] * 2

    default = set(presets.CAPABILITIES.bounding)
    cases: list[tuple[tuple[str, ...], set[str]]] = [
        (("--cap-add", "net_raw", "--cap-drop", "CAP_CHOWN"), default - {"CAP_CHOWN"} | {"CAP_NET_RAW"}),
        (("--cap-drop", "all"), set()),
        (("--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--cap-add", "kill"), {"CAP_NET_ADMIN", "CAP_KILL"}),
        (("--cap-drop", "KILL", "--cap-add", "KILL"), default),
    ]
    for options, expected in cases:
        assert shell(supervisor, rootfs, CAPABILITIES, *options) == both(*expected), options
    other = shell(supervisor, rootfs, CAPABILITIES, "-u", "1234", "--cap-add", "NET_RAW")
    assert other == [*both(*default, "CAP_NET_RAW"), f"{0:016x}"][:0:-1]


def test_what_a_capability_is_good_for_and_for_what_not(supervisor: Supervisor, rootfs: Path) -> None:
    link = "ip link add d0 type dummy 2>&1 | grep -q denied && echo denied || ip link show lo >/dev/null && echo asked"
    assert shell(supervisor, rootfs, "ip link set lo down && echo down", "--cap-add", "NET_ADMIN") == ["down"]
    assert shell(supervisor, rootfs, "ip link set lo down 2>/dev/null || echo kept; " + link)[0] == "kept"
    node = "mknod /dev/k c 1 11 && echo made; (cat /dev/k) 2>/dev/null || echo closed; cat /root/k 2>/dev/null"
    made = shell(supervisor, rootfs, f"{node}; mknod /root/k b 8 0; cat /root/k || echo closed", "--cap-add", "MKNOD")
    assert "closed" in made[-1]
    assert "closed" in made
    for name in ("SYS_ADMIN", "SYS_PTRACE", "DAC_READ_SEARCH", "SYS_MODULE", "BPF", "SYS_RESOURCE", "SYSLOG"):
        assert f"capability CAP_{name} cannot be added" in refused(supervisor, rootfs, "--cap-add", name)
    assert "ALL cannot be added" in refused(supervisor, rootfs, "--cap-add", "ALL")
    assert "invalid capability: 'wish'" in refused(supervisor, rootfs, "--cap-add", "wish")
    assert "invalid capability: 'wish'" in refused(supervisor, rootfs, "--cap-drop", "wish")
    host = refused(supervisor, rootfs, "--cap-add", "NET_ADMIN", "--network", "host")
    assert "cannot be added on the host's network" in host
    supervisor.client.start("c", rootfs, ["/bin/true"], cap_add=["net_raw"], cap_drop=["ALL"])
    shown = inspected(supervisor)["HostConfig"]
    assert (shown["CapAdd"], shown["CapDrop"]) == (["CAP_NET_RAW"], ["ALL"])


def test_sysctls_of_the_containers_own_namespaces(supervisor: Supervisor, rootfs: Path) -> None:
    names = ("net.ipv4.ip_forward", "kernel.msgmax", "net.ipv4.conf.lo.arp_ignore")
    paths = [Path("/proc/sys", name.replace(".", "/")) for name in names]
    before = [path.read_text() for path in paths]
    forward = "0" if before[0] == "1\n" else "1"
    options = (f"net.ipv4.ip_forward={forward}", "kernel.msgmax=4242", "net/ipv4/conf/lo/arp_ignore=2")
    words = [word for option in options for word in ("--sysctl", option)]
    lines = shell(supervisor, rootfs, f"cat {' '.join(map(str, paths))}; echo 1 2>&1 >{paths[0]} || echo kept", *words)
    assert [*lines[:3], lines[-1]] == [forward, "4242", "2", "kept"]
    assert [path.read_text() for path in paths] == before
    supervisor.engine("run", *words, "c", rootfs, "/bin/true")
    assert inspected(supervisor)["HostConfig"]["Sysctls"] == dict(option.split("=") for option in options)
    supervisor.engine("rm", "c")
    for name in ("vm.swappiness", "kernel.core_pattern", "net.ipv4/../../kernel/core_pattern", "fs.file-max", "net..x"):
        assert "is not supported: it is the host's" in refused(supervisor, rootfs, "--sysctl", f"{name}=1")
    shared = refused(supervisor, rootfs, "--network", "host", "--sysctl", "net.ipv4.ip_forward=1")
    assert "the container shares that namespace" in shared
    assert "open /proc/sys/net/nosuch: no such file" in refused(supervisor, rootfs, "--sysctl", "net.nosuch=1")
    assert "write /proc/sys/kernel/msgmax: invalid" in refused(supervisor, rootfs, "--sysctl", "kernel.msgmax=x")
    assert "'net.x' is not NAME=VALUE" in refused(supervisor, rootfs, "--sysctl", "net.x")
    for path, text in zip(paths, before, strict=True):
        assert path.read_text() == text
