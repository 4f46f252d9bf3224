"""A supervisor whose next start can be that of another program: ours, with something of it changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from tests.root.harness import Supervisor, Word

Weaken = Callable[[str], contextlib.AbstractContextManager[Supervisor]]
"""A supervisor that executes some Python before its own program, for as long as it is needed."""

_MAIN = """
import sys
from wherry.cli.main import main
sys.exit(main())
"""
NEWER = """
from wherry.memory import bpf_layout
bpf_layout.VERSION += {0}
"""


def taken_out(*_arguments: object, **_options: object) -> None:
    """In the place of a defence."""


def in_shim(code: str) -> str:
    """A prelude that has the supervisor's shim, and so every first process, execute ``code`` before its own program."""
    return f"""
from wherry.supervisor.processes import shim_start
before, begin, after = shim_start._CODE.partition("from wherry.shim")
assert begin
shim_start._CODE = before + {code.replace("{", "{{").replace("}", "}}")!r} + chr(10) + begin + after
"""


class Patched(Supervisor):
    """``prelude`` is Python that is executed before the program's own."""

    prelude = ""

    def _command(self, *words: Word) -> list[Word]:
        command = super()._command(*words)
        return (
            [command[0], "-c", self.prelude + _MAIN, *words] if words[0] == "supervisor" and self.prelude else command
        )

    def upgrade(self, steps: int = 1) -> None:
        """Its next start has another layout of the BPF enforcer's maps."""
        self.prelude = NEWER.format(steps)
