"""A supervisor whose next start can be that of another program: ours, with something of it changed."""

from __future__ import annotations

from tests.root.harness import Supervisor, Word

_MAIN = """
import sys
from wherry.cli.main import main
sys.exit(main())
"""
NEWER = """
from wherry.memory import bpf_layout
bpf_layout.VERSION += {0}
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
