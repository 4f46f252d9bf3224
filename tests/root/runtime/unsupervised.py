"""Containers without a supervisor: an OCI spec, its plan, and ``runtime.launch`` from a process with one thread.

Nothing of ``wherry.supervisor`` is loaded, as wherry-oci will not.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from tests.forked import in_child
from tests.patience import PATIENCE

from wherry.kernel import id_maps, libc, namespaces
from wherry.kernel.capabilities import mask_of
from wherry.kernel.id_maps import IdMap
from wherry.runtime import binds, launch, presets, seccomp, users
from wherry.runtime.exit_status import ExitStatus
from wherry.runtime.launch import Report
from wherry.runtime.plan import Plan, make_plan, wants_init
from wherry.runtime.spec import (
    ANNOTATION_INIT,
    ANNOTATION_NAME_FILE,
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
from wherry.runtime.steps import DropPrivileges, LimitBoundingSet, Step, in_cgroups
from wherry.storage.layers import Layers, Mapping, open_rootfs

T = TypeVar("T")
_PR_SET_PDEATHSIG = 1
Change = Callable[[list[Step]], list[Step]]
_NAME_FILES = {"/etc/hostname": "alpha\n", "/etc/hosts": "127.0.0.1\tlocalhost alpha\n"}


def volume(source: Path | str, destination: str, access: str = "rw") -> Mount:
    return Mount(destination=destination, type="bind", source=str(source), options=("rbind", access))


def tmpfs(destination: str, options: str = "") -> Mount:
    restrict = ("nosuid", "nodev", "noexec")
    return Mount(destination=destination, type="tmpfs", source="tmpfs", options=(*restrict, *options.split(",")))


def make_spec(  # noqa: PLR0913 (a spec has as many)
    rootfs: Path,
    command: tuple[str, ...],
    user: users.User,
    *,
    env: tuple[str, ...] = (),
    working_dir: str = "/",
    domainname: str = "",
    read_only: bool = False,
    mounts: tuple[Mount, ...] = (),
    network: str = "none",
    scheduler: Scheduler | None = None,
    init: bool = False,
    filtered: bool = True,
) -> Spec:
    """Of a container ``alpha`` with docker's defaults; ``filtered`` is with its seccomp filter."""
    is_root, taken = user.uid == 0, {mount.destination for mount in mounts}
    variables = {"PATH": presets.PATH, "HOSTNAME": "alpha", "HOME": user.home}
    variables |= dict(variable.split("=", 1) for variable in env)
    annotations = {ANNOTATION_NAME_FILE + path: text for path, text in _NAME_FILES.items() if path not in taken}
    return Spec(
        process=Process(
            args=command,
            env=tuple("=".join(variable) for variable in variables.items()),
            cwd=working_dir,
            user=User(uid=user.uid, gid=user.gid, additional_gids=user.groups),
            capabilities=presets.CAPABILITIES if is_root else presets.CAPABILITIES_OF_OTHER_USERS,
            rlimits=(Rlimit(type="RLIMIT_NOFILE", soft=1024, hard=4096),),
            scheduler=scheduler or Scheduler(),
        ),
        root=Root(path=str(rootfs), readonly=read_only),
        hostname="alpha",
        domainname=domainname,
        mounts=(*(mount for mount in presets.MOUNTS if mount.destination not in taken), *mounts),
        linux=Linux(
            namespaces=tuple(each for each in presets.NAMESPACES if each.type != "network" or network != "host"),
            masked_paths=presets.MASKED_PATHS,
            readonly_paths=presets.READONLY_PATHS,
            seccomp=seccomp.resolve(seccomp.parse(""), frozenset(presets.CAPABILITIES.bounding)) if filtered else None,
        ),
        annotations=annotations | ({ANNOTATION_INIT: "true"} if init else {}),
    )


