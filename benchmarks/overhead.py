"""What serving costs: the ensemble over gRPC against the same models called bare in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from benchmarks import options, pictures, serving
from benchmarks.bare import Bare
from benchmarks.document import table
from benchmarks.timing import Times, ratio
from imgeval.contract import ENSEMBLE, IMAGE, INPUT_IDS, PIXELS, PROMPT, RGB, metric_tensor
from imgeval.transport import GrpcTransport

CONCURRENCIES = (1, 4, 16)
FILE_BYTES = 200_000
PROMPT_TEXT = "a cup of coffee on a wooden table"
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Load:
    """One run of many requests at a time."""

    latencies: Times
    seconds: float
    cpu_seconds: float

    @property
    def throughput(self) -> float:
        """Requests per second."""
        return len(self.latencies.seconds) / self.seconds


def run_load(request: Callable[[], object], concurrency: int, count: int, cpu: Callable[[], float]) -> Load:
    """`count` requests in all, `concurrency` of them at any time."""

    def timed(_: int) -> float:
        start = time.perf_counter()
        request()
        return time.perf_counter() - start

    cpu_before, start = cpu(), time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        latencies = tuple(pool.map(timed, range(count)))
    return Load(Times(latencies), time.perf_counter() - start, cpu() - cpu_before)


@click.command()
@options.repository_options
@options.rounds(5)
@click.option("--metrics", default="clip,aesthetic", show_default=True, help="Computed by both sides.")
@click.option("--requests", "per_round", default=32, show_default=True, type=click.IntRange(min=16), help="A round.")
@options.reported("overhead")
def command(
    profile: str,
    repository: Path | None,
    precision: tuple[str, ...],
    overrides: tuple[str, ...],
    random_weights: bool,
    rounds: int,
    metrics: str,
    per_round: int,
) -> str:
    """Serving against bare models: throughput, added latency, where it goes, and bytes copied.

    Example: python -m benchmarks overhead --profile starter --metrics clip
    """
    names = tuple(metrics.split(","))
    image = pictures.jpeg_of_bytes(FILE_BYTES)
    with serving.setup(profile, repository, precision, overrides, random_weights) as setup:
        with serving.served(setup) as running:
            bare, transport = Bare(setup.repository), GrpcTransport(running.url)
            inputs = {
                IMAGE.name: np.array([[image]], dtype=np.object_),
                PROMPT.name: np.array([[PROMPT_TEXT.encode()]], dtype=np.object_),
            }
            outputs = [metric_tensor(name).name for name in names]

            def ask() -> object:
                return transport.infer(ENSEMBLE, inputs, outputs, TIMEOUT_S)

            def compute() -> object:
                return bare.score(image, PROMPT_TEXT, names)

            for warm_up in (ask, compute):
                warm_up()
            before = serving.statistics(running.url)
            loads = _measure(ask, compute, rounds, per_round, lambda: serving.cpu_seconds(running))
            spent = serving.since(running.url, before)
            transport.close()
        decoded = bare.preprocess(image, PROMPT_TEXT)
        copied = _copied(len(image), decoded.pixels.nbytes, decoded.rgb.nbytes, decoded.input_ids.nbytes, names)
        return f"{setup.notice}\n{_tables(loads, spent, names, len(image), rounds)}\n\n{copied}"


def _measure(
    ask: Callable[[], object],
    compute: Callable[[], object],
    rounds: int,
    per_round: int,
    server_cpu: Callable[[], float],
) -> dict[tuple[str, int], list[Load]]:
    """Loads by side and concurrency, in turns round by round."""
    loads: dict[tuple[str, int], list[Load]] = {}
    for index in range(rounds):
        for concurrency in CONCURRENCIES:
            sides = [("served", ask, server_cpu), ("bare", compute, time.process_time)]
            for name, request, cpu in sides if index % 2 == 0 else sides[::-1]:
                loads.setdefault((name, concurrency), []).append(run_load(request, concurrency, per_round, cpu))
    return loads


def _tables(
    loads: dict[tuple[str, int], list[Load]],
    spent: dict[str, serving.ModelStatistics],
    names: Sequence[str],
    file_bytes: int,
    rounds: int,
) -> str:
    # Bare models gain nothing from more threads than one: its best concurrency is what serving is held against.
    bare = {concurrency: [load.throughput for load in loads["bare", concurrency]] for concurrency in CONCURRENCIES}
    best = max(bare.values(), key=lambda each: Times(tuple(each)).median)
    rows = []
    for concurrency in CONCURRENCIES:
        served = loads["served", concurrency]
        latencies = {
            side: Times(tuple(second for load in loads[side, concurrency] for second in load.latencies.seconds))
            for side in ("served", "bare")
        }
        added = [(latencies["served"].percentile(p) - latencies["bare"].percentile(p)) * 1e3 for p in (50, 95, 99)]
        throughput = [load.throughput for load in served]
        rows.append(
            [
                concurrency,
                f"{Times(tuple(throughput)).median:.3g}",
                f"{Times(tuple(bare[concurrency])).median:.3g}",
                ratio(throughput, best),
                f"{latencies['served'].median * 1e3:.4g}",
                *(f"{value:+.3g}" for value in added),
                f"{sum(load.cpu_seconds for load in served) / sum(load.seconds for load in served):.2f}",
            ]
        )
    headings = [
        "concurrency",
        "served/s",
        "bare/s",
        "served / best bare",
        "p50 ms",
        "added p50",
        "p95",
        "p99",
        "CPU/wall",
    ]
    models = [
        [
            name,
            each.requests,
            f"{each.requests / max(1, each.executions):.2f}",
            *(
                f"{value / each.requests:.2f}"
                for value in (each.queue_ms, each.input_ms, each.infer_ms, each.output_ms)
            ),
        ]
        for name, each in sorted(spent.items(), key=lambda item: -item[1].infer_ms)
    ]
    return (
        f"{', '.join(names)}; one JPEG of {file_bytes / 1e3:.0f} kB, 1024 x 1024; {rounds} rounds in turns\n\n"
        f"{table(headings, rows)}\n\nThe server's own statistics over all of this, ms per request:\n\n"
        f"{table(['model', 'requests', 'batch', 'queue', 'input', 'compute', 'output'], models)}"
    )


def _copied(file: int, pixels: int, rgb: int, ids: int, names: Sequence[str]) -> str:
    """Tensors are copied into shared memory by the step that makes them and again for each step that takes them."""
    hops = [
        ("file: client -> server -> preprocess", 3 * file),
        (f"{PIXELS.name}: preprocess -> clip_image", 2 * pixels),
    ]
    hops += [(f"{INPUT_IDS.name}: preprocess -> clip_text", 2 * ids)] if "clip" in names else []
    takers = [name for name in ("sam_clip", "iqa") if name in names]
    hops += [(f"{RGB.name}: preprocess -> {', '.join(takers)}", (1 + len(takers)) * rgb)] if takers else []
    rows = [[hop, f"{count / 1e6:.2f}"] for hop, count in hops]
    rows.append(["in all, but for embeddings and numbers", f"{sum(count for _, count in hops) / 1e6:.2f}"])
    return f"Bytes copied per request, from the tensors' sizes:\n\n{table(['hop', 'MB'], rows)}"
