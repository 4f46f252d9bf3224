"""Mount options to flags of mount(2), attributes of the mount API and what is left for the file system."""

from __future__ import annotations

import pytest

from wherry.errors import InvalidRequest
from wherry.kernel import mounts
from wherry.runtime import mount_options


def test_flags_attributes_and_data() -> None:
    parsed = mount_options.parse(("nosuid", "nodev", "noexec", "ro", "size=1m", "mode=1777", "newinstance"))
    assert parsed.flags == mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC | mounts.MS_RDONLY
    assert parsed.attributes == 0xF
    assert parsed.data == [("size", "1m"), ("mode", "1777"), ("newinstance", None)]
    assert parsed.data_string() == "size=1m,mode=1777,newinstance"
    assert parsed.read_only
    assert not parsed.recursive


def test_nothing_asked_for() -> None:
    assert mount_options.parse(()) == mount_options.Options(0, 0, [], False)
    assert mount_options.parse(("", "defaults", "relatime", "private", "rprivate")) == mount_options.Options(
        0, 0, [], False
    )


@pytest.mark.parametrize(("on", "off"), [("ro", "rw"), ("nosuid", "suid"), ("nodev", "dev"), ("noexec", "exec")])
def test_later_options_override_earlier_ones(on: str, off: str) -> None:
    assert mount_options.parse((on, off)).flags == mount_options.parse((on, off)).attributes == 0
    assert (
        mount_options.parse((off, on)).flags
        == mount_options.parse((on, on)).flags
        == mount_options.parse((on,)).flags
        != 0
    )


def test_binds() -> None:
    assert mount_options.parse(("rbind", "ro")).recursive
    assert not mount_options.parse(("rbind", "bind")).recursive
    assert mount_options.parse(("bind",)).data == []


def test_strictatime() -> None:
    """include/uapi/linux/mount.h: MOUNT_ATTR_STRICTATIME."""
    assert mount_options.parse(("strictatime",)) == mount_options.Options(mounts.MS_STRICTATIME, 0x20, [], False)


@pytest.mark.parametrize("option", ["shared", "rshared", "slave", "rslave", "remount"])
def test_what_is_not_carried_out_is_refused(option: str) -> None:
    with pytest.raises(InvalidRequest, match=f"'{option}' is not supported"):
        mount_options.parse(("ro", option))


def test_a_value_may_hold_an_equals_sign_or_be_empty() -> None:
    parsed = mount_options.parse(("lowerdir=/a=b", "empty="))
    assert parsed.data == [("lowerdir", "/a=b"), ("empty", "")]
    assert parsed.data_string() == "lowerdir=/a=b,empty="
