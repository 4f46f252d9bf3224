"""What the steps of one container share, and what a step is."""

from __future__ import annotations

import os
from typing import Protocol

from wherry.kernel import paths


class Context:
    """What the steps of one container share: its named descriptors and where the stage is at the moment."""

    def __init__(self) -> None:
        self.descriptors: dict[str, int] = {}
        self.stage = ""
        self.root = -1
        self.name_files: dict[str, tuple[int, int]] = {}
        """Path to (a writable descriptor, a detached mount) of each file of StageNameFiles."""
        self.directory_entered = False

    def in_root(self, path: str, directory: bool = True) -> int:
        return paths.make_mount_point(self.root, path, directory)

    def is_in_proc(self, target: int) -> bool:
        return os.fstat(target).st_dev == os.stat("proc", dir_fd=self.root, follow_symlinks=False).st_dev


class Step(Protocol):
    def describe(self) -> str: ...

    def execute(self, context: Context) -> None: ...
