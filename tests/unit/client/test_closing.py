"""Every call of the Python API that waits can be ended from outside, and gives its connection back."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from tests.patience import PATIENCE
from tests.unit.fake_supervisor import FakeSupervisor, Request, frame, started, streaming
from tests.waiting import wait_until

from wherry import Client, errors
from wherry.client import LogStream, http1


class Quiet(FakeSupervisor):
    """Answers, and then says nothing more until the test ends; ``waiting`` is set once it has answered."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.waiting = threading.Event()
        self.over = threading.Event()
        event = b'{"Action":"start","Actor":{"ID":"x","Attributes":{}},"timeNano":1,"Wherry":{"MonotonicNano":1}}\n'
        self.on("GET", "/containers/a/logs", streaming(lambda _: self._say(frame(1, b"one\n"))))
        self.on("GET", "/events", streaming(lambda _: self._say(event)))
        self.on("POST", "/wherry/run", streaming(lambda _: self._say(started("a"))))
        self.on("POST", "/containers/a/wait", self._silent)
        self.on("POST", "/containers/a/stop", self._silent)

    def _say(self, data: bytes) -> Iterable[bytes]:
        yield data
        yield from self._silent(None)

    def _silent(self, _: Request | None) -> Iterable[bytes]:
        self.waiting.set()
        self.over.wait(PATIENCE)
        yield from ()

    def signals(self, number: int) -> Thread:
        """Sends a signal to this very thread, once it waits for more."""
        target = threading.get_ident()

        def send() -> None:
            assert self.waiting.wait(PATIENCE)
            signal.pthread_kill(target, number)

        return Thread(send)

    def hears_the_end(self) -> bool:
        """Whether the one connection that there is was closed; that comes as a reset where something was unread."""
        assert self.connections == 1
        if not self.connected():
            return True  # whoever serves it has heard
        (connection,) = self.connected()
        try:
            return connection.recv(1) == b""
        except ConnectionResetError:
            return True


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[Quiet]:
    with Quiet(tmp_path / "s") as supervisor:
        try:
            yield supervisor
        finally:
            supervisor.over.set()


@pytest.fixture
def client(quiet: Quiet) -> Iterator[Client]:
    with Client(quiet.path, timeout=PATIENCE) as client:
        yield client


def sockets() -> list[str]:
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue  # the listing's own
    return sorted(link for link in links if link.startswith("socket:"))


class Thread:
    """Runs ``work`` and keeps what came of it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self.result: object = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], object]) -> None:
        try:
            self.result = work()
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


STREAMS: dict[str, Callable[[Client], object]] = {
    "logs": lambda client: client.logs("a", follow=True),
    "events": lambda client: client.events(),
}


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("by", ["close", "client"])
def test_a_stream_that_another_thread_closes_ends_without_an_error(
    quiet: Quiet, client: Client, kind: str, by: str
) -> None:
    """Case 5: `Client.logs(follow=True).close()` did not wake the reader."""
    stream: object = STREAMS[kind](client)
    reader = Thread(lambda: len(list(stream)))  # type: ignore[call-overload]
    assert quiet.waiting.wait(PATIENCE)
    (stream if by == "close" else client).close()  # type: ignore[attr-defined]
    reader.end()
    assert (reader.result, reader.error) in [(1, None), (0, None)]  # what had come may have been handed out or not
    assert list(stream) == []  # type: ignore[call-overload]


def test_views_end_too(client: Client) -> None:
    """Case 5."""
    stream = client.logs("a", follow=True)
    views = stream.views()
    assert next(views)[0] == 1
    reader = Thread(lambda: list(views))
    stream.close()
    reader.end()
    assert (reader.result, reader.error) == ([], None)


CALLS: dict[str, Callable[[Client], object]] = {
    "run": lambda client: client.run("a", "/r", ["x"]),
    "run with on_output": lambda client: client.run("a", "/r", ["x"], on_output=print),
    "wait": lambda client: client.wait("a"),
    "stop": lambda client: client.stop("a"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_call_under_way_ends_when_its_client_is_closed(
    quiet: Quiet, client: Client, call: Callable[[Client], object]
) -> None:
    """Case 5."""
    before = sockets()
    waiting = Thread(lambda: call(client))
    assert quiet.waiting.wait(PATIENCE)
    client.close()
    waiting.end()
    assert isinstance(waiting.error, errors.Unavailable)
    assert "the client was closed" in str(waiting.error)
    assert len(quiet.requests) == 1  # nothing is sent a second time
    quiet.over.set()
    wait_until(lambda: len(sockets()) <= len(before))


def test_a_subscription_ends_when_its_client_is_closed(quiet: Quiet, client: Client) -> None:
    """Case 5."""
    subscription = client.subscribe("a", {})
    assert quiet.waiting.wait(PATIENCE)
    client.close()
    assert subscription.wait(PATIENCE)


def test_a_call_that_has_just_connected_ends_too(quiet: Quiet, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 5: close() between the connection and the request must not leave a call that waits for ever."""
    plain = http1.Connection

    def connect(path: str, timeout: float | None) -> http1.Connection:
        connection = plain(path, timeout)
        client.close()
        return connection

    monkeypatch.setattr(http1, "Connection", connect)
    with pytest.raises(errors.Unavailable, match="the client was closed"):
        client.wait("a")
    assert quiet.requests == []


