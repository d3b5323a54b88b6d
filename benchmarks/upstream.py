"""The served metrics against the upstream way: open_clip, segment-anything, KeyBERT and pyiqa, one after another."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import click
import numpy as np

from benchmarks import options, pictures, serving
from benchmarks.document import table
from benchmarks.timing import Times, ratio, spread
from imgeval.client import Client
from imgeval_export.verify import Sample

TIMEOUT_S = 3600.0
GROUPS = {"clip + aesthetic": ("clip", "aesthetic"), "iqa": ("iqa",), "sam_clip": ("sam_clip",)}
ALL = "all"
FAST_ROUNDS = 5  # at least, of what takes upstream a second or two
SLOW = ("sam_clip", ALL)  # upstream takes minutes for each image
WARM_UP_POINT = (8.0, 8.0)

Values = dict[str, float]  # raw value by metric


class Upstream:
    """The metrics that a repository serves, as their authors run them, in float32 and from the same weight files."""

    def __init__(self, given: serving.Setup) -> None:
        from imgeval_export import published
        from imgeval_export.reference.clip import ReferenceAesthetic, ReferenceClip
        from imgeval_export.reference.iqa import ReferenceIqa
        from imgeval_export.reference.minilm import minilm_folder
        from imgeval_export.reference.sam_clip import ReferenceSamClip
        from imgeval_export.repository import chosen_profile, weight_files
        from imgeval_export.verify_published import SAM_KINDS

        chosen = given.options
        profile = chosen_profile(given.profile, chosen)
        files = weight_files(profile, given.weights, lambda line: click.echo(line, err=True), chosen)
        self.clip = ReferenceClip(files[published.CLIP_FILE])
        self.aesthetic = ReferenceAesthetic(files[published.AESTHETIC_FILE])
        self.iqa = None
        if "iqa" in given.metrics:
            self.iqa = ReferenceIqa(profile.settings["iqa"]["metric"], files[published.MUSIQ_FILE])
        sam, kind = files[published.SAM_FILES[given.profile]], SAM_KINDS[given.profile]
        segments = profile.settings["sam_clip"]["segments"]
        self.sam_clip = ReferenceSamClip(self.clip, sam, kind, minilm_folder(), segments)

    def run(self, metrics: Sequence[str], photo: Sample) -> Values:
        """Compute these metrics, one after another."""
        from imgeval_export.reference.sam_clip import score

        values: Values = {}
        if "clip" in metrics:
            image = self.clip.embed_images([photo.image])
            text = self.clip.embed_texts([photo.prompt])
            values["clip"] = float((image @ text.T).item())
            values["aesthetic"] = float(self.aesthetic.score(image).item())
        if "iqa" in metrics and self.iqa is not None:
            values["iqa"] = self.iqa.score(photo.image)
        if "sam_clip" in metrics:
            values["sam_clip"] = score(self.sam_clip.relevance(photo.rgb, photo.prompt, self.sam_clip.masks(photo.rgb)))
        return values

    def warm_up(self, photo: Sample) -> None:
        """Run each network once, SAM's decoder on one point: a whole image takes minutes."""
        self.run(("clip", "iqa"), photo)
        self.sam_clip.keywords(photo.prompt)
        predictor = self.sam_clip.generator.predictor
        predictor.set_image(photo.rgb)
        predictor.predict(point_coords=np.array([WARM_UP_POINT]), point_labels=np.array([1]))


@dataclass
class Row:
    """Seconds of both sides, image by image, and the largest difference of a value."""

    upstream: list[float]
    served: list[float]
    difference: float = 0.0


