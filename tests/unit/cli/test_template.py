"""The language of --format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry import errors
from wherry.cli import template
from wherry.cli.parser import BadValue

VALUE = {
    "Name": "web\x1b[2J",
    "State": {"Running": True, "Pid": 7},
    "List": ["x", "y\x07"],
    "Map": {"b": 2, "a": "v", "80/tcp": None},
    "None": None,
    "Empty": [],
    "Half": 1.5,
    "Objects": [{"Key": "k1"}, {"Key": "k2"}],
}


def shown(text: str) -> str:
    return template.render_each(text, [VALUE]).removesuffix("\n")


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("{{.State.Pid}} {{.State.Running}} {{.Half}} {{.None}}", "7 true 1.5 <no value>"),
        ("{{.Map}} {{.List}}", r"map[80/tcp:<no value> a:v b:2] [x y\x07]"),
        ("{{json .List}}{{json .None}}", r'["x", "y\u0007"]null'),
        (r'{{join .List ", "}}|{{join .List "\n"}}', "x, y\\x07|x\ny\\x07"),
        ('{{"a b" | upper}} {{lower "AbC"}} {{title "word"}}', "A B abc Word"),
        ('{{truncate "abcdef" 3}} {{"abcdef" | truncate 4}}', "abc abcd"),
        ('{{pad "x" 1 2}}|{{split "a,b" ","}}|{{len .List}}', " x  |[a b]|2"),
        ('{{printf "%-4s|%3d|%03d|%.2f|%q|%v|%%" "ab" .State.Pid 5 .Half "q" .Empty}}', 'ab  |  7|005|1.50|"q"|[]|%'),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        ("{{if .Empty}}some{{else if .None}}none{{else}}neither{{end}}", "neither"),
        ("{{range .List}}<{{.}}>{{else}}no{{end}}{{range .Empty}}x{{else}}no{{end}}", r"<x><y\x07>no"),
        ("{{range $i, $x := .Objects}}{{$i}}{{$x.Key}} {{end}}", "0k1 1k2 "),
        ("{{range $k, $v := .Map}}{{$k}}={{$v}};{{end}}", "80/tcp=<no value>;a=v;b=2;"),
        ("{{range .Objects}}{{.Key}}{{$.Half}} {{end}}", "k11.5 k21.5 "),
        ("{{with .State}}{{.Pid}}{{end}}{{with .None}}x{{else}}-{{end}}", "7-"),
        ('{{index .Map "a"}} {{(index .Objects 1).Key}} {{index .Map "80/tcp"}}', "v k2 <no value>"),
        ('{{if and .State.Running (eq .State.Pid 7 8) (not .Empty)}}y{{end}}{{or .None "z"}}', "yz"),
        ("{{lt 1 2}} {{ge 1 2}} {{ne 1 2}}", "true false true"),
        ("a {{- /* b */ -}} c{{ .Half -}} \n d", "ac1.5d"),
        ("{{$x := .State}}{{$x.Pid}}", "7"),
        ("{{`a}}b`}}{{println .Half}}", "a}}b1.5\n"),
        ("{{.None.Deeper}}", "<no value>"),
        (r"{{.Half}}\t\n", "1.5\t\n"),
        ("{{printf (index .List 1)}}", r"y\x07"),  # a form of the container's own
        ('{{printf (printf "%s%%s" (index .List 1)) "z"}}', r"y\x07z"),
    ],
)
def test_what_a_template_gives(text: str, result: str) -> None:
    assert shown(text) == result


PARTS = "{{ }} {{- -}} .Name .List . $ $x := , | ( ) json join printf index if else end range with 1 and".split()


@given(st.lists(st.sampled_from([*PARTS, " ", '"%s"', "x"]), max_size=12).map(" ".join))
def test_anything_is_read_or_refused(text: str) -> None:
    try:
        shown(text)
    except (BadValue, errors.InvalidRequest):
        return


def test_what_is_not_the_users_own_is_escaped() -> None:
    name = r"web\x1b[2J"
    assert (
        shown('{{.Name}} {{upper .Name}} {{printf "%s" .Name}}')
        == f"{name} {name.upper().replace('X1B', 'x1b')} {name}"
    )
    assert "\x1b" not in shown(
        '{{range $k, $v := .}}{{$v}}{{end}}{{println .Name}}{{join .List .Name}}{{split .Name "b"}}'
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{if .Name}}", "has no end"),
        ("{{if .Name}}{{else}}{{else}}{{end}}", "has no end"),
        ("{{end}}", "belongs to no if"),
        ("{{range}}{{end}}", "is no action"),
        ("{{.Name .Name}}", "is no action"),
        ("{{.Name | .Name}}", "is no action"),
        ("{{(.Name}}", "is no action"),
        ("{{nope .}}", "no function 'nope'"),
        ("{{.Name", "has no counterpart"),
        ('{{"\\q"}}', "is no string"),
        ("{{" + "9" * 5000 + "}}", "is no action"),
        ("{{if .Name}}" * 50 + "{{end}}" * 50, "more than 40 deep"),
        ("{{" + "(" * 50 + ".Name" + ")" * 50 + "}}", "more than 40 deep"),
    ],
)
def test_what_is_no_template(text: str, message: str) -> None:
    with pytest.raises(BadValue, match=message):
        template.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{.Nope}}", r"no field \.Nope; there are \.Name, \.State"),
        ("{{.Name.Nope}}", r"has no field \.Nope"),
        ("{{$x}}", r"no variable \$x"),
        ("{{range .Half}}{{end}}", "range needs a list or a map"),
        ("{{join .Half}}", "join needs a list"),
        ("{{index .List 9}}", "index '9' is not in"),
        ("{{len .Half}}", "len needs a list"),
        ('{{printf "%d"}}', "nothing is left for '%d'"),
        ('{{printf "%d" .Name}}', "'%d' does not fit"),
        ('{{printf "x" .Name}}', "1 arguments too many"),
        ('{{printf "%9999d" 1}}', "wider than 1000"),
        ("{{lt .Name 1}}", "cannot be compared"),
        ("{{upper}}", "upper does not take 0 arguments"),
        ("{{truncate .Name .Name}}", "truncate needs a number"),
    ],
)
def test_what_does_not_fit_the_value(text: str, message: str) -> None:
    with pytest.raises(errors.InvalidRequest, match=message):
        shown(text)


def test_a_template_is_bounded() -> None:
    many = [{"L": list(range(400))}]
    with pytest.raises(errors.InvalidRequest, match="more than 100000 steps"):
        template.render_each("{{range .L}}{{range $.L}}{{end}}{{range $.L}}x{{end}}{{end}}", many)
    with pytest.raises(errors.InvalidRequest, match="more than 1048576 characters"):
        template.render_each('{{join .L (printf "%1000s" "")}}', [{"L": [""] * 2000}])
    doubled = '{{$x := "12345678"}}{{range .L}}{{$x := printf "%s%s" $x $x}}{{end}}'
    with pytest.raises(errors.InvalidRequest, match="more than 1048576 characters"):
        template.render_each(doubled, many)
    with pytest.raises(errors.InvalidRequest, match="more than 1048576 characters"):
        template.render_each("{{range .L}}" + "x" * 9000 + "{{end}}", many)