def test_a_closed_client_can_be_used_again(client: Client) -> None:
    client.close()
    assert next(client.logs("a"))[1] == b"one\n"


@pytest.mark.parametrize("by", ["stream", "client"])
def test_a_signal_handler_may_close_what_it_interrupts(quiet: Quiet, client: Client, by: str) -> None:
    """Case 5: the handler runs in the very thread that waits; a lock that is not reentrant would wait for ever."""
    stream = client.logs("a", follow=True)
    previous = signal.signal(signal.SIGUSR1, lambda *_: (stream if by == "stream" else client).close())
    sender = quiet.signals(signal.SIGUSR1)
    try:
        assert len(list(stream)) <= 1
    finally:
        signal.signal(signal.SIGUSR1, previous)
    sender.end()


BLOCKING: dict[str, Callable[[Client], object]] = CALLS | {
    "logs": lambda client: list(client.logs("a", follow=True)),
    "events": lambda client: list(client.events()),
}


@pytest.mark.parametrize("call", BLOCKING.values(), ids=BLOCKING.keys())
def test_an_interrupt_ends_the_call_and_closes_its_connection(
    quiet: Quiet, client: Client, call: Callable[[Client], object]
) -> None:
    """Case 5: KeyboardInterrupt."""
    with pytest.raises(KeyboardInterrupt):
        interrupted(quiet, lambda: call(client))
    gc.collect()
    assert quiet.hears_the_end()


def interrupted(quiet: Quiet, call: Callable[[], object]) -> None:
    sender = quiet.signals(signal.SIGINT)
    try:
        call()
    finally:
        sender.end()


def test_a_stream_that_is_dropped_closes_its_connection(quiet: Quiet, client: Client) -> None:
    """Case 5: no name is left, and views hold their stream."""
    views = client.logs("a", follow=True).views()
    assert bytes(next(views)[1]) == b"one\n"
    del views
    gc.collect()
    assert quiet.hears_the_end()


def test_closing_at_any_moment_of_many_reads(tmp_path: Path) -> None:
    """The descriptor is never closed under a reader, and its connection never serves two at once."""
    data = frame(1, b"x" * 1000)

    def endless(_: Request) -> Iterator[bytes]:
        while True:
            yield data

    with FakeSupervisor(tmp_path / "s") as fake, Client(fake.path) as client:
        fake.on("GET", "/containers/a/logs", streaming(endless))
        before = len(sockets())
        for _ in range(50):
            stream: LogStream = client.logs("a", follow=True)
            reader = Thread(lambda stream=stream: sum(len(piece) for _, piece in stream))  # type: ignore[misc]
            closers = [Thread(stream.close) for _ in range(3)]
            for thread in (reader, *closers):
                thread.end()
            assert reader.error is None
        wait_until(lambda: len(sockets()) <= before)


def test_a_forked_child_does_not_end_its_parents_stream(quiet: Quiet, client: Client) -> None:
    stream = client.logs("a", follow=True)
    assert next(stream)[1] == b"one\n"
    child = os.fork()
    if child == 0:
        stream.close()
        client.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    (connection,) = quiet.connected()
    connection.settimeout(0.05)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    stream.close()
    connection.settimeout(PATIENCE)
    assert quiet.hears_the_end()
