"""Tables on disk, row by row: JSONL, CSV and Parquet, read and written in memory that does not grow with the file.

A row is a dict by column. A line that cannot be read is an InvalidInputError in the place of its row.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any

from imgeval.errors import InvalidInputError, MissingPackageError, install_hint

FORMATS = {".jsonl": "JSONL", ".ndjson": "JSONL", ".csv": "CSV", ".parquet": "Parquet"}  # by the end of the name
MAX_LINE_BYTES = 1024 * 1024  # of a line of JSONL, and of a row of CSV in characters
BATCH_ROWS = 250  # of a Parquet file, that are objects of Python at a time
ROW_GROUP_BATCHES = 40  # of these in a row group that is written
BUFFER_BYTES = 1024 * 1024  # of each column of a Parquet file that is read

RowOrError = dict[str, Any] | InvalidInputError


def format_of(path: Path, field: str) -> str:
    """The format that a file's name says; for Parquet the package that reads it is there.

    Raises:
        InvalidInputError: another name; `field` is what the path was given for.
        MissingPackageError: Parquet without pyarrow.
    """
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise InvalidInputError(field, f"got {path}; allowed: a name that ends with {', '.join(FORMATS)}")
    if found == "Parquet":
        _parquet()
    return found


def read_rows(
    path: Path, field: str, columns: Iterable[str] = (), *, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[RowOrError]:
    """The rows of a table. CSV's values are text; Parquet gives `columns` alone, where they are named.

    Raises:
        InvalidInputError: a file that is not there, cannot be read, or has no such column; `field` as for `format_of`.
        MissingPackageError: Parquet without pyarrow.
    """
    file_format, needed = format_of(path, field), tuple(columns)
    try:
        if file_format == "Parquet":
            yield from _read_parquet(path, field, needed)
        elif file_format == "CSV":
            with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
                yield from _read_csv(text, path, field, needed, max_line_bytes)
        else:
            with path.open("rb") as file:
                yield from read_json_lines(file, max_line_bytes)
    except OSError as error:
        raise InvalidInputError(field, f"{path} cannot be read: {error.strerror or error}") from error


def read_json_lines(file: IO[bytes], max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[RowOrError]:
    """The objects of JSONL; blank lines are none."""
    number = 0
    while line := file.readline(max_line_bytes):
        number += 1
        if len(line) == max_line_bytes and not line.endswith(b"\n"):
            while (rest := file.readline(max_line_bytes)) and not rest.endswith(b"\n"):
                pass
            yield InvalidInputError("row", f"line {number} is longer than the {max_line_bytes} bytes that are allowed")
            continue
        if line.isspace():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield InvalidInputError("row", f"line {number} is no JSON: {error}")
            continue
        if isinstance(content, dict):
            yield content
        else:
            yield InvalidInputError("row", f"line {number} is {type(content).__name__}; allowed: a JSON object")


def count_rows(path: Path, field: str) -> int:
    """How many rows `read_rows` gives, found without making them; a line of JSONL beyond the limit may count twice."""
    file_format = format_of(path, field)
    if file_format == "Parquet":
        return _parquet_rows(path, field)
    if file_format == "CSV":
        return sum(1 for _ in read_rows(path, field))
    with path.open("rb") as file:
        return sum(1 for line in iter(lambda: file.readline(MAX_LINE_BYTES), b"") if not line.isspace())


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, type], file_format: str) -> None:
    """Write a table anew. `columns` has the type of each column's values (int, float, bool or str), which may be None.

    Raises:
        OSError: the file cannot be written.
    """
    if file_format == "Parquet":
        _write_parquet(path, rows, columns)
    elif file_format == "CSV":
        with path.open("w", encoding="utf-8", newline="") as text:
            writer = csv.DictWriter(text, list(columns))  # ends lines with CR LF, and so quotes both inside a field
            writer.writeheader()
            for row in rows:
                writer.writerow({name: _csv_text(row[name]) for name in columns})
    else:
        with path.open("w", encoding="utf-8", newline="") as text:
            for row in rows:
                text.write(json_line(row))


def json_line(row: Mapping[str, Any]) -> str:
    """A row as a line of JSONL, with its end."""
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _csv_text(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _read_csv(
    text: IO[str], path: Path, field: str, needed: tuple[str, ...], max_line_chars: int
) -> Iterator[RowOrError]:
    """Rows of exactly as many fields as the header: a prompt with a comma and no quotes is not cut in silence."""
    csv.field_size_limit(max(csv.field_size_limit(), max_line_chars))
    reader = csv.reader(_bounded_lines(text, path, field, max_line_chars), strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise InvalidInputError(field, f"{path} has no header: {error}") from error
    _check_columns(header, path, field, needed)
    while True:
        first = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            where = _lines(first, reader.line_num)
            if reader.line_num > first:  # a quote that is not closed takes the rows behind it
                raise InvalidInputError(field, f"{path}, {where}: a quote is not closed ({error})") from error
            yield InvalidInputError("row", f"{where}: {error}")
            continue
        if len(values) == len(header):
            yield dict(zip(header, values, strict=True))
        elif values:
            where = _lines(first, reader.line_num)
            yield InvalidInputError(
                "row", f"{where}: got {len(values)} fields, the header has {len(header)} (a comma without quotes?)"
            )


def _bounded_lines(text: IO[str], path: Path, field: str, max_line_chars: int) -> Iterator[str]:
    number = 0
    while line := text.readline(max_line_chars):
        number += 1
        if len(line) == max_line_chars and not line.endswith(("\n", "\r")):
            raise InvalidInputError(field, f"{path}, line {number} has {max_line_chars} characters or more")
        yield line


def _lines(first: int, last: int) -> str:
    return f"line {last}" if last <= first else f"lines {first} to {last}"


def _read_parquet(path: Path, field: str, needed: tuple[str, ...]) -> Iterator[RowOrError]:
    import pyarrow

    try:
        with _parquet().ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as table:
            _check_columns(table.schema_arrow.names, path, field, needed)
            for batch in table.iter_batches(BATCH_ROWS, columns=list(needed) or None):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise InvalidInputError(field, f"{path} cannot be read: {' '.join(str(error).split())}") from error


def _parquet_rows(path: Path, field: str) -> int:
    import pyarrow

    try:
        with _parquet().ParquetFile(path) as table:
            count: int = table.metadata.num_rows
            return count
    except (OSError, pyarrow.ArrowException) as error:
        raise InvalidInputError(field, f"{path} cannot be read: {' '.join(str(error).split())}") from error


def _write_parquet(path: Path, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, type]) -> None:
    import pyarrow

    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_(), str: pyarrow.string()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    left = iter(rows)

    def batches() -> Iterator[Any]:
        """Arrow's columns are a tenth of the rows they are made of, of which there are few at a time."""
        for batch in iter(lambda: list(islice(left, BATCH_ROWS)), []):
            yield pyarrow.RecordBatch.from_pylist(batch, schema)

    columns_of = batches()
    with _parquet().ParquetWriter(path, schema) as writer:
        while group := list(islice(columns_of, ROW_GROUP_BATCHES)):
            writer.write_table(pyarrow.Table.from_batches(group, schema), ROW_GROUP_BATCHES * BATCH_ROWS)


def _check_columns(got: Iterable[str], path: Path, field: str, needed: tuple[str, ...]) -> None:
    missing = [name for name in needed if name not in got]
    if missing:
        raise InvalidInputError(field, f"{path} has no column {missing[0]}; it has: {', '.join(got) or 'none'}")


def _parquet() -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingPackageError(f"Parquet needs the package pyarrow: {install_hint('batch')}") from error
    return parquet