def in_user_namespace(spec: Spec, id_map: IdMap) -> Spec:
    """Volumes have its ids with the option ``ridmap``."""
    uids, gids = (
        tuple(IdMapping(container_id=each.inside, host_id=each.outside, size=each.size) for each in extents)
        for extents in id_map
    )
    own = (Namespace(type="user"), *spec.linux.namespaces)
    linux = msgspec.structs.replace(spec.linux, namespaces=own, uid_mappings=uids, gid_mappings=gids)
    return msgspec.structs.replace(spec, linux=linux)


class Ended(NamedTuple):
    """What became of a container: its reports, how its first process ended, and what it wrote."""

    report: Report
    status: ExitStatus
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """Of the output of a command that had no cause to complain."""
        assert self.report == (True, True, None), self
        assert (self.status.exit_code, self.stderr) == (0, ""), self
        return self.stdout.splitlines()

    @property
    def error(self) -> str:
        """The message of a start that failed."""
        assert self.report.failure is not None, self
        return str(launch.start_error("alpha", self.report.failure))


class Parked:
    """A first process and all that belongs to it, in the process that has cloned it.

    ``prepare`` and ``finish`` may change the plan's steps before they are carried out.
    """

    def __init__(self, plan: Plan, root: int, prepare: Change | None = None, cgroups: tuple[str, ...] = ()) -> None:
        self.plan = plan
        self.root = root
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(PATIENCE)
        self._reports = b""
        steps = in_cgroups(list(cgroups), plan.prepare)
        with theirs:
            descriptors = {launch.CHANNEL: theirs.fileno()}
            new = ["pid"] if plan.namespace is None else ["user", "pid"]
            steps = prepare(steps) if prepare else steps
            self.pid, self.pidfd = launch.spawn(steps, descriptors, new, [], plan.namespace)

    def wait_ready(self) -> bool:
        """False when it has ended instead."""
        while not launch.parse_reports(self._reports).ready:
            if not self._read():
                return False
        return True

    def _read(self) -> bool:
        chunk = self.channel.recv(65536)
        self._reports += chunk
        return bool(chunk)

    def finish(self, change: Change | None = None, extra: dict[str, int] | None = None) -> tuple[int, int]:
        """Send the finish message; returns the read ends of the output pipes.

        ``extra`` are descriptors that the child gets besides those it needs.
        """
        with ExitStack() as used:
            outputs = [os.pipe(), os.pipe()]
            for _, writer in outputs:
                used.callback(os.close, writer)
                if self.plan.output_owner:
                    os.fchown(writer, *self.plan.output_owner)
            namespace = -1
            if self.plan.namespace is not None:
                namespace = id_maps.namespace_of(self.pid, self.pidfd)
                used.callback(os.close, namespace)
            descriptors = {"root": self.root, "stdout": outputs[0][1], "stderr": outputs[1][1]} | (extra or {})
            directories = set()
            for bind in self.plan.binds:
                tree, is_directory = binds.open_bind(bind, namespace)
                used.callback(os.close, tree)
                descriptors[bind.descriptor] = tree
                directories |= {bind.descriptor} if is_directory else set()
            if self.plan.favours:
                self.plan.favours.do(self.pid)
            steps = self.plan.finish(directories)
            process = self.plan.spec.process
            message = launch.finish_message(
                list(descriptors),
                change(steps) if change else steps,
                list(process.args),
                list(process.env),
                wants_init(self.plan.spec),
            )
            self.send(message, list(descriptors.values()))
        return outputs[0][0], outputs[1][0]

    def send(self, message: bytes, descriptors: list[int]) -> None:
        """What a child that fails meanwhile does not read is lost."""
        with suppress(BrokenPipeError, ConnectionResetError):
            sent = socket.send_fds(self.channel, [message], descriptors)
            self.channel.sendall(message[sent:])

    def wait_executed(self) -> Report:
        while self._read():
            pass
        return launch.parse_reports(self._reports)

    def wait(self) -> ExitStatus:
        """Until the first process has ended."""
        information = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        assert information is not None
        os.close(self.pidfd)
        self.channel.close()
        os.close(self.root)
        return ExitStatus(information.si_code, information.si_status)

    def end(self, outputs: tuple[int, int]) -> Ended:
        """Until it has ended by itself; what it writes must fit into the pipes."""
        report = self.wait_executed()
        status = self.wait()
        written = []
        for output in outputs:
            with os.fdopen(output, encoding="utf-8", errors="surrogateescape") as pipe:
                written.append(pipe.read())
        return Ended(report, status, *written)


