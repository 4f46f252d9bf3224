"""What the package gives, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import wherry
from wherry import errors


def test_the_package_gives_its_public_names_and_no_others() -> None:
    assert {name for name in wherry.__all__ if getattr(wherry, name) is not None} == set(wherry.__all__)
    assert set(wherry.__all__) <= set(dir(wherry))
    assert wherry.NameInUse is errors.NameInUse
    with pytest.raises(AttributeError, match="no attribute 'Klient'"):
        wherry.Klient  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_does_not_load_the_client() -> None:
    code = "import sys, wherry; assert wherry.__version__; print([m for m in sys.modules if m.startswith('wherry.')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_every_public_name_is_there() -> None:
    from wherry import client  # noqa: PLC0415

    assert [name for name in client.__all__ if not hasattr(client, name)] == []
