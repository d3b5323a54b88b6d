"""imgeval.run_files: a run is the same in every format, whatever is in its texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from imgeval import InvalidInputError
from imgeval.contract import METRIC_NAMES
from imgeval.run_files import COLUMNS, read_run, write_run
from imgeval.runs import Row
from imgeval.tabular import BATCH_ROWS, FORMATS, ROW_GROUP_BATCHES

# Python 3.10's csv does not read NUL.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SOME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


def by_metric(values: st.SearchStrategy) -> st.SearchStrategy:  # type: ignore[type-arg]
    return st.dictionaries(st.sampled_from(METRIC_NAMES), values)


ROWS = st.builds(
    Row,
    st.integers(0, 2**40),
    TEXT,
    TEXT,
    st.none() | NUMBERS,
    st.none() | st.booleans(),
    *[st.none() | SOME] * 4,
    metrics=by_metric(NUMBERS),
    normalized=by_metric(NUMBERS),
    models=by_metric(SOME),
    missing=by_metric(SOME),
    error=st.none() | SOME,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("suffix", FORMATS)
@given(rows=st.lists(ROWS, max_size=4))
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(folder: Path, suffix: str, rows: list[Row]) -> None:
    path = folder / f"run{suffix}"
    write_run(path, rows, FORMATS[suffix])
    assert list(read_run(path)) == rows


def test_every_column_has_the_type_that_other_programs_see(tmp_path: Path) -> None:
    write_run(tmp_path / "run.parquet", [Row(0, "a.png", "a dog")], "Parquet")
    schema = parquet.read_schema(tmp_path / "run.parquet")
    assert schema.names == list(Row(0, "", "").to_dict()) == list(COLUMNS)
    types = {name: str(schema.field(name).type) for name in schema.names}
    assert (types["index"], types["complete"], types["prompt"]) == ("int64", "bool", "string")
    assert {types[name] for name in ("score", "clip", "iqa", "clip_normalized")} == {"double"}
    assert {types[name] for name in ("clip_model", "clip_missing", "error", "weights")} == {"string"}


def test_parquet_is_written_in_groups_of_rows(tmp_path: Path) -> None:
    group = BATCH_ROWS * ROW_GROUP_BATCHES
    count = 2 * group + 1
    write_run(tmp_path / "run.parquet", (Row(index, "a.png", "a dog") for index in range(count)), "Parquet")
    with parquet.ParquetFile(tmp_path / "run.parquet") as file:
        assert [file.metadata.row_group(each).num_rows for each in range(3)] == [group, group, 1]
    assert [row.index for row in read_run(tmp_path / "run.parquet")] == list(range(count))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("run.jsonl", '{"index": 0}\n', "row 0 is no row of a run: KeyError"),
        ("run.jsonl", "{\n", "line 1 is no JSON"),
        ("run.csv", "index,image\n0,a.png\n", "row 0 is no row of a run: KeyError"),
        ("run.csv", f"{','.join(COLUMNS)}\nfirst{',' * (len(COLUMNS) - 1)}\n", "row 0 is no row of a run: ValueError"),
        ("run.txt", "", "allowed: a name that ends with"),
        ("none/run.csv", None, "cannot be read: No such file"),
    ],
)
def test_what_is_no_run_is_said(tmp_path: Path, name: str, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InvalidInputError, match=r"^run: ") as caught:
        list(read_run(tmp_path / name))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value"),
    [("score", "0.5"), ("prompt", ["x"]), ("index", None), ("complete", 1), ("index", True), ("clip", False)],
)
def test_a_value_of_another_type_is_no_row(tmp_path: Path, column: str, value: object) -> None:
    path = tmp_path / "run.jsonl"
    good = Row(0, "a.png", "a dog", 1, complete=True).to_dict()
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, column: value}) + "\n")
    with pytest.raises(InvalidInputError, match=f"run: .*row 1 is no row of a run: .*{column} is"):
        list(read_run(path))
