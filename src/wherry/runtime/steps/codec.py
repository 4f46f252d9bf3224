"""Steps as JSON arrays, [class name, field, ...], and back."""

from __future__ import annotations

from wherry.runtime.steps.context import Step
from wherry.runtime.steps.namefiles import AttachNameFile, StageNameFiles
from wherry.runtime.steps.process import (
    DropPrivileges,
    InstallFilter,
    JoinCgroups,
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
    AllowPing,
    EnterStage,
    MakeDevices,
    MaskStaged,
    MountStage,
    MountStaged,
    ProtectStaged,
    ReadOnlyStaged,
)
from wherry.runtime.steps.workdir import ChangeDirectory, EnterDirectory, MakeWorkingDirectory

_STEPS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        *(
            NewSession,
            SetOomScore,
            JoinCgroups,
            Unshare,
            LoopbackUp,
            MountStage,
            MountStaged,
            ReadOnlyStaged,
            MakeDevices,
        ),
        *(
            AllowPing,
            StageNameFiles,
            MaskStaged,
            ProtectStaged,
            LimitBoundingSet,
            EnterStage,
            AttachRoot,
            MoveStaged,
            AttachNameFile,
            AttachVolume,
            MountTmpfs,
            ReadOnlyRoot,
        ),
        *(EnterRoot, SetHostname, SetRlimits, SetNice, SetScheduler),
        *(SetStdio, MakeWorkingDirectory, EnterDirectory, DropPrivileges, ChangeDirectory, InstallFilter),
    )
}


def in_cgroups(files: list[str], prepare: list[Step]) -> list[Step]:
    """The prepare steps of a template as one child runs them: it joins those cgroups before it makes namespaces."""
    return [NewSession(), JoinCgroups(files), *prepare]


def encode(steps: list[Step]) -> list[list[object]]:
    """JSON-ready form; ``decode`` is its inverse."""
    return [[type(step).__name__, *step] for step in steps]  # type: ignore[misc]  # every step is a NamedTuple


def decode(items: list[list[object]]) -> list[Step]:
    return [_STEPS[str(name)](*fields) for name, *fields in items]
