"""From a request to the OCI spec."""

from __future__ import annotations

import os
from typing import Any

import pytest

from wherry.kernel.id_maps import IdMap
from wherry.runtime import presets
from wherry.runtime.plan import make_plan
from wherry.runtime.spec import Cpu, IdMapping, Memory, Mount, Namespace, Scheduler, Spec
from wherry.runtime.users import User
from wherry.supervisor.containers.process_limits import Ulimit
from wherry.supervisor.containers.request import CreateRequest, Volume
from wherry.supervisor.containers.spec_of import make_spec

PREFIX = "io.wherry.name-file."
ROOT = User(0, 0, (0,), "/root")


def spec(user: User = ROOT, name: str = "alpha", id_map: IdMap | None = None, **fields: Any) -> Spec:
    request = CreateRequest(**({"rootfs": "/srv/rootfs", "command": ("/bin/true", "x")} | fields))
    return make_spec(name, request, "/srv/unpacked", user, id_map)


def destinations(made: Spec) -> list[str]:
    return [mount.destination for mount in made.mounts]


@pytest.mark.parametrize(("size", "has_group"), [(6, True), (5, False)])
def test_with_ids_of_its_own(size: int, has_group: bool) -> None:
    """Volumes have its ids; terminals belong to a group only when it has that."""
    id_map = IdMap.of([[0, 100000, size]], [[0, 200000, size]])
    made = spec(id_map=id_map, volumes=(Volume(source="/a", destination="/b"),))
    assert made.linux.namespaces == (Namespace(type="user"), *spec().linux.namespaces)
    assert made.linux.uid_mappings == (IdMapping(container_id=0, host_id=100000, size=size),)
    assert made.linux.gid_mappings == (IdMapping(container_id=0, host_id=200000, size=size),)
    assert made.mounts[-1].options == ("rbind", "rw", "ridmap")
    (terminals,) = (mount for mount in made.mounts if mount.destination == "/dev/pts")
    assert ("gid=5" in terminals.options) == has_group
    assert make_plan(made, "/stage").namespace is not None


def test_the_default_container() -> None:
    made = spec()
    assert made.process.args == ("/bin/true", "x")
    assert made.process.env == (f"PATH={presets.PATH}", "HOSTNAME=alpha", "HOME=/root")
    assert (made.process.cwd, made.hostname, made.domainname) == ("/", "alpha", "")
    assert made.process.no_new_privileges
    assert (made.root.path, made.root.readonly) == ("/srv/unpacked", False)
    assert made.mounts == presets.MOUNTS
    assert {namespace.type for namespace in made.linux.namespaces} == {
        "pid",
        "network",
        "ipc",
        "uts",
        "mount",
        "cgroup",
    }
    assert made.linux.masked_paths == presets.MASKED_PATHS
    assert made.linux.readonly_paths == presets.READONLY_PATHS
    resources = made.linux.resources
    assert (resources.memory.limit, resources.memory.reservation, resources.pids) == (None, None, None)
    assert (resources.cpu.shares, resources.cpu.quota, resources.cpu.period) == (1024, None, None)
    assert set(made.annotations) == {f"io.wherry.name-file.{path}" for path in ("/etc/hostname", "/etc/hosts")}


def test_the_environment_of_the_request_comes_before_ours() -> None:
    made = spec(env=("HOME=/tmp", "A=1", "PATH=", "A=2=3", "B="), hostname="beta", user=User(5, 5, (), "/home/x"))
    assert made.process.env == ("PATH=", "HOSTNAME=beta", "HOME=/tmp", "A=2=3", "B=")


def test_the_hostname() -> None:
    assert spec(hostname="given", domainname="example").hostname == "given"
    assert spec(domainname="example").domainname == "example"
    long = spec(name="n" * 128)
    assert long.hostname == "n" * 63
    assert f"HOSTNAME={'n' * 63}" in long.process.env


