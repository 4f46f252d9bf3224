"""Chunks as lines and with time stamps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wherry.logs import STDERR, STDOUT, Chunk, LineSplitter, Stamper, lines, rfc3339_nano

chunk_lists = st.lists(
    st.builds(
        Chunk,
        st.sampled_from([STDOUT, STDERR]),
        st.integers(1, 9),
        st.lists(st.sampled_from([b"\n", b"a", b"b\r", b"\0"]), max_size=6).map(b"".join),
    ),
    max_size=10,
)


def stamp(wall_ns: int) -> bytes:
    return b"1970-01-01T00:00:00.00000000%dZ " % wall_ns


def model(chunks: list[Chunk], stream: int) -> list[tuple[int, bytes]]:
    """The lines of one stream, each with the time of its first byte."""
    found: list[tuple[int, bytes]] = []
    is_open = False
    for chunk in chunks:
        for value in chunk.data if chunk.stream == stream else b"":
            if not is_open:
                found.append((chunk.wall_ns, b""))
            found[-1] = (found[-1][0], found[-1][1] + bytes([value]))
            is_open = value != ord("\n")
    return found


@given(chunk_lists)
def test_lines_agree_with_the_model(chunks: list[Chunk]) -> None:
    parts = list(lines(chunks))
    assert b"".join(part.data for part in parts) == b"".join(chunk.data for chunk in chunks)
    for stream in (STDOUT, STDERR):
        whole: list[tuple[int, bytes]] = []
        for part in parts:
            if part.stream != stream:
                continue
            if part.begins:
                whole.append((part.wall_ns, part.data))
            else:
                assert part.wall_ns == whole[-1][0]
                whole[-1] = (part.wall_ns, whole[-1][1] + part.data)
        assert whole == model(chunks, stream)


@given(chunk_lists)
def test_stamps_agree_with_the_model(chunks: list[Chunk]) -> None:
    stamper = Stamper()
    stamped = [stamper.feed(chunk) for chunk in chunks]
    for stream in (STDOUT, STDERR):
        expected = b"".join(stamp(wall_ns) + data for wall_ns, data in model(chunks, stream))
        assert b"".join(chunk.data for chunk in stamped if chunk.stream == stream) == expected


def test_a_long_line_comes_in_parts() -> None:
    splitter = LineSplitter()
    fed = [line for at in (1, 2, 3) for line in splitter.feed(Chunk(STDOUT, at, b"x"))]
    fed += splitter.feed(Chunk(STDOUT, 4, b"\ny\n"))
    assert [(line.wall_ns, line.data, line.begins) for line in fed] == [
        (1, b"x", True),
        (1, b"x", False),
        (1, b"x", False),
        (1, b"\n", False),
        (4, b"y\n", True),
    ]


def test_times_have_nine_digits_and_are_utc() -> None:
    assert rfc3339_nano(1_714_564_800_000_000_001) == "2024-05-01T12:00:00.000000001Z"
    assert rfc3339_nano(1_714_564_800_120_000_000) == "2024-05-01T12:00:00.120000000Z"
    assert rfc3339_nano(0) == "0001-01-01T00:00:00.000000000Z"
