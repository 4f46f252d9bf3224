"""Mount options to flags of mount(2), attributes of the mount API and what is left for the file system."""

from __future__ import annotations

import pytest

from wherry.errors import InvalidRequest
from wherry.kernel import mounts
from wherry.runtime import options


def test_flags_attributes_and_data() -> None:
    parsed = options.parse(("nosuid", "nodev", "noexec", "ro", "size=1m", "mode=1777", "newinstance"))
    assert parsed.flags == mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC | mounts.MS_RDONLY
    assert parsed.attributes == 0xF
    assert parsed.data == [("size", "1m"), ("mode", "1777"), ("newinstance", None)]
    assert parsed.data_string() == "size=1m,mode=1777,newinstance"
    assert parsed.read_only
    assert not parsed.recursive


def test_nothing_asked_for() -> None:
    assert options.parse(()) == options.Options(0, 0, [], False)
    assert options.parse(("", "defaults", "relatime", "private", "rprivate")) == options.Options(0, 0, [], False)


@pytest.mark.parametrize(("on", "off"), [("ro", "rw"), ("nosuid", "suid"), ("nodev", "dev"), ("noexec", "exec")])
def test_later_options_override_earlier_ones(on: str, off: str) -> None:
    assert options.parse((on, off)).flags == options.parse((on, off)).attributes == 0
    assert options.parse((off, on)).flags == options.parse((on, on)).flags == options.parse((on,)).flags != 0


def test_binds() -> None:
    assert options.parse(("rbind", "ro")).recursive
    assert not options.parse(("rbind", "bind")).recursive
    assert options.parse(("bind",)).data == []


def test_strictatime() -> None:
    """include/uapi/linux/mount.h: MOUNT_ATTR_STRICTATIME."""
    assert options.parse(("strictatime",)) == options.Options(mounts.MS_STRICTATIME, 0x20, [], False)


@pytest.mark.parametrize("option", ["shared", "rshared", "slave", "rslave", "remount"])
def test_what_is_not_carried_out_is_refused(option: str) -> None:
    with pytest.raises(InvalidRequest, match=f"'{option}' is not supported"):
        options.parse(("ro", option))


def test_a_value_may_hold_an_equals_sign_or_be_empty() -> None:
    parsed = options.parse(("lowerdir=/a=b", "empty="))
    assert parsed.data == [("lowerdir", "/a=b"), ("empty", "")]
    assert parsed.data_string() == "lowerdir=/a=b,empty="
