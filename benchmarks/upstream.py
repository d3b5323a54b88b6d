"""The served metrics against the upstream way: open_clip, segment-anything, KeyBERT and pyiqa, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import options, pictures, serving
from benchmarks.document import table
from benchmarks.timing import Times, in_turns, ratio
from imgeval.client import Client
from imgeval_export.verify import Sample

TIMEOUT_S = 3600.0
FAST = {"clip + aesthetic": ("clip", "aesthetic"), "iqa": ("iqa",)}
SLOW = {"sam_clip": ("sam_clip",), "all": None}  # upstream takes minutes for each image


class Upstream:
    """Every metric of the profile as its authors run it, in float32."""

    def __init__(self, given: serving.Setup, settings: dict[str, Any]) -> None:
        from imgeval_export import published
        from imgeval_export.reference.clip import ReferenceAesthetic, ReferenceClip
        from imgeval_export.reference.iqa import ReferenceIqa
        from imgeval_export.reference.minilm import minilm_folder
        from imgeval_export.reference.sam_clip import ReferenceSamClip
        from imgeval_export.repository import BuildOptions, chosen_profile, read_manifest, weight_files
        from imgeval_export.verify_published import SAM_KINDS

        kind = read_manifest(given.repository)["weights_kind"]
        chosen = BuildOptions(random_weights=kind == "random")
        files = weight_files(chosen_profile(given.profile, chosen), given.weights, click.echo, chosen)
        self.clip = ReferenceClip(files[published.CLIP_FILE])
        self.aesthetic = ReferenceAesthetic(files[published.AESTHETIC_FILE])
        self.iqa = ReferenceIqa("musiq", files[published.MUSIQ_FILE])
        sam, kind = files[published.SAM_FILES[given.profile]], SAM_KINDS[given.profile]
        self.sam_clip = ReferenceSamClip(self.clip, sam, kind, minilm_folder(), settings["segments"])

    def run(self, metrics: Sequence[str] | None, photo: Sample) -> None:
        """Compute these metrics; all of them where None."""
        if metrics is None or "clip" in metrics:
            image = self.clip.embed_images([photo.image])
            text = self.clip.embed_texts([photo.prompt])
            float((image @ text.T).item())
            self.aesthetic.score(image)
        if metrics is None or "iqa" in metrics:
            self.iqa.score(photo.image)
        if metrics is None or "sam_clip" in metrics:
            self.sam_clip.relevance(photo.rgb, photo.prompt, self.sam_clip.masks(photo.rgb))

    def warm_up(self, photo: Sample) -> None:
        """Run each network once, SAM's decoder on one batch of points."""
        self.run(("clip", "iqa"), photo)
        predictor = self.sam_clip.generator.predictor
        predictor.set_image(photo.rgb)
        predictor.predict(point_coords=np.array([[8.0, 8.0]]), point_labels=np.array([1]))


@click.command()
@options.repository_options
@options.rounds(5)
@click.option("--images", default=2, show_default=True, type=click.IntRange(1, 4), help="For sam_clip and for all.")
@options.reported("upstream")
def command(
    profile: str,
    repository: Path | None,
    precision: tuple[str, ...],
    overrides: tuple[str, ...],
    random_weights: bool,
    rounds: int,
    images: int,
) -> str:
    """The served metrics against the libraries that their authors published, on the same weights and pictures.

    Example: python -m benchmarks upstream --profile cpu --random-weights --precision bf16
    """
    if profile == "starter" and repository is None:
        raise click.UsageError("upstream compares the profiles cpu and full; give --profile cpu")
    photos = pictures.photos(images)
    with serving.setup(profile, repository, precision, overrides, random_weights) as setup:
        from benchmarks.bare import Bare

        upstream = Upstream(setup, Bare(setup.repository).settings("sam_clip"))
        upstream.warm_up(photos[0])
        with serving.served(setup) as running, Client(running.url, timeout_s=TIMEOUT_S) as client:
            segments: list[int] = []

            def serve(metrics: Sequence[str] | None, photo: Sample) -> None:
                result = client.score(photo.image, photo.prompt, metrics=metrics)
                if metrics is None:
                    segments.append(len(result.sam_clip["segments"]))

            with serving.peak(lambda: serving.server_bytes(running)) as largest:
                rows = [_row(name, *_fast(serve, upstream, metrics, photos, rounds)) for name, metrics in FAST.items()]
                rows += [_row(name, *_slow(serve, upstream, metrics, photos)) for name, metrics in SLOW.items()]
    headings = ["metrics", "upstream images/s", "served images/s", "upstream s", "served s", "served / upstream"]
    sizes = ", ".join(f"{photo.rgb.shape[1]} x {photo.rgb.shape[0]}" for photo in photos)
    return (
        f"{setup.notice}\nPhotos of {sizes} px, one request at a time; {min(segments)} to {max(segments)} large "
        f"segments in each\n\n{table(headings, rows)}\n\npeak memory of the server: {largest[0] / 2**30:.2f} GiB (PSS)"
    )


Serve = Callable[[Sequence[str] | None, Sample], None]


def _fast(
    serve: Serve, upstream: Upstream, metrics: Sequence[str], photos: Sequence[Sample], rounds: int
) -> tuple[Times, Times]:
    def all_photos(run: Serve) -> Callable[[], None]:
        def each() -> None:
            for photo in photos:
                run(metrics, photo)

        return each

    times = in_turns({"upstream": all_photos(upstream.run), "served": all_photos(serve)}, rounds)
    per_image = {name: Times(tuple(s / len(photos) for s in each.seconds)) for name, each in times.items()}
    return per_image["upstream"], per_image["served"]


def _slow(
    serve: Serve, upstream: Upstream, metrics: Sequence[str] | None, photos: Sequence[Sample]
) -> tuple[Times, Times]:
    taken: dict[str, list[float]] = {"upstream": [], "served": []}
    for photo in photos:
        for name, run in (("served", serve), ("upstream", upstream.run)):
            start = time.perf_counter()
            run(metrics, photo)
            taken[name].append(time.perf_counter() - start)
            click.echo(f"{metrics or 'all'}, {photo.name}, {name}: {taken[name][-1]:.1f} s", err=True)
    return Times(tuple(taken["upstream"])), Times(tuple(taken["served"]))


def _row(name: str, upstream: Times, served: Times) -> list[str]:
    return [
        name,
        f"{1 / upstream.median:.3g}",
        f"{1 / served.median:.3g}",
        f"{upstream.median:.3g}",
        f"{served.median:.3g}",
        ratio(upstream.seconds, served.seconds),
    ]
