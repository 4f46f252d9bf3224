"""The attack programs, static, so that they run in any root file system: built when their source is newer."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent
BUILT = SOURCES.parents[1] / "build/attacks"
NAMES = tuple(sorted(path.stem for path in SOURCES.glob("*.c")))
_FLAGS = "-std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -static".split()


def program(name: str) -> Path:
    """A guest has no compiler: what was built comes with its image."""
    source, built = SOURCES / f"{name}.c", BUILT / name
    newest = max(path.stat().st_mtime for path in (source, *SOURCES.glob("*.h")))
    if not built.exists() or (built.stat().st_mtime < newest and shutil.which("cc")):
        BUILT.mkdir(parents=True, exist_ok=True)
        part = built.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", *_FLAGS, "-o", part, source], check=True)
        part.rename(built)
    return built
