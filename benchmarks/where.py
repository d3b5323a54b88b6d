"""Where the time of one request goes: by model from the server's statistics, and the parts of sam_clip."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks import options, pictures, serving
from benchmarks.bare import Bare
from benchmarks.document import table
from imgeval.client import Client
from imgeval.image import pixels
from imgeval.metrics.relevance import relevance
from imgeval.metrics.sam_clip import DescribedSegment
from imgeval.metrics.segmenters import segmenter
from imgeval.metrics.segments import crop

T = TypeVar("T")

TIMEOUT_S = 3600.0
CALLED_ALONE = ("sam_encoder", "sam_points", "sam_decoder", "keywords")  # networks that only sam_clip calls
BAR_PX, ROW_PX, LABEL_PX = 420, 24, 250
NUMBERS_PX = 110


@click.command()
@options.repository_options
@options.rounds(3)
@options.reported("where")
def command(
    chosen: serving.Chosen,
    rounds: int,
) -> options.Report:
    """The share of each model in a request for all metrics, as a table and, with --write, docs/where-PROFILE.svg.

    Example: python -m benchmarks where --profile starter
    """
    photo = pictures.photos(1)[0]
    with serving.setup(chosen) as setup:
        with serving.served(setup) as running, Client(running.url, timeout_s=TIMEOUT_S) as client:
            client.score(photo.image, photo.prompt)
            before, start = serving.statistics(running.url), time.perf_counter()
            for _ in range(rounds):
                client.score(photo.image, photo.prompt)
            request_ms = (time.perf_counter() - start) / rounds * 1e3
            spent = serving.since(running.url, before)
        parts, crops = parts_of_sam_clip(Bare(setup.repository), photo.rgb, photo.prompt, rounds)
    models = {name: each.infer_ms / rounds for name, each in spent.items() if name not in ("imgeval", "sam_clip")}
    alone = sum(spent[name].infer_ms for name in CALLED_ALONE if name in spent) / rounds
    # The towers serve both the ensemble and sam_clip, and the statistics do not tell which; bare, it can be told.
    towers = sum(value for name, value in parts.items() if "tower" in name)
    own = max(0.0, spent["sam_clip"].infer_ms / rounds - alone - towers)
    models["sam_clip's own (about)"] = own
    file = f"where-{setup.profile}.svg"
    rows = [[name, f"{value:.1f}", f"{value / request_ms:.0%}"] for name, value in _ordered(models)]
    inside = [[name, f"{value:.1f}", f"{value / sum(parts.values()):.0%}"] for name, value in parts.items()]
    picture = bars({f"models, ms of a request of {request_ms:.0f} ms": models, "parts of sam_clip, bare, ms": parts})
    text = (
        f"{setup.notice}\nOne request for all metrics, {photo.rgb.shape[1]} x {photo.rgb.shape[0]} px, "
        f"mean of {rounds}: {request_ms:.0f} ms. Steps run side by side, so shares may add up to more than 100 %.\n\n"
        f"{table(['model', 'compute, ms', 'of the request'], rows)}\n\n![the same as bars]({file})\n\n"
        f"The parts of sam_clip with {crops} segments, bare, one after another, median of {rounds}: "
        f"{sum(parts.values()):.0f} ms in all.\n\n{table(['part', 'ms', 'share'], inside)}"
    )
    return options.Report(text, setup.subject, {file: picture})


def _ordered(values: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(values.items(), key=lambda item: -item[1])


class Stopwatch:
    """Seconds by name, added up over calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, run: Callable[..., T]) -> Callable[..., T]:
        """`run`, with its time added to `name`."""

        def call(*args: Any, **kwargs: Any) -> T:
            start = time.perf_counter()
            try:
                return run(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

        return call


def parts_of_sam_clip(bare: Bare, rgb: NDArray[np.uint8], prompt: str, rounds: int) -> tuple[dict[str, float], int]:
    """Median milliseconds in each part of one image's sam_clip, after one run that does not count; and its segments."""
    runs: list[dict[str, float]] = []
    segments = 0
    for _ in range(rounds + 1):
        watch = Stopwatch()
        segments = _run_in_parts(bare, rgb, prompt, watch)
        runs.append(watch.seconds)
    names = runs[-1]
    return {name: float(np.median([run[name] for run in runs[1:]])) * 1e3 for name in names}, segments


def _run_in_parts(bare: Bare, rgb: NDArray[np.uint8], prompt: str, watch: Stopwatch) -> int:
    """The steps of `SamClip.__call__` for one item, each under the watch; returns the number of segments."""
    metric, settings = bare.sam_clip(), bare.settings("sam_clip")
    encoder, decoder = "SAM encoder", "SAM decoder"
    segment = segmenter(
        settings["segmenter"],
        settings["segments"],
        watch.timed(encoder, bare.encode),
        watch.timed(decoder, bare.decode),
    )
    filtering = "masks: filter, enlarge, draw" if settings["segmenter"] == "sam" else "segments"
    found = watch.timed(filtering, segment)(rgb)
    watch.seconds[filtering] -= watch.seconds.get(encoder, 0.0) + watch.seconds.get(decoder, 0.0)
    crops = watch.timed("crops: cut", lambda: [crop(rgb, each) for each in found])()
    keywords = watch.timed("keywords", metric.keywords)([prompt])[0]
    watch.timed("segments: run lengths", lambda: [DescribedSegment.of(each) for each in found])()
    if crops and keywords:
        resized = watch.timed("crops: resize", lambda: np.stack([pixels(each, metric.pixel_spec) for each in crops]))()
        vectors = watch.timed("crops: image tower", metric.embed_images)(resized)
        words = [each.word for each in keywords]
        texts = watch.timed("keywords: text tower", metric.texts)(words)
        watch.timed("relevance", relevance)(vectors, texts)
    return len(found)


def bars(groups: Mapping[str, Mapping[str, float]]) -> str:
    """Bar charts as one SVG, a group after the other, each with its title and the longest bar on top; values in ms."""
    parts, y = [], 0
    for title, values in groups.items():
        shown = [(name, value) for name, value in _ordered(values) if value > 0]
        parts.append(f'<text x="4" y="{y + 17}" font-weight="bold">{html.escape(title)}</text>')
        y += ROW_PX
        for name, value in shown:
            width = max(1.0, BAR_PX * value / shown[0][1])
            parts.append(
                f'<text x="{LABEL_PX - 8}" y="{y + 16}" text-anchor="end">{html.escape(name)}</text>'
                f'<rect x="{LABEL_PX}" y="{y + 4}" width="{width:.1f}" height="{ROW_PX - 8}" fill="#2b6cb0"/>'
                f'<text x="{LABEL_PX + width + 6:.1f}" y="{y + 16}">{value:.1f}</text>'
            )
            y += ROW_PX
        y += ROW_PX // 2
    # Grey text is readable on the white and on the dark page that shows it.
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL_PX + BAR_PX + NUMBERS_PX}" height="{y}" '
        f'font-family="sans-serif" font-size="12" fill="#777">{"".join(parts)}</svg>\n'
    )
