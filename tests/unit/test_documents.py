"""What documents claim about the repository: links lead somewhere, and a comparison names what shows it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.unit.test_repository import ROOT, texts

from wherry.cli import main

DOCUMENTS = {path: text for path, text in texts() if path.suffix == ".md"}
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
SHOWN_BY = re.compile(r"`((?:tests|benchmarks)/[\w./]+\.py)`")
MAKEFILE = (ROOT / "Makefile").read_text()
TOPS = ("", "src/wherry")
PICTURE = ROOT / "docs/images/demo.svg"


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Of the headings of a document, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(path: Path, text: str) -> Iterator[str]:
    """Links of a document at ``path`` that lead nowhere; other sites are not asked."""
    for link in LINK.findall(without_code(text)):
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = ROOT / path.parent / target
        if not (file.exists() and (not anchor or anchor in anchors(file.read_text() if target else text))):
            yield f"{path}: {link}"


def test_links_of_documents_lead_somewhere() -> None:
    assert [link for path, text in DOCUMENTS.items() for link in broken(path, text)] == []


def test_a_link_to_nowhere_is_found() -> None:
    text = "# One\n[a](#one) [b](#two) [c](README.md) [d](none.md) [e](docs/python.md#none) [f](https://x.org/y)\n"
    found = [*broken(Path("x.md"), text + "```\n[g](none)\n```\n")]
    assert found == ["x.md: #two", "x.md: none.md", "x.md: docs/python.md#none"]


def test_every_document_is_linked_from_the_first() -> None:
    linked = {str(Path(link.partition("#")[0])) for link in LINK.findall(DOCUMENTS[Path("README.md")])}
    assert {str(path) for path in DOCUMENTS if path.parent == Path("docs")} - linked == set()


def unshown(text: str) -> Iterator[str]:
    """Rows of the README's comparison whose last cell names no test or benchmark that there is."""
    rows = re.findall(r"^\|(.*)\|$", text[text.index("## Beside") :], re.MULTILINE)
    for row in rows[2:]:
        name, *_, shown_by = (cell.strip() for cell in row.split(" | "))
        named = SHOWN_BY.findall(shown_by)
        if not (named and all((ROOT / path).is_file() for path in named)):
            yield name


def test_each_row_of_the_comparison_names_what_shows_it() -> None:
    text = DOCUMENTS[Path("README.md")]
    assert len(SHOWN_BY.findall(text)) > 10
    assert [*unshown(text)] == []


def test_a_row_that_nothing_shows_is_found() -> None:
    table = "## Beside\n\n|  | us | shown by |\n|---|---|---|\n"
    rows = "| a | yes | `tests/conftest.py` |\n| b | yes | `tests/none.py` |\n| c | yes | it is so |\n"
    assert [*unshown(table + rows)] == ["b", "c"]


def commands(text: str) -> list[list[str]]:
    """The engine's command lines in blocks of code, up to what a shell takes for itself."""
    blocks = "".join(re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    lines = re.findall(r"^(?:# |\.venv/bin/)engine (.*)$", blocks, re.MULTILINE)
    return [shlex.split(re.sub(r"(\[ROOTFS\]| &.*|; echo .*|\| .*)$", "", line)) for line in lines]


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_commands_in_documents_are_ones_that_there_are(path: Path) -> None:
    for words in commands(DOCUMENTS[path]):
        parser, _ = main._parsed(words)  # a wrong one ends the program
        assert parser.prog == f"engine {words[0]}"


def test_commands_of_the_first_document_are_seen() -> None:
    assert ["ps"] in commands(DOCUMENTS[Path("README.md")])
    with pytest.raises(SystemExit):
        main._parsed(["run", "--no-such-option", "a", "b", "c"])


def unmade(text: str) -> list[str]:
    """Targets of make that a document names and the Makefile has not."""
    blocks = re.findall(r"^```\n.*?^```$", text, re.MULTILINE | re.DOTALL)
    named = re.findall(
        r"(?:`|^)make ([a-z][a-z-]+)", "".join([without_code(text).replace("\n", " "), *blocks]), re.MULTILINE
    )
    return [target for target in named if not re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)]


def missing(text: str) -> list[str]:
    """Files that a document names, from the top or from src/wherry, and that are not there; NAME is any."""
    lines = [line for line in without_code(text).splitlines() if "(not built)" not in line]
    named = re.findall(r"`([\w.-]+(?:/[\w.-]+)+\.(?:py|sh|md|json|config|service))`", "\n".join(lines))
    return [name for name in named if "NAME" not in name and not any((ROOT / top / name).exists() for top in TOPS)]


def test_targets_and_files_in_documents_are_there() -> None:
    documents = {path: text for path, text in DOCUMENTS.items() if path.name != "CHANGELOG.md"}
    found = [f"{path}: {name}" for path, text in documents.items() for name in (*unmade(text), *missing(text))]
    assert found == []
    assert unmade("`make nothing`\nmake test") == ["nothing"]
    assert missing("`src/wherry/none.py`, `kernel/libc.py`") == ["src/wherry/none.py"]


def words_of(line: str) -> list[str]:
    return shlex.split(line.removeprefix("# ").removesuffix(" &"))


def test_the_picture_shows_the_tour() -> None:
    """Each command in it is one of scripts/demo.sh: who changes that draws a new one (make picture)."""
    drawn = ["".join(each.itertext()) for each in ElementTree.parse(PICTURE).iter("{http://www.w3.org/2000/svg}text")]
    lines = [unescape(line).replace("\xa0", " ") for line in drawn]
    tour = (ROOT / "scripts/demo.sh").read_text()
    told = [shlex.split(line) for line in re.findall(r"^ +show (engine .*)$", tour, re.MULTILINE)]
    commands = [words_of(line) for line in lines if line.startswith("# engine") and "supervisor" not in line]
    assert len(commands) > 5
    assert [command for command in commands if command not in told] == []


@pytest.mark.parametrize("title", ["one", "<two> & three"])
def test_the_same_text_gives_the_same_picture(title: str) -> None:
    text = "\n\x1b[1mA heading\x1b[0m\n# engine ps\n<&> \x1b[31mred\x1b[0m\n"
    command = [sys.executable, str(ROOT / "scripts/draw-terminal.py"), title]
    first, second = (subprocess.run(command, input=text, capture_output=True, text=True, check=True) for _ in "ab")
    assert first.stdout == second.stdout
    root = ElementTree.fromstring(first.stdout)
    shown = ["".join(each.itertext()).replace("\xa0", " ") for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert shown == [title, "A heading", "# engine ps", "<&> ", "red"]
    assert "http" not in first.stdout.replace("http://www.w3.org/2000/svg", "")


def test_each_option_is_in_the_document() -> None:
    """By one of its names, in the synopsis or in the text behind it."""
    text = DOCUMENTS[Path("docs/command-line.md")].partition("## Commands and options")[2]
    named = set(re.findall(r"(?<![\w-])-{1,2}[a-z][\w-]*", text))
    options = {command: main.declared(command).options for command in main.COMMANDS}
    missing = [
        f"{command} {option.names[-1]}"
        for command, declared in options.items()
        for option in declared
        if option.names[0].startswith("-") and not named & set(option.names)
    ]
    assert missing == []
    assert "--userns-range" in named
    assert "--nonsense" not in named
