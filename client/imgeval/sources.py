"""What a run scores: INPUT as an iterator of items, read lazily and always in the same order.

A folder's images are sorted by path, with the prompt of each beside it or from a template; a table (JSONL, CSV,
Parquet) and JSONL on stdin have a column for each. An item without a usable image or prompt carries its error: it takes
its turn like the others. The image of an item is called what the input calls it; for a folder, its path inside that.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from imgeval.errors import InvalidInputError
from imgeval.inputs import LazyImage, encode_image
from imgeval.remote import Fetcher, is_url
from imgeval.tabular import RowOrError, count_rows, format_of, read_json_lines, read_rows

STDIN = "-"
FIELD = "INPUT"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")  # of a folder's images
MAX_SIDECAR_BYTES = 1024 * 1024  # a prompt, and whatever a generator wrote about itself
SIDECAR_KEY = "prompt"
TEMPLATE_NAMES = ("stem", "name", "folder")


@dataclass(frozen=True)
class SourceOptions:
    """How an input is read. `prompt_template` stands for every prompt and may hold {stem}, {name} and {folder}."""

    image_column: str = "image"
    prompt_column: str = "prompt"
    prompt_template: str | None = None
    root: Path | None = None  # local images and sidecars outside of it are refused

    def __post_init__(self) -> None:
        unknown = [name for name in re.findall(r"\{(.*?)\}", self.prompt_template or "") if name not in TEMPLATE_NAMES]
        if unknown:
            allowed = ", ".join(f"{{{name}}}" for name in TEMPLATE_NAMES)
            raise InvalidInputError("prompt template", f"got {{{unknown[0]}}}; allowed: {allowed}")


@dataclass(frozen=True)
class Item:
    """One image and prompt of the input; the prompt is as it was found, and may be none that can be scored."""

    image: LazyImage
    prompt: Any


class Source(Protocol):
    """An input that is open."""

    @property
    def path(self) -> Path | None:
        """The file or folder; None for stdin."""

    def items(self) -> Iterator[Item]:
        """Its items, in memory that does not grow with it.

        Raises:
            InvalidInputError: it cannot be read; the field is INPUT.
        """

    def count(self) -> int | None:
        """How many there are; None where only reading would tell."""


def open_source(path: str, options: SourceOptions, fetcher: Fetcher, stdin: IO[bytes] | None = None) -> Source:
    """The input called `path`: a folder, a table's file, or `-` for JSONL on stdin.

    Raises:
        InvalidInputError: nothing there, or a file of another kind.
        MissingPackageError: Parquet without pyarrow.
    """
    if path == STDIN:
        return _Stream(stdin or sys.stdin.buffer, _Reader(Path(), options, fetcher))
    file = Path(path)
    if file.is_dir():
        return _Folder(file, _Reader(file, options, fetcher))
    if not file.exists():
        raise InvalidInputError(FIELD, f"{path} does not exist")
    format_of(file, FIELD)
    return _Table(file, _Reader(file.parent, options, fetcher))


@dataclass(frozen=True)
class _Reader:
    """Makes items of references; `base` is what relative paths are relative to."""

    base: Path
    options: SourceOptions
    fetcher: Fetcher

    def from_row(self, row: RowOrError) -> Item:
        if isinstance(row, InvalidInputError):
            return _failed("", "", row)
        options = self.options
        image = row.get(options.image_column)
        prompt = row.get(options.prompt_column)
        if not isinstance(image, str) or not image:
            got = "nothing" if image is None or image == "" else type(image).__name__
            problem = f"got {got} in the column {options.image_column}; allowed: a path or a URL"
            return _failed("", prompt, InvalidInputError("IMAGE", problem))
        if options.prompt_template is not None:
            prompt = self._templated(image)
        elif prompt is None:
            problem = f"got nothing in the column {options.prompt_column}; allowed: text"
            return _failed(image, "", InvalidInputError("PROMPT", problem))
        return self._item(image, prompt)

    def from_file(self, name: str) -> Item:
        """The image of a folder that has this path inside it."""
        if self.options.prompt_template is not None:
            return self._item(name, self._templated(name))
        try:
            return self._item(name, self._sidecar(name))
        except InvalidInputError as error:
            return _failed(name, "", error)

    def _item(self, image: str, prompt: Any) -> Item:
        return Item(LazyImage(image, partial(self._read, image)), prompt)

    def _read(self, image: str) -> bytes:
        """In a worker: a URL, or a plain file. Whatever else a path may lead to might never end."""
        if is_url(image):
            return self.fetcher.fetch(image)
        return encode_image(self._plain_file(image))

    def _plain_file(self, name: str) -> Path:
        """The path to a file that `name` means.

        Raises:
            InvalidInputError: no plain file, or one outside of the root, by whatever way.
        """
        path = self.base / name
        try:
            if self.options.root is not None:
                path = Path(os.path.realpath(path))
                if not path.is_relative_to(os.path.realpath(self.options.root)):
                    raise InvalidInputError("IMAGE", f"{name} is outside of {self.options.root}")
            mode = path.stat().st_mode
        except FileNotFoundError as error:
            raise InvalidInputError("IMAGE", f"{name} does not exist") from error
        except (OSError, ValueError) as error:
            raise InvalidInputError("IMAGE", f"{name} cannot be read: {error}") from error
        if not stat.S_ISREG(mode):
            raise InvalidInputError("IMAGE", f"{name} is no plain file; allowed: an image file")
        return path

    def _templated(self, image: str) -> str:
        path = Path(image)
        values = {"stem": path.stem, "name": path.name, "folder": path.parent.name or self.base.resolve().name}
        return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], self.options.prompt_template or "")

    def _sidecar(self, name: str) -> Any:
        """The prompt from NAME.txt, without the end of its last line, else from NAME.json.

        Raises:
            InvalidInputError: neither is there, or it cannot be read.
        """
        text, content = Path(name).with_suffix(".txt"), Path(name).with_suffix(".json")
        if (self.base / text).exists():
            return self._sidecar_text(text).rstrip("\r\n")
        if not (self.base / content).exists():
            raise InvalidInputError("PROMPT", f"neither {text} nor {content} is there, and no template was given")
        try:
            return json.loads(self._sidecar_text(content))[SIDECAR_KEY]
        except (ValueError, RecursionError, TypeError, LookupError) as error:
            raise InvalidInputError("PROMPT", f'{content} is no JSON object with "{SIDECAR_KEY}": {error!r}') from error

    def _sidecar_text(self, path: Path) -> str:
        try:
            with self._plain_file(str(path)).open("rb") as file:
                content = file.read(MAX_SIDECAR_BYTES + 1)
        except OSError as error:
            raise InvalidInputError("PROMPT", f"{path} cannot be read: {error.strerror}") from error
        if len(content) > MAX_SIDECAR_BYTES:
            raise InvalidInputError("PROMPT", f"{path} has more than {MAX_SIDECAR_BYTES} bytes")
        return content.decode("utf-8-sig", "surrogateescape")


def _failed(image: str, prompt: Any, error: InvalidInputError) -> Item:
    """An item that is refused in its turn."""

    def read() -> bytes:
        raise error

    return Item(LazyImage(image, read), "" if prompt is None else prompt)


@dataclass(frozen=True)
class _Folder:
    path: Path
    reader: _Reader

    def items(self) -> Iterator[Item]:
        there = False
        for name in self._names():
            there = True
            yield self.reader.from_file(name)
        if not there:
            raise InvalidInputError(FIELD, f"{self.path} has no images ({', '.join(IMAGE_SUFFIXES)})")

    def count(self) -> int | None:
        return sum(1 for _ in self._names())

    def _names(self) -> Iterator[str]:
        """Paths inside the folder, also of folders in it; the names of one folder at a time are held."""

        def refuse(error: OSError) -> None:
            raise InvalidInputError(FIELD, f"{error.filename} cannot be read: {error.strerror}") from error

        for folder, folders, files in os.walk(self.path, onerror=refuse):
            folders.sort()
            inside = os.path.relpath(folder, self.path)
            for name in sorted(files):
                if name.lower().endswith(IMAGE_SUFFIXES):
                    yield os.path.normpath(os.path.join(inside, name))


@dataclass(frozen=True)
class _Table:
    path: Path
    reader: _Reader

    def items(self) -> Iterator[Item]:
        options = self.reader.options
        columns = [options.image_column, *([] if options.prompt_template is not None else [options.prompt_column])]
        return map(self.reader.from_row, read_rows(self.path, FIELD, columns))

    def count(self) -> int | None:
        return count_rows(self.path, FIELD)


@dataclass(frozen=True)
class _Stream:
    file: IO[bytes]
    reader: _Reader
    path: None = None

    def items(self) -> Iterator[Item]:
        return map(self.reader.from_row, read_json_lines(self.file))

    def count(self) -> int | None:
        return None
