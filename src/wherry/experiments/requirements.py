"""What experiments need besides wherry itself: the extra "experiments" of the package."""

from __future__ import annotations

import importlib.util

from wherry.experiments.model import BadSettingsError

_MODULES = ("matplotlib", "jinja2", "rich")


def check() -> None:
    """Raises BadSettingsError naming what is missing; nothing is loaded for the check."""
    missing = [name for name in _MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise BadSettingsError(
            f"experiments need {', '.join(missing)}, which is not installed: pip install 'wherry[experiments]'"
        )
