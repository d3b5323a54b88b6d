"""What serving costs: the ensemble over gRPC against the same models called bare in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from benchmarks import options, pictures, serving
from benchmarks.bare import Bare
from benchmarks.document import table
from benchmarks.timing import Times, ratio, spread
from imgeval.contract import ENSEMBLE, IMAGE, INPUT_IDS, PIXELS, PROMPT, RGB, metric_tensor
from imgeval.embedded.server import EmbeddedServer
from imgeval.transport import GrpcTransport

CONCURRENCIES = (1, 4, 16)
MIN_WAVES = 6  # of a round: in the first and the last one the server is not full
FILE_BYTES = 200_000
PROMPT_TEXT = "a cup of coffee on a wooden table"
TIMEOUT_S = 600.0

# Copies of a file: tritonclient joins it with its length, into the message, into gRPC's buffer; the server takes it out
# of the message, into the shared memory of preprocess, which makes bytes of it. The kernel's own are not counted.
FILE_COPIES = 6
MAKER_COPIES = 2  # of a tensor that a Python step makes: into shared memory, and from there into the server's buffer
TAKER_COPIES = 1  # into the shared memory of a Python step, which then sees it in place

Statistics = dict[str, serving.ModelStatistics]  # by model


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


def enough(count: int, concurrency: int) -> int:
    """`count` requests, or more where so many at a time need them for a round that shows a full server."""
    return max(count, MIN_WAVES * concurrency)


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
    chosen: serving.Chosen,
    rounds: int,
    metrics: str,
    per_round: int,
) -> options.Report:
    """Serving against bare models: throughput, added latency, where it goes, and bytes copied.

    Example: python -m benchmarks overhead --profile starter --metrics clip
    """
    image = pictures.jpeg_of_bytes(FILE_BYTES)
    with serving.setup(chosen) as setup:
        names = setup.check(metrics)
        with serving.served(setup) as running:
            bare, transport = Bare(setup.repository), GrpcTransport(running.url)
            inputs = {
                IMAGE.name: np.array([[image]], dtype=np.object_),
                PROMPT.name: np.array([[PROMPT_TEXT.encode()]], dtype=np.object_),
            }
            outputs = [metric_tensor(name).name for name in names]

            def ask() -> dict[str, Any]:
                return transport.infer(ENSEMBLE, inputs, outputs, TIMEOUT_S)

            def compute() -> dict[str, float]:
                return bare.score(image, PROMPT_TEXT, names)

            answer, values = ask(), compute()  # also warms up both
            differences = [abs(float(answer[metric_tensor(name).name].item()) - values[name]) for name in names]
            loads, spent = _measure(ask, compute, rounds, per_round, running)
            transport.close()
        decoded = bare.preprocess(image, PROMPT_TEXT)
        sizes = {
            IMAGE.name: len(image),
            PIXELS.name: decoded.pixels.nbytes,
            INPUT_IDS.name: decoded.input_ids.nbytes,
            RGB.name: decoded.rgb.nbytes,
        }
        asked = (
            f"{', '.join(names)}; one JPEG of {len(image) / 1e3:.0f} kB, 1024 x 1024; {rounds} rounds of {per_round} "
            f"requests, and at least {MIN_WAVES} for each that is under way, in turns. Both sides give the same values "
            f"within {max(differences):.1g}."
        )
        return options.Report(
            f"{setup.notice}\n{asked}\n\n{_loads(loads)}\n\n{_models(spent)}\n\n{_copied(sizes, names)}",
            setup.subject,
        )


def _measure(
    ask: Callable[[], object],
    compute: Callable[[], object],
    rounds: int,
    per_round: int,
    running: EmbeddedServer,
) -> tuple[dict[tuple[str, int], list[Load]], dict[int, list[Statistics]]]:
    """Loads by side and concurrency, in turns round by round; and what the server's models did, by concurrency."""
    loads: dict[tuple[str, int], list[Load]] = {}
    spent: dict[int, list[Statistics]] = {}
    for index in range(rounds):
        for concurrency in CONCURRENCIES:
            before = serving.statistics(running.url)
            sides = [
                ("served", ask, lambda: serving.cpu_seconds(running)),
                ("bare", compute, time.process_time),
            ]
            for name, request, cpu in sides if index % 2 == 0 else sides[::-1]:
                loads.setdefault((name, concurrency), []).append(
                    run_load(request, concurrency, enough(per_round, concurrency), cpu)
                )
            spent.setdefault(concurrency, []).append(serving.since(running.url, before))
    return loads, spent


