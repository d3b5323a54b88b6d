"""Memory of `imgeval-client batch` over a very long run, without a server: everything but the network is as it is."""

from __future__ import annotations

import json
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import options
from benchmarks.document import table
from imgeval.batch import BatchOptions, Silent, run_batch
from imgeval.client import Client
from imgeval.contract import METRIC_NAMES
from imgeval.many import DEFAULT_CONCURRENCY
from imgeval.remote import Fetcher
from imgeval.runs import Row
from imgeval.sources import SourceOptions, open_source
from imgeval.tabular import FORMATS, write_rows
from imgeval.transport import GrpcTransport

SAMPLES = 10
IMAGE_BYTES = 10_000
DETAILS: dict[str, Any] = {
    "score": 0.5,
    "complete": True,
    "profile": "none",
    "preset": "none-1",
    "fingerprint": "0" * 16,
    "weights": "published",
    "metrics": {
        name: {"raw": 0.5, "normalized": 0.5, "weight": 1.0, "model": f"a model of {name}"} for name in METRIC_NAMES
    },
    "missing": {},
    "input": {},
    "sam_clip": {},
}


class Instant(GrpcTransport):
    """Answers at once, always the same, and never connects."""

    def __init__(self) -> None:
        super().__init__("nowhere:1")
        self._answer = json.dumps(DETAILS).encode()

    def check_ready(self, model: str, timeout_s: float) -> None: ...

    def infer(
        self, model: str, inputs: Mapping[str, Any], outputs: Sequence[str], timeout_s: float
    ) -> dict[str, np.ndarray[Any, Any]]:
        return {name: np.array([[self._answer]], dtype=np.object_) for name in outputs}


class Sampler(Silent):
    """Notes memory and time after every so many rows."""

    def __init__(self, every: int) -> None:
        self._every, self._rows, self._start = every, 0, time.perf_counter()
        self.samples: list[tuple[int, float, float, float]] = []  # rows, MB now, MB at most, seconds

    def row(self, row: Row) -> None:
        self._rows += 1
        if self._rows % self._every == 0:
            self.sample()

    def sample(self) -> None:
        self.samples.append((self._rows, _now_mb(), _peak_mb(), time.perf_counter() - self._start))


@click.command("batch-memory")
@click.option("--rows", "count", default=1_000_000, show_default=True, type=click.IntRange(min=SAMPLES))
@click.option("--input", "input_suffix", default=".csv", show_default=True, type=click.Choice(list(FORMATS)))
@click.option("--output", "output_suffix", default=".parquet", show_default=True, type=click.Choice(list(FORMATS)))
@options.reported("batch-memory")
def command(count: int, input_suffix: str, output_suffix: str) -> options.Report:
    """Memory of the client over a long run, and again when it is read to go on.

    Example: python -m benchmarks batch-memory --rows 100000
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "image.png").write_bytes(bytes(IMAGE_BYTES))
        source, output = folder / f"in{input_suffix}", folder / f"out{output_suffix}"
        write_rows(source, _pairs(count), {"image": str, "prompt": str}, FORMATS[input_suffix])
        sampler = Sampler(count // SAMPLES)
        sampler.sample()
        opened = open_source(str(source), SourceOptions(), Fetcher())
        with Client(transport=Instant()) as client:
            summary = run_batch(client, opened, output, BatchOptions(), sampler)
        sampler.sample()
        sizes = f"{source.stat().st_size / 1e6:.0f} MB of input, {output.stat().st_size / 1e6:.0f} MB of output"
    *_, seconds = sampler.samples[-2]
    rows = [[made, f"{now:.0f}", f"{peak:.0f}", f"{seconds:.0f}"] for made, now, peak, seconds in sampler.samples[:-1]]
    _, now, peak, ended = sampler.samples[-1]
    rows.append([f"{summary.rows} written as {FORMATS[output_suffix]}", f"{now:.0f}", f"{peak:.0f}", f"{ended:.0f}"])
    return options.Report(
        f"{count} rows of {input_suffix} to {output_suffix}, {DEFAULT_CONCURRENCY} calls at once on a transport that "
        f"answers at once; {count / seconds:.0f} rows/s; {sizes}.\n\n"
        + table(["rows", "MB now", "MB at most", "seconds"], rows)
    )


def _pairs(count: int) -> Iterator[dict[str, str]]:
    for index in range(count):
        yield {"image": "image.png", "prompt": f"a photo of a cup of coffee on a wooden table, number {index}"}


def _now_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
