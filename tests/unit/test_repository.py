"""What must hold for the files of the repository themselves."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_OURS = {
    ".git",
    ".venv",
    "build",
    "dist",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
    "__pycache__",
}
LICENCES = {ROOT / "LICENSE", ROOT / "LICENSES" / "GPL-2.0.txt"}
SOURCE_SUFFIXES = {".py", ".c", ".h", ".sh"}
LOCK = ROOT / "requirements.lock"
MOST_LINES = 600
MOST_COLUMNS = 100

# Put together here, so that this file holds none of them.
REGISTRIES = [
    ".".join(words)
    for words in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("deb", "debian", "org"),
        ("snapshot", "debian", "org"),
        ("registry", "npmjs", "org"),
        ("crates", "io"),
        ("proxy", "golang", "org"),
    ]
]
INDEX_OPTION = re.compile(r"--(?:extra-)?index-" + r"url\b|--find-" + r"links\b")
"""An option that names an index; ``--no-emit-...`` does not."""


def repository_files() -> Iterator[Path]:
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in NOT_OURS]
        yield from (path for name in names if (path := Path(folder, name)).is_file() and not path.is_symlink())


def texts() -> Iterator[tuple[Path, str]]:
    for path in repository_files():
        try:
            yield path.relative_to(ROOT), path.read_text()
        except UnicodeDecodeError:
            continue  # a picture or an archive


def test_the_walk_sees_the_repository() -> None:
    seen = {str(path) for path, _ in texts()}
    assert {"pyproject.toml", "Makefile", "requirements.lock", ".ci/run", "tests/unit/test_repository.py"} <= seen
    assert not any(path.startswith((".git/", ".venv/", "build/")) for path in seen)


def test_no_file_names_a_registry_host() -> None:
    named = [f"{path}: {host}" for path, text in texts() for host in REGISTRIES if host in text]
    assert named == []


def test_no_file_sets_a_package_index() -> None:
    assert [str(path) for path, text in texts() if INDEX_OPTION.search(text)] == []


def lock_entries() -> list[str]:
    """The requirements of the lock, each on one line with its hashes."""
    joined = re.sub(r" *\\\n *", " ", LOCK.read_text())
    return [line for line in joined.splitlines() if line and not line.lstrip().startswith("#")]


def test_the_lock_pins_and_hashes_every_requirement() -> None:
    entries = lock_entries()
    assert entries
    pinned = re.compile(r"[a-z0-9.-]+(\[[a-z,]+\])?==[\w.+!-]+( ; [^@]+?)?( --hash=sha256:[0-9a-f]{64})+")
    assert [entry for entry in entries if not pinned.fullmatch(entry)] == []


def test_the_lock_covers_what_the_project_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *extras["dev"], *project["build-system"]["requires"]]
    names = {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in wanted}
    assert names - {entry.partition("==")[0] for entry in lock_entries()} == set()


def test_no_source_file_is_too_long() -> None:
    sources = [(path, text.count("\n")) for path, text in texts() if path.suffix in SOURCE_SUFFIXES]
    assert [f"{path}: {lines}" for path, lines in sources if lines > MOST_LINES] == []


def test_text_files_end_in_one_newline_and_have_no_trailing_space() -> None:
    ours = [(path, text) for path, text in texts() if ROOT / path not in LICENCES and text]
    assert [str(path) for path, text in ours if not text.endswith("\n") or text.endswith("\n\n")] == []
    assert [str(path) for path, text in ours if re.search(r"[ \t]$", text, re.MULTILINE)] == []


def long_lines(text: str) -> Iterator[str]:
    """Of a document's sentences: tables, headings, and what stands between fences are as wide as they are."""
    is_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code and len(line) > MOST_COLUMNS and not line.startswith(("|", "#", "![")):
            yield f"line {number}"


def test_documents_fit_into_100_columns() -> None:
    documents = [(path, text) for path, text in texts() if path.suffix == ".md"]
    assert documents
    assert [f"{path}, {line}" for path, text in documents for line in long_lines(text)] == []


def test_a_long_line_of_a_document_is_found() -> None:
    words = "word " * 30
    assert [*long_lines(f"# {words}\n| {words}\n```\n{words}\n```\nshort\n- {words}\n")] == ["line 7"]
