"""Where the options of start and run may stand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.cli.main import declared
from wherry.cli.placement import Vocabulary, split

VOCABULARY = Vocabulary(declared("run").options)

CASES = {
    "none": ("a r c", "", "a r c"),
    "before NAME": ("--rm --nice 5 a r c", "--rm --nice 5", "a r c"),
    "before ROOTFS": ("a --nice=5 --rm r c", "--nice=5 --rm", "a r c"),
    "before COMMAND": ("a r --rm -e K=V c x", "--rm -e K=V", "a r c x"),
    "everywhere": ("--rm a -e K r -w / c x --nice 1", "--rm -e K -w / --nice 1", "a r c x"),
    "the contract's own": (
        "memtest r /memory_hog 1 500 --soft-mib 3 --hard-mib 6",
        "--soft-mib 3 --hard-mib 6",
        "memtest r /memory_hog 1 500",
    ),
    "trailing with =": ("a r c 1 --soft-mib=3 --hard-mib=6", "--soft-mib=3 --hard-mib=6", "a r c 1"),
    "trailing flag": ("a r c x --rm", "--rm", "a r c x"),
    "trailing right after COMMAND": ("a r c --rm --nice -5", "--rm --nice -5", "a r c"),
    "trailing socket": ("a r c --socket /s", "--socket /s", "a r c"),
    "only the last run": ("a r c --rm x --init", "--init", "a r c --rm x"),
    "the longest run": ("a r c x --rm --init --nice 5", "--rm --init --nice 5", "a r c x"),
    "short options after COMMAND": ("a r c -e K=V -v /a:/b", "", "a r c -e K=V -v /a:/b"),
    "short before a long run": ("a r c -w / --rm", "--rm", "a r c -w /"),
    "unknown long option": ("a r c --color --rm", "--rm", "a r c --color"),
    "unknown ends the run": ("a r c --rm --color", "", "a r c --rm --color"),
    "no abbreviations": ("a r c --soft 3", "", "a r c --soft 3"),
    "value missing": ("a r pip install --user", "", "a r pip install --user"),
    "flag with a value": ("a r c --rm=1", "", "a r c --rm=1"),
    "empty value": ("a r c --hostname=", "--hostname=", "a r c"),
    "an option is no value": ("a r c --user --rm", "--rm", "a r c --user"),
    "help belongs to COMMAND": ("a r c --help", "", "a r c --help"),
    "help ends the run": ("a r c --rm --help", "", "a r c --rm --help"),
    "help before COMMAND": ("a r --help c", "--help", "a r c"),
    "COMMAND itself is no option": ("a r -- --rm", "", "a r --rm"),
    "-- before NAME": ("--rm -- a r c --init", "--rm", "a r c --init"),
    "-- before ROOTFS": ("a -- r c --init", "", "a r c --init"),
    "-- before COMMAND": ("a r -- c -- --rm", "", "a r c -- --rm"),
    "-- after COMMAND": ("a r c -- x", "", "a r c -- x"),
    "nothing before a later -- counts": ("a r c --rm -- x", "", "a r c --rm -- x"),
    "nothing behind a later -- counts": ("a r c --rm -- x --init", "", "a r c --rm -- x --init"),
    "-- is no value": ("a r c --user --", "", "a r c --user --"),
    "a value that looks like a name": ("-e a r c d", "-e a", "r c d"),
    "attached short value": ("-eK=V -w/ a r c", "-eK=V -w/", "a r c"),
    "a dash is a word": ("a r - x", "", "a r - x"),
    "too few words": ("--rm a", "--rm", "a"),
    "nothing": ("", "", ""),
}


@pytest.mark.parametrize(("line", "options", "others"), CASES.values(), ids=CASES.keys())
def test_options_and_words_are_told_apart(line: str, options: str, others: str) -> None:
    assert split(line.split(), VOCABULARY) == (options.split(), others.split())


WORD = st.sampled_from(
    [
        "a",
        "r",
        "c",
        "x",
        "",
        "-",
        "--",
        "-e",
        "-x",
        "--rm",
        "--init",
        "--nice",
        "5",
        "-5",
        "--nice=5",
        "--bogus",
        "-it",
        "K=V",
    ]
)


@given(st.lists(WORD, max_size=12))
def test_no_word_is_lost_or_invented(words: list[str]) -> None:
    options, others = split(words, VOCABULARY)
    separators = len(words) - len(options) - len(others)
    assert separators in {0, 1}
    assert sorted([*options, *others, *["--"] * separators]) == sorted(words)


@given(st.lists(WORD, max_size=8))
def test_after_a_separator_all_words_are_the_commands(words: list[str]) -> None:
    assert split(["a", "r", "--", *words], VOCABULARY) == ([], ["a", "r", *words])


@given(
    st.lists(st.sampled_from(["--rm", "--init", "--nice=5", "--hard-mib=6"])),
    st.lists(st.sampled_from(["x", "-e", "1"])),
)
def test_a_run_at_the_end_means_the_same_as_in_front(run: list[str], arguments: list[str]) -> None:
    behind = split(["a", "r", "c", *arguments, *run], VOCABULARY)
    before = split([*run, "a", "r", "c", *arguments], VOCABULARY)
    assert behind == before == (run, ["a", "r", "c", *arguments])
