"""What a guest boots with: busybox, this machine's Python with what the package needs, the package and its tests.

The large part, everything that is not ours, is kept in build/vm and made anew when a file of it has changed.
"""

from __future__ import annotations

import compileall
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.attacks import programs
from tests.vm import kernels
from tests.vm.cpio import Archive

REPOSITORY = kernels.REPOSITORY
INSIDE = "/wherry"
"""Where the repository is in a guest."""
PYTHON = f"{sys.prefix}/bin/python"
_WORK = REPOSITORY / "build/vm"
_writing_base = threading.Lock()
_building_grow = threading.Lock()
_GROW_SOURCE = REPOSITORY / "kmod/tests/grow.c"
_DISTRIBUTIONS = ("wherry", "pytest", "pytest-timeout")
_NOT_NEEDED = re.compile(
    r"/(test|tests|idlelib|lib2to3|tkinter|turtledemo|ensurepip|pydoc_data|site-packages|dist-packages|config-3[^/]*)/"
    r"|/_?(tkinter|test|xxtest|ctypes_test|testcapi|xxlimited)[^/]*\.so$|\.(a|opt-[12]\.pyc|h|pyi)$"
)
_INIT = r"""#!/bin/busybox sh
bb=/bin/busybox
export PATH=/usr/bin:/bin:/sbin HOME=/root LANG=C.UTF-8 TERM=dumb
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb mount -t devtmpfs dev /dev
$bb insmod /overlay.ko
# The root of an initramfs cannot be pivoted away from; a bind mount of it can.
$bb mkdir /new
$bb mount --bind / /new
for name in proc sys dev; do $bb mount --move /$name /new/$name; done
cd /new
$bb mkdir -p dev/pts dev/shm
$bb mount -t devpts -o newinstance,ptmxmode=0666 pts dev/pts
$bb mount -t tmpfs shm dev/shm
$bb mount -t tmpfs run run
# What the image has below /tmp (a repository that lies there, with its .venv) must be seen on the tmpfs as well.
$bb mkdir run/tmp
$bb mount --bind tmp run/tmp
$bb mount -t tmpfs -o mode=1777 tmp tmp
for name in $($bb ls -A run/tmp); do $bb mkdir tmp/$name; $bb mount --bind run/tmp/$name tmp/$name; done
$bb mount -t cgroup2 cgroup sys/fs/cgroup
$bb mount -t debugfs debug sys/kernel/debug
$bb mount -t tracefs trace sys/kernel/tracing
$bb mount -t bpf bpf sys/fs/bpf
$bb ip link set lo up
$bb hostname guest
$bb stty -F dev/ttyS1 raw -echo
$bb mount --move . /
exec $bb chroot . /bin/busybox sh /agent
"""
# One line a command: TAG BASE64. A script with `read`, not `sh </dev/ttyS1`, which would turn interactive, and not
# `cat /dev/ttyS1 | sh`: busybox's cat uses sendfile(2), which waits for a full buffer.
# It is held open, because the last close throws away what has come in meanwhile.
_AGENT = r"""cd /wherry
exec 3<>/dev/ttyS1
echo READY >&3
while read -r tag command <&3; do
  echo "$command" | base64 -d >/run/command
  sh /run/command </dev/null >&3 2>&1 3>&-
  printf '\n%s %s\n%s.\n' $tag $? $tag >&3
done
reboot -f
"""
_APPLETS = (
    "base64 cat chmod cp cut dd dmesg echo env false free grep head hostname id insmod ip kill ln ls lsmod mkdir mknod"
    " mount nproc printf ps pwd reboot rm rmmod sed sh sleep sort stat stty sync tail tar test touch tr true umount"
    " uname wc"
).split()


def build(name: str, module: Path | None, to: Path) -> None:
    """Write the initramfs for one kernel with ``module``, if there is one, at /monitor.ko."""
    with to.open("wb") as file:
        with _base().open("rb") as base:
            while chunk := base.read(1 << 20):
                file.write(chunk)
        archive = Archive(file)
        if name != kernels.DEBUG:  # which has no overlayfs: no test of the engine runs there
            archive.file("overlay.ko", kernels.overlay_module(name))
        if module is not None:
            archive.file("monitor.ko", _without_debug_information(module))
        # With its byte code: compiling the package for each call of the CLI would take a guest longer than running it.
        compileall.compile_dir(REPOSITORY / "src", quiet=1)
        archive.tree(REPOSITORY / "src", f"{INSIDE}/src")
        for folder in ("tests", "benchmarks"):
            archive.tree(REPOSITORY / folder, f"{INSIDE}/{folder}", frozenset({"__pycache__"}))
        archive.copy(REPOSITORY / "pyproject.toml", f"{INSIDE}/pyproject.toml")
        archive.tree(REPOSITORY / "build/rootfs", f"{INSIDE}/build/rootfs")
        for workload in ("memory_grow", "memory_hostile", "memory_kinds"):
            archive.copy(REPOSITORY / "build/workloads" / workload, f"{INSIDE}/build/workloads/{workload}")
        for attack in programs.IN_GUESTS:
            archive.copy(programs.kept(attack), f"{INSIDE}/build/attacks/{attack}")
        archive.copy(grow_program(), f"{INSIDE}/build/vm/grow")
        archive.copy(_GROW_SOURCE, f"{INSIDE}/{_GROW_SOURCE.relative_to(REPOSITORY)}")  # so that it need not be built
        archive.close()


