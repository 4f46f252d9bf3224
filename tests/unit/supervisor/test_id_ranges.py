"""Which range a container gets, of those that there are and nobody has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wherry.errors import Conflict, InvalidRequest, NotSupported
from wherry.kernel.id_maps import IdMap
from wherry.supervisor import id_ranges
from wherry.supervisor.containers import userns
from wherry.supervisor.containers.record import Record
from wherry.supervisor.containers.request import CreateRequest
from wherry.supervisor.containers.userns import IdRange
from wherry.supervisor.id_ranges import IdRanges, subordinate

SIZE = userns.RANGE_SIZE


def request(mode: str, **fields: Any) -> CreateRequest:
    return CreateRequest(rootfs="/r", command=("x",), userns=mode, **fields)


def record(mode: str, id_map: IdMap | None) -> Record:
    return Record(id="1", name="one", request=request(mode), created_ns=0, id_map=id_map)


def simple(uid: int, gid: int, size: int = SIZE) -> IdMap:
    return IdMap.of([[0, uid, size]], [[0, gid, size]])


class Books(list[Record]):
    def ranges(self, configured: str = "", directory: Path = Path("/not/there")) -> IdRanges:
        return IdRanges(configured, lambda: self, directory)

    def start(self, ranges: IdRanges, mode: str = "auto") -> IdMap | None:
        chosen = ranges.choose(request(mode))
        self.append(record(mode, chosen))
        return chosen


def configured(number: int) -> str:
    return f"1000000:2000000:{number * SIZE}"


def test_no_two_have_the_same() -> None:
    books = Books()
    ranges = books.ranges(configured(2))
    assert [books.start(ranges) for _ in range(2)] == [
        simple(1000000, 2000000),
        simple(1000000 + SIZE, 2000000 + SIZE),
    ]
    with pytest.raises(Conflict, match="all 2 ranges are in use"):
        books.start(ranges)
    books.pop(0)
    assert books.start(ranges) == simple(1000000, 2000000)


def test_what_is_reserved_is_nobody_elses() -> None:
    books = Books()
    ranges = books.ranges(configured(3))
    ahead = ranges.reserve(request("auto"), 2)
    assert ahead == [simple(1000000, 2000000), simple(1000000 + SIZE, 2000000 + SIZE)]
    assert ranges.reserve(request("auto"), 2) == ahead
    assert [books.start(ranges) for _ in range(2)] == ahead
    assert ranges.reserve(request("auto"), 2) == [simple(1000000 + 2 * SIZE, 2000000 + 2 * SIZE)]
    assert ranges.reserve(request("host"), 2) == [None, None]
    assert books.start(ranges) == simple(1000000 + 2 * SIZE, 2000000 + 2 * SIZE)


def test_what_is_reserved_is_a_promise_to_nobody() -> None:
    """Ids that somebody names are taken from what was only laid by."""
    books = Books()
    ranges = books.ranges(configured(1))
    ranges.reserve(request("auto"), 2)
    fixed = f"{1000000 + 9}:5:1"
    assert books.start(ranges, fixed) == simple(1000009, 5, 1)
    with pytest.raises(Conflict):
        books.start(ranges)


def test_named_ids_are_shared_by_those_who_name_them() -> None:
    books = Books([record("auto", simple(1000000, 2000000))])
    ranges = books.ranges()
    assert [books.start(ranges, "7:7:10") for _ in range(2)] == [simple(7, 7, 10)] * 2
    for taken in (f"{1000000 + SIZE - 1}:5:1", f"5:{2000000 + SIZE - 1}:1"):
        with pytest.raises(Conflict, match=f"ids of --userns {taken} are those of container one"):
            books.start(ranges, taken)
    assert books.start(ranges, "host") is None


def test_many_containers_are_compared_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop waits for it."""
    compared: list[IdMap] = []
    overlap = id_ranges._overlap

    def counted(one: IdMap, other: IdMap) -> bool:
        compared.append(one)
        return overlap(one, other)

    monkeypatch.setattr(id_ranges, "_overlap", counted)
    books = Books()
    ranges = books.ranges(configured(1000))
    books += [record("auto", userns.auto_map(each)) for each in ranges._all()]
    freed = books.pop()
    assert books.start(ranges) == freed.id_map
    assert len(compared) == 999


