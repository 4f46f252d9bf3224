"""What a soft limit does beside being told: ``--soft-action``, and the event of a container that stalls above it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.root.harness import REPOSITORY, Supervisor, Traces
from tests.waiting import wait_until

from wherry import Event
from wherry.errors import InvalidRequest, NotSupported
from wherry.kernel import cgroups
from wherry.memory import pressure
from wherry.memory.pressure import PressureWatch

pytestmark = pytest.mark.root

ENFORCERS = os.environ.get("WHERRY_ENFORCERS", "bpf cgroup").split()
KINDS = f"{REPOSITORY}/build/workloads/memory_kinds:/kinds:ro"
MIB = 1 << 20
LAYOUT = cgroups.detect()
needs_version2 = pytest.mark.skipif(LAYOUT.version == 1, reason="version 1 of control groups cannot do it")


@pytest.fixture(params=ENFORCERS)
def limited(request: pytest.FixtureRequest, tmp_path: Path, rootfs: Path, leftovers: Traces) -> Iterator[Supervisor]:
    options = ("--memory-enforcer", request.param)
    with Supervisor(tmp_path, rootfs, leftovers, *options).serving() as supervisor:
        (supervisor.directory / "go").mkdir()
        yield supervisor


def volumes(supervisor: Supervisor) -> list[str]:
    return [KINDS, f"{supervisor.directory}/go:/go:ro"]


def wait_for(name: str) -> str:
    """In a shell: until that file is in the volume /go."""
    return f"while [ ! -e /go/{name} ]; do sleep 0.01; done"


def kinds(supervisor: Supervisor, name: str) -> list[str]:
    return [
        event.kind
        for event in supervisor.client.events(since_ns=1, until_ns=time.time_ns())
        if event.name == name  # a filter would take one for "c" whose id begins with that
    ]


@pytest.mark.parametrize(("action", "file"), [("reclaim", "memory.reclaim"), ("throttle", "memory.high")])
def test_an_action_is_carried_out_or_refused(limited: Supervisor, rootfs: Path, action: str, file: str) -> None:
    words = ("start", "--soft-mib", "16", "--soft-action", action, "c", rootfs, "/bin/sleep", "1000")
    done = limited.engine(*words, check=False)
    if LAYOUT.version == 2:
        assert done.returncode == 0
        assert limited.client.inspect("c")["Wherry"]["SoftAction"] == action
        high = limited.control_file("c", "memory", "", "memory.high")
        held_by_cgroup = limited.info()["enforcer"] == "cgroup"  # which uses it to be told
        assert high == (str(16 * MIB) if action == "throttle" or held_by_cgroup else "max")
        limited.client.update("c", soft_mib=24)
        if action == "throttle":
            assert limited.control_file("c", "memory", "", "memory.high") == str(24 * MIB)
        limited.client.stop("c", 0)
    else:
        assert f"soft action {action} is not supported on this host: it needs {file} (control groups" in done.stderr
        with pytest.raises(NotSupported, match=file):
            limited.client.start("d", str(rootfs), ["/bin/true"], soft_mib=16, soft_action=action)  # type: ignore[arg-type]
        assert limited.ps() == []


def test_what_makes_no_sense_is_refused(supervisor: Supervisor, rootfs: Path) -> None:
    for options, match in (
        ({"soft_action": "reclaim"}, "needs a soft limit"),
        ({"soft_action": "panic", "soft_mib": 16}, "is not one of none, reclaim, throttle"),
    ):
        with pytest.raises(InvalidRequest, match=match):
            supervisor.client.start("c", str(rootfs), ["/bin/true"], **options)
    assert supervisor.ps() == []


@needs_version2
@pytest.mark.host_variant
@pytest.mark.parametrize("action", ["none", "reclaim"])
def test_reclaim_takes_back_what_can_be_had(limited: Supervisor, rootfs: Path, action: str) -> None:
    """14 MiB that the kernel may have back but does not need, and 8 that it may not: above 16 for good, or at once
    below it.
    """
    if limited.info()["enforcer"] == "cgroup":
        return  # memory.high, by which it is told, reclaims by itself
    script = f"/kinds free 14 1 & {wait_for('more')}; exec /kinds anonymous 8 1"
    client = limited.client
    client.start(
        "c",
        str(rootfs),
        ["/bin/sh", "-c", script],
        volumes=volumes(limited),
        soft_mib=20,
        soft_action=action,  # type: ignore[arg-type]
    )
    wait_until(lambda: "done" in limited.engine("logs", "c").stdout)
    (limited.directory / "go/more").touch()
    wait_until(lambda: limited.engine("logs", "c").stdout.count("done") == 2)
    if action == "reclaim":
        wait_until(lambda: "soft-limit-cleared" in kinds(limited, "c"))
        assert client.stats("c")["Wherry"]["Memory"]["Rss"] < 19 * MIB
    else:
        wait_until(lambda: "soft-limit" in kinds(limited, "c"))
        assert client.stats("c")["Wherry"]["Memory"]["Rss"] > 20 * MIB
    client.stop("c", 0)


@needs_version2
@pytest.mark.host_variant
def test_throttled_above_its_limit_and_told_to_stall(limited: Supervisor, rootfs: Path) -> None:
    """The kernel makes whoever allocates above memory.high sleep, which is waiting for memory: once a crossing."""
    client = limited.client
    told: list[Event] = []
    script = f"{wait_for('more')}; exec /kinds anonymous 200 1"
    client.start(
        "slow", str(rootfs), ["/bin/sh", "-c", script], volumes=volumes(limited), soft_mib=16, soft_action="throttle"
    )
    client.start("free", str(rootfs), ["/bin/sh", "-c", script], volumes=volumes(limited), soft_mib=16)
    with client.subscribe("slow", {"memory-pressure": told.append}) as subscription:
        (limited.directory / "go/more").touch()
        wait_until(lambda: bool(told))
        assert not subscription.wait(0)
    wait_until(lambda: "done" in limited.engine("logs", "free").stdout)
    (event,) = told
    assert int(event.attributes["limit"]) == 16 * MIB
    assert 0.1 <= float(event.attributes["stalled"]) <= PATIENCE
    assert limited.control_file("slow", "memory", "", "memory.high") == str(16 * MIB)
    assert "done" not in limited.engine("logs", "slow").stdout  # it sleeps for seconds at each step
    assert kinds(limited, "slow") == ["create", "start", "soft-limit", "memory-pressure"]
    assert "memory-pressure" not in kinds(limited, "free")
    for name in ("slow", "free"):
        client.stop(name, 0)


@pytest.mark.host_variant
def test_above_its_limit_and_swapping_all_the_time(limited: Supervisor, rootfs: Path, swap: None) -> None:  # noqa: ARG001
    """Of version 1 as well, where a version 2 tree without controllers is mounted. Both go up and down around their
    soft limit; the group of one has no room for that.
    """
    if pressure.path_of(cgroups.Group(LAYOUT, limited.info()["cgroup_parent"].lstrip("/"))) is None:
        pytest.skip("this kernel has no pressure stall information")
    client, told = limited.client, list[Event]()
    hostile = f"{REPOSITORY}/build/workloads/memory_hostile:/hostile:ro"
    room = {"crowded": {"memory": 16 * MIB, "memory_swap": -1}, "free": {}}
    with client.subscribe("crowded", {"memory-pressure": told.append}):
        for name, options in room.items():
            words = ["/hostile", "storm", "32", "4"]
            client.start(name, str(rootfs), words, soft_mib=8, volumes=[hostile], **options)  # type: ignore[arg-type]
        wait_until(lambda: bool(told))
    assert "soft-limit" in kinds(limited, "crowded")
    assert "memory-pressure" not in kinds(limited, "free")
    assert int(told[0].attributes["limit"]) == 8 * MIB
    assert float(told[0].attributes["stalled"]) > 0
    for name in room:
        client.stop(name, 0)


@pytest.fixture
def group() -> Iterator[cgroups.Group]:
    made = cgroups.Group(LAYOUT, f"wherry-test-{os.getpid()}")
    made.create()
    yield made
    wait_until(made.remove)


@pytest.mark.host_variant
def test_a_trigger_is_made_and_goes(group: cgroups.Group) -> None:
    if pressure.path_of(group) is None:
        pytest.skip("this kernel has no pressure stall information")
    before = len(os.listdir("/proc/self/fd"))
    watch = PressureWatch()
    try:
        watch.add("c", group)
        watch.add("c", group)
        assert len(os.listdir("/proc/self/fd")) == before + 2
        assert watch.changed() == []
        assert pressure.stalled_ns(group) >= 0
        os.close(watch.remove("c"))
        assert watch.remove("c") == -1
        watch.add("c", group)
    finally:
        watch.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_where_there_is_none_that_is_said(tmp_path: Path) -> None:
    group = cgroups.Group(cgroups.Layout(1, {"memory": str(tmp_path)}), "c")
    assert pressure.path_of(group) is None
    assert pressure.stalled_ns(group) == 0
    watch = PressureWatch()
    try:
        with pytest.raises(FileNotFoundError):
            watch.add("c", group)
    finally:
        watch.close()
