"""The steps that turn a fresh process into a container: small objects with ``describe()`` and ``execute()``.

*Prepare* steps need nothing of the container but its template (namespaces and kernel file systems), so a process can
run them ahead of time and wait, parked; they end in a root of our own, a small tmpfs called the stage that holds
/proc, /dev and /sys ready made and no mount of the host. *Finish* steps put in what is the container's own. A process
that has entered the container's root (EnterRoot) imports nothing and reads no file of it as code.

Steps cross from the supervisor to the container's first process as JSON arrays, [class name, field, ...]; host files
cross as open descriptors, which a step finds by name in the context.
"""

from wherry.runtime.steps.codec import decode, dialect, encode, in_cgroups
from wherry.runtime.steps.context import Context, Step
from wherry.runtime.steps.namefiles import AttachNameFile, StageNameFiles
from wherry.runtime.steps.process import (
    AwaitIds,
    DropPrivileges,
    InstallFilter,
    JoinCgroups,
    JoinNamespaces,
    LimitBoundingSet,
    LoopbackUp,
    NewSession,
    SetHostname,
    SetNice,
    SetOomScore,
    SetRlimits,
    SetScheduler,
    SetStdio,
    Unshare,
)
from wherry.runtime.steps.root import AttachRoot, AttachVolume, EnterRoot, MountTmpfs, MoveStaged, ReadOnlyRoot
from wherry.runtime.steps.stage import (
    DEVICES,
    LINKS,
    AllowPing,
    EnterStage,
    MakeDevices,
    MaskStaged,
    MountStage,
    MountStaged,
    ProtectStaged,
    ReadOnlyStaged,
    SetParameters,
)
from wherry.runtime.steps.workdir import ChangeDirectory, EnterDirectory, MakeWorkingDirectory

__all__ = [
    "DEVICES",
    "LINKS",
    "AllowPing",
    "AttachNameFile",
    "AttachRoot",
    "AttachVolume",
    "AwaitIds",
    "ChangeDirectory",
    "Context",
    "DropPrivileges",
    "EnterDirectory",
    "EnterRoot",
    "EnterStage",
    "InstallFilter",
    "JoinCgroups",
    "JoinNamespaces",
    "LimitBoundingSet",
    "LoopbackUp",
    "MakeDevices",
    "MakeWorkingDirectory",
    "MaskStaged",
    "MountStage",
    "MountStaged",
    "MountTmpfs",
    "MoveStaged",
    "NewSession",
    "ProtectStaged",
    "ReadOnlyRoot",
    "ReadOnlyStaged",
    "SetHostname",
    "SetNice",
    "SetOomScore",
    "SetParameters",
    "SetRlimits",
    "SetScheduler",
    "SetStdio",
    "StageNameFiles",
    "Step",
    "Unshare",
    "decode",
    "dialect",
    "encode",
    "in_cgroups",
]