@click.command()
@options.repository_options
@options.rounds(1)
@click.option("--images", default=2, show_default=True, type=click.IntRange(1, 4), help="Photos to compute.")
@click.option("--groups", default="", metavar="A,B", help=f"Of {', '.join((*GROUPS, ALL))}; default: each.")
@options.reported("upstream")
def command(
    chosen: serving.Chosen,
    rounds: int,
    images: int,
    groups: str,
) -> options.Report:
    """The served metrics against the libraries that their authors published, on the same weights and pictures.

    `--rounds` is for sam_clip and for all, of which upstream takes minutes an image; the others get 5 or more.

    Example: python -m benchmarks upstream --profile cpu --random-weights --precision bf16
    """
    photos = pictures.photos(images)
    with serving.setup(chosen) as setup:
        if setup.profile == "starter":
            raise click.UsageError("upstream compares the profiles cpu and full; give --profile cpu")
        asked = _chosen(groups, setup.metrics)
        upstream = Upstream(setup)
        upstream.warm_up(photos[0])
        with serving.served(setup) as running, Client(running.url, timeout_s=TIMEOUT_S) as client:
            segments: set[int] = set()

            def serve(metrics: Sequence[str], photo: Sample) -> Values:
                result = client.score(photo.image, photo.prompt, metrics=metrics)
                if result.sam_clip:
                    segments.add(len(result.sam_clip["segments"]))
                return {name: metric.raw for name, metric in result.metrics.items()}

            serve(setup.metrics, photos[-1])  # a photo has segments, whose crops warm up the image tower's batches
            with serving.peak(lambda: serving.server_bytes(running)) as largest:
                rows = {
                    name: _compare(name, serve, upstream.run, metrics, photos, rounds)
                    for name, metrics in asked.items()
                }
    sizes = ", ".join(f"{photo.rgb.shape[1]} x {photo.rgb.shape[0]}" for photo in photos)
    headings = [
        "metrics",
        "upstream images/s",
        "served images/s",
        "upstream s",
        "served s",
        "times faster",
        "differ by",
    ]
    return options.Report(
        f"{setup.notice}\nPhotos of {sizes} px, one request at a time, both sides warm and in turns; "
        f"{min(segments)} to {max(segments)} large segments in each. Upstream computes in float32; the largest "
        "difference of a raw value is in the last column.\n\n"
        f"{table(headings, [_cells(name, row) for name, row in rows.items()])}\n\n"
        f"Peak memory of the server: {largest[0] / 2**30:.2f} GiB (PSS)",
        setup.subject,
    )


def _chosen(groups: str, served: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The metrics of each group to compare; what the repository does not serve is left out."""
    common = tuple(name for metrics in GROUPS.values() for name in metrics if name in served)
    there = {name: metrics for name, metrics in GROUPS.items() if set(metrics) <= set(served)} | {ALL: common}
    names = [name.strip() for name in groups.split(",")] if groups else list(there)
    if unknown := [name for name in names if name not in there]:
        raise click.UsageError(f"--groups: got {unknown[0]}; allowed: {', '.join(there)}")
    return {name: there[name] for name in names}


Run = Callable[[Sequence[str], Sample], Values]


def _compare(
    name: str, serve: Run, upstream: Run, metrics: Sequence[str], photos: Sequence[Sample], rounds: int
) -> Row:
    """Both sides on every photo, in turns, the first one changing from image to image."""
    row = Row([], [])
    for index in range(rounds if name in SLOW else max(rounds, FAST_ROUNDS)):
        for place, photo in enumerate(photos):
            sides = [(row.served, serve), (row.upstream, upstream)]
            values = []
            for taken, run in sides if (index + place) % 2 == 0 else sides[::-1]:
                start = time.perf_counter()
                values.append(run(metrics, photo))
                taken.append(time.perf_counter() - start)
            row.difference = max(row.difference, largest_difference(*values))
            click.echo(
                f"{name}, {photo.name}: upstream {row.upstream[-1]:.2f} s, served {row.served[-1]:.2f} s", err=True
            )
    return row


def largest_difference(one: Values, other: Values) -> float:
    """Over the metrics; infinite where one side has a value and the other has none."""
    pairs = [(one.get(name, math.nan), other.get(name, math.nan)) for name in one.keys() | other.keys()]
    kept = [pair for pair in pairs if not all(map(math.isnan, pair))]
    return max((math.inf if any(map(math.isnan, pair)) else abs(pair[0] - pair[1]) for pair in kept), default=0.0)


def _cells(name: str, row: Row) -> list[str]:
    upstream, served = Times(tuple(row.upstream)), Times(tuple(row.served))
    return [
        name,
        f"{1 / upstream.median:.3g}",
        f"{1 / served.median:.3g}",
        spread(row.upstream),
        spread(row.served),
        ratio(row.upstream, row.served),
        f"{row.difference:.1g}",
    ]
