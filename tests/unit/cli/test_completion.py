"""Shell completion: the scripts, and the answers that a shell gets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.unit.fake_supervisor import FakeSupervisor, entry, reply

from wherry.cli import main

Complete = Callable[[str], set[str]]


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeSupervisor]:
    with FakeSupervisor(tmp_path / "s") as supervisor:
        both = [entry("alpha"), entry("beta", State="exited")]
        supervisor.on(
            "GET", "/containers/json", lambda request: reply(both if request.query["all"] == "1" else both[:1])(request)
        )
        yield supervisor


def answers(line: str, path: Path) -> set[str]:
    """What the completion script of bash gets for a line: it asks over descriptor 8 (argcomplete's protocol)."""
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
        "ENGINE_SOCKET": str(path),
    }
    command = ["bash", "-c", f"exec '{sys.executable}' -m wherry.cli.main 8>&1 9>/dev/null >/dev/null 2>&1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    return {word.strip() for word in done.stdout.split("\n") if word.strip()}


@pytest.fixture
def complete(fake: FakeSupervisor) -> Complete:
    return lambda line: answers(line, fake.path)


def test_commands_are_completed(complete: Complete) -> None:
    assert complete("engine st") == {"start", "stats", "stop"}
    assert set(main.COMMANDS) <= complete("engine ")


def test_options_are_completed(complete: Complete) -> None:
    assert complete("engine start --so") == {"--soft-action", "--soft-limit", "--soft-mib", "--socket"}
    assert complete("engine run --network ") == {"none", "host"}
    assert complete("engine completion ") >= {"bash", "zsh", "fish"}


def test_commands_to_explain_and_names_to_start_again_are_completed(complete: Complete) -> None:
    """Cases 17 and 31."""
    assert complete("engine help st") == {"start", "stats", "stop"}
    assert "beta" in complete("engine start be")
    assert complete("engine run --rep") == {"--replace"}


def test_names_come_from_the_supervisor(complete: Complete) -> None:
    assert complete("engine logs ") >= {"alpha", "beta"}
    assert complete("engine rm be") == {"beta"}
    assert complete("engine rm alpha b") == {"beta"}


def test_only_running_containers_are_offered_to_stop(complete: Complete) -> None:
    found = complete("engine stop ")
    assert "alpha" in found
    assert "beta" not in found


def test_the_socket_of_the_line_is_asked(fake: FakeSupervisor, tmp_path: Path) -> None:
    assert "alpha" in answers(f"engine logs --socket {fake.path} ", tmp_path / "none")


def test_without_a_supervisor_no_names_and_no_noise(tmp_path: Path) -> None:
    assert answers("engine stop a", tmp_path / "none") == set()


def test_a_supervisor_that_hangs_does_not_hang_the_shell(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        assert answers("engine stop a", tmp_path / "s") == set()


@pytest.mark.parametrize(("shell", "marks"), [("bash", "complete "), ("zsh", "compdef "), ("fish", "complete ")])
def test_a_script_is_printed(capfd: pytest.CaptureFixture[str], shell: str, marks: str) -> None:
    assert main.main(["completion", shell]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert marks in out
    assert "engine" in out


def test_bash_takes_the_script_and_completes_with_it(fake: FakeSupervisor, tmp_path: Path) -> None:
    """The whole way: bash loads the script, and its function asks a program called engine."""
    program = tmp_path / "engine"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m wherry.cli.main "$@"\n')
    program.chmod(0o755)
    script = """
    eval "$(engine completion bash)"
    COMP_WORDS=(engine logs al) COMP_CWORD=2 COMP_LINE="engine logs al" COMP_POINT=14 COMP_TYPE=9
    _python_argcomplete engine al logs
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "ENGINE_SOCKET": str(fake.path)}
    done = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.stdout.strip() == "alpha", done.stderr


def test_an_unknown_shell_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert main.main(["completion", "csh"]) == 2
    assert "invalid choice: 'csh'" in capfd.readouterr().err
