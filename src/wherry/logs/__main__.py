"""Print a log file, with no supervisor: ``python -m wherry.logs FILE [--stream out|err|both] [-t] [--tail N]``.

Needs FILE alone; streams and times come from FILE.idx if that is there. Exit code 1 when the log cannot be read.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from wherry import errors
from wherry.logs.index import STDERR, STDOUT
from wherry.logs.linewise import Stamper
from wherry.logs.log import Log
from wherry.logs.reader import read

STREAMS = {"out": {STDOUT}, "err": {STDERR}, "both": {STDOUT, STDERR}}


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m wherry.logs", description="Print a container's log file.")
    parser.add_argument("file", type=Path, metavar="FILE", help="the log; its index is FILE.idx")
    parser.add_argument("--stream", choices=STREAMS, default="both", help="which stream to print (default: both)")
    parser.add_argument("-t", "--timestamps", action="store_true", help="put its time (UTC) in front of each line")
    parser.add_argument("--tail", type=int, metavar="N", help="print the last N lines only")
    return parser.parse_args(words)


def print_log(options: argparse.Namespace) -> None:
    stamper = Stamper()
    for chunk in read(Log(options.file, ""), streams=STREAMS[options.stream], tail=options.tail):
        shown = stamper.feed(chunk) if options.timestamps else chunk
        sys.stdout.buffer.write(shown.data)
    sys.stdout.buffer.flush()


def main() -> int:
    options = parse()
    try:
        print_log(options)
    except BrokenPipeError:
        # `... | head` has enough. The interpreter would flush once more at exit and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, errors.WherryError) as error:
        print(f"python -m wherry.logs: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
