"""Case 12: files that say why they cannot be executed are the container's, and may say anything."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wherry.runtime.executable import explain

NUMBERS = (errno.ENOENT, errno.ENOTDIR, errno.ENOEXEC, errno.EACCES)
BEGINNINGS = st.sampled_from(
    [b"#!", b"#! ", b"\x7fELF", b"\x7fELF\x01\x01", b"\x7fELF\x02\x01", b"\x7fELF\x02\x02", b""]
)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BEGINNINGS, st.binary(max_size=300), st.sampled_from(NUMBERS))
def test_any_content_gives_a_short_line(tmp_path: Path, beginning: bytes, rest: bytes, number: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(beginning + rest)
    text = explain(str(path), number)
    assert len(text) < 1000
    assert text.isprintable()


def header(offset: int, size: int, count: int, program: bytes = b"") -> bytes:
    fields = [2, 62, 1, 0, offset, 0, 0, 64, size, count, 0, 0, 0]
    widths = (2, 2, 4, 8, 8, 8, 4, 2, 2, 2, 2, 2, 2)
    packed = b"".join(value.to_bytes(width, "little") for value, width in zip(fields, widths, strict=True))
    return b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + packed + program


def interp(offset: int, size: int) -> bytes:
    return b"\3\0\0\0\4\0\0\0" + offset.to_bytes(8, "little") + bytes(16) + size.to_bytes(8, "little") + bytes(16)


@pytest.mark.parametrize(
    "content",
    [
        header(1 << 63, 56, 1),
        header(64, 56, 65535),
        header(64, 0, 65535),
        header(64, 1, 65535),
        header((1 << 64) - 1, 65535, 65535),
        header(64, 56, 1, interp((1 << 64) - 1, 20)),
        header(64, 56, 1, interp(120, (1 << 64) - 1) + b"\0" + b"x" * 100),
        header(64, 56, 1, interp(120, 0)),
        header(64, 56, 2, interp(120, 3)[:40]),
    ],
)
def test_headers_that_lead_nowhere(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert explain(str(tmp_path / "file"), errno.ENOENT) == ""


def test_a_name_is_cut(tmp_path: Path) -> None:
    name = b"/" + b"z" * 5000
    (tmp_path / "file").write_bytes(header(64, 56, 1, interp(120, len(name)) + name))
    text = explain(str(tmp_path / "file"), errno.ENOENT)
    assert text.startswith("its program interpreter '/zzz")
    assert len(text) < 250


def test_32_bits_and_the_other_byte_order(tmp_path: Path) -> None:
    program = b"\0\0\0\3" + (84).to_bytes(4, "big") + bytes(8) + (7).to_bytes(4, "big") + bytes(12)
    start = b"\x7fELF\x01\x02\x01".ljust(16, b"\0") + b"\0\2\0\x08\0\0\0\1" + bytes(4) + (52).to_bytes(4, "big")
    content = start + bytes(8) + b"\0\x34\0\x20\0\1" + bytes(6) + program + b"/ld.so\0"
    (tmp_path / "file").write_bytes(content)
    assert explain(str(tmp_path / "file"), errno.ENOENT) == "its program interpreter '/ld.so' is not there"
    assert "a program for mips, and this machine is" in explain(str(tmp_path / "file"), errno.ENOEXEC)


def test_scripts_that_lead_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_text(f"#!{tmp_path}/file\n")
    for number in NUMBERS[:3]:
        assert explain(str(tmp_path / "file"), number) == ""


def test_what_is_no_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert explain(str(tmp_path / "fifo"), errno.ENOENT) == ""
    assert explain(str(tmp_path), errno.EACCES) == "permission denied: it is a directory"
    assert explain(str(tmp_path / "gone"), errno.ENOENT) == ""


def test_other_errors_speak_for_themselves(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("#!/gone\n")
    assert explain(str(tmp_path / "file"), errno.E2BIG) == ""
