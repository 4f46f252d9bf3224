"""A spec becomes a list of steps; what cannot be carried out is refused, never left out."""

from __future__ import annotations

import json
import resource
from typing import Any

import msgspec
import pytest

from wherry.errors import InvalidRequest, NotSupported
from wherry.kernel import mounts
from wherry.kernel.id_maps import IdMap
from wherry.runtime import plan, presets, steps
from wherry.runtime.spec import (
    ANNOTATION_INIT,
    Capabilities,
    IdMapping,
    Linux,
    Mount,
    Namespace,
    Process,
    Rlimit,
    Root,
    Scheduler,
    Spec,
    User,
)
from wherry.runtime.steps import Step, namefiles
from wherry.runtime.steps.workdir import ChangeDirectory, EnterDirectory, MakeWorkingDirectory
from wherry.runtime.user_namespace import Favours, UserNamespace

STAGE = "/run/stage"
SAFE = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
DEFAULT_MASK = 0x800405FB


def spec(**changes: Any) -> Spec:
    """The defaults, with these fields of Spec, Process or Linux changed."""
    linux = Linux(
        namespaces=presets.NAMESPACES,
        masked_paths=presets.MASKED_PATHS,
        readonly_paths=presets.READONLY_PATHS,
    )
    process = Process(args=("/bin/true",), capabilities=presets.CAPABILITIES)
    base = Spec(process=process, root=Root(path="/srv/rootfs"), linux=linux, hostname="alpha", mounts=presets.MOUNTS)
    fields = {part: {key: changes.pop(key) for key in keys if key in changes} for part, keys in PARTS.items()}
    for part, values in fields.items():
        if values:
            changes[part] = msgspec.structs.replace(getattr(base, part), **values)
    return msgspec.structs.replace(base, **changes)


PARTS = {"process": Process.__struct_fields__, "linux": Linux.__struct_fields__}


# Steps are compared as they are sent, with their names: as tuples EnterStage() and EnterRoot() are equal.
Sent = list[list[object]]


def prepare(made_of: Spec) -> Sent:
    return steps.encode(plan.make_plan(made_of, STAGE).prepare)


def finish(made_of: Spec, *directories: str) -> Sent:
    return steps.encode(plan.make_plan(made_of, STAGE).finish(set(directories)))


def sent(*expected: Step) -> Sent:
    return steps.encode(list(expected))


def volume(destination: str, source: str = "/srv/data", *options: str) -> Mount:
    return Mount(destination=destination, type="bind", source=source, options=options)


def tmpfs(destination: str, *options: str) -> Mount:
    return Mount(destination=destination, type="tmpfs", source="tmpfs", options=options)


