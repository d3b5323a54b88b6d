"""The same on a GPU: a Triton server that is running with `--device gpu` repositories, asked over gRPC."""

from __future__ import annotations

import shutil
import subprocess

import click
import numpy as np

from benchmarks import options, pictures
from benchmarks.document import table
from benchmarks.overhead import PROMPT_TEXT, TIMEOUT_S, run_load
from benchmarks.timing import Times
from imgeval.contract import ENSEMBLE, IMAGE, METRIC_NAMES, PROMPT, metric_tensor
from imgeval.transport import GrpcTransport

# FLOPs of each metric for one image, in 10^12 (../docs/benchmarks.md, "limit"); of sam_clip without its crops.
TFLOP = {"clip": 0.156, "aesthetic": 0.156, "qalign_quality": 3.3, "sam_clip": 9.7}


@click.command()
@click.option("--url", required=True, metavar="HOST:PORT", help="Of the server in the container.")
@options.rounds(3)
@click.option("--requests", "per_round", default=128, show_default=True, type=click.IntRange(min=16))
@click.option("--concurrency", default=16, show_default=True, type=click.IntRange(min=1))
@click.option("--batch", default=8, show_default=True, type=click.IntRange(min=1, max=8))
@click.option("--peak-tflops", type=float, help="Of the GPU in the precision that is served, for the fraction reached.")
@options.reported("gpu")
def command(url: str, rounds: int, per_round: int, concurrency: int, batch: int, peak_tflops: float | None) -> str:
    """Images per second of each metric and of all, from a server on a GPU; build it with --cache-mib 0.

    Example: python -m benchmarks gpu --url localhost:8001 --peak-tflops 989
    """
    gpu = _gpu()
    if gpu is None:
        return "Not measured: this machine has no GPU (nvidia-smi finds none)."
    transport = GrpcTransport(url)
    transport.check_ready(ENSEMBLE, TIMEOUT_S)
    images = [[pictures.jpeg(index % 4, 1024 + index, 1024)] for index in range(batch)]
    inputs = {
        IMAGE.name: np.array(images, dtype=np.object_),
        PROMPT.name: np.array([[PROMPT_TEXT.encode()]] * batch, dtype=np.object_),
    }
    rows = []
    for name, metrics in {**{metric: (metric,) for metric in METRIC_NAMES}, "all": METRIC_NAMES}.items():
        outputs = [metric_tensor(metric).name for metric in metrics]
        answer = transport.infer(ENSEMBLE, inputs, outputs, TIMEOUT_S)
        if any(np.isnan(answer[output]).all() for output in outputs[:1]):
            rows.append([name, "not served", "", ""])
            continue
        loads = [
            run_load(lambda o=outputs: transport.infer(ENSEMBLE, inputs, o, TIMEOUT_S), concurrency, per_round, float)  # type: ignore[misc]
            for _ in range(rounds)
        ]
        speed = Times(tuple(load.throughput * batch for load in loads)).median
        needed = TFLOP.get(name)
        fraction = f"{speed * needed / peak_tflops:.2f}" if needed and peak_tflops else ""
        latency = Times(tuple(second for load in loads for second in load.latencies.seconds))
        rows.append([name, f"{speed:.4g}", f"{latency.median * 1e3:.4g}", fraction])
    transport.close()
    headings = ["metric", "images/s", "p50 ms of a request", "fraction of the peak"]
    return f"{gpu}; requests of {batch}, {concurrency} at a time\n\n{table(headings, rows)}"


def _gpu() -> str | None:
    """What nvidia-smi calls the first GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return found.stdout.splitlines()[0] if found.returncode == 0 and found.stdout.strip() else None
