"""--env-file, --label-file and --cidfile: what is read and written, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.unit.fake_supervisor import FakeSupervisor, exited, failure, reply, started, streaming

from wherry.cli import main, option_files
from wherry.errors import InvalidRequest

ID = "ab" * 32


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSupervisor]:
    with FakeSupervisor(tmp_path / "s") as supervisor:
        monkeypatch.setenv("ENGINE_SOCKET", str(supervisor.path))
        supervisor.on("POST", "/wherry/run", reply({"Id": ID, "Name": "a", "Pid": 1}, 201))
        yield supervisor


def start(*options: str) -> int:
    return main.main(["start", *options, "a", "/r", "/x"])


def test_variables_and_labels_of_files_come_before_those_of_options(
    fake: FakeSupervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAKEN", "mine")
    monkeypatch.delenv("MISSING", raising=False)
    (tmp_path / "v").write_bytes(b'\xef\xbb\xbfA=1\r\n\n  # no\n\tB= "two" \nTAKEN\nMISSING\nC=x=y\n')
    (tmp_path / "l").write_text("one=1\ntwo\n#three\n")
    options = ["--env-file", str(tmp_path / "v"), "-e", "A=2", "-e", "MISSING"]
    assert start(*options, "--label-file", str(tmp_path / "l"), "-l", "one=other", "--label", "four=a=b") == 0
    sent = fake.asked("POST", "/wherry/run").json
    assert sent["Env"] == ["A=1", 'B= "two" ', "TAKEN=mine", "C=x=y", "A=2", "MISSING"]
    assert sent["Labels"] == {"one": "other", "two": "", "four": "a=b"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"A=1\n=2\n", ", line 2: there is no name before '='"),
        (b"A=1\n\nB C=2\n", ", line 3: the name 'B C' has a blank in it"),
        (b"A=1\nB=\xff\n", ", line 2: it is not UTF-8"),
        (b"A=" + b"x" * (4 << 20), ": it has more than 4194304 bytes"),
        (None, ": No such file or directory"),
    ],
)
@pytest.mark.parametrize("option", ["--env-file", "--label-file"])
def test_a_wrong_file_is_named(
    fake: FakeSupervisor,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    option: str,
    content: bytes | None,
    message: str,
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    assert start(option, str(path)) == 125
    assert f"{option} {path}{message}\n" in capfd.readouterr().err
    assert fake.requests == []


def test_a_label_without_a_name(fake: FakeSupervisor, capfd: pytest.CaptureFixture[str]) -> None:
    assert start("-l", "=x") == 125
    assert "there is no name before '='" in capfd.readouterr().err
    assert fake.requests == []


def test_a_directory_and_a_nul_are_no_files(tmp_path: Path) -> None:
    for path, reason in ((str(tmp_path), "Is a directory"), ("a\0b", "embedded null byte")):
        with pytest.raises(InvalidRequest, match=reason):
            option_files.lines("--env-file", path)


@pytest.mark.parametrize("command", ["start", "run"])
def test_the_id_is_written_once_it_runs(fake: FakeSupervisor, tmp_path: Path, command: str) -> None:
    if command == "run":
        fake.on("POST", "/wherry/run", streaming([started(), exited(0)]))
    path = tmp_path / "id"
    assert main.main([command, "--cidfile", str(path), "a", "/r", "/x"]) == 0
    assert path.read_text() == ID


def test_a_file_that_is_there_stays_and_nothing_is_started(
    fake: FakeSupervisor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "id"
    path.write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for taken in (path, tmp_path / "link"):
        assert start("--cidfile", str(taken)) == 125
        assert f"--cidfile {taken}: it exists" in capfd.readouterr().err
    assert start("--cidfile", str(tmp_path / "no/id")) == 125
    assert "No such file or directory" in capfd.readouterr().err
    assert (path.read_text(), fake.requests) == ("old", [])
    assert sorted(os.listdir(tmp_path)) == ["id", "link", "s"]


def test_a_start_that_fails_leaves_no_file(fake: FakeSupervisor, tmp_path: Path) -> None:
    fake.on("POST", "/wherry/run", failure(500, "start_failed", "no"))
    assert start("--cidfile", str(tmp_path / "id")) == 125
    assert not (tmp_path / "id").exists()


FULL = """
import resource, sys
from wherry.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["start", "run"])
def test_an_id_that_cannot_be_written_is_said_and_the_container_goes_on(
    fake: FakeSupervisor, tmp_path: Path, command: str
) -> None:
    if command == "run":
        fake.on("POST", "/wherry/run", streaming([started(), exited(0)]))
    path = tmp_path / "id"
    words = [sys.executable, "-c", FULL, command, "--cidfile", str(path), "a", "/r", "/x"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0
    assert f"--cidfile {path}: File too large; {ID[:12]} runs, its id cannot be written" in done.stderr
    assert not path.exists()
