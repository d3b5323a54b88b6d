"""Throughput and latency by batch, concurrency and image size; memory over a long stream of requests."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import click
import numpy as np

from benchmarks import options, pictures, serving
from benchmarks.document import table
from benchmarks.overhead import PROMPT_TEXT, TIMEOUT_S, run_load
from benchmarks.timing import Times
from imgeval.client import Client
from imgeval.contract import ENSEMBLE, IMAGE, MAX_BATCH_SIZE, PROMPT, metric_tensor
from imgeval.embedded.server import EmbeddedServer
from imgeval.transport import GrpcTransport

BATCHES = tuple(size for size in (1, 2, 4, 8) if size <= MAX_BATCH_SIZE)
CONCURRENCIES = (1, 2, 4, 8, 16)
SIDES_PX = (256, 512, 1024, 2048, 4096)
STREAM_CONCURRENCY = 8
STREAM_PICTURES = 50  # distinct ones
MEMORY_SAMPLES = 20
STREAM_LENGTH = click.IntRange(min=0)


@click.command()
@options.repository_options
@options.rounds(3)
@click.option("--metrics", default="clip", show_default=True)
@click.option("--requests", "per_round", default=32, show_default=True, type=click.IntRange(min=16), help="A round.")
@click.option(
    "--stream",
    "streamed",
    type=STREAM_LENGTH,
    default=20_000,
    show_default=True,
    help="Requests of the stream; 0: none.",
)
@options.reported("scale")
def command(
    profile: str,
    repository: Path | None,
    precision: tuple[str, ...],
    without_parts: tuple[str, ...],
    overrides: tuple[str, ...],
    random_weights: bool,
    rounds: int,
    metrics: str,
    per_round: int,
    streamed: int,
) -> options.Report:
    """Throughput and latency over batch size, concurrency and image size, and memory over a stream.

    Example: python -m benchmarks scale --profile starter --metrics clip --stream 20000
    """
    if 0 < streamed < MEMORY_SAMPLES:
        raise click.UsageError(f"--stream: got {streamed}; allowed: 0, or {MEMORY_SAMPLES} or more")
    with (
        serving.setup(profile, repository, precision, without_parts, overrides, random_weights) as setup,
        serving.served(setup) as running,
    ):
        names = setup.check(metrics)
        transport = GrpcTransport(running.url)
        grid = _grid(transport, names, rounds, per_round, lambda: serving.cpu_seconds(running))
        transport.close()
        memory = _memory(running, names, streamed) if streamed else "No stream."
    return options.Report(
        f"{setup.notice}\n{metrics}; {rounds} rounds of {per_round} requests in turns\n\n{grid}\n\n{memory}"
    )


def _grid(
    transport: GrpcTransport, names: tuple[str, ...], rounds: int, per_round: int, cpu: Callable[[], float]
) -> str:
    outputs = [metric_tensor(name).name for name in names]

    def ask(side: int, batch: int) -> Callable[[], object]:
        image = pictures.jpeg(0, side, side)
        inputs = {
            IMAGE.name: np.array([[image]] * batch, dtype=np.object_),
            PROMPT.name: np.array([[PROMPT_TEXT.encode()]] * batch, dtype=np.object_),
        }
        return lambda: transport.infer(ENSEMBLE, inputs, outputs, TIMEOUT_S)

    cases = [("batch", batch, 512, batch, 1) for batch in BATCHES]
    cases += [("concurrency", concurrency, 512, 1, concurrency) for concurrency in CONCURRENCIES]
    cases += [("image side, px", side, side, 1, 1) for side in SIDES_PX]
    requests = {case: ask(case[2], case[3]) for case in cases}
    for request in requests.values():
        request()
    taken: dict[object, list[tuple[float, Times]]] = {}
    for _ in range(rounds):
        for case in cases:
            _, _, _, batch, concurrency = case
            load = run_load(requests[case], concurrency, max(concurrency, per_round // batch), cpu)
            taken.setdefault(case, []).append((load.throughput * batch, load.latencies))
    rows = []
    for case in cases:
        latencies = Times(tuple(second for _, each in taken[case] for second in each.seconds))
        throughput = Times(tuple(each for each, _ in taken[case])).median
        percentiles = (f"{latencies.percentile(percent) * 1e3:.3g}" for percent in (50, 95, 99))
        rows.append([case[0], case[1], f"{throughput:.3g}", *percentiles])
    return table(["what varies", "value", "images/s", "p50 ms", "p95 ms", "p99 ms"], rows)


def _memory(running: EmbeddedServer, names: tuple[str, ...], count: int) -> str:
    every = count // MEMORY_SAMPLES
    rows: list[tuple[int, int, int]] = []
    start = time.perf_counter()
    with Client(running.url, timeout_s=TIMEOUT_S) as client:
        for done, _ in enumerate(_stream(client, _pairs(count), names), 1):
            if done % every == 0 or done == 1:
                rows.append((done, serving.own_bytes(), serving.server_bytes(running)))
    seconds = time.perf_counter() - start
    settled = rows[len(rows) // 4 :]  # after the first quarter every pool has its size
    growth = [
        float(np.polyfit([row[0] for row in settled], [row[index] for row in settled], 1)[0]) * 1e4 / 2**20
        for index in (1, 2)
    ]
    shown = [[f"{done}", f"{own / 2**20:.1f}", f"{server / 2**20:.0f}"] for done, own, server in rows]
    return (
        f"A stream of {count} requests, {STREAM_CONCURRENCY} at a time, {STREAM_PICTURES} pictures, each with a "
        f"prompt of its own: {count / seconds:.1f} images/s. Growth after the first quarter, a line fitted: client "
        f"{growth[0]:+.1f} MiB, server {growth[1]:+.1f} MiB per 10,000 requests\n\n"
        f"{table(['requests', 'client RSS MiB', 'server PSS MiB'], shown)}"
    )


def _pairs(count: int) -> Iterator[tuple[bytes, str]]:
    images = itertools.cycle([pictures.jpeg(index % 4, 384 + index, 384) for index in range(STREAM_PICTURES)])
    return ((image, f"{PROMPT_TEXT}, number {index}") for index, image in enumerate(itertools.islice(images, count)))


def _stream(client: Client, pairs: Iterable[tuple[bytes, str]], names: tuple[str, ...]) -> Iterator[object]:
    """Results as they come, with a bounded number of requests under way."""
    under_way: set[Future[object]] = set()
    with ThreadPoolExecutor(STREAM_CONCURRENCY) as pool:
        for image, prompt in pairs:
            if len(under_way) >= 2 * STREAM_CONCURRENCY:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                yield from (each.result() for each in done)
            under_way.add(pool.submit(client.score, image, prompt, metrics=names))
        yield from (each.result() for each in under_way)