def _without_debug_information(path: Path) -> bytes:
    """Nine tenths of a module's file, and of what loading it copies and checks."""
    with tempfile.NamedTemporaryFile() as stripped:
        subprocess.run(["strip", "--strip-debug", "-o", stripped.name, path], check=True)
        return Path(stripped.name).read_bytes()


def grow_program() -> Path:
    """The tests' static program that takes memory in all ways; built when its source is newer."""
    source, program = _GROW_SOURCE, _WORK / "grow"
    with _building_grow:
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            _WORK.mkdir(parents=True, exist_ok=True)
            flags = "-std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror -static -pthread".split()
            part = program.with_suffix(f".{os.getpid()}")
            subprocess.run(["cc", *flags, "-o", part, source], check=True)
            part.rename(program)
    return program


def _base() -> Path:
    paths = sorted(set(_python_files()))
    digest = hashlib.sha256(_INIT.encode() + _AGENT.encode() + Path(__file__).read_bytes())
    for path in paths:
        status = path.stat()
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    base = _WORK / f"base-{digest.hexdigest()[:16]}.cpio"
    with _writing_base:
        if not base.exists():
            _WORK.mkdir(parents=True, exist_ok=True)
            for old in _WORK.glob("base-*.cpio"):
                old.unlink()
            part = base.with_suffix(f".{os.getpid()}")
            _write_base(part, paths)
            part.rename(base)
    return base


def _write_base(to: Path, paths: Iterable[Path]) -> None:
    with to.open("wb") as file:
        archive = Archive(file)
        for name in ("proc", "sys", "dev", "tmp", "run", "root", "etc", "var/lib"):
            archive.directory(name)
        archive.device("dev/console", 5, 1)
        archive.file("init", _INIT.encode(), 0o755)
        archive.file("agent", _AGENT.encode())
        archive.copy(Path("/bin/busybox").resolve(), "bin/busybox")
        for applet in _APPLETS:
            archive.symlink(f"bin/{applet}", "busybox")
        archive.symlink("sbin", "bin")
        archive.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
        archive.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
        # The virtual environment's interpreter finds the installed packages by where it is called.
        archive.symlink(PYTHON, os.path.realpath(sys.executable))
        archive.copy(Path(sys.prefix, "pyvenv.cfg"))
        for path in paths:
            if path.stat().st_size > 1 << 20 and ".so" in path.name:
                archive.file(str(path), _without_debug_information(path), 0o755)
            else:
                archive.copy(path)
        archive.close()


def _python_files() -> Iterator[Path]:
    """The interpreter, its library, the distributions that package and tests need, and all shared objects of these."""
    files = [Path(os.path.realpath(sys.executable)), *_library(), *_distribution_files()]
    yield from files
    objects = [path for path in files if path.suffix == ".so" or path == files[0]]
    yield from _shared_objects(objects)


def _library() -> Iterator[Path]:
    for top in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
        for folder, _, names in os.walk(top):
            yield from (Path(folder, name) for name in names if not _NOT_NEEDED.search(f"{folder}/{name}"))


def _distribution_files() -> Iterator[Path]:
    seen: set[str] = set()
    waiting = list(_DISTRIBUTIONS)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        distribution = importlib.metadata.distribution(name)
        if name != "wherry":  # an editable installation: ours comes with the repository
            yield from _installed(distribution)
        for requirement in distribution.requires or ():
            needed = re.split(r"[^\w.-]", requirement)[0]
            if "extra ==" not in requirement and _is_installed(needed):
                waiting.append(needed)


def _is_installed(name: str) -> bool:
    """What a marker excludes for this machine is not."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _installed(distribution: importlib.metadata.Distribution) -> Iterator[Path]:
    for file in distribution.files or ():
        path = Path(os.path.normpath(str(distribution.locate_file(file))))
        if path.is_file() and "site-packages" in path.parts and path.suffix not in {".pyi", ".h", ".c", ".pyx"}:
            yield path


def _shared_objects(paths: list[Path]) -> Iterator[Path]:
    listed = subprocess.run(["ldd", *paths], check=False, capture_output=True, text=True).stdout
    for match in re.finditer(r"(?:=> )?(/\S+) \(0x", listed):
        yield Path(match[1])


def python_path() -> str:
    """PYTHONPATH in a guest."""
    return f"{INSIDE}/src:{INSIDE}"
