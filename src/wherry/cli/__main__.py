"""``python -m wherry.cli``: the same as ``engine``."""

from __future__ import annotations

import sys

from wherry.cli.main import main

sys.exit(main())
