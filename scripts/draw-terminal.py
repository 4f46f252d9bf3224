#!/usr/bin/env python3
"""Draw what a terminal showed as an SVG: text with colours and weights as a terminal takes them, from stdin.

    scripts/demo.sh name memory survival | scripts/draw-terminal.py "make demo" > docs/images/demo.svg

The same text gives the same picture. It loads nothing (no font, no style sheet), and brings its own background.
"""

from __future__ import annotations

import io
import re
import sys

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

COLUMNS = 96
BACKGROUND, TEXT, COMMAND = (13, 17, 23), (230, 237, 243), (121, 192, 255)
THEME = TerminalTheme(BACKGROUND, TEXT, [BACKGROUND] * 8)
FORMAT = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
    font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace;
    font-size: {char_height}px;
    line-height: {line_height}px;
}}
.{unique_id}-title {{ font-size: 18px; font-family: sans-serif; }}
{styles}
</style>
{chrome}
<g class="{unique_id}-matrix" transform="translate({terminal_x}, {terminal_y})">
{matrix}
</g>
</svg>
"""


def draw(text: str, title: str) -> str:
    """Commands (lines that begin with "# ") stand out from their answers; lines that are too long are folded."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False)
    for line in text.strip("\n").split("\n"):
        shown = Text.from_ansi(line)
        if shown.plain.startswith("# "):
            shown.stylize(Style(color=Color.from_rgb(*COMMAND)))
        console.print(shown)
    svg = console.export_svg(title=title, theme=THEME, code_format=FORMAT, unique_id="demo")
    # Rich clips each line, and draws the ends of lines as texts of their own.
    svg = re.sub(r' clip-path="[^"]*"', "", svg)
    svg = re.sub(r"<text [^>]*>\s*</text>", "\n", svg)
    return "".join(line.strip() + "\n" for line in svg.splitlines() if line.strip())


def main() -> None:
    sys.stdout.write(draw(sys.stdin.read(), sys.argv[1]))


if __name__ == "__main__":
    main()
