"""How near networks and metrics come to the machine's limit, its measured matrix peak at the same precision."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from benchmarks import options, pictures, serving
from benchmarks.bare import Bare
from benchmarks.document import table
from benchmarks.flops import flops
from benchmarks.machine import matrix_product
from benchmarks.timing import Times, in_turns
from imgeval.contract import INPUT_IDS, PIXELS
from imgeval.metrics.sam import encoder_input, point_grid

TOWER_BATCHES = (1, 4, 8)


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
    profile: str,
    repository: Path | None,
    precision: tuple[str, ...],
    overrides: tuple[str, ...],
    random_weights: bool,
    rounds: int,
) -> str:
    """FLOPs of each network, its time, and the fraction of the matrix peak that it reaches.

    Peak and networks are measured in turns, bare, in one process with all cores.

    Example: python -m benchmarks limit --profile cpu --random-weights --precision bf16
    """
    with serving.setup(profile, repository, precision, overrides, random_weights) as setup:
        networks = _networks(setup, Bare(setup.repository))
        peaks = {each: matrix_product(each) for each in sorted({network.precision for network in networks})}
        sides: dict[str, Callable[[], object]] = {network.name: network.run for network in networks}
        sides |= {f"peak {each}": run for each, (run, _) in peaks.items()}
        times = in_turns(sides, rounds)
        peak = {each: count / times[f"peak {each}"].median for each, (_, count) in peaks.items()}
        metrics = _metrics(Bare(setup.repository), {network.name: network for network in networks}, peak)
    rows = [_row(network, times[network.name], peak[network.precision]) for network in networks]
    lines = [f"matrix peak {each}: {value / 1e9:.0f} GFLOP/s" for each, value in peak.items()]
    headings = ["network", "precision", "GFLOP", "ms", "at the peak, ms", "GFLOP/s", "fraction of the peak"]
    of_metrics = ["metric", "made of", "s", "at the peak, s", "fraction of the limit"]
    return (
        f"{setup.notice}\n{'; '.join(lines)}; medians (and quartiles) of {rounds} rounds\n\n{table(headings, rows)}\n\n"
        f"Metrics, bare, from file and prompt to value, once:\n\n{table(of_metrics, metrics)}"
    )


def _metrics(bare: Bare, networks: Mapping[str, Network], peak: Mapping[str, float]) -> list[list[str]]:
    """The networks' work for each metric of one photo, and the time that the whole metric takes."""
    photo = pictures.photos(1)[0]
    data = pictures.png(0)

    def at_peak(name: str, count: float) -> float:
        return count * networks[name].flops / peak[networks[name].precision]

    rows = []
    tower = at_peak("clip_image, 1", 1)
    needed = {"clip": ("both towers", tower + at_peak("clip_text", 1)), "aesthetic": ("image tower", tower)}
    if "sam_encoder" in networks:
        options = bare.settings("sam_clip")["segments"]
        batch = options["points_per_batch"]
        crops = len(bare.sam_clip().segment(photo.rgb))
        batches = options["points_per_side"] ** 2 / batch
        parts = at_peak("sam_encoder", 1) + at_peak(f"sam_decoder, {batch}", batches) + crops * tower
        needed["sam_clip"] = (f"encoder, decoder for {batches * batch:.0f} points, {crops} crops", parts)
    for metric, (parts_of, limit) in needed.items():
        if metric == "aesthetic" and not (bare.folder("aesthetic") / "model.onnx").exists():
            continue
        bare.score(data, photo.prompt, ["clip"])  # warm
        start = time.perf_counter()
        bare.score(data, photo.prompt, [metric])
        taken = time.perf_counter() - start
        rows.append([metric, parts_of, f"{taken:.3g}", f"{limit:.3g}", f"{limit / taken:.2f}"])
    return rows


def _row(network: Network, times: Times, peak: float) -> list[str]:
    reached = network.flops / times.median
    return [
        network.name,
        network.precision,
        f"{network.flops / 1e9:.1f}",
        times.in_ms(),
        f"{network.flops / peak * 1e3:.3g}",
        f"{reached / 1e9:.0f}",
        f"{reached / peak:.2f}",
    ]


def _networks(setup: serving.Setup, bare: Bare) -> list[Network]:
    photo = pictures.photos(1)[0]
    done = bare.preprocess(pictures.jpeg(0, 640, 480), photo.prompt)
    found = []
    for batch in TOWER_BATCHES:
        found.append(_network(bare, "clip_image", {PIXELS.name: np.repeat(done.pixels[None], batch, axis=0)}, batch))
    found.append(_network(bare, "clip_text", {INPUT_IDS.name: done.input_ids[None]}, 1))
    if (bare.folder("sam_encoder") / "model.onnx").exists():
        segments = bare.settings("sam_clip")["segments"]
        pixels = encoder_input(photo.rgb, segments["image_size_px"])
        found.append(_network(bare, "sam_encoder", {"PIXELS": pixels}, 1))
        count = segments["points_per_batch"]
        points = (point_grid(segments["points_per_side"]) * segments["image_size_px"]).astype(np.float32)[:count]
        tokens = bare.run("sam_points", {"POINTS": points}, "POINT_TOKENS")
        inputs = {
            "EMBEDDING": bare.encode(pixels),
            "POINT_TOKENS": tokens,
            "MIN_IOU": np.array([-np.inf], np.float32),  # every mask: what the FLOPs count
        }
        found.append(_network(bare, "sam_decoder", inputs, count))
    return found


def _network(bare: Bare, model: str, inputs: dict[str, np.ndarray], count: int) -> Network:  # type: ignore[type-arg]
    path = bare.folder(model) / "model.onnx"
    name = f"{model}, {count}" if count > 1 or model == "clip_image" else model
    needed = flops(path, {key: array.shape for key, array in inputs.items()})
    return Network(name, _precision(bare, model, path), needed, lambda: bare.run_all(model, inputs))


def _precision(bare: Bare, model: str, path: Path) -> str:
    """What the network's large products are computed in."""
    parameters = bare.parameters(model)
    if "activation_group" in parameters:
        return "int8"
    if parameters.get("inference_precision") == "bf16":
        return "bf16"
    import onnx

    types = {tensor.data_type for tensor in onnx.load(path, load_external_data=False).graph.initializer}
    return "bf16" if onnx.TensorProto.BFLOAT16 in types else "fp32"