def test_only_root_has_capabilities() -> None:
    assert spec().process.capabilities == presets.CAPABILITIES
    other = spec(User(1000, 100, (10, 100), "/home/alice"), working_dir="/work").process
    assert (other.user.uid, other.user.gid, other.user.additional_gids) == (1000, 100, (10, 100))
    assert other.capabilities.bounding == presets.CAPABILITIES.bounding
    assert other.capabilities.effective == other.capabilities.permitted == other.capabilities.ambient == ()
    assert other.cwd == "/work"


def test_nobody_has_inheritable_capabilities() -> None:
    """CVE-2022-24769."""
    for user in (ROOT, User(5, 5, (), "/")):
        assert spec(user).process.capabilities.inheritable == ()


def test_volumes() -> None:
    volumes = (Volume(source="/x", destination="/data"), Volume(source="/y", destination="/conf", read_only=True))
    assert spec(volumes=volumes).mounts[len(presets.MOUNTS) :] == (
        Mount(destination="/data", type="bind", source="/x", options=("rbind", "rw")),
        Mount(destination="/conf", type="bind", source="/y", options=("rbind", "ro")),
    )


def test_a_tmpfs_is_safe_unless_asked_otherwise() -> None:
    made = spec(tmpfs={"/tmp": "", "/run": "exec,size=1m,mode=1777"})
    assert made.mounts[-2:] == (
        Mount(destination="/tmp", type="tmpfs", source="tmpfs", options=("nosuid", "nodev", "noexec")),
        Mount(
            destination="/run",
            type="tmpfs",
            source="tmpfs",
            options=("nosuid", "nodev", "noexec", "exec", "size=1m", "mode=1777"),
        ),
    )


def test_what_is_mounted_below_comes_after() -> None:
    volumes = tuple(Volume(source="/x", destination=path) for path in ("/a/b/c", "/a", "/z/y"))
    made = spec(volumes=volumes, tmpfs={"/a/b": "", "/z": ""})
    assert destinations(made)[len(presets.MOUNTS) :] == ["/z", "/a", "/a/b", "/z/y", "/a/b/c"]


def test_a_mount_takes_the_place_of_a_default() -> None:
    made = spec(tmpfs={"/dev/shm": "size=1g"}, volumes=(Volume(source="/x", destination="/dev/mqueue"),))
    assert sorted(destinations(made)) == sorted({mount.destination for mount in presets.MOUNTS})
    (shm,) = (mount for mount in made.mounts if mount.destination == "/dev/shm")
    assert "size=1g" in shm.options


@pytest.mark.parametrize(
    "fields",
    [
        {"tmpfs": {"/dev/shm": "size=1g"}},
        {"volumes": (Volume(source="/x", destination="/dev/mqueue"),)},
        {"volumes": (Volume(source="/x", destination="/sys/fs/cgroup"),)},
        {"tmpfs": {"/dev/sub": ""}},
        {"network": "host"},
    ],
)
def test_what_is_asked_for_can_be_planned(fields: dict[str, Any]) -> None:
    made = make_plan(spec(**fields), "/stage")
    assert made.finish({bind.descriptor for bind in made.binds})


def test_the_network_of_the_host() -> None:
    made = spec(network="host")
    assert "network" not in {namespace.type for namespace in made.linux.namespaces}
    assert made.mounts == presets.MOUNTS
    files = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]
    assert {path for path in files if PREFIX + path in made.annotations} == {
        path for path in files if os.path.isfile(path) or path == "/etc/hostname"
    }
    assert "io.wherry.root-itself" not in made.annotations
    assert spec(rw_rootfs=True).annotations["io.wherry.root-itself"] == "true"


def test_a_volume_or_tmpfs_takes_the_place_of_a_name_file() -> None:
    """Case 13: who mounts their own wins."""
    own = spec(volumes=(Volume(source="/x", destination="/etc/./hosts"),), tmpfs={"/etc/hostname/": ""})
    assert not any(name.startswith(PREFIX) for name in own.annotations)


