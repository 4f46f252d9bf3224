"""Input and output over one connection, against a peer that is this test."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.patience import PATIENCE

from wherry import errors
from wherry.client.feeding import Descriptor, Feeder, pieces_of


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


def test_much_both_ways_by_one_thread(pair: Pair) -> None:
    """The peer sends back what it gets, and reads no more until that has been taken."""
    ours, theirs = pair
    data = os.urandom(4 << 20)

    def echo() -> None:
        while piece := theirs.recv(1 << 16):
            theirs.sendall(piece)
        theirs.close()

    peer = threading.Thread(target=echo)
    peer.start()
    feeder = Feeder(ours, (data[start : start + 100_000] for start in range(0, len(data), 100_000)))
    assert b"".join(iter(lambda: feeder.receive(1 << 16), b"")) == data
    peer.join()


def test_a_descriptor_that_does_not_block_ends_with_its_end_only(pair: Pair) -> None:
    """Somebody else who has it open reads what was there first."""
    ours, theirs = pair
    reader, writer = os.pipe2(os.O_NONBLOCK)
    try:
        feeder = Feeder(ours, Descriptor(reader))
        feeder._next()
        os.write(writer, b"late")
        os.close(writer)
        theirs.sendall(b"x")
        assert feeder.receive(1) == b"x"
        peer = threading.Thread(target=lambda: theirs.sendall(theirs.recv(10) + theirs.recv(10)))
        peer.start()
        assert feeder.receive(10) == b"late"
        peer.join()
    finally:
        os.close(reader)


@pytest.mark.parametrize("given", ["text", b"text", bytearray(b"text"), [b"te", b"", b"xt"]])
def test_kinds_of_input(pair: Pair, given: Any) -> None:
    ours, theirs = pair
    feeder = Feeder(ours, given)
    theirs.sendall(b"x")
    assert feeder.receive(1) == b"x"
    got = b""
    while len(got) < 4:
        theirs.sendall(b"x")
        feeder.receive(1)
        theirs.settimeout(0.01)
        try:
            got += theirs.recv(10)
        except TimeoutError:
            continue
    assert got == b"text"


def test_output_comes_while_a_file_has_nothing(pair: Pair) -> None:
    ours, theirs = pair
    read_end, write_end = os.pipe()
    feeder = Feeder(ours, Descriptor(read_end))
    theirs.sendall(b"out")
    assert feeder.receive(10) == b"out"
    os.write(write_end, b"in")
    os.close(write_end)
    peer = threading.Thread(target=lambda: theirs.sendall(b"got " + theirs.recv(10) + theirs.recv(10)))
    peer.start()
    assert feeder.receive(10) == b"got in"  # and its end came: the second recv() returned
    peer.join()
    os.close(read_end)


def test_nobody_takes_it_any_more(pair: Pair) -> None:
    """The file becomes /dev/null, so that whoever writes into it learns that; what the peer has said is not lost."""
    ours, theirs = pair
    read_end, write_end = os.pipe()
    os.write(write_end, b"in")
    theirs.sendall(b"out")
    theirs.shutdown(socket.SHUT_RD)
    feeder = Feeder(ours, Descriptor(read_end))
    while feeder.receive(1):
        if os.fstat(read_end) == os.stat(os.devnull):
            break
        theirs.sendall(b"x")
    with pytest.raises(BrokenPipeError):
        os.write(write_end, b"more")
    for descriptor in (read_end, write_end):
        os.close(descriptor)


def test_a_peer_that_closes_with_input_unread(pair: Pair) -> None:
    """The kernel says ECONNRESET ahead of what the peer sent before."""
    ours, theirs = pair
    ours.sendall(b"never read")
    theirs.sendall(b"last words")
    theirs.close()
    feeder = Feeder(ours, bytes(1 << 20))
    assert b"".join(iter(lambda: feeder.receive(4), b"")) == b"last words"


@pytest.mark.parametrize("given", [b"", "", [], [b"", b""]])
def test_nothing_at_all_is_an_end(pair: Pair, given: Any) -> None:
    ours, theirs = pair

    def answer() -> None:
        assert theirs.recv(1) == b""
        theirs.sendall(b"x")

    theirs.settimeout(PATIENCE)
    peer = threading.Thread(target=answer)
    peer.start()
    assert Feeder(ours, given).receive(1) == b"x"
    peer.join()


@pytest.mark.parametrize("given", [7, None, object()])
def test_what_is_no_input(given: Any) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"^input: expected bytes"):
        pieces_of(given)


def test_a_piece_that_is_none(pair: Pair) -> None:
    with pytest.raises(errors.InvalidRequest, match=r"^input: expected bytes, not .text."):
        Feeder(pair[0], ["text"]).receive(1)  # type: ignore[list-item]


def test_a_file_that_cannot_be_read(pair: Pair) -> None:
    directory = os.open("/", os.O_RDONLY)
    with pytest.raises(errors.InvalidRequest, match="input: cannot be read: Is a directory"):
        Feeder(pair[0], Descriptor(directory)).receive(1)
    os.close(directory)
