"""Throughput and latency by batch, concurrency and image size."""

from __future__ import annotations

from collections.abc import Callable

import click
import numpy as np

from benchmarks import options, pictures, serving
from benchmarks.document import table
from benchmarks.overhead import MIN_WAVES, PROMPT_TEXT, TIMEOUT_S, enough, run_load
from benchmarks.timing import Times
from imgeval.contract import ENSEMBLE, IMAGE, MAX_BATCH_SIZE, PROMPT, metric_tensor
from imgeval.transport import GrpcTransport

BATCHES = tuple(size for size in (1, 2, 4, 8) if size <= MAX_BATCH_SIZE)
CONCURRENCIES = (1, 2, 4, 8, 16)
SIDES_PX = (256, 512, 1024, 2048, 4096)


@click.command()
@options.repository_options
@options.rounds(3)
@click.option("--metrics", default="clip", show_default=True)
@click.option("--requests", "per_round", default=32, show_default=True, type=click.IntRange(min=16), help="A round.")
@options.reported("scale")
def command(
    chosen: serving.Chosen,
    rounds: int,
    metrics: str,
    per_round: int,
) -> options.Report:
    """Throughput and latency over batch size, concurrency and image size.

    Example: python -m benchmarks scale --profile starter --metrics clip,sam_clip,iqa
    """
    with (
        serving.setup(chosen) as setup,
        serving.served(setup) as running,
    ):
        names = setup.check(metrics)
        transport = GrpcTransport(running.url)
        grid = _grid(transport, names, rounds, per_round, lambda: serving.cpu_seconds(running))
        transport.close()
    turns = f"{rounds} rounds of {per_round} requests, and at least {MIN_WAVES} for each that is under way, in turns"
    text = f"{setup.notice}\n{metrics}; {turns}\n\n{grid}"
    return options.Report(text, setup.subject)


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
            load = run_load(requests[case], concurrency, enough(per_round // batch, concurrency), cpu)
            taken.setdefault(case, []).append((load.throughput * batch, load.latencies))
    rows = []
    for case in cases:
        latencies = Times(tuple(second for _, each in taken[case] for second in each.seconds))
        throughput = Times(tuple(each for each, _ in taken[case])).median
        percentiles = (f"{latencies.percentile(percent) * 1e3:.3g}" for percent in (50, 95, 99))
        rows.append([case[0], case[1], f"{throughput:.3g}", *percentiles])
    return table(["what varies", "value", "images/s", "p50 ms", "p95 ms", "p99 ms"], rows)