def _loads(loads: Mapping[tuple[str, int], Sequence[Load]]) -> str:
    """Throughput and latency; bare at concurrency N is N threads of one process, and at 1 a plain loop."""
    bare = {concurrency: [load.throughput for load in loads["bare", concurrency]] for concurrency in CONCURRENCIES}
    # What serving is held against: the concurrency at which bare models do most.
    best = max(bare.values(), key=lambda each: Times(tuple(each)).median)
    rows = []
    for concurrency in CONCURRENCIES:
        served = loads["served", concurrency]
        latencies = {
            side: Times(tuple(second for load in loads[side, concurrency] for second in load.latencies.seconds))
            for side in ("served", "bare")
        }
        percentiles = {p: [latencies[side].percentile(p) * 1e3 for side in ("served", "bare")] for p in (50, 95, 99)}
        throughput = [load.throughput for load in served]
        rows.append(
            [
                concurrency,
                spread(throughput),
                spread(bare[concurrency]),
                ratio(throughput, best),
                *(f"{with_server:.4g} ({with_server - without:+.3g})" for with_server, without in percentiles.values()),
                f"{sum(load.cpu_seconds for load in served) / sum(load.seconds for load in served):.2f}",
            ]
        )
    headings = ["concurrency", "served/s", "bare/s", "served / best bare"]
    headings += [f"p{percent} ms (added)" for percent in (50, 95, 99)] + ["server's CPUs at work"]
    return table(headings, rows)


def _models(spent: Mapping[int, Sequence[Statistics]]) -> str:
    """What each model did at each concurrency, all rounds together."""
    rows = []
    for concurrency, rounds in spent.items():
        totals: dict[str, serving.ModelStatistics] = {}
        for each in rounds:
            for name, statistics in each.items():
                totals[name] = totals.get(name, serving.NOTHING) + statistics
        for name, total in sorted(totals.items(), key=lambda item: -item[1].infer_ms):
            parts = (total.queue_ms, total.input_ms, total.infer_ms, total.output_ms)
            batch = f"{total.requests / max(1, total.executions):.2f}"
            rows.append([concurrency, name, total.requests, batch, *(f"{ms / total.requests:.2f}" for ms in parts)])
    headings = ["concurrency", "model", "requests", "batch", "queue", "input", "compute", "output"]
    return f"The server's own statistics, ms per request of the model:\n\n{table(headings, rows)}"


def copies(sizes: Mapping[str, int], names: Sequence[str]) -> list[tuple[str, int, int]]:
    """(hop, bytes, copies) of one request: counted by hand along the way that each tensor takes, not measured.

    Triton's ensemble asks a step for all its outputs, also for those that no later step of the request takes, so RGB is
    copied by every request (seen in `requested_output_names` of Triton 24.10).

    Args:
        sizes: bytes of each tensor by name.
        names: metrics asked for.
    """
    takers = {
        PIXELS.name: ["clip_image"] * bool({"clip", "aesthetic"} & set(names)),
        INPUT_IDS.name: ["clip_text"] * ("clip" in names),
        RGB.name: [name for name in ("sam_clip", "iqa") if name in names],
    }
    hops = [(f"{IMAGE.name}: client -> preprocess", sizes[IMAGE.name], FILE_COPIES)]
    for tensor, steps in takers.items():
        # A network's backend joins the requests of a batch, which copies once more, also for a batch of one.
        taken = sum(TAKER_COPIES + (step in ("clip_image", "clip_text")) for step in steps)
        where = f"{tensor}: preprocess -> {', '.join(steps) or 'nobody'}"
        hops.append((where, sizes[tensor], MAKER_COPIES + taken))
    return hops


def _copied(sizes: Mapping[str, int], names: Sequence[str]) -> str:
    hops = copies(sizes, names)
    rows = [[hop, f"{size / 1e6:.2f}", count, f"{size * count / 1e6:.2f}"] for hop, size, count in hops]
    rows.append(["in all", "", "", f"{sum(size * count for _, size, count in hops) / 1e6:.2f}"])
    return (
        "Bytes copied in user space for one request, counted from the tensors' sizes and ways (`overhead.copies`), "
        f"without embeddings and single numbers:\n\n{table(['hop', 'MB', 'copies', 'MB copied'], rows)}"
    )
