"""A client that ends a call from outside frees what the supervisor holds for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.root.harness import Supervisor
from tests.waiting import wait_until

from wherry import Client, errors

pytestmark = pytest.mark.root

CALLS: dict[str, Callable[[Client], object]] = {
    "logs": lambda client: list(client.logs("web", follow=True)),
    "events": lambda client: list(client.events()),
    "wait": lambda client: client.wait("web"),
    "wait for the removal": lambda client: client.wait("web", "removed"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_the_supervisor_lets_go_of_what_was_closed(
    supervisor: Supervisor, rootfs: Path, call: Callable[[Client], object]
) -> None:
    """Case 5: on both sides, and the container does not notice."""
    supervisor.client.start("web", str(rootfs), ["/bin/sleep", "1000"])
    errs: list[BaseException] = []
    wait_until(lambda: supervisor.info()["spares"] == 2)  # they come in the background, with sockets of their own
    before = supervisor.connections()
    for _ in range(3):
        client = Client(str(supervisor.socket))

        def work(client: Client = client) -> None:
            try:
                call(client)
            except errors.Unavailable as error:
                errs.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: supervisor.connections() > before)
        wait_until(lambda: any(each._in_call for each in list(client._pool._busy)))  # noqa: B023
        client.close()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        wait_until(lambda: supervisor.connections() <= before)
    assert all("the client was closed" in str(error) for error in errs)
    assert supervisor.client.inspect("web")["State"]["Running"] is True


def test_run_that_is_closed_leaves_its_container_running(supervisor: Supervisor, rootfs: Path) -> None:
    """Case 5."""
    started = threading.Event()
    failures: list[errors.Unavailable] = []

    def work() -> None:
        try:
            client.run("web", str(rootfs), ["/bin/sleep", "1000"], on_start=lambda _: started.set(), rm=True)
        except errors.Unavailable as error:
            failures.append(error)

    with Client(str(supervisor.socket)) as client:
        thread = threading.Thread(target=work)
        thread.start()
        assert started.wait(PATIENCE)
    thread.join(PATIENCE)
    assert [str(error) for error in failures] == ["the client was closed while it waited for the supervisor"]
    assert [each["state"] for each in supervisor.ps()] == ["running"]
    supervisor.client.stop("web")
    wait_until(lambda: supervisor.ps() == [])
