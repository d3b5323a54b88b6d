"""imgeval.sources: folders, tables and stdin as items; prompts beside images; and which files may be read."""

from __future__ import annotations

import io
import itertools
import json
import os
from pathlib import Path
from typing import IO, Any

import pyarrow
import pytest
from pyarrow import parquet

from imgeval import InvalidInputError
from imgeval.inputs import encode_image
from imgeval.remote import Fetcher
from imgeval.sources import SourceOptions, open_source

PAIRS = [("a.png", "a dog"), ("sub/b.png", "a cat,\nblack"), ("c.png", "Katze äöü")]


def items(path: Path | str, stdin: IO[bytes] | None = None, **options: Any) -> list[tuple[str, Any]]:
    source = open_source(str(path), SourceOptions(**options), Fetcher(), stdin)
    found = list(source.items())
    assert source.count() in (None, len(found))
    return [(item.image.label, item.prompt) for item in found]


def first_read(path: Path | str, stdin: IO[bytes] | None = None, **options: Any) -> bytes:
    """The bytes of the first item's image."""
    return encode_image(next(open_source(str(path), SourceOptions(**options), Fetcher(), stdin).items()).image)


def line(**row: Any) -> bytes:
    return json.dumps(row).encode() + b"\n"


# --- tables ----------------------------------------------------------------------------------------------------------
def write_table(path: Path, image: str = "image", prompt: str = "prompt") -> Path:
    rows = [{image: a, prompt: b, "other": 1} for a, b in PAIRS]
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix.lower() == ".csv":
        path.write_text(f"{image},{prompt},other\n" + "".join(f'{a},"{b}",1\n' for a, b in PAIRS), encoding="utf-8")
    else:
        path.write_bytes(b"".join(line(**row) for row in rows))
    return path


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.parquet", "t.CSV"])
def test_a_table_has_a_column_for_each(tmp_path: Path, name: str) -> None:
    assert items(write_table(tmp_path / name)) == PAIRS
    write_table(tmp_path / name, "file", "caption")
    assert items(tmp_path / name, image_column="file", prompt_column="caption") == PAIRS


def test_stdin_is_json_lines_and_read_as_needed() -> None:
    stdin = io.BytesIO(b"".join(line(image=a, prompt=b) for a, b in PAIRS))
    assert items("-", stdin) == PAIRS

    class Endless(io.RawIOBase):
        def readline(self, size: int | None = -1, /) -> bytes:
            return line(image="a.png", prompt="a dog")

    source = open_source("-", SourceOptions(), Fetcher(), Endless())  # type: ignore[arg-type]
    assert len(list(itertools.islice(source.items(), 1000))) == 1000


def test_paths_are_relative_to_the_table_and_on_stdin_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(b"in data")
    (tmp_path / "a.png").write_bytes(b"here")
    monkeypatch.chdir(tmp_path)
    assert first_read(write_table(Path("data/t.csv"))) == b"in data"
    assert first_read("-", io.BytesIO(line(image="a.png", prompt="x"))) == b"here"
    assert first_read("-", io.BytesIO(line(image=str(tmp_path / "data/a.png"), prompt="x"))) == b"in data"


def test_rows_without_an_image_or_a_prompt_fail_in_their_turn() -> None:
    rows = [line(prompt="x"), line(image=7, prompt="x"), line(image="", prompt="x"), line(image="a.png"), b"{\n"]
    source = open_source("-", SourceOptions(), Fetcher(), io.BytesIO(b"".join(rows)))
    says = ["IMAGE: got nothing in the column image", "IMAGE: got int in the column image", "IMAGE: got nothing",
            "PROMPT: got nothing in the column prompt", "row: line 5 is no JSON"]  # fmt: skip
    for item, part in zip(source.items(), says, strict=True):
        with pytest.raises(InvalidInputError, match=f"^{part}"):
            encode_image(item.image)


# --- folders ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "dogs").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "dogs/c.webp", "notes.md", "d.jpg"):
        (folder / name).write_bytes(name.encode())
    (folder / "a.txt").write_text("a cup\nof coffee\n\n")
    (folder / "b.json").write_text('{"prompt": "a rocket", "seed": 7}')
    (folder / "dogs" / "c.txt").write_text("\ufeffa dog")
    (folder / "dogs" / "c.json").write_text('{"prompt": "not this"}')
    return folder


def test_a_folder_has_prompts_beside_its_images(folder: Path) -> None:
    assert items(folder) == [
        ("a.jpg", "a cup\nof coffee"),
        ("b.PNG", "a rocket"),
        ("d.jpg", ""),
        ("dogs/c.webp", "a dog"),
    ]
    found = list(open_source(str(folder), SourceOptions(), Fetcher()).items())
    assert encode_image(found[3].image) == b"dogs/c.webp"
    with pytest.raises(InvalidInputError, match=r"PROMPT: neither d\.txt nor d\.json is there"):
        encode_image(found[2].image)


