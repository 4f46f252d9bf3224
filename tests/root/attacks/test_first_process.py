"""Attacks on the first process of a container, while it is still ours or because it stays ours (--init)."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path

import pytest
from tests.root.harness import PACKAGES, Traces, Word
from tests.root.patched import Patched, in_shim, taken_out
from tests.root.runtime.unsupervised import Unsupervised

from wherry.kernel import paths, process
from wherry.runtime.steps import root, workdir

pytestmark = pytest.mark.root


class OwnProgram(Patched):
    """One that runs by an interpreter that the test can do without."""

    def __init__(self, directory: Path, rootfs: Path, traces: Traces) -> None:
        super().__init__(directory, rootfs, traces)
        self.program = directory / "python"
        shutil.copy(os.path.realpath(sys.executable), self.program)
        self.program.chmod(0o755)

    def _command(self, *words: Word) -> list[Word]:
        command = super()._command(*words)
        return [self.program, *command[1:]] if words[0] == "supervisor" else command

    def _environment(self) -> dict[str, str]:
        site = next(path for path in sys.path if path.endswith("site-packages"))
        return super()._environment() | {"PYTHONPATH": f"{PACKAGES}:{site}", "PYTHONHOME": sys.base_prefix}


@pytest.fixture
def own_program(tmp_path: Path, rootfs: Path, leftovers: Traces) -> OwnProgram:
    return OwnProgram(tmp_path, rootfs, leftovers)


WRITABLE = """
from wherry.kernel import mounts
mounts.set_attributes = lambda *_arguments, **_options: None
"""
DUMPABLE = """
from wherry.kernel import process
process.set_dumpable = lambda dumpable: None
"""
PLANT = "chmod 4755 /proc/1/exe && stat -Lc %a /proc/1/exe"


@pytest.mark.attack("program-overwritten")
@pytest.mark.parametrize(
    ("prelude", "is_blocked"),
    [("", True), (in_shim(DUMPABLE), True), (WRITABLE, True), (WRITABLE + in_shim(DUMPABLE), False)],
    ids=["both", "read-only", "not-dumpable", "none"],
)
def test_the_runtimes_program_is_out_of_reach(
    own_program: OwnProgram, rootfs: Path, prelude: str, is_blocked: bool
) -> None:
    """A container makes our interpreter set-user-ID root, for everybody on the host. One of the defences is enough."""
    own_program.prelude = prelude
    with own_program.serving() as supervisor:
        done = supervisor.engine("run", "--init", "evil", rootfs, "/bin/sh", "-c", PLANT, check=False)
    mode = own_program.program.stat().st_mode & 0o7777
    assert (done.stdout, oct(mode)) == (("", "0o755") if is_blocked else ("4755\n", "0o4755")), done


@pytest.mark.attack("descriptor-inherited")
def test_an_inherited_directory_leads_nowhere(
    unsupervised: Unsupervised, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process inherits a directory of the host, and the image names it as the working directory."""
    host = os.open(victim, os.O_RDONLY | os.O_DIRECTORY)
    inherited = os.dup2(host, 200)
    try:
        for number in range(3, 12):
            ended = unsupervised.run("/bin/cat", "file", working_dir=f"/proc/self/fd/{number}")
            assert "of the host" not in ended.stdout
        for path in ("/proc/self/fd/200", "/proc/1/fd/200", "/proc/thread-self/fd/200/."):
            assert unsupervised.run("/bin/cat", "file", working_dir=path).error.startswith("cannot start alpha: ")
        monkeypatch.setattr(process, "close_all_but", taken_out)
        monkeypatch.setattr(process, "mark_close_on_exec", taken_out)
        ended = unsupervised.run("/bin/cat", "file", working_dir="/proc/self/fd/200")
        assert "(ELOOP)" in ended.error, ended.error
        monkeypatch.setattr(paths, "make_directories", lambda *_: os.open("/", os.O_PATH))
        ended = unsupervised.run("/bin/cat", "file", working_dir="/proc/self/fd/200")
        assert "the working directory is outside the rootfs" in ended.error
        monkeypatch.setattr(workdir, "_check_inside", taken_out)
        assert unsupervised.run("/bin/cat", "file", working_dir="/proc/self/fd/200").stdout == "of the host\n"
    finally:
        os.close(host)
        os.close(inherited)


@pytest.mark.attack("init-inspected")
@pytest.mark.parametrize("is_dumpable", [False, True])
def test_the_first_process_shows_nothing(
    unsupervised: Unsupervised, monkeypatch: pytest.MonkeyPatch, is_dumpable: bool
) -> None:
    if is_dumpable:
        monkeypatch.setattr(process, "set_dumpable", taken_out)
    script = "cat /proc/1/environ >/dev/null && echo environ; readlink /proc/1/exe; head -c 1 /proc/1/maps && echo"
    ended = unsupervised.shell(script, init=True)
    assert ("environ" in ended.stdout, "python" in ended.stdout) == (is_dumpable, is_dumpable), ended


@pytest.mark.attack("code-planted")
def test_modules_of_the_root_are_not_loaded(
    unsupervised: Unsupervised, hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module of the interpreter's library lies in the root, under the name that ours has on the host."""
    name = "colorsys"  # of the standard library; other tests' libraries may have loaded it
    monkeypatch.delitem(sys.modules, name, raising=False)
    library = Path(os.path.dirname(os.__file__))
    planted = hostile / library.relative_to("/") / f"{name}.py"
    planted.parent.mkdir(parents=True)
    planted.write_text("open('/planted', 'w').write('executed')\n")
    script = "cat /planted 2>/dev/null || echo none"
    assert unsupervised.shell(script).lines == ["none"]

    def enter_and_import(step: root.EnterRoot, context: object) -> None:
        enter(step, context)  # type: ignore[arg-type]
        importlib.invalidate_caches()
        importlib.import_module(name)

    enter = root.EnterRoot.execute
    monkeypatch.setattr(root.EnterRoot, "execute", enter_and_import)
    assert unsupervised.shell(script).lines == ["executed"]
