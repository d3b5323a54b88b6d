"""How near the metrics come to the machine's limit, its measured matrix peak at the same precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import click
import numpy as np

from benchmarks import options, pictures, serving
from benchmarks.bare import Bare
from benchmarks.document import table
from benchmarks.flops import flops
from benchmarks.machine import matrix_products
from benchmarks.needed import Needed, Recorder, every_mask, needed, precision_of
from benchmarks.timing import Times, in_turns
from imgeval.client import Client
from imgeval.contract import INPUT_IDS, PIXELS
from imgeval.metrics.sam import encoder_input, point_grid

TIMEOUT_S = 3600.0
TOWER_BATCHES = (1, 4, 8)
COUNTED = ("clip", "aesthetic", "sam_clip", "iqa")  # Q-Align needs a GPU: see `gpu`


@dataclass(frozen=True)
class Network:
    """One network on inputs of one size."""

    name: str
    precision: str
    flops: float
    run: Callable[[], object]


@click.command()
@options.repository_options
@options.rounds(7)
@options.reported("limit")
def command(
    chosen: serving.Chosen,
    rounds: int,
) -> options.Report:
    """FLOPs of each metric and network, their times, and the fraction of the matrix peak that they reach.

    In turns, with all cores: the peak, every network bare in this process, and every metric as it is served.

    Example: python -m benchmarks limit --profile cpu --random-weights --precision bf16
    """
    photo = pictures.photos(1)[0]
    image = pictures.jpeg(0, photo.rgb.shape[1], photo.rgb.shape[0])
    with serving.setup(chosen) as setup:
        recorder = Recorder(setup.repository)
        metrics = {name: needed(recorder, image, photo.prompt, name) for name in COUNTED if name in setup.metrics}
        networks = _networks(recorder, image, photo.prompt)
        used = {network.precision for network in networks} | {each for one in metrics.values() for each in one.flops}
        products = {
            f"{each}, {shape}": (each, product)
            for each in sorted(used)
            for shape, product in matrix_products(each).items()
        }
        with serving.served(setup) as running, Client(running.url, timeout_s=TIMEOUT_S) as client:
            sides: dict[str, Callable[[], object]] = {
                f"metric {name}": lambda name=name: client.score(image, photo.prompt, metrics=(name,))  # type: ignore[misc]
                for name in metrics
            }
            sides |= {network.name: network.run for network in networks}
            sides |= {f"product {name}": product.run for name, (_, product) in products.items()}
            times = in_turns(sides, rounds)
    speeds = {
        name: (each, product.flops / times[f"product {name}"].median) for name, (each, product) in products.items()
    }
    peaks = {each: max(speed for kind, speed in speeds.values() if kind == each) for each in sorted(used)}
    return options.Report(
        f"{setup.notice}\nMatrix peak, the fastest of {len(products) // len(used)} shapes: "
        + "; ".join(f"{each} {peak / 1e9:.0f} GFLOP/s" for each, peak in peaks.items())
        + f". Medians (and quartiles) of {rounds} rounds in turns; {photo.rgb.shape[1]} x {photo.rgb.shape[0]} px.\n\n"
        f"Metrics, served, one request at a time, decoding and all steps included:\n\n"
        f"{_metrics(metrics, times, peaks)}\n\nTheir networks, bare:\n\n{_table(networks, times, peaks)}",
        setup.subject,
    )


def _metrics(metrics: Mapping[str, Needed], times: Mapping[str, Times], peaks: Mapping[str, float]) -> str:
    rows = []
    for name, each in metrics.items():
        taken = times[f"metric {name}"]
        limit_s = sum(count / peaks[kind] for kind, count in each.flops.items())
        share = f"{limit_s / taken.median:.2f}" if limit_s else "-"
        gflop = f"{sum(each.flops.values()) / 1e9:.1f}"
        rows.append([name, each.calls, gflop, taken.in_ms(), f"{limit_s * 1e3:.3g}", share])
    return table(["metric", "calls", "GFLOP", "ms", "at the peak, ms", "fraction of the limit"], rows)


def _table(networks: list[Network], times: Mapping[str, Times], peaks: Mapping[str, float]) -> str:
    rows = []
    for network in networks:
        taken, peak = times[network.name], peaks[network.precision]
        reached = network.flops / taken.median
        rows.append(
            [
                network.name,
                network.precision,
                f"{network.flops / 1e9:.1f}",
                taken.in_ms(),
                f"{network.flops / peak * 1e3:.3g}",
                f"{reached / 1e9:.0f}",
                f"{reached / peak:.2f}",
            ]
        )
    headings = ["network", "precision", "GFLOP", "ms", "at the peak, ms", "GFLOP/s", "fraction of the peak"]
    return table(headings, rows)


def _networks(bare: Bare, image: bytes, prompt: str) -> list[Network]:
    done = bare.preprocess(image, prompt)
    found = []
    for batch in TOWER_BATCHES:
        found.append(_network(bare, "clip_image", {PIXELS.name: np.repeat(done.pixels[None], batch, axis=0)}, batch))
    found.append(_network(bare, "clip_text", {INPUT_IDS.name: done.input_ids[None]}, 1))
    if (bare.folder("sam_encoder") / "model.onnx").exists():
        segments = bare.settings("sam_clip")["segments"]
        pixels = encoder_input(done.rgb, segments["image_size_px"])
        found.append(_network(bare, "sam_encoder", {"PIXELS": pixels}, 1))
        count = segments["points_per_batch"]
        points = (point_grid(segments["points_per_side"]) * segments["image_size_px"]).astype(np.float32)[:count]
        tokens = bare.run("sam_points", {"POINTS": points}, "POINT_TOKENS")
        inputs = {"EMBEDDING": bare.encode(pixels), "POINT_TOKENS": tokens, "MIN_IOU": every_mask()}
        found.append(_network(bare, "sam_decoder", inputs, len(points)))
    return found


def _network(bare: Bare, model: str, inputs: dict[str, np.ndarray], count: int) -> Network:  # type: ignore[type-arg]
    name = f"{model}, {count}" if count > 1 or model == "clip_image" else model
    count_of = flops(bare.folder(model) / "model.onnx", {key: array.shape for key, array in inputs.items()})
    return Network(name, precision_of(bare, model), count_of, lambda: bare.run_all(model, inputs))
