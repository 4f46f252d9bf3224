"""A template of Go's, as far as docker's users write them, taken apart into nodes.

An action stands in {{ and }}: a pipeline of commands, or one of if, else, range, with, end. {{- and -}} take the white
space beside them away, /* */ is a comment.
"""

from __future__ import annotations

import json
import re

from wherry.cli.parser import BadValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

MAX_LENGTH = 10_000
MAX_DEPTH = 40
_INSIDE = re.compile(r'(?:[^"`}]|"(?:\\.|[^"\\\n])*"|`[^`]*`|\}(?!\}))*', re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>"(?:\\.|[^"\\\n])*" | `[^`]*`) |
    (?P<number>[-+]?[0-9]{1,18}(?:\.[0-9]{1,18})?(?![\w.])) |
    (?P<variable>\$\w*(?:\.\w+)*) |
    (?P<field>\.(?:\w+(?:\.\w+)*)?) |
    (?P<word>[A-Za-z_]\w*) |
    (?P<sign>:=|[()|,])
    )""",
    re.VERBOSE | re.ASCII,
)
_WORDS = {"true": True, "false": False, "nil": None}


class Trusted(str):
    """Text that the user has written: it goes to the terminal as it is."""

    __slots__ = ()


class Literal:
    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class Place:
    """``base`` with fields below it: "" is the dot, "$..." a variable, a Pipeline what stands in parentheses."""

    __slots__ = ("base", "path")

    def __init__(self, base: str | Pipeline, path: Sequence[str]) -> None:
        self.base = base
        self.path = path


class Command:
    """A function with its arguments, or with ``function`` "" one argument alone."""

    __slots__ = ("arguments", "function")

    def __init__(self, function: str, arguments: list[Term]) -> None:
        self.function = function
        self.arguments = arguments


class Pipeline:
    """The last argument of each command but the first is what the one before gives."""

    __slots__ = ("commands", "variables")

    def __init__(self, commands: list[Command], variables: list[str]) -> None:
        self.commands = commands
        self.variables = variables


class Block:
    """``keyword`` if, range or with; ``body`` or, when the pipeline gives nothing, ``other``."""

    __slots__ = ("body", "keyword", "other", "pipeline")

    def __init__(self, keyword: str, pipeline: Pipeline) -> None:
        self.keyword = keyword
        self.pipeline = pipeline
        self.body: list[Node] = []
        self.other: list[Node] = []


Term = Literal | Place
Node = str | Pipeline | Block


class Reader:
    """Reads one template; ``functions`` are the names that there are, ``fields`` those of the outermost dot (None: it
    is not known which it has).
    """

    def __init__(self, functions: Collection[str], fields: Collection[str] | None) -> None:
        self._functions = functions
        self._fields = fields
        self._depth = 0
        self._inner = 0
        self._tokens: list[tuple[str, str]] = []
        self._action = ""

    def read(self, text: str) -> list[Node]:
        """Raises BadValue."""
        if len(text) > MAX_LENGTH:
            raise BadValue(f"the template has {len(text)} characters, and the most is {MAX_LENGTH}")
        nodes, end = self._nodes(_pieces(text))
        if end:
            raise BadValue(f"'{{{{{end}}}}}' belongs to no if, range or with")
        return nodes

    def _nodes(self, pieces: Iterator[tuple[bool, str]]) -> tuple[list[Node], str]:
        """Nodes up to an end or else, which is the second of the two, or up to the end of all."""
        nodes: list[Node] = []
        for is_action, text in pieces:
            if not is_action:
                nodes.append(text)
                continue
            keyword, _, rest = text.partition(" ")
            if keyword in ("end", "else"):
                return nodes, text
            if keyword in ("if", "range", "with"):
                nodes.append(self._block(keyword, rest, pieces))
            else:
                nodes.append(self._pipeline(text))
        return nodes, ""

    def _block(self, keyword: str, condition: str, pieces: Iterator[tuple[bool, str]]) -> Block:
        self._enter()
        block = Block(keyword, self._pipeline(condition, f"{keyword} {condition}"))
        moves = keyword != "if"
        self._inner += moves
        block.body, end = self._nodes(pieces)
        self._inner -= moves
        if end.startswith("else "):  # else if, else with: a block of its own, which takes the end
            keyword, _, rest = end.removeprefix("else ").strip().partition(" ")
            if keyword not in ("if", "with"):
                raise BadValue(f"'{{{{{end}}}}}' is neither else nor else if")
            block.other = [self._block(keyword, rest, pieces)]
        else:
            if end == "else":
                block.other, end = self._nodes(pieces)
            if end != "end":
                raise BadValue(f"'{{{{{block.keyword} {condition}}}}}' has no end")
        self._depth -= 1
        return block

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise BadValue(f"the template is nested more than {MAX_DEPTH} deep")

    def _pipeline(self, text: str, shown: str | None = None) -> Pipeline:
        self._action = text if shown is None else shown
        self._tokens = [*reversed([*self._split(text)])]
        pipeline = self._commands()
        if self._tokens:
            raise self._wrong()
        if self._fields is not None and not self._inner and _is_dot(pipeline):
            raise BadValue(f"'{{{{{self._action}}}}}' is the whole of it: use {{{{json .}}}}")
        return pipeline

    def _split(self, text: str) -> Iterator[tuple[str, str]]:
        position = 0
        text = text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None:
                raise self._wrong()
            yield match.lastgroup, match[match.lastgroup]
            position = match.end()

    def _wrong(self) -> BadValue:
        return BadValue(
            f"'{{{{{self._action}}}}}' is no action of a template, such as {{{{.Field}}}} or {{{{json .}}}}"
        )

    def _commands(self) -> Pipeline:
        variables = self._variables()
        commands = [self._command()]
        while self._tokens and self._tokens[-1][1] == "|" and self._tokens.pop():
            commands.append(self._command())
            if not commands[-1].function:
                raise self._wrong()
        return Pipeline(commands, variables)

    def _variables(self) -> list[str]:
        """Those of "$x := " or "$i, $x := " at the beginning."""
        signs = [text for _, text in self._tokens[:-5:-1]]
        for count in (1, 2):
            if signs[2 * count - 1 : 2 * count] == [":="] and all(name.startswith("$") for name in signs[:count:2]):
                del self._tokens[-2 * count :]
                return [name for name in signs[: 2 * count] if name.startswith("$")]
        return []

    def _command(self) -> Command:
        if not self._tokens:
            raise self._wrong()
        kind, text = self._tokens[-1]
        function = ""
        if kind == "word" and text not in _WORDS:
            if text not in self._functions:
                raise BadValue(
                    f"no function {text!r} in '{{{{{self._action}}}}}'; there are {' '.join(self._functions)}"
                )
            function = text
            self._tokens.pop()
        arguments: list[Term] = []
        while self._tokens and self._tokens[-1][1] not in ("|", ")"):
            arguments.append(self._term())
        if not function and len(arguments) != 1:
            raise self._wrong()
        return Command(function, arguments)

    def _term(self) -> Term:
        kind, text = self._tokens.pop()
        match kind:
            case "string":
                return Literal(_unquoted(text))
            case "number":
                return Literal(float(text) if "." in text else int(text))
            case "variable":
                base, *path = text.split(".")
                return self._checked(Place(base, path))
            case "field":
                return self._checked(Place("", [name for name in text.split(".") if name]))
            case "word" if text in _WORDS:
                return Literal(_WORDS[text])
            case "word":  # a function without arguments
                self._tokens.append((kind, text))
                return Place(Pipeline([Command(self._tokens.pop()[1], [])], []), [])
            case "sign" if text == "(":
                return self._parenthesis()
        raise self._wrong()

    def _parenthesis(self) -> Place:
        self._enter()
        inner = self._commands()
        if not self._tokens or self._tokens.pop()[1] != ")":
            raise self._wrong()
        self._depth -= 1
        path: list[str] = []
        if self._tokens and self._tokens[-1][0] == "field" and self._tokens[-1][1] != "." and self._touches():
            path = [name for name in self._tokens.pop()[1].split(".") if name]
        return Place(inner, path)

    def _touches(self) -> bool:
        return ")" + self._tokens[-1][1] in self._action

    def _checked(self, place: Place) -> Place:
        is_root = place.base == "$" or (place.base == "" and not self._inner)
        if is_root and self._fields is not None and place.path and place.path[0] not in self._fields:
            known = ", ".join(f".{name}" for name in self._fields)
            raise BadValue(f"no field .{place.path[0]}; there are {known}")
        return place


def _is_dot(pipeline: Pipeline) -> bool:
    first = pipeline.commands[0]
    place = first.arguments[0] if len(pipeline.commands) == 1 and not first.function else None
    return isinstance(place, Place) and place.base in ("", "$") and not place.path


def _pieces(text: str) -> Iterator[tuple[bool, str]]:
    """What is an action, without its braces, and what is not; white space and comments taken away."""
    position, trims = 0, False
    while True:
        begin = text.find("{{", position)
        literal = text[position:] if begin < 0 else text[position:begin]
        if "}}" in literal:
            raise BadValue(f"'}}}}' has no counterpart in {text[:80]!r}")
        end = 0 if begin < 0 else _INSIDE.match(text, begin + 2).end()  # type: ignore[union-attr]
        if begin >= 0 and text[end : end + 2] != "}}":
            raise BadValue(f"'{{{{' has no counterpart in {text[:80]!r}")
        literal = literal.lstrip() if trims else literal
        inside = text[begin + 2 : end]
        if begin >= 0 and re.match(r"-\s", inside):
            literal, inside = literal.rstrip(), inside[1:]
        trims = re.search(r"\s-$", inside) is not None
        if literal:
            yield False, literal.replace("\\t", "\t").replace("\\n", "\n")
        if begin < 0:
            return
        inside = (inside[:-1] if trims else inside).strip()
        if not (inside.startswith("/*") and inside.endswith("*/")):
            yield True, inside
        position = end + 2


def _unquoted(text: str) -> Trusted:
    if text.startswith("`"):
        return Trusted(text[1:-1])
    try:
        return Trusted(json.loads(text))
    except ValueError:
        raise BadValue(f"{text} is no string") from None
