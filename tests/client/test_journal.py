"""imgeval.journal: what is left of it, and when."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgeval import InvalidInputError
from imgeval.journal import Header, opened
from imgeval.runs import Row

HEADER = Header("new", ("clip", "iqa"))
ROWS = [Row(index, "a.png", f"number {index}\n", 0.5, True, missing={"iqa": "no"}) for index in range(3)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.csv.partial"


def write(path: Path, rows: list[Row]) -> None:
    with opened(path) as journal:
        journal.begin(HEADER)
        for row in rows:
            journal.append(row)


def test_what_is_appended_is_there_at_once(path: Path) -> None:
    with opened(path) as journal:
        journal.begin(HEADER)
        for count, row in enumerate(ROWS, 1):
            journal.append(row)
            assert path.read_bytes().count(b"\n") == 1 + count
            assert list(journal.rows()) == ROWS[:count]
    with opened(path) as journal:
        assert journal.header == HEADER
        assert list(journal.rows()) == ROWS


def test_one_without_rows_is_none(path: Path) -> None:
    with opened(path) as journal:
        assert journal.header is None
    assert not path.exists()
    write(path, [])
    assert not path.exists()
    path.write_text('{"imgeval_run": 1, "mode": "overwrite", "metrics": ["clip"]}\n')  # of a run that was killed
    with opened(path) as journal:
        assert journal.header is None


def test_beginning_removes_what_was_there(path: Path) -> None:
    write(path, ROWS)
    with opened(path) as journal:
        journal.begin(HEADER)
        journal.append(ROWS[2])
        assert list(journal.rows()) == ROWS[2:]


def test_finishing_puts_the_result_in_place_and_removes_it(path: Path) -> None:
    result, output = path.with_name("result"), path.with_name("out.csv")
    output.write_text("old")
    with opened(path) as journal:
        journal.begin(HEADER)
        assert not journal.finished
        result.write_text("new")
        journal.finish(result, output)
    assert output.read_text() == "new"
    assert list(path.parent.iterdir()) == [output]


def test_only_one_has_it_open(path: Path) -> None:
    with (
        opened(path),
        pytest.raises(InvalidInputError, match=r"another process is writing .*out\.csv; wait"),
        opened(path),
    ):
        pass
    with opened(path):
        pass
