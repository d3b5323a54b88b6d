"""The same on a GPU: a Triton server that is running from a repository built with `--device gpu`, asked over gRPC."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import numpy as np

from benchmarks import options, pictures
from benchmarks.document import table
from benchmarks.needed import Recorder, needed, qalign_flops
from benchmarks.overhead import TIMEOUT_S, run_load
from benchmarks.timing import Times, spread
from imgeval.client import DEFAULT_URL
from imgeval.contract import ENSEMBLE, IMAGE, METRIC_NAMES, PROMPT, metric_tensor
from imgeval.transport import GrpcTransport

ALL = "all"
PHOTOS = 4
SIDE_PX = 1024
PEAK_SIDE = 8192  # of square matrices that keep any GPU of today busy
PEAK_PRODUCTS = 20
PEAK_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@click.command()
@click.option("--url", default=DEFAULT_URL, show_default=True, metavar="HOST:PORT", help="Of the server.")
@options.rounds(3)
@click.option("--requests", "per_round", default=128, show_default=True, type=click.IntRange(min=16), help="A round.")
@click.option("--concurrency", default=16, show_default=True, type=click.IntRange(min=1))
@click.option("--batch", default=8, show_default=True, type=click.IntRange(min=1, max=8))
@click.option(
    "--count-flops-of",
    "counted",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A repository of the same profile and settings built for the embedded server: its calls are counted, once.",
)
@click.option("--peak-precision", default="fp32", show_default=True, type=click.Choice(list(PEAK_TYPES)))
@options.reported("gpu")
def command(
    url: str,
    rounds: int,
    per_round: int,
    concurrency: int,
    batch: int,
    counted: Path | None,
    peak_precision: str,
) -> options.Report:
    """Images per second of each metric and of all, from a server on a GPU; build it with --cache-mib 0.

    The peak is measured by torch on the same GPU, in turns with the server.

    Example: python -m benchmarks gpu --url localhost:8001 --count-flops-of ./repository-cpu --peak-precision bf16
    """
    gpu = _gpu()
    if gpu is None:
        raise options.NotMeasuredError("this machine has no GPU (nvidia-smi finds none)")
    peak = _peak(peak_precision)
    photos = pictures.photos(PHOTOS)
    images = [[pictures.jpeg(index % PHOTOS, SIDE_PX + index, SIDE_PX)] for index in range(batch)]
    prompts = [[photos[index % PHOTOS].prompt.encode()] for index in range(batch)]
    inputs = {IMAGE.name: np.array(images, dtype=np.object_), PROMPT.name: np.array(prompts, dtype=np.object_)}
    flops = _flops(counted, images[0][0], photos[0].prompt) if counted else {}
    transport = GrpcTransport(url)
    transport.check_ready(ENSEMBLE, TIMEOUT_S)

    def ask(metrics: tuple[str, ...]) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        return transport.infer(ENSEMBLE, inputs, [metric_tensor(name).name for name in metrics], TIMEOUT_S)

    first = ask(METRIC_NAMES)
    served = tuple(name for name in METRIC_NAMES if not np.isnan(first[metric_tensor(name).name]).all())
    groups = {**{name: (name,) for name in served}, ALL: served}
    for metrics in groups.values():
        run_load(lambda metrics=metrics: ask(metrics), concurrency, concurrency, float)  # type: ignore[misc] # warms up
    speeds: dict[str, list[float]] = {name: [] for name in groups}
    latencies: dict[str, list[float]] = {name: [] for name in groups}
    peaks: list[float] = []
    for _ in range(rounds):
        for name, metrics in groups.items():
            load = run_load(lambda metrics=metrics: ask(metrics), concurrency, per_round, float)  # type: ignore[misc]
            speeds[name].append(load.throughput * batch)
            latencies[name] += load.latencies.seconds
        if peak:
            peaks.append(peak())
    transport.close()
    best = Times(tuple(peaks)).median if peaks else None
    rows = [
        [
            name,
            spread(speeds[name]),
            spread([1e3 * second for second in latencies[name]]),
            *_limit(name, speeds[name], flops, best),
        ]
        for name in groups
    ]
    absent = [name for name in METRIC_NAMES if name not in served]
    headings = ["metric", "images/s", "ms of a request", "TFLOP an image", "fraction of the peak"]
    measured = f"{best / 1e12:.0f} TFLOP/s in {peak_precision}" if best else "not measured (torch finds no GPU here)"
    return options.Report(
        f"{gpu}; requests of {batch} JPEG files of {SIDE_PX} px, {concurrency} at a time. Matrix peak: {measured}. "
        f"Not served: {', '.join(absent) or 'nothing'}.\n\n{table(headings, rows)}"
    )


def _limit(name: str, speeds: list[float], flops: Mapping[str, float], peak: float | None) -> tuple[str, str]:
    count = flops.get(name)
    if not count:
        return "-", "-"
    share = f"{Times(tuple(speeds)).median * count / peak:.2f}" if peak else "-"
    return f"{count / 1e12:.3g}", share


def _flops(repository: Path, image: bytes, prompt: str) -> dict[str, float]:
    """FLOPs of each metric for one image."""
    recorder = Recorder(repository)
    flops = {
        name: sum(needed(recorder, image, prompt, name).flops.values()) for name in ("aesthetic", "clip", "sam_clip")
    }
    both = qalign_flops()  # asking for one of the two computes both
    return {**flops, "qalign_quality": both, "qalign_aesthetic": both}


def _peak(precision: str) -> Callable[[], float] | None:
    """Measures FLOP/s of torch's matrix product on the first GPU; None where torch sees none."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    torch.backends.cuda.matmul.allow_tf32 = False
    left = torch.randn(PEAK_SIDE, PEAK_SIDE, device="cuda", dtype=getattr(torch, PEAK_TYPES[precision]))

    def measure() -> float:
        torch.mm(left, left)
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(PEAK_PRODUCTS):
            torch.mm(left, left)
        torch.cuda.synchronize()
        return PEAK_PRODUCTS * 2.0 * PEAK_SIDE**3 / (time.perf_counter() - start)

    return measure


def _gpu() -> str | None:
    """What nvidia-smi calls the first GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False)
    return found.stdout.splitlines()[0] if found.returncode == 0 and found.stdout.strip() else None
