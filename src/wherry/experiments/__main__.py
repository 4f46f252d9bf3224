"""``python -m wherry.experiments``: the same as ``engine experiment``."""

from __future__ import annotations

import sys

from wherry.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["experiment", *sys.argv[1:]]))
