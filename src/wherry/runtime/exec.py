"""An exec: one more process in a container that runs, from the container's spec to the steps that make it one.

It is cloned by the shim into the container's pid namespace and joins the control groups and all other namespaces by
itself, these in one call by a pidfd of the container's first process. What needs the host (its cgroup files, its /proc)
comes before that; from then on no file of ours and no descriptor of a directory is open, and nothing is imported. Then
it becomes what the container's own command became: the same limits, capabilities, umask and filter.

Until execve it is a copy of the shim inside the container: not dumpable, so that nobody there can open its memory,
executable or descriptors through /proc (CVE-2019-5736), nor trace it.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from wherry.kernel import capabilities
from wherry.runtime import launch, plan, steps
from wherry.runtime.spec import Capabilities, Spec
from wherry.runtime.steps import Step


class ExecPlan(NamedTuple):
    """``joined`` are the namespaces that it shares with its container, "pid" among them. ``output_owner`` is as of a
    container's plan.
    """

    joined: tuple[str, ...]
    template: list[Step]
    finish: list[Step]
    output_owner: tuple[int, int] | None


def make_exec(spec: Spec, stdout: str, stderr: str, stdin: str = "", *, privileged: bool = False) -> ExecPlan:
    """``spec`` is the container's, its process that of the exec; ``stdout``, ``stderr`` and ``stdin`` name descriptors,
    "" is /dev/null. ``privileged`` gives it all capabilities that we have ourselves; the filter stays, as in docker.
    """
    process, user = spec.process, spec.process.user
    if privileged:
        process = msgspec.structs.replace(process, capabilities=_everything(user.uid))
    types = {namespace.type for namespace in spec.linux.namespaces}
    others = [name for name in ("user", *plan.NAMESPACE_ORDER) if name in types]
    owner = plan.owner_in(spec)
    template = [
        steps.SetOomScore(process.oom_score_adj or 0),
        *plan.scheduling_of(process.scheduler),
        *(plan.rlimits_of(process) if owner is not None else ()),  # which take the host's privileges to raise
        steps.JoinNamespaces(launch.TARGET, others),
        # After that: who joins a user namespace has all capabilities in it, and the whole bounding set.
        steps.LimitBoundingSet(plan.mask_of(process.capabilities.bounding)),
    ]
    stdio = steps.SetStdio(stdout, stderr, *((user.uid, user.gid) if owner is None else (0, 0)), stdin)
    limits = plan.rlimits_of(process) if owner is None else []
    finish = [stdio, *limits, *plan.identity_of(process), *plan.filter_of(spec)]
    return ExecPlan(("pid", *others), template, finish, owner)


def _everything(uid: int) -> Capabilities:
    names = tuple(capabilities.permitted())
    return Capabilities(bounding=names, effective=names, permitted=names) if uid == 0 else Capabilities(bounding=names)