class Unsupervised:
    """Makes containers over ``rootfs``, with layers and a stage in ``directory``."""

    def __init__(self, rootfs: Path, directory: Path) -> None:
        self.rootfs = rootfs
        self.layers = directory / "layers"
        self.layers.mkdir()
        self.stage = directory / "stage"
        self.stage.mkdir()

    def plan(self, *command: str, user: str = "", id_map: IdMap | None = None, **fields: Any) -> tuple[Plan, int]:
        """The plan of a container with these fields of ``make_spec``, and its root mount."""
        with ExitStack() as used:
            directory, layers = open_rootfs(str(self.rootfs)), Layers(self.layers, 0)
            used.callback(os.close, directory)
            used.callback(layers.close)
            mapping = None if id_map is None else Mapping(id_map, used.enter_context(namespace_with(id_map)))
            _, root = layers.mount("", directory, mapping)
        spec = make_spec(self.rootfs, command, users.lookup(root, user), **fields)
        return make_plan(spec if id_map is None else in_user_namespace(spec, id_map), str(self.stage)), root

    def park(self, *command: str, prepare: Change | None = None, **fields: Any) -> Parked:
        """To be called in a child: see ``apart``."""
        plan, root = self.plan(*command, **fields)
        return Parked(plan, root, prepare)

    def run(
        self,
        *command: str,
        prepare: Change | None = None,
        finish: Change | None = None,
        extra: dict[str, int] | None = None,
        **fields: Any,
    ) -> Ended:
        """Run a command to its end."""

        def work() -> Ended:
            parked = self.park(*command, prepare=prepare, **fields)
            if not parked.wait_ready():
                report = parked.wait_executed()
                return Ended(report, parked.wait(), "", "")
            return parked.end(parked.finish(finish, extra))

        return self.apart(work)

    def shell(self, script: str, **fields: Any) -> Ended:
        return self.run("/bin/sh", "-c", script, **fields)

    def apart(self, work: Callable[[], T]) -> T:
        """``work`` in a process of its own, which leaves no process and no descriptor behind."""

        def checked() -> T:
            # When a test hangs, its time limit ends the process that cloned the container: take the container with it.
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            before = os.listdir("/proc/self/fd")
            result = work()
            assert os.listdir("/proc/self/fd") == before
            return result

        return in_child(checked)


@contextmanager
def namespace_with(id_map: IdMap) -> Iterator[int]:
    """A user namespace without a process."""
    pid, pidfd = namespaces.fork_into(["user"])
    if pid == 0:
        signal.pause()
    try:
        id_maps.write(pid, id_map)
        namespace = id_maps.namespace_of(pid, pidfd)
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
    try:
        yield namespace
    finally:
        os.close(namespace)


def with_capability(name: str) -> Change:
    """What gives a container one more than it has by default, as a change of its prepare and of its finish steps."""
    mask = mask_of([name])

    def more(step: Step) -> Step:
        if isinstance(step, DropPrivileges):
            return step._replace(effective=step.effective | mask, permitted=step.permitted | mask)
        return LimitBoundingSet(step.keep | mask) if isinstance(step, LimitBoundingSet) else step

    return lambda plan: [more(step) for step in plan]


def unique() -> str:
    """A name that no other test uses."""
    return f"wherry-test-{secrets.token_hex(4)}"
