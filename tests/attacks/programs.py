"""Programs that do their worst inside a container, built when a test or a benchmark asks for one."""

from __future__ import annotations

import subprocess
from pathlib import Path


def build(name: str, directory: Path) -> Path:
    """``name``.c beside this file as a static program in ``directory``."""
    program = directory / name
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run(
        ["gcc", "-O1", "-static", "-Wall", "-Werror", "-pthread", "-o", program, source], check=True, timeout=120
    )
    return program
