"""Descriptors in messages: they arrive close-on-exec, and none stays open when a message does not fit."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from tests.patience import PATIENCE

from wherry.kernel import unix_sockets


class Pair(NamedTuple):
    ours: socket.socket
    theirs: socket.socket


@pytest.fixture(params=[socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    before = os.listdir("/proc/self/fd")
    ours, theirs = socket.socketpair(socket.AF_UNIX, request.param)
    ours.settimeout(PATIENCE)
    with ours, theirs:
        yield Pair(ours, theirs)
    assert os.listdir("/proc/self/fd") == before


def pipes(count: int) -> list[int]:
    """Write ends of so many pipes, whose read ends are closed: what they are can be told from EPIPE."""
    ends = []
    for _ in range(count):
        reader, writer = os.pipe()
        os.close(reader)
        ends.append(writer)
    return ends


def close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def test_descriptors_keep_their_order_and_do_not_survive_exec(pair: Pair) -> None:
    reader, writer = os.pipe()
    assert unix_sockets.send(pair.theirs, b"two", [writer, reader]) == 3
    close([reader, writer])
    data, received = unix_sockets.receive(pair.ours, 10, 16)
    assert data == b"two"
    os.write(received[0], b"through")
    assert os.read(received[1], 10) == b"through"
    assert not any(os.get_inheritable(descriptor) for descriptor in received)
    close(received)


def test_a_message_without_descriptors(pair: Pair) -> None:
    unix_sockets.send(pair.theirs, b"none", [])
    assert unix_sockets.receive(pair.ours, 10, 16) == (b"none", [])


def test_end_of_file(pair: Pair) -> None:
    pair.theirs.close()
    assert unix_sockets.receive(pair.ours, 10, 16) == (b"", [])
    with pytest.raises(BrokenPipeError):  # and no SIGPIPE
        unix_sockets.send(pair.ours, b"x", [])


def test_of_too_many_descriptors_none_is_received(pair: Pair) -> None:
    sent = pipes(17)
    unix_sockets.send(pair.theirs, b"x", sent)
    close(sent)
    assert unix_sockets.receive(pair.ours, 10, 16) == (b"x", [])


def test_of_descriptors_beyond_the_limit_of_the_process_none_is_received(pair: Pair) -> None:
    sent = pipes(4)
    unix_sockets.send(pair.theirs, b"x", sent)
    close(sent)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 2, hard))
    try:
        assert unix_sockets.receive(pair.ours, 10, 16) == (b"x", [])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_as_many_as_allowed(pair: Pair) -> None:
    sent = pipes(16)
    unix_sockets.send(pair.theirs, b"x", sent)
    close(sent)
    _, received = unix_sockets.receive(pair.ours, 10, 16)
    assert len(received) == 16
    close(received)


def test_the_descriptors_of_a_packet_that_is_cut_are_closed() -> None:
    before = os.listdir("/proc/self/fd")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        sent = pipes(2)
        unix_sockets.send(theirs, b"0123456789", sent)
        close(sent)
        with pytest.raises(ConnectionError):
            unix_sockets.receive(ours, 9, 16)
    assert os.listdir("/proc/self/fd") == before


def test_descriptors_come_with_the_first_bytes_of_a_stream() -> None:
    """As the first process of a container relies on: it reads four bytes first."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        sent = pipes(1)
        unix_sockets.send(theirs, b"\0\0\0\2{}", sent)
        close(sent)
        data, received = unix_sockets.receive(ours, 4, 16)
        assert (data, len(received)) == (b"\0\0\0\2", 1)
        assert unix_sockets.receive(ours, 4, 16) == (b"{}", [])
        close(received)


def test_nothing_to_receive_yet(pair: Pair) -> None:
    pair.ours.settimeout(None)
    with pytest.raises(BlockingIOError):
        unix_sockets.receive(pair.ours, 10, 16, socket.MSG_DONTWAIT)


def test_peer_uid(pair: Pair) -> None:
    assert unix_sockets.peer_uid(pair.ours) == os.geteuid()
