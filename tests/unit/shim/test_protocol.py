"""Packets between supervisor and shim: JSON with descriptors, whole or not at all."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from wherry.kernel import unix_sockets
from wherry.shim import protocol


class Pair(NamedTuple):
    ours: socket.socket
    theirs: socket.socket


@pytest.fixture
def pair() -> Iterator[Pair]:
    before = os.listdir("/proc/self/fd")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield Pair(ours, theirs)
    assert os.listdir("/proc/self/fd") == before


def test_a_message_with_descriptors(pair: Pair) -> None:
    reader, writer = os.pipe()
    message = {"type": "claim", "slot": "a", "names": ["stdout", "stderr"], "text": "\udce9"}
    protocol.send(pair.theirs, message, [reader, writer])
    received = protocol.receive(pair.ours)
    assert received is not None
    assert received[0] == message
    os.write(received[1][1], b"x")
    assert os.read(reader, 2) == b"x"
    assert not any(os.get_inheritable(descriptor) for descriptor in received[1])
    for descriptor in (reader, writer, *received[1]):
        os.close(descriptor)


def test_packets_keep_their_boundaries(pair: Pair) -> None:
    for number in range(3):
        protocol.send(pair.theirs, {"type": "release", "slot": str(number)})
    slots = [message[0]["slot"] for message in (protocol.receive(pair.ours) for _ in range(3)) if message]
    assert slots == ["0", "1", "2"]
    with pytest.raises(BlockingIOError):
        protocol.receive(pair.ours)


def test_end_of_file(pair: Pair) -> None:
    pair.theirs.close()
    assert protocol.receive(pair.ours) is None
    with pytest.raises(BrokenPipeError):
        protocol.send(pair.ours, {})


def of_size(size: int) -> protocol.Message:
    empty = len(json.dumps({"type": "spawn", "x": ""}))
    return {"type": "spawn", "x": "y" * (size - empty)}


def test_the_largest_packet(pair: Pair) -> None:
    protocol.send(pair.theirs, of_size(protocol.MAXIMUM_PACKET))
    received = protocol.receive(pair.ours)
    assert received is not None
    assert received[0] == of_size(protocol.MAXIMUM_PACKET)


def test_a_larger_one_is_not_sent(pair: Pair) -> None:
    with pytest.raises(ValueError, match="message 'spawn' of 65537 bytes is larger than 65536"):
        protocol.send(pair.theirs, of_size(protocol.MAXIMUM_PACKET + 1), [0])
    with pytest.raises(BlockingIOError):
        protocol.receive(pair.ours)


def test_a_larger_one_is_not_received_and_its_descriptors_are_closed(pair: Pair) -> None:
    reader, writer = os.pipe()
    pair.theirs.sendmsg([b"x" * 70_000], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, writer.to_bytes(4, "little"))])
    os.close(writer)
    with pytest.raises(ConnectionError):
        protocol.receive(pair.ours)
    assert os.read(reader, 1) == b""  # the last writer is gone
    os.close(reader)


@pytest.mark.parametrize("count", [0, 1, protocol.MAXIMUM_DESCRIPTORS])
def test_as_many_descriptors_as_are_allowed(pair: Pair, count: int) -> None:
    protocol.send(pair.theirs, {"type": "slot"}, [0] * count)
    received = protocol.receive(pair.ours)
    assert received is not None
    assert len(received[1]) == count
    for descriptor in received[1]:
        os.close(descriptor)


def test_of_too_many_none_is_taken(pair: Pair) -> None:
    protocol.send(pair.theirs, {"type": "slot"}, [0] * (protocol.MAXIMUM_DESCRIPTORS + 1))
    assert protocol.receive(pair.ours) == ({"type": "slot"}, [])


def test_who_does_not_read_does_not_block_us(pair: Pair) -> None:
    def send_for_ever() -> None:
        while True:
            protocol.send(pair.theirs, {"type": "release", "slot": "x"})

    pair.theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        send_for_ever()


def test_we_trust_ourselves(pair: Pair) -> None:
    assert protocol.peer_is_trusted(pair.ours)


@pytest.mark.parametrize(
    ("peer", "ours", "trusted"), [(0, 0, True), (0, 5, True), (5, 5, True), (5, 0, False), (6, 5, False)]
)
def test_whom_to_trust(pair: Pair, monkeypatch: pytest.MonkeyPatch, peer: int, ours: int, trusted: bool) -> None:
    monkeypatch.setattr(unix_sockets, "peer_uid", lambda _connection: peer)
    monkeypatch.setattr(os, "geteuid", lambda: ours)
    assert protocol.peer_is_trusted(pair.ours) is trusted
