"""Docker's exec configuration: what is understood, and what is refused before anything is looked up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from wherry.api.docker.exec import exec_request, wants_detach
from wherry.errors import InvalidRequest, NotSupported

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api


@pytest.mark.parametrize(("given", "stdin"), [(True, True), (False, False), (None, False)])
@pytest.mark.parametrize("attached", [True, False, None])
def test_standard_input(given: Any, stdin: bool, attached: bool | None) -> None:
    request = exec_request({"Cmd": ["cat"], "AttachStdin": given, "AttachStdout": True}, attached=attached)
    assert (request.stdin, request.stdout) == (stdin, attached is not False)


def test_without_a_word_there_is_none() -> None:
    assert exec_request({"Cmd": ["cat"]}).stdin is False


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ({"Cmd": ["cat"], "AttachStdin": "yes"}, InvalidRequest, r"AttachStdin|attach_stdin"),
        ({"Cmd": ["cat"], "AttachStdin": True, "Tty": True}, NotSupported, r"terminals \(Tty, -t\) are not supported"),
        ({"AttachStdin": True}, InvalidRequest, "No exec command specified"),
        ({"Cmd": ["cat"], "OpenStdin": True}, NotSupported, "OpenStdin"),
    ],
)
def test_what_is_refused(body: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        exec_request(body)


def test_a_terminal_at_the_start_is_refused() -> None:
    assert wants_detach({"Detach": True}) is True
    with pytest.raises(NotSupported, match="terminals"):
        wants_detach({"Detach": False, "Tty": True})


@pytest.mark.parametrize(
    ("stream", "headers", "message"),
    [
        ("1", {}, "Upgrade: tcp"),
        ("0", {}, "Upgrade: tcp"),
        ("0", {"Connection": "Upgrade", "Upgrade": "tcp"}, "AttachStdin needs stream=1"),
    ],
)
def test_input_needs_a_connection_and_a_stream(api: Api, stream: str, headers: dict[str, str], message: str) -> None:
    body = {"Cmd": ["cat"], "AttachStdin": True}
    reply = api.request("POST", f"/wherry/exec?name=nobody&stream={stream}", body, headers)
    assert reply.status == 400
    assert message in reply.json()["message"]
