"""--format, the same for all commands: a name such as table, json (one object a line), or a template."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from typing import Any

    from wherry.cli.parser import Parser

ABOUT = """--format json       one JSON object a line
--format TEMPLATE   as docker's: {{.Field}}, {{json .}}, {{range .List}}...{{end}}, {{if eq .A "x"}}...{{end}},
                    join, upper, lower, title, truncate, split, printf, println, index, len; \\t and \\n"""


def add(parser: Parser, *words: str, default: str = "", fields: Collection[str] | None = None) -> None:
    """The option, with ``words`` beside json, which comes of itself; ``fields`` None: known when it is shown."""
    names = [*words, "json"]
    about = f"{', '.join(names)} or a template, see below"
    shown = f"{'|'.join(names)}|TEMPLATE"
    parser.option("--format", metavar=shown, type=checked(names, fields), default=default or names[0], help=about)


def checked(names: Collection[str], fields: Collection[str] | None) -> Callable[[str], str]:
    """The type of the option: a wrong template ends the program before anybody is asked."""

    def check(text: str) -> str:
        if text not in names:
            from wherry.cli import template  # noqa: PLC0415 (loads re and json)

            template.parse(text, fields)
        return text

    return check


def rendered(form: str, values: Iterable[Any]) -> str:
    """Values of JSON by "json" or by a template."""
    from wherry.cli import template  # noqa: PLC0415

    if form == "json":
        return "".join(template.safe_json(value) + "\n" for value in values)
    return template.render_each(form, values)
