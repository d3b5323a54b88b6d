"""imgeval.tabular: lines that are no rows, limits, and files that are none."""

from __future__ import annotations

import builtins
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from imgeval import InvalidInputError
from imgeval.errors import MissingPackageError
from imgeval.tabular import MAX_LINE_BYTES, count_rows, format_of, read_json_lines, read_rows


def said(rows: list[Any]) -> list[Any]:
    """Rows, and the texts of errors."""
    return [str(row) if isinstance(row, InvalidInputError) else row for row in rows]


def read(path: Path, content: str | bytes, *columns: str) -> list[Any]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return said(list(read_rows(path, "INPUT", columns)))


def test_json_lines_that_are_no_objects_take_their_turn() -> None:
    too_long = b'{"image": "' + b"x" * 3 * MAX_LINE_BYTES + b'"}'
    lines = [b'{"a": 1}', b"", b"   ", b"[1]", b'{"a"', b"\xff", b"[" * 100_000, too_long, b'{"a": 2}']
    found = said(list(read_json_lines(io.BytesIO(b"\n".join(lines)))))
    assert found[0] == {"a": 1}
    assert found[1] == "row: line 4 is list; allowed: a JSON object"
    assert [text[:23] for text in found[2:5]] == [f"row: line {number} is no JSON:" for number in (5, 6, 7)]
    assert found[5] == f"row: line 8 is longer than the {MAX_LINE_BYTES} bytes that are allowed"
    assert found[6:] == [{"a": 2}]


def test_csv_keeps_quotes_commas_and_line_ends_inside_a_field(tmp_path: Path) -> None:
    text = '\ufeffimage,prompt\r\na.png,"one, ""two""\r\nthree\nfour\rfive"\r\n\r\nb.png,\r\n'
    assert read(tmp_path / "t.csv", text, "prompt") == [
        {"image": "a.png", "prompt": 'one, "two"\r\nthree\nfour\rfive'},
        {"image": "b.png", "prompt": ""},
    ]
    assert count_rows(tmp_path / "t.csv", "INPUT") == 2


def test_a_csv_row_of_another_length_or_with_broken_quotes_is_an_error_in_its_turn(tmp_path: Path) -> None:
    text = 'image,prompt\na.png,a red, shiny car\nb.png\nc.png,"x"y\nd.png,ok'
    found = read(tmp_path / "t.csv", text)
    assert found[0] == "row: line 2: got 3 fields, the header has 2 (a comma without quotes?)"
    assert found[1] == "row: line 3: got 1 fields, the header has 2 (a comma without quotes?)"
    assert found[2].startswith("row: line 4: ")
    assert found[3] == {"image": "d.png", "prompt": "ok"}
    assert len(found) == 4


def test_a_quote_that_is_not_closed_is_refused_with_what_it_takes(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"t\.csv, lines 3 to 4: a quote is not closed"):
        read(tmp_path / "t.csv", 'image,prompt\na.png,ok\nb.png,"never\nc.png,closed')


def test_text_that_is_not_utf8_reaches_the_prompts_own_check(tmp_path: Path) -> None:
    assert read(tmp_path / "t.csv", b"image,prompt\na.png,caf\xe9\n") == [{"image": "a.png", "prompt": "caf\udce9"}]


def test_a_csv_line_without_an_end_is_not_read_into_memory(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=f"line 2 has {MAX_LINE_BYTES} characters or more"):
        read(tmp_path / "t.csv", "image,prompt\n" + "x" * 2 * MAX_LINE_BYTES)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "t.csv").write_text("file,text\n")
    parquet.write_table(pyarrow.table({"file": ["a"], "text": ["b"]}), tmp_path / "t.parquet")
    with pytest.raises(InvalidInputError, match=r"^INPUT: .* has no column image; it has: file, text$"):
        list(read_rows(tmp_path / name, "INPUT", ["image"]))


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_an_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    if name == "t.jsonl":
        assert list(read_rows(tmp_path / name, "INPUT", ["image"])) == []
    else:
        with pytest.raises(InvalidInputError, match=r"cannot be read|no column image; it has: none"):
            list(read_rows(tmp_path / name, "INPUT", ["image"]))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"OUTPUT: got t\.txt; allowed: a name that ends with \.jsonl"):
        format_of(Path("t.txt"), "OUTPUT")
    with pytest.raises(InvalidInputError, match=r"INPUT: .*t\.csv cannot be read: No such file"):
        list(read_rows(tmp_path / "t.csv", "INPUT"))
    with pytest.raises(InvalidInputError, match=r"INPUT: .*t\.parquet cannot be read"):
        read(tmp_path / "t.parquet", "no parquet at all")


def test_parquet_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = builtins.__import__

    def without_pyarrow(name: str, *rest: Any) -> Any:
        if name == "pyarrow":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(MissingPackageError, match=r"Parquet needs the package pyarrow: .*\[batch\]") as caught:
        format_of(Path("t.parquet"), "OUTPUT")
    assert caught.value.exit_code == 3
