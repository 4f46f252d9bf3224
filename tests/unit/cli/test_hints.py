"""Case 14: what users of docker stumble over first is said when it happens, and to nobody else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.fake_supervisor import FakeSupervisor, exited, failure, frame, reply, started, streaming

ORDER = "; NAME comes first, then ROOTFS, a directory or a tar archive: there are no images"
INPUT = "engine: alpha: without -i standard input is /dev/null: {} finds nothing to read there and ends\n"


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeSupervisor]:
    with FakeSupervisor(tmp_path / "s") as supervisor:
        yield supervisor


class Streams:
    """``engine`` with standard input and output on a terminal, or not; standard error is a pipe."""

    def __init__(self, fake: FakeSupervisor, directory: Path) -> None:
        self.fake = fake
        self.directory = directory

    def __call__(self, *words: str, terminal: tuple[bool, bool] = (False, False)) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        try:
            done = subprocess.run(
                [sys.executable, "-m", "wherry.cli.main", *words],
                cwd=self.directory,
                env={**os.environ, "ENGINE_SOCKET": str(self.fake.path)},
                stdin=theirs if terminal[0] else subprocess.DEVNULL,
                stdout=theirs if terminal[1] else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                timeout=60,
            )
        finally:
            os.close(ours)
            os.close(theirs)
        return done.returncode, done.stderr


@pytest.fixture
def engine(fake: FakeSupervisor, tmp_path: Path) -> Streams:
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "image.tar").touch()
    (tmp_path / "program").touch(0o755)
    return Streams(fake, tmp_path)


@pytest.mark.parametrize("command", ["run", "start"])
@pytest.mark.parametrize(
    ("words", "hinted"),
    [
        ("alpine echo hi", True),
        ("alpine /bin/echo hi", True),
        ("alpine /usr/bin/not-there hi", True),
        ("alpine:3.19 ./rootfs hi", True),
        ("rootfs /bin/sh x", True),
        ("./rootfs c /bin/sh", True),
        ("alpine ./program hi", True),
        ("c ./rotfs /bin/true", False),
        ("c /srv/rotfs /bin/true", False),
        ("c rootfs /bin/true", False),
        ("c image.tar /bin/true", False),
    ],
)
def test_the_order_of_the_words(fake: FakeSupervisor, engine: Streams, command: str, words: str, hinted: bool) -> None:
    fake.on("POST", "/wherry/run", failure(400, "invalid_request", "rootfs 'x': no such file"))
    code, error = engine(command, *words.split())
    assert (code, error.count("\n"), error.endswith(ORDER + "\n")) == (125, 1, hinted), error
    assert error.startswith("engine: cannot start ")


def test_the_order_is_said_when_a_word_is_missing_too(engine: Streams) -> None:
    code, error = engine("run", "./rootfs", "/bin/sh")
    assert (code, error) == (125, f"engine run: COMMAND is missing{ORDER}\nSee 'engine run --help'.\n")
    assert ORDER not in engine("run", "alpha", "./rootfs")[1]
    assert ORDER not in engine("run")[1]


def test_other_failures_have_nothing_to_do_with_it(fake: FakeSupervisor, engine: Streams) -> None:
    fake.on("POST", "/wherry/run", failure(409, "name_in_use", "name in use: alpine"))
    assert engine("run", "alpine", "echo", "hi") == (125, "engine: cannot start alpine: name in use: alpine\n")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("/bin/sh", True),
        ("bash -l", True),
        ("/usr/bin/python3", True),
        ("/bin/sh -c true", False),
        ("/bin/true", False),
        ("sh script", False),
    ],
)
def test_a_shell_without_input(fake: FakeSupervisor, engine: Streams, command: str, said: bool) -> None:
    fake.on("POST", "/wherry/run", streaming([started(), exited(0)]))
    words = command.split()
    expected = INPUT.format(words[0]) if said else ""
    assert engine("run", "alpha", "/r", *words, terminal=(True, True)) == (0, expected)


def test_scripts_and_pipelines_are_left_alone(fake: FakeSupervisor, engine: Streams) -> None:
    fake.on("POST", "/wherry/run", streaming([started(), exited(0)]))
    for terminal in ((False, False), (True, False), (False, True)):
        assert engine("run", "alpha", "/r", "/bin/sh", terminal=terminal) == (0, "")
    for frames in ([frame(1, b"x")], [frame(2, b"x")]):
        fake.on("POST", "/wherry/run", streaming([started(), *frames, exited(0)]))
        assert "not supported" not in engine("run", "alpha", "/r", "/bin/sh", terminal=(True, True))[1]
    fake.on("POST", "/wherry/run", streaming([started(), exited(1)]))
    assert engine("run", "alpha", "/r", "/bin/sh", terminal=(True, True)) == (1, "")


def test_start_says_it_as_well(fake: FakeSupervisor, engine: Streams) -> None:
    fake.on("POST", "/wherry/run", reply({"Id": "ab", "Name": "alpha", "Pid": 1234}, 201))
    assert engine("start", "alpha", "/r", "/bin/sh", terminal=(True, True)) == (0, INPUT.format("/bin/sh"))
    assert engine("start", "alpha", "/r", "/bin/sh", terminal=(True, False)) == (0, "")
    assert engine("start", "alpha", "/r", "/bin/sleep", "9", terminal=(True, True)) == (0, "")
