"""A root file system of one static binary, small enough to be made anew for a test that plants links in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_APPLETS = "cat cp echo env hostname id kill ls mkdir mount mv pwd readlink rm sh sleep stat test touch true".split()
PASSWD = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:100:Bob:/home/bob:/bin/sh\n"
GROUP = "root:x:0:\nusers:x:100:\nwheel:x:10:bob\n"


def make(rootfs: Path, path: Path) -> Path:
    """At ``path``, with the busybox of ``rootfs``. There is no /etc/hosts and no /etc/hostname."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (path / name).mkdir(parents=True)
    (path / "root").mkdir(0o700)
    shutil.copy(rootfs / "bin/busybox", path / "bin/busybox")
    for name in _APPLETS:
        (path / "bin" / name).symlink_to("busybox")
    (path / "etc/passwd").write_text(PASSWD)
    (path / "etc/group").write_text(GROUP)
    return path


def listing(path: Path) -> list[str]:
    """Every name below ``path``."""
    return sorted(
        os.path.relpath(os.path.join(at, name), path)
        for at, directories, files in os.walk(path)
        for name in (*directories, *files)
    )


def compile_static(source: Path, program: Path) -> None:
    subprocess.run(["gcc", "-O1", "-static", "-o", program, source], check=True, capture_output=True, timeout=60)