def test_one_user_is_kept() -> None:
    ranges = Books().ranges(configured(1))
    chosen = ranges.choose(request("keep-id", user="1000:70000"))
    assert chosen == IdMap.of(
        [[0, 1000000, 1000], [1000, 1000, 1], [1001, 1001001, SIZE - 1001]], [[0, 2000000, SIZE], [70000, 70000, 1]]
    )
    last = ranges.choose(request("keep-id", user=f"{SIZE - 1}:1"))
    assert last is not None
    assert last.uids[1:] == ((SIZE - 1, SIZE - 1, 1),)


def test_a_kept_user_within_the_ranges_gets_one_without_it() -> None:
    books = Books()
    ranges = books.ranges(configured(3))
    ranges.reserve(request("auto"), 2)
    inside = request("keep-id", user=f"{1000000 + 5}:{2000000 + SIZE + 5}")
    ahead = ranges.reserve(inside, 2)
    assert ahead == [userns.keeping_map(IdRange(1000000 + 2 * SIZE, 2000000 + 2 * SIZE), 1000005, 2000000 + SIZE + 5)]
    assert ranges.choose(inside) == ahead[0]


def test_what_is_kept_is_nobody_elses() -> None:
    """Neither of those who have a range, nor of the next who get one; whoever keeps the same may share it."""
    books = Books([record("auto", simple(1000000, 2000000))])
    ranges = books.ranges(configured(4))
    with pytest.raises(Conflict, match="ids of --userns keep-id 1000005:1 are those of container one"):
        ranges.choose(request("keep-id", user="1000005:1"))
    ranges.reserve(request("auto"), 3)
    kept = request("keep-id", user=f"{1000000 + SIZE}:7")
    for _ in range(2):
        books.append(record("keep-id", ranges.choose(kept)))
    assert [each.id_map and each.id_map.uids[0].outside for each in books[1:]] == [
        1000000 + 2 * SIZE,
        1000000 + 3 * SIZE,
    ]
    with pytest.raises(Conflict, match="in use"):
        books.start(ranges)


def test_a_range_that_is_too_small() -> None:
    with pytest.raises(InvalidRequest, match="a container takes 65536 of them"):
        Books().ranges(f"1:1:{SIZE - 1}")


def files(directory: Path, subuid: str, subgid: str) -> Path:
    (directory / "subuid").write_text(subuid)
    (directory / "subgid").write_text(subgid)
    return directory


def test_lines_of_etc(tmp_path: Path) -> None:
    """Ours before podman's; as many as there are of both; several lines."""
    lines = f"containers:5:{9 * SIZE}\nwherry:100:{SIZE + 5}\n# x\nwherry:300000:{2 * SIZE}\n"
    files(tmp_path, lines, f"containers:5:{9 * SIZE}\nwherry:700:{2 * SIZE}\n")
    books = Books()
    ranges = books.ranges(directory=tmp_path)
    assert [books.start(ranges) for _ in range(2)] == [simple(100, 700), simple(300000, 700 + SIZE)]
    with pytest.raises(Conflict, match="all 2 ranges"):
        books.start(ranges)
    files(tmp_path, lines.replace("wherry", "somebody"), f"containers:6:{SIZE}\nwherry:7:{SIZE}\n")
    books.clear()
    assert books.start(ranges) == simple(5, 6)


@pytest.mark.parametrize(
    ("subuid", "subgid"),
    [("", ""), (f"wherry:5:{SIZE}\n", ""), (f"wherry:5:{SIZE}\n", f"wherry:5:{SIZE - 1}\n"), ("wherry\n", "\0:::\n")],
)
def test_none_to_be_had(tmp_path: Path, subuid: str, subgid: str) -> None:
    with pytest.raises(NotSupported, match="neither --userns-range nor a line of wherry or containers with 65536"):
        Books().start(Books().ranges(directory=files(tmp_path, subuid, subgid)))


@pytest.mark.parametrize(
    "line",
    ["wherry:0:10", "wherry:-5:10", "wherry:5", "wherry:5:10:3", "wherry:5:x", "wherry:4294967290:10", "wherry:5:1e5"],
)
def test_lines_that_are_nobodys(tmp_path: Path, line: str) -> None:
    path = tmp_path / "subuid"
    path.write_text(f"{line}\nwherry:6:7\n")
    assert subordinate(path, "wherry") == [(6, 7)]
