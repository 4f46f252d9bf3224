"""Templates for --format, of all commands: Go's, as docker's users write them.

{{.Field}}, {{json .}}, {{join .List ", "}}, {{range .List}} ... {{end}}, {{if eq .State "running"}} ... {{else}} ...
{{end}}, {{printf "%-10s" .Name}}, pipelines and variables: the grammar is ``template_parsing``'s, the functions are
those of ``template_functions``. A template is bounded in length, depth, steps and in what it makes.
"""

from __future__ import annotations

from wherry.cli import terminal
from wherry.cli.template_functions import FUNCTIONS, MOST, safe, safe_json, text_of, wrong
from wherry.cli.template_parsing import Block, Literal, Pipeline, Place, Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from typing import Any, Protocol, TypeVar

    from wherry.cli.template_parsing import Command, Node, Term

    class Shown(Protocol):
        """What a template shows: a container, an event."""

        def as_dict(self) -> dict[str, Any]: ...

    T = TypeVar("T", bound=Shown)
    Fields = Mapping[str, Callable[[T], Any]]

__all__ = ["parse", "render", "render_each", "safe_json"]
_TABLE = "table "
_MAX_STEPS = 100_000


def parse(text: str, fields: Collection[str] | None = None) -> list[Node]:
    """What a template, without a "table " before it, is made of; ``fields`` None: any may be asked for.

    Raises BadValue: an unknown field or function, an action that is none, a brace that is not closed.
    """
    return Reader(FUNCTIONS, fields).read(text.removeprefix(_TABLE))


def render(text: str, shown: Sequence[T], fields: Fields[T], headers: Mapping[str, str]) -> str:
    """One line for each of ``shown``, safe for a terminal.

    With "table " before the template there is a header, and tab-separated cells stand in columns, as docker's do.
    """
    nodes = parse(text, fields)
    lines = [_Run(_Fields(each, fields)).text(nodes) for each in shown]
    if not text.startswith(_TABLE):
        return "".join(f"{line}\n" for line in lines)
    header = _Run({name: headers.get(name, name.upper()) for name in fields}, is_header=True).text(nodes)
    rows = [line.split("\t") for line in (header, *lines)]
    most = max(map(len, rows))
    return terminal.table([row + [""] * (most - len(row)) for row in rows])


def render_each(text: str, shown: Iterable[Any]) -> str:
    """As ``render``, of values of JSON. Raises InvalidRequest for a field that one of them has not."""
    nodes = parse(text)
    return "".join(_Run(each).text(nodes) + "\n" for each in shown)


class _Fields:
    """The outermost dot of ``render``: fields that are worked out when they are asked for."""

    def __init__(self, shown: Any, fields: Fields[Any]) -> None:
        self._shown = shown
        self._fields = fields

    def get(self, name: str) -> Any:
        return self._fields[name](self._shown)

    def whole(self) -> dict[str, Any]:
        found: dict[str, Any] = self._shown.as_dict()
        return found


class _Run:
    """One template on one value."""

    def __init__(self, root: Any, *, is_header: bool = False) -> None:
        self._variables = {"$": root}
        self._is_header = is_header
        self._out: list[str] = []
        self._size = 0
        self._steps = 0

    def text(self, nodes: list[Node]) -> str:
        """Raises InvalidRequest."""
        self._walk(nodes, self._variables["$"])
        return "".join(self._out)

    def _walk(self, nodes: list[Node], dot: Any) -> None:
        for node in nodes:
            self._step()
            if isinstance(node, str):
                self._write(node)
            elif isinstance(node, Block):
                self._block(node, dot)
            else:
                value = self._value(node, dot)
                if not node.variables:
                    self._write(self._shown(value))

    def _step(self) -> None:
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise wrong(f"it takes more than {_MAX_STEPS} steps")

    def _write(self, text: str) -> None:
        self._size += len(text)
        if self._size > MOST:
            raise wrong(f"it makes more than {MOST} characters")
        self._out.append(text)

    def _shown(self, value: Any) -> str:
        if isinstance(value, _Fields):
            raise wrong("{{.}} is the whole of it: use {{json .}}")
        return safe(value)

    def _block(self, block: Block, dot: Any) -> None:
        value = self._value(block.pipeline, dot)
        if self._is_header:
            self._walk(block.body, dot)
        elif not value:
            self._walk(block.other, dot)
        elif block.keyword == "range":
            self._range(block, value)
        else:
            self._walk(block.body, value if block.keyword == "with" else dot)

    def _range(self, block: Block, values: Any) -> None:
        if isinstance(values, dict):
            pairs: list[tuple[Any, Any]] = sorted(values.items())
        elif isinstance(values, list | tuple):
            pairs = list(enumerate(values))
        else:
            raise wrong(f"range needs a list or a map, not {text_of(values)[:60]!r}")
        for pair in pairs:
            names = block.pipeline.variables
            self._variables.update(zip(names, pair if len(names) == 2 else pair[1:], strict=False))
            self._walk(block.body, pair[1])

    def _value(self, pipeline: Pipeline, dot: Any) -> Any:
        value, given = None, False
        for command in pipeline.commands:
            self._step()
            value = self._called(command, dot, [value] if given else [])
            given = True
        for name in pipeline.variables[:1]:
            self._variables[name] = value
        return value

    def _called(self, command: Command, dot: Any, more: list[Any]) -> Any:
        values = [self._term(term, dot) for term in command.arguments] + more
        if not command.function:
            return values[0]
        values = [value.whole() if isinstance(value, _Fields) else value for value in values]
        if self._is_header:  # what a field is called, not how it is shown
            own = zip(command.arguments, values, strict=False)  # ``more`` is at the end of values
            named = [value for term, value in own if not isinstance(term, Literal)]
            return next((value for value in [*named, *more] if isinstance(value, str)), "")
        if sum(len(value) for value in values if isinstance(value, str)) > MOST:
            raise wrong(f"it makes more than {MOST} characters")
        try:
            return FUNCTIONS[command.function](*values)
        except (TypeError, IndexError):
            raise wrong(f"{command.function} does not take {len(values)} arguments, or not these") from None

    def _term(self, term: Term, dot: Any) -> Any:
        if isinstance(term, Literal):
            return term.value
        return self._place(term, dot)

    def _place(self, place: Place, dot: Any) -> Any:
        if isinstance(place.base, Pipeline):
            value = self._value(place.base, dot)
        elif not place.base:
            value = dot
        elif place.base in self._variables:
            value = self._variables[place.base]
        else:
            raise wrong(f"no variable {place.base}")
        for name in place.path:
            value = _header(value, name) if self._is_header else _field(value, name)
        return value


def _header(value: Any, name: str) -> Any:
    return value.get(name, name.upper()) if isinstance(value, dict) else name.upper()


def _field(value: Any, name: str) -> Any:
    if isinstance(value, _Fields):
        return value.get(name)
    if value is None:
        return None  # as Go: nothing of nothing is nothing
    if not isinstance(value, dict):
        raise wrong(f"{text_of(value)[:60]!r} has no field .{name}")
    if name not in value:
        raise wrong(f"no field .{name}; there are {', '.join(f'.{key}' for key in list(value)[:40])}")
    return value[name]