@pytest.mark.parametrize("content", ["{", "[]", '{"caption": "x"}', "[" * 100_000, "x" * 2_000_000])
def test_a_sidecar_that_cannot_be_read_fails_its_image_only(folder: Path, content: str) -> None:
    (folder / "b.json").write_text(content)
    found = list(open_source(str(folder), SourceOptions(), Fetcher()).items())
    with pytest.raises(InvalidInputError, match=r"PROMPT: b\.json"):
        encode_image(found[1].image)
    assert len(found) == 4


def test_a_template_stands_for_every_prompt(folder: Path, tmp_path: Path) -> None:
    assert items(folder, prompt_template="a photo of {stem}")[0] == ("a.jpg", "a photo of a")
    assert items(folder, prompt_template="{folder}: {name}")[::3] == [
        ("a.jpg", "photos: a.jpg"),
        ("dogs/c.webp", "dogs: c.webp"),
    ]
    (tmp_path / "t.csv").write_text("image\nx/y.png\n")
    assert items(tmp_path / "t.csv", prompt_template="{stem} of {folder}") == [("x/y.png", "y of x")]
    for bad in ("{stem.__class__}", "{}", "{seed}"):
        with pytest.raises(
            InvalidInputError, match=r"prompt template: got .*; allowed: \{stem\}, \{name\}, \{folder\}"
        ):
            SourceOptions(prompt_template=bad)


def test_inputs_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"^INPUT: .*none\.csv does not exist"):
        items(tmp_path / "none.csv")
    (tmp_path / "t.xlsx").write_bytes(b"")
    with pytest.raises(InvalidInputError, match=r"^INPUT: got .*t\.xlsx; allowed"):
        items(tmp_path / "t.xlsx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match=r"^INPUT: .*empty has no images"):
        items(tmp_path / "empty")


# --- which files may be read -----------------------------------------------------------------------------------------
@pytest.fixture
def secret(tmp_path: Path) -> str:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "rooted").mkdir()
    (tmp_path / "rooted" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "rooted" / "linked").symlink_to(tmp_path)
    (tmp_path / "rooted" / "good.png").write_bytes(b"good")
    (tmp_path / "rooted-too").mkdir()
    (tmp_path / "rooted-too" / "x.png").write_bytes(b"secret")
    return str(tmp_path / "secret.png")


@pytest.mark.parametrize(
    "image", ["link.png", "linked/secret.png", "../secret.png", "/etc/hostname", "", "../rooted-too/x.png", "SECRET"]
)
def test_nothing_outside_of_the_root_is_read(tmp_path: Path, secret: str, image: str) -> None:
    table = tmp_path / "rooted" / "t.jsonl"
    table.write_bytes(line(image=secret if image == "SECRET" else image, prompt="x"))
    with pytest.raises(InvalidInputError, match=r"outside of|got nothing"):
        first_read(table, root=tmp_path / "rooted")


def test_what_is_inside_of_the_root_is_read_also_through_a_link_to_it(tmp_path: Path, secret: str) -> None:
    (tmp_path / "alias").symlink_to(tmp_path / "rooted")
    table = tmp_path / "t.jsonl"
    table.write_bytes(line(image="alias/good.png", prompt="x"))
    assert first_read(table, root=tmp_path / "rooted") == b"good"
    assert first_read(table, root=tmp_path / "alias") == b"good"


def test_a_sidecar_outside_of_the_root_is_not_read(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "d.txt").symlink_to(tmp_path / "secret.txt")
    assert items(folder)[2] == ("d.jpg", "secret")
    assert items(folder, root=folder)[2] == ("d.jpg", "")


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    """A pipe, or a device without an end, would hold a worker for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    for image in ("pipe.png", "/dev/zero", ".", "/dev/stdin"):
        with pytest.raises(InvalidInputError, match=r"IMAGE: .* is no plain file"):
            first_read("-", io.BytesIO(line(image=str(tmp_path / image), prompt="x")))
    for image in ("gone.png", "nul\0.png", "x" * 5000):
        with pytest.raises(InvalidInputError, match=r"does not exist|cannot be read"):
            first_read("-", io.BytesIO(line(image=str(tmp_path / image), prompt="x")))


@pytest.mark.parametrize("image", ["file:///etc/hostname", "FILE:///etc/hostname", "local:///etc/hostname"])
def test_urls_of_local_files_are_refused(image: str) -> None:
    with pytest.raises(InvalidInputError, match="allowed: a path, or one URL that starts with http://"):
        first_read("-", io.BytesIO(line(image=image, prompt="x")))