def test_resources() -> None:
    limits: dict[str, Any] = {
        "hard_bytes": 6 << 20,
        "soft_bytes": 3 << 20,
        "memory_bytes": 8 << 20,
        "memory_reservation_bytes": 7 << 20,
    }
    made = spec(**limits, nice=15, cpus=0.5, pids_limit=12, init=True, read_only=True)
    resources = made.linux.resources
    assert resources.memory == Memory(limit=8 << 20, reservation=7 << 20, swap=16 << 20)
    assert (resources.cpu.shares, resources.cpu.quota, resources.cpu.period) == (36, 50_000, 100_000)
    assert resources.pids is not None
    assert resources.pids.limit == 12
    assert {name: text for name, text in made.annotations.items() if not name.startswith(PREFIX)} == {
        "io.wherry.init": "true",
        "io.wherry.memory.soft": str(3 << 20),
        "io.wherry.memory.hard": str(6 << 20),
    }
    assert made.process.scheduler == Scheduler(nice=15)
    assert made.root.readonly


@pytest.mark.parametrize(
    ("policy", "made"),
    [("", Scheduler()), ("batch", Scheduler(policy="SCHED_BATCH")), ("rr:7", Scheduler(policy="SCHED_RR", priority=7))],
)
def test_scheduling_policies(policy: str, made: Scheduler) -> None:
    assert spec(sched_policy=policy).process.scheduler == made


def test_weights() -> None:
    """A nice value is one of the kernel's weights on version 1, and on version 2 what its file takes."""
    niced, shared, idle = spec(nice=19).linux, spec(cpu_shares=700).linux, spec(sched_policy="idle").linux
    assert (niced.resources.cpu.shares, niced.resources.unified) == (15, {"cpu.weight.nice": "19"})
    assert (shared.resources.cpu.shares, shared.resources.unified) == (700, {})
    assert (idle.resources.cpu.idle, idle.resources.unified) == (1, {})
    assert spec().linux.resources.cpu == Cpu(shares=1024)


def test_cpus_to_run_on_and_io_weight() -> None:
    made = spec(cpuset_cpus="0-1", io_weight=500).linux.resources
    assert (made.cpu.cpus, made.block_io.weight) == ("0-1", 500)


@pytest.mark.parametrize(
    ("cpus", "quota"), [(0.01, 1000), (0.29, 29_000), (0.57, 57_000), (1.1, 110_000), (2, 200_000)]
)
def test_cpus_are_not_cut_short(cpus: float, quota: int) -> None:
    """0.29 * 100000 is 28999.999999999996."""
    assert spec(cpus=cpus).linux.resources.cpu.quota == quota


def test_capabilities_that_were_added_and_dropped() -> None:
    made = spec(cap_add=("CAP_NET_RAW",), cap_drop=("CAP_CHOWN",)).process.capabilities
    assert made.bounding == made.effective == made.permitted
    assert set(made.bounding) == set(presets.CAPABILITIES.bounding) - {"CAP_CHOWN"} | {"CAP_NET_RAW"}
    other = spec(User(5, 5, (), "/"), cap_add=("CAP_NET_RAW",), cap_drop=("ALL",)).process.capabilities
    assert (other.bounding, other.effective, other.inheritable, other.ambient) == (("CAP_NET_RAW",), (), (), ())


def test_limits_take_the_place_of_ours_by_name() -> None:
    asked = (Ulimit(name="nofile", soft=5, hard=-1), Ulimit(name="core", soft=0, hard=0))
    limits = {limit.type: (limit.soft, limit.hard) for limit in spec(ulimits=asked).process.rlimits}
    assert limits == {"RLIMIT_NOFILE": (5, 2**64 - 1), "RLIMIT_CORE": (0, 0)}


def test_the_size_of_shm() -> None:
    (shm,) = (mount for mount in spec(shm_bytes=4096).mounts if mount.destination == "/dev/shm")
    assert [option for option in shm.options if option.startswith("size=")] == ["size=4096"]
    (mine,) = (m for m in spec(shm_bytes=4096, tmpfs={"/dev/shm": "size=1g"}).mounts if m.destination == "/dev/shm")
    assert "size=1g" in mine.options
