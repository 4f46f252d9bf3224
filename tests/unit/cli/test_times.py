"""Times of the command line, checked against datetime."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.cli import times

NOW = 1_769_853_600 * times.SECOND


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


DURATIONS = {
    "10m": 600 * times.SECOND,
    "1h30m": 5400 * times.SECOND,
    "1.5s": 1_500_000_000,
    "0s": 0,
    "250ms": 250_000_000,
    "3us": 3_000,
    "3µs": 3_000,
    "7ns": 7,
    "0.0000000019s": 1,
    "1m1s1ms": 61_001_000_000,
}


@pytest.mark.parametrize(("text", "span"), DURATIONS.items())
def test_a_duration_counts_back_from_now(text: str, span: int) -> None:
    assert times.parse(text, NOW) == NOW - span


def test_seconds_since_the_epoch_are_exact() -> None:
    assert times.parse("1769853600", 0) == NOW
    assert times.parse("1769853600.000000001", 0) == NOW + 1
    assert times.parse("0.5", 0) == 500_000_000


MOMENTS = st.datetimes(
    datetime(1, 1, 3),  # noqa: DTZ001 (hypothesis adds the zones)
    datetime(9999, 12, 29),  # noqa: DTZ001
    timezones=st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m))),
)


@given(MOMENTS, st.integers(0, 999))
def test_rfc_3339_agrees_with_datetime(moment: datetime, nanoseconds: int) -> None:
    text = f"{moment:%Y-%m-%dT%H:%M:%S}".rjust(19, "0") + f".{moment.microsecond:06}{nanoseconds:03}"
    zone = moment.isoformat()[-6:]
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000 + nanoseconds
    assert times.from_date(text + zone) == expected


def test_zulu_and_a_lower_case_t() -> None:
    assert times.from_date("2026-01-31T10:00:00Z") == NOW
    assert times.from_date("2026-01-31t10:00:00.25z") == NOW + 250_000_000


@pytest.mark.usefixtures("berlin")
def test_without_a_zone_it_is_the_users() -> None:
    assert times.parse("2026-01-31T11:00:00", 0) == NOW
    assert times.parse("2026-01-31 11:00", 0) == NOW
    assert times.parse("2026-01-31", 0) == NOW - 11 * 3600 * times.SECOND
    assert times.parse("2026-07-01T12:00:00", 0) == times.parse("2026-07-01T10:00:00Z", 0)


WRONG = (
    "|yesterday|10|10 m|-5m|1h 30m|m|1d|2026-02-29|2026-13-01|2026-00-01|2026-01-32|2026-01-01T24:00:00Z|1.|.5"
    "|2026-01-01T10:60:00Z|2026-01-01T10:00:00+24:00|2026-01-01T10:00:00+0100|2026-1-1|٢٠٢٦-01-01|2026-01-01T10Z"
    "|10m\n|1e9|nan|99999999999999999999s!"
).split("|")


@pytest.mark.parametrize("text", [text for text in WRONG if text != "10"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a time|no such"):
        times.parse(text, NOW)


@pytest.mark.usefixtures("berlin")
def test_times_are_shown_in_the_users_zone() -> None:
    assert times.local("2026-01-31T10:00:01.999999999Z") == "2026-01-31 11:00:01"
    assert times.local("2026-07-01T22:30:00Z") == "2026-07-02 00:30:00"


@pytest.mark.parametrize("text", ["", "never", "2026-01-31", "2026-01-31T10:00:00+01:00", "xxxx-xx-xxTxx:xx:xxZ"])
def test_what_is_no_time_of_the_api_is_shown_as_it_is(text: str) -> None:
    assert times.local(text) == text


@given(MOMENTS.filter(lambda moment: 1900 < moment.year < 9998))
def test_local_agrees_with_datetime(moment: datetime) -> None:
    utc = moment.astimezone(UTC)
    assert times.local(f"{utc:%Y-%m-%dT%H:%M:%S}.000000000Z") == f"{utc.astimezone():%Y-%m-%d %H:%M:%S}"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-5, "0 seconds ago"),
        (1, "1 second ago"),
        (59, "59 seconds ago"),
        (60, "1 minute ago"),
        (3599, "59 minutes ago"),
        (3600, "1 hour ago"),
        (86400, "1 day ago"),
        (13 * 86400, "13 days ago"),
        (14 * 86400, "2 weeks ago"),
        (700 * 86400, "100 weeks ago"),
        (730 * 86400, "2 years ago"),
    ],
)
def test_how_long_ago(seconds: int, said: str) -> None:
    then = times.parse("2026-01-31T10:00:00Z", 0)
    assert times.ago("2026-01-31T10:00:00.999999999Z", then + seconds * times.SECOND) == said


def test_what_is_no_time_is_shown_as_it_is() -> None:
    assert times.ago("yesterday", 0) == "yesterday"
