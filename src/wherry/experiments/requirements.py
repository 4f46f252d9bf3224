"""What experiments need besides wherry itself: the extra "experiments" of the package."""

from __future__ import annotations

import importlib

from wherry import errors

PACKAGES = ("matplotlib", "jinja2", "rich")


class MissingPackageError(errors.WherryError):
    """The message names the package and says how to install it."""


def check() -> None:
    """Raises MissingPackageError unless all of them can be imported: found out before anything is measured.

    They are loaded for it, since one that is there may still lack what it needs; a run loads them anyway.
    """
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise MissingPackageError(
                f"experiments need {name}, which cannot be loaded ({error}): pip install 'wherry[experiments]'"
            ) from None
