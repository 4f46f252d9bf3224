"""Programs that do their worst inside a container, built when a test or a benchmark asks for one."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

_SOURCES = Path(__file__).parent
_KEPT = _SOURCES.parents[1] / "build/attacks"
IN_GUESTS = ("user_keys", "escape", "freeze", "litter")
"""Those that run in guests as well, which have no compiler: they come with the image."""


def build(name: str, directory: Path) -> Path:
    """``name``.c beside this file as a static program in ``directory``."""
    program = directory / name
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run(
        ["gcc", "-O1", "-static", "-Wall", "-Werror", "-pthread", "-o", program, source], check=True, timeout=120
    )
    return program


def kept(name: str) -> Path:
    """``build``, once for all tests: anew when a source is newer."""
    program = _KEPT / name
    newest = max(path.stat().st_mtime for path in (_SOURCES / f"{name}.c", *_SOURCES.glob("*.h")))
    if not program.exists() or (program.stat().st_mtime < newest and shutil.which("gcc")):
        _KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_KEPT) as part:  # other processes, and guests' threads, may do the same
            build(name, Path(part)).rename(program)
    return program
