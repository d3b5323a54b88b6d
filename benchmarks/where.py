"""Where the time of one request goes: by model from the server's statistics, and the parts of sam_clip."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import document, options, pictures, serving
from benchmarks.bare import Bare
from benchmarks.document import table
from imgeval.client import Client
from imgeval.image import pixels
from imgeval.metrics.segments import Segment, crop

TIMEOUT_S = 3600.0
BAR_PX, ROW_PX, LABEL_PX = 420, 24, 190


@click.command()
@options.repository_options
@options.rounds(3)
@options.reported("where")
def command(
    profile: str,
    repository: Path | None,
    precision: tuple[str, ...],
    overrides: tuple[str, ...],
    random_weights: bool,
    rounds: int,
) -> str:
    """The share of each model in a request for all metrics, as a table and as docs/where-PROFILE.svg.

    Example: python -m benchmarks where --profile starter
    """
    photo = pictures.photos(1)[0]
    with serving.setup(profile, repository, precision, overrides, random_weights) as setup:
        with serving.served(setup) as running, Client(running.url, timeout_s=TIMEOUT_S) as client:
            client.score(photo.image, photo.prompt)
            before, start = serving.statistics(running.url), time.perf_counter()
            for _ in range(rounds):
                client.score(photo.image, photo.prompt)
            request_ms = (time.perf_counter() - start) / rounds * 1e3
            spent = serving.since(running.url, before)
        parts = _parts_of_sam_clip(Bare(setup.repository), photo.rgb, photo.prompt)
    models = {name: each.infer_ms / rounds for name, each in spent.items() if name not in ("imgeval", "sam_clip")}
    called = ("sam_encoder", "sam_points", "sam_decoder", "keywords")
    rest = (spent["sam_clip"].infer_ms - sum(spent[name].infer_ms for name in called if name in spent)) / rounds
    models["sam_clip (its own, and towers)"] = rest
    picture = document.PATH.with_name(f"where-{setup.profile}.svg")
    picture.write_text(_bars(models), encoding="utf-8")
    rows = [[name, f"{value:.1f}", f"{value / request_ms:.0%}"] for name, value in _ordered(models)]
    inside = [[name, f"{value * 1e3:.1f}"] for name, value in parts.items()]
    return (
        f"{setup.notice}\nOne request for all metrics, {photo.rgb.shape[1]} x {photo.rgb.shape[0]} px: "
        f"{request_ms:.0f} ms. Steps run side by side, so shares may add up to more than 100 %\n\n"
        f"{table(['model', 'compute, ms', 'of the request'], rows)}\n\n![the same as bars]({picture.name})\n\n"
        f"sam_clip's parts, bare, one after another:\n\n{table(['part', 'ms'], inside)}"
    )


def _ordered(values: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(values.items(), key=lambda item: -item[1])


def _parts_of_sam_clip(bare: Bare, rgb: Any, prompt: str) -> dict[str, float]:
    """Seconds in each part of one image's sam_clip, in its second run."""
    metric = bare.sam_clip()
    taken: dict[str, float] = {}

    def timed(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = time.perf_counter()
            result = run(*args)
            taken[name] = taken.get(name, 0.0) + time.perf_counter() - start
            return result

        return call

    def cut(segments: Sequence[Segment]) -> list[NDArray[np.uint8]]:
        return [crop(rgb, each) for each in segments]

    def resize(crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return np.stack([pixels(each, metric.pixel_spec) for each in crops])

    for _ in range(2):
        taken.clear()
        crops = timed("crops: cut", cut)(timed("segments, all of it", metric.segment)(rgb))
        inputs = timed("crops: resize", resize)(crops)
        timed(f"crops: image tower, {len(crops)} of them", metric.embed_images)(inputs)
        timed("keywords and their embeddings", metric.keywords)([prompt])
    return taken


def _bars(values: Mapping[str, float]) -> str:
    """A bar chart as SVG; colours of the page that shows it."""
    ordered = [(name, value) for name, value in _ordered(values) if value > 0]
    longest = ordered[0][1]
    height = ROW_PX * len(ordered)
    rows = []
    for index, (name, value) in enumerate(ordered):
        y, width = index * ROW_PX, max(1.0, BAR_PX * value / longest)
        rows.append(
            f'<text x="{LABEL_PX - 8}" y="{y + 16}" text-anchor="end">{html.escape(name)}</text>'
            f'<rect x="{LABEL_PX}" y="{y + 4}" width="{width:.1f}" height="{ROW_PX - 8}" fill="#2b6cb0"/>'
            f'<text x="{LABEL_PX + width + 6:.1f}" y="{y + 16}">{value:.1f} ms</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL_PX + BAR_PX + 110}" height="{height}" '
        f'font-family="sans-serif" font-size="12" fill="#666">{"".join(rows)}</svg>\n'
    )