def test_the_prepare_steps_of_a_default_container() -> None:
    names = ["mount", "uts", "ipc", "network", "cgroup"]
    assert prepare(spec()) == sent(
        steps.SetOomScore(0),
        steps.Unshare(names),
        steps.LoopbackUp(),
        steps.MountStage(STAGE),
        steps.MountStaged("/proc", "proc", "proc", SAFE, ""),
        steps.AllowPing(),
        steps.MountStaged(
            "/dev",
            "tmpfs",
            "tmpfs",
            mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_STRICTATIME,
            "mode=755,size=65536k",
        ),
        steps.MakeDevices(["null", "zero", "full", "random", "urandom", "tty"]),
        steps.MountStaged(
            "/dev/pts",
            "devpts",
            "devpts",
            mounts.MS_NOSUID | mounts.MS_NOEXEC,
            "newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        steps.MountStaged("/dev/shm", "tmpfs", "shm", SAFE, "mode=1777,size=65536k"),
        steps.MountStaged("/dev/mqueue", "mqueue", "mqueue", SAFE, ""),
        steps.MountStaged("/sys", "sysfs", "sysfs", SAFE, ""),
        namefiles.StageNameFiles(["/etc/hostname", "/etc/hosts"]),
        *(steps.MaskStaged(path) for path in presets.MASKED_PATHS),
        *(steps.ProtectStaged(path) for path in presets.READONLY_PATHS),
        steps.ReadOnlyStaged("/sys", SAFE),
        steps.LimitBoundingSet(DEFAULT_MASK),
        steps.EnterStage(),
    )


def test_the_finish_steps_of_a_default_container() -> None:
    assert finish(spec()) == sent(
        steps.AttachRoot("root"),
        steps.MoveStaged("/proc"),
        steps.MoveStaged("/dev"),
        steps.MoveStaged("/sys"),
        steps.EnterRoot(),
        steps.SetHostname("alpha", ""),
        steps.SetNice(0),
        steps.SetStdio("stdout", "stderr", 0, 0),
        steps.DropPrivileges(0, 0, [], 0o022, DEFAULT_MASK, DEFAULT_MASK, 0, 0, True),
    )


def test_the_finish_steps_of_a_container_with_everything() -> None:
    mounts_of_it = (
        *presets.MOUNTS,
        volume("/data"),
        tmpfs("/data/tmp", "size=1m", "ro"),
        volume("/etc/x", "/x", "ro"),
    )
    made_of = spec(
        mounts=mounts_of_it,
        root=Root(path="/srv/rootfs", readonly=True),
        domainname="example",
        rlimits=(Rlimit(type="RLIMIT_NOFILE", soft=10, hard=20),),
        annotations={ANNOTATION_INIT: "true"},
        scheduler=Scheduler(policy="SCHED_BATCH", nice=-5),
        user=User(uid=7, gid=8, additional_gids=(8, 9), umask=0o077),
        cwd="/work",
        capabilities=Capabilities(bounding=("CAP_KILL",), inheritable=("CAP_KILL",)),
        no_new_privileges=False,
    )
    result = finish(made_of, "volume6")
    assert result[4:] == sent(
        steps.AttachVolume("volume6", "/data", True),
        steps.MountTmpfs("/data/tmp", [("size", "1m")], mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NODEV),
        steps.AttachVolume("volume8", "/etc/x", False),
        MakeWorkingDirectory("/work"),
        steps.ReadOnlyRoot(),
        steps.EnterRoot(),
        steps.SetHostname("alpha", "example"),
        steps.SetNice(-5),
        steps.SetScheduler("SCHED_BATCH", 0),
        steps.SetStdio("stdout", "stderr", 7, 8),
        steps.SetRlimits([(7, 10, 20)]),
        EnterDirectory("/work"),
        steps.DropPrivileges(7, 8, [8, 9], 0o077, 0, 0, 1 << 5, 0, False),
        ChangeDirectory("/work"),
    )
    assert plan.wants_init(made_of)
    assert not plan.wants_init(spec())


def test_name_files_come_before_the_first_volume() -> None:
    """Case 13: else they would be made in a directory of the host; a tmpfs may be where a link of theirs leads."""
    files = {"io.wherry.name-file./etc/hosts": "127.0.0.1 a\n"}
    made = finish(spec(mounts=(*presets.MOUNTS, tmpfs("/run"), volume("/etc")), annotations=files), "volume7")
    names = [name for name, *_ in made]
    assert names[4:7] == ["MountTmpfs", "AttachNameFile", "AttachVolume"]
    assert made[5] == ["AttachNameFile", "/etc/hosts", "127.0.0.1 a\n", True, 0]
    alone = finish(spec(root=Root(path="/r", readonly=True), annotations=files | {"io.wherry.root-itself": "true"}))
    assert alone[4] == ["AttachNameFile", "/etc/hosts", "127.0.0.1 a\n", False, mounts.MOUNT_ATTR_RDONLY]


def test_a_name_file_that_is_not_prepared_is_refused() -> None:
    with pytest.raises(NotSupported, match="name file '/etc/passwd'"):
        plan.make_plan(spec(annotations={"io.wherry.name-file./etc/passwd": "root"}), STAGE)


def test_a_resolver_of_ones_own_is_another_template() -> None:
    asked = spec(annotations={"io.wherry.name-file./etc/resolv.conf": "nameserver 10.0.0.1\n"})
    assert ["StageNameFiles", ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"]] in prepare(asked)
    assert plan.make_plan(asked, STAGE).template != plan.make_plan(spec(), STAGE).template


def test_no_limit_is_what_setrlimit_takes() -> None:
    made = finish(spec(rlimits=(Rlimit(type="RLIMIT_CORE", soft=5, hard=2**64 - 1),)))
    assert sent(steps.SetRlimits([(4, 5, -1)]))[0] in made


def test_kernel_parameters_are_set_before_they_are_protected() -> None:
    linux = msgspec.structs.replace(spec().linux, sysctl={"net.ipv4.ip_forward": "1", "kernel/msgmax": "5"})
    made_of = msgspec.structs.replace(spec(), linux=linux)
    made = prepare(made_of)
    assert sent(steps.SetParameters([("net/ipv4/ip_forward", "1"), ("kernel/msgmax", "5")]))[0] in made
    assert [name for name, *_ in made].index("SetParameters") < [name for name, *_ in made].index("ProtectStaged")
    assert plan.make_plan(made_of, STAGE).template != plan.make_plan(spec(), STAGE).template
    shared = msgspec.structs.replace(linux, namespaces=tuple(n for n in linux.namespaces if n.type != "network"))
    with pytest.raises(NotSupported, match="shares that namespace"):
        plan.make_plan(msgspec.structs.replace(spec(), linux=shared), STAGE)


def test_binds_are_opened_by_the_launcher() -> None:
    made = plan.make_plan(spec(mounts=(volume("/a", "/x", "rbind", "ro"), volume("/b", "/y"))), STAGE)
    assert made.binds == [
        plan.Bind("volume0", "/x", "/a", True, mounts.MOUNT_ATTR_RDONLY),
        plan.Bind("volume1", "/y", "/b", False, 0),
    ]


def test_cgroups_are_joined_before_the_namespaces_are_made() -> None:
    made = plan.make_plan(spec(), STAGE)
    joined = steps.encode(steps.in_cgroups(["/sys/fs/cgroup/memory/x/cgroup.procs"], made.prepare))
    assert joined[:2] == sent(steps.NewSession(), steps.JoinCgroups(["/sys/fs/cgroup/memory/x/cgroup.procs"]))
    assert joined[2:] == steps.encode(made.prepare)


def test_the_network_of_the_host() -> None:
    kept = tuple(namespace for namespace in presets.NAMESPACES if namespace.type != "network")
    made = prepare(spec(namespaces=kept))
    assert ["Unshare", ["mount", "uts", "ipc", "cgroup"]] in made
    assert ["LoopbackUp"] not in made
    assert ["AllowPing"] not in made  # the host's setting
    assert ["StageNameFiles", ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"]] in made


def test_no_name_no_step() -> None:
    assert not any(name == "SetHostname" for name, *_ in finish(spec(hostname="")))
    assert ["SetHostname", "", "example"] in finish(spec(hostname="", domainname="example"))


SAME_TEMPLATE: list[dict[str, Any]] = [
    {"args": ("/bin/false", "x")},
    {"env": ("A=1",)},
    {"hostname": "beta"},
    {"root": Root(path="/elsewhere", readonly=True)},
    {"user": User(uid=5)},
    {"cwd": "/tmp"},
    {"annotations": {ANNOTATION_INIT: "true"}, "scheduler": Scheduler(policy="SCHED_IDLE", nice=3)},
    {"mounts": (*presets.MOUNTS, volume("/data"), tmpfs("/tmp"))},
    {"namespaces": tuple(reversed(presets.NAMESPACES))},
]
OTHER_TEMPLATE: list[dict[str, Any]] = [
    {"namespaces": presets.NAMESPACES[:-1]},
    {"masked_paths": presets.MASKED_PATHS[1:]},
    {"readonly_paths": ()},
    {"capabilities": Capabilities(bounding=("CAP_KILL",))},
    {"mounts": presets.MOUNTS[:-1]},
    {"mounts": (*presets.MOUNTS, tmpfs("/dev/shm", "size=1g"))},
    {"oom_score_adj": 100},
]


@pytest.mark.parametrize("changes", SAME_TEMPLATE)
def test_what_leaves_the_template_alone(changes: dict[str, Any]) -> None:
    first, second = plan.make_plan(spec(), STAGE), plan.make_plan(spec(**changes), STAGE)
    assert first.template == second.template
    assert steps.encode(first.prepare) == steps.encode(second.prepare)


@pytest.mark.parametrize("changes", OTHER_TEMPLATE)
def test_what_changes_the_template(changes: dict[str, Any]) -> None:
    first, second = plan.make_plan(spec(), STAGE), plan.make_plan(spec(**changes), STAGE)
    assert first.template != second.template
    assert steps.encode(first.prepare) != steps.encode(second.prepare)


def test_another_stage_is_another_template() -> None:
    assert plan.make_plan(spec(), STAGE).template != plan.make_plan(spec(), "/other").template


def test_the_template_is_the_prepare_steps() -> None:
    made = plan.make_plan(spec(), STAGE)
    assert json.loads(made.template) == steps.encode(made.prepare)


def namespaces_with(namespace: Namespace) -> dict[str, Any]:
    kept = (each for each in presets.NAMESPACES if each.type != namespace.type)
    return {"namespaces": (*kept, namespace)}


def mapped_ids(inside: int, outside: int, size: int) -> IdMapping:
    return IdMapping(container_id=inside, host_id=outside, size=size)


IDS = (mapped_ids(0, 100000, 100),)
OWN_USERS = (Namespace(type="user"), *presets.NAMESPACES)
USER_NAMESPACE: dict[str, Any] = {"namespaces": OWN_USERS, "uid_mappings": IDS, "gid_mappings": IDS}


def test_what_is_different_in_a_user_namespace() -> None:
    """Less is done by the process itself: it is nobody on the host."""
    settings: dict[str, Any] = {
        "user": User(uid=7, gid=8),
        "scheduler": Scheduler(policy="SCHED_BATCH", nice=-5),
        "rlimits": (Rlimit(type="RLIMIT_NOFILE", soft=10, hard=20),),
        "oom_score_adj": 5,
        "mounts": (*presets.MOUNTS, volume("/data", "/d", "ridmap", "ro")),
    }
    mapped, plain = spec(**USER_NAMESPACE, **settings), spec(**settings | {"mounts": presets.MOUNTS})
    missing = [step for step in prepare(plain) if step not in prepare(mapped)]
    assert missing == sent(steps.SetOomScore(5), steps.MountStage(STAGE), steps.AllowPing())
    added = [step for step in prepare(mapped) if step not in prepare(plain)]
    assert added == sent(steps.MountStage(STAGE, mapped=True), steps.AllowPing(0, 99))
    missing = [step for step in finish(plain) if step not in finish(mapped)]
    assert missing == sent(
        steps.SetNice(-5), steps.SetScheduler("SCHED_BATCH", 0), steps.SetStdio("stdout", "stderr", 7, 8)
    )
    made = plan.make_plan(mapped, STAGE)
    id_map = IdMap.of([[0, 100000, 100]], [[0, 100000, 100]])
    assert made.namespace == UserNamespace(id_map, 5)
    assert made.output_owner == (100007, 100008)
    assert made.favours == Favours(((resource.RLIMIT_NOFILE, 10, 20),), -5, "SCHED_BATCH", 0)
    assert made.binds == [plan.Bind("volume6", "/d", "/data", False, mounts.MOUNT_ATTR_RDONLY, "ridmap")]
    assert plan.make_plan(plain, STAGE)[4:] == (None,)


def test_other_ids_are_another_kind() -> None:
    """Steps may be the same: the child is given its ids from outside."""
    other = USER_NAMESPACE | {"uid_mappings": (mapped_ids(0, 200000, 100),)}
    one, two = (plan.make_plan(spec(**each), STAGE) for each in (USER_NAMESPACE, other))
    assert one.template == two.template
    assert one.kind != two.kind


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    (namespaces_with(Namespace(type="network", path="/run/netns/x")), NotSupported, "joining the network namespace"),
    (namespaces_with(Namespace(type="pid", path="/proc/1/ns/pid")), NotSupported, "joining the pid namespace"),
    (namespaces_with(Namespace(type="user")), InvalidRequest, "uid mappings: 0 lines"),
    (
        {**namespaces_with(Namespace(type="user")), "uid_mappings": IDS, "gid_mappings": (mapped_ids(1, 5, 10),)},
        InvalidRequest,
        "gid mappings: 0 is missing",
    ),
    ({"uid_mappings": IDS}, InvalidRequest, "id mappings without a user namespace"),
    (
        {**USER_NAMESPACE, "namespaces": tuple(each for each in OWN_USERS if each.type != "network")},
        InvalidRequest,
        "needs a network namespace of its own",
    ),
    ({**USER_NAMESPACE, "user": User(uid=100)}, InvalidRequest, "user id 100 does not exist .* it has 0-99"),
    ({**USER_NAMESPACE, "user": User(additional_gids=(7, 100))}, InvalidRequest, "group id 100 does not exist"),
    ({**USER_NAMESPACE, "scheduler": Scheduler(policy="SCHED_DEADLINE")}, NotSupported, "'SCHED_DEADLINE'"),
    ({"mounts": (volume("/a", "/b", "ridmap"),)}, InvalidRequest, "mount /a: ridmap without a user namespace"),
    (namespaces_with(Namespace(type="time")), NotSupported, "time namespaces are not supported"),
    ({"namespaces": presets.NAMESPACES[1:]}, NotSupported, "without a pid namespace"),
    ({"namespaces": ()}, NotSupported, "without a pid namespace"),
    ({"namespaces": (Namespace(type="pid"),)}, NotSupported, "without a mount namespace"),
    ({"masked_paths": ("/etc/shadow",)}, NotSupported, "'/etc/shadow'"),
    ({"readonly_paths": ("/procfs",)}, NotSupported, "'/procfs'"),
    ({"capabilities": Capabilities(bounding=("CAP_BOGUS",))}, InvalidRequest, "unknown capability 'CAP_BOGUS'"),
    ({"capabilities": Capabilities(effective=("chown",))}, InvalidRequest, "unknown capability 'chown'"),
    ({"rlimits": (Rlimit(type="RLIMIT_BOGUS", soft=1, hard=1),)}, InvalidRequest, "RLIMIT_BOGUS"),
    *(
        ({"mounts": (volume(path),)}, InvalidRequest, "is not an absolute path below /")
        for path in ("/", "", "//", "data", "/data/../..", "/..", "/a/../proc")
    ),
    *(
        ({"mounts": (mount,)}, InvalidRequest, "nothing may be mounted over /proc")
        for mount in (volume("/proc"), volume("/proc/sys"), tmpfs("/proc"), tmpfs("/proc/sys/net"), volume("/proc/"))
    ),
    *(({"mounts": (volume(path),)}, InvalidRequest, "place of the runtime's own") for path in ("/dev", "/sys")),
    ({"mounts": (volume("/a", "/x", "rshared"),)}, InvalidRequest, "'rshared' is not supported"),
    ({"mounts": (volume("/a", "/x", "Idmap"),)}, InvalidRequest, "mount /a: unknown option 'Idmap'"),
    ({"mounts": (tmpfs("/dev/shm", "shared"),)}, InvalidRequest, "'shared' is not supported"),
    ({"mounts": (Mount(destination="/mnt", type="ext4", source="/dev/sda"),)}, NotSupported, "type 'ext4'"),
    ({"mounts": (Mount(destination="/sys/fs/cgroup", type="cgroup"),)}, NotSupported, "type 'cgroup'"),
    ({"mounts": (Mount(destination="/data", type="proc"),)}, NotSupported, "type 'proc'"),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED)
def test_refusals(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        finish(spec(**changes))
