"""Memory of client and server over a long stream of requests, with caches as they are by default."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import click
import numpy as np

from benchmarks import options, pictures, serving
from benchmarks.document import table
from benchmarks.overhead import PROMPT_TEXT, TIMEOUT_S
from imgeval.client import Client
from imgeval_export.caches import DEFAULT_MIB

CONCURRENCY = 8
# Distinct ones: the caches hold them all after a tenth of 20,000 requests, and nothing should grow from then on.
PICTURES, PROMPTS = 50, 2000
SAMPLES = 20


@click.command()
@options.repository_options
@click.option("--metrics", default="clip", show_default=True)
@click.option(
    "--requests", "count", type=click.IntRange(min=SAMPLES), default=20_000, show_default=True, help="In all."
)
@options.reported("stream")
def command(
    chosen: serving.Chosen,
    metrics: str,
    count: int,
) -> options.Report:
    """Memory while `score_many` streams requests, which must stay flat on both sides.

    Example: python -m benchmarks stream --profile starter --metrics clip --requests 20000
    """
    rows: list[tuple[int, int, int]] = []
    with (
        serving.setup(chosen, cache_mib=DEFAULT_MIB) as setup,
        serving.served(setup) as running,
        Client(running.url, timeout_s=TIMEOUT_S) as client,
    ):
        names, start = setup.check(metrics), time.perf_counter()
        outcomes = client.score_many(_pairs(count), metrics=names, concurrency=CONCURRENCY, ordered=False)
        for done, outcome in enumerate(outcomes, 1):
            if outcome.error:
                raise outcome.error
            if done % (count // SAMPLES) == 0 or done == 1:
                rows.append((done, serving.own_bytes(), serving.server_bytes(running)))
        seconds = time.perf_counter() - start
    settled = rows[len(rows) // 4 :]  # after the first quarter every pool has its size
    growth = [
        float(np.polyfit([row[0] for row in settled], [row[index] for row in settled], 1)[0]) * 1e4 / 2**20
        for index in (1, 2)
    ]
    shown = [[f"{done}", f"{own / 2**20:.1f}", f"{server / 2**20:.0f}"] for done, own, server in rows]
    return options.Report(
        f"{setup.notice}\n{metrics}: {count} requests, {CONCURRENCY} at a time, {PICTURES} pictures, {PROMPTS} "
        f"prompts, caches on: {count / seconds:.1f} images/s. Growth after the first quarter, a line fitted: client "
        f"{growth[0]:+.1f} MiB, server {growth[1]:+.1f} MiB per 10,000 requests\n\n"
        f"{table(['requests', 'client RSS MiB', 'server PSS MiB'], shown)}",
        setup.subject,
    )


def _pairs(count: int) -> Iterator[tuple[bytes, str]]:
    images = itertools.cycle([pictures.jpeg(index % 4, 384 + index, 384) for index in range(PICTURES)])
    return (
        (image, f"{PROMPT_TEXT}, number {index % PROMPTS}")
        for index, image in enumerate(itertools.islice(images, count))
    )
