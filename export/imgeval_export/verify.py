"""`imgeval-export verify`: a served repository against the upstream libraries, value by value.

A comparison counts only if it could have failed: the tolerance must lie below a tenth of the spread (standard
deviation) of what is compared. One that does not is reported as saying nothing, and fails the verification.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgeval.client import Client
from imgeval.embedded import server
from imgeval.errors import BuildError, install_hint
from imgeval.result import Result
from imgeval.transport import GrpcTransport, Transport
from imgeval_export.precision import lowest_precision
from imgeval_export.profile import Progress
from imgeval_export.repository import BuildOptions, build, chosen_profile, weight_files

SPREAD_PER_TOLERANCE = 10
TIMEOUT_S = 1800.0  # of one request: SAM on two cores takes its time


@dataclass(frozen=True)
class Comparison:
    """One kind of value, ours against upstream's, over all test images."""

    name: str
    max_difference: float
    mean_difference: float
    spread: float  # standard deviation of upstream's values
    tolerance: float

    @property
    def verdict(self) -> str:
        """pass, FAIL, drift where nothing is demanded, or "says nothing" where the values vary too little."""
        if self.tolerance == np.inf and np.isfinite(self.max_difference):
            return "drift"
        if not self.max_difference <= self.tolerance:
            return "FAIL"
        return "pass" if self.tolerance * SPREAD_PER_TOLERANCE <= self.spread else "says nothing"


def compare(name: str, ours: object, upstream: object, tolerance: float) -> Comparison:
    """Compare arrays; NaN equals NaN, and arrays of different shapes differ without bound."""
    left, right = np.asarray(ours, np.float64), np.asarray(upstream, np.float64)
    if left.shape != right.shape or left.size == 0:
        return Comparison(name, np.inf, np.inf, float(np.nanstd(right)), tolerance)
    both_missing = np.isnan(left) & np.isnan(right)
    difference = np.where(both_missing, 0.0, np.abs(left - right))
    return Comparison(name, float(difference.max()), float(difference.mean()), float(np.nanstd(right)), tolerance)


def compare_keywords(results: Sequence[Result], upstream: Sequence[Sequence[tuple[str, float]]]) -> Comparison:
    """The keywords of each prompt, in order, with their scores."""
    ours = [[(keyword["word"], keyword["score"]) for keyword in result.sam_clip["keywords"]] for result in results]
    words = [[[word for word, _ in keywords] for keywords in side] for side in (ours, upstream)]
    scores = [[score for keywords in side for _, score in keywords] for side in (ours, upstream)]
    mine = scores[0] if words[0] == words[1] else [np.nan] * len(scores[0])
    return compare("sam_clip: keywords and their scores", mine, scores[1], 1e-4)


def compare_scores(results: Sequence[Result], tolerance: float) -> Comparison:
    """The score of the served graph against the plain mean of the values that the preset `seed` weighs."""
    tops = {"aesthetic": 10, "clip": 1, "qalign_quality": 5, "qalign_aesthetic": 5, "sam_clip": 1}
    means = [
        float(np.mean([result.metrics[name].raw / top for name, top in tops.items() if name in result.metrics]))
        for result in results
    ]
    return compare("score", [result.score for result in results], np.clip(means, 0, 1), tolerance)


@dataclass(frozen=True)
class Sample:
    """One test image with its prompt."""

    name: str
    prompt: str
    rgb: NDArray[np.uint8]  # (H, W, 3)

    @property
    def image(self) -> Image.Image:
        return Image.fromarray(self.rgb)


def samples(count: int) -> list[Sample]:
    """Pictures that scikit-image carries, with prompts: the first `count` of ten, photos of things first."""
    from skimage import data

    pictures: Sequence[tuple[str, str, Any]] = (
        ("coffee", "A cup of coffee with a spoon on a wooden table.", data.coffee),
        ("astronaut", "A smiling astronaut in an orange suit in front of a flag.", data.astronaut),
        ("cat", "A cat with green eyes looks into the camera.", data.chelsea),
        ("rocket", "A rocket on its launch pad at dusk.", data.rocket),
        ("galaxies", "Galaxies in the deep sky.", data.hubble_deep_field),
        ("retina", "The blood vessels of an eye.", data.retina),
        ("brick", "A wall of bricks.", data.brick),
        ("grass", "Blades of grass.", data.grass),
        ("page", "A printed page.", data.page),
        ("coins", "Old coins on a dark cloth.", data.coins),
    )
    found = []
    for name, prompt, load in pictures[:count]:
        picture = np.asarray(load())
        colour = picture[..., :3] if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=-1)
        found.append(Sample(name, prompt, np.ascontiguousarray(colour)))
    return found


@dataclass(frozen=True)
class Served:
    """The server under verification, and what its repository was built from."""

    profile: str
    repository: Path
    files: Mapping[str, Path]  # weight files by name
    settings: Mapping[str, Mapping[str, Any]]  # of the profile, with overrides
    precision: str  # the lowest of any network
    client: Client
    transport: Transport
    timeout_s: float = TIMEOUT_S

    def run(self, model: str, inputs: Mapping[str, NDArray[Any]], output: str) -> NDArray[Any]:
        """One output of one composing model."""
        return self.transport.infer(model, inputs, [output], self.timeout_s)[output]


Compare = Callable[[Served, Sequence[Sample]], Iterator[Comparison]]


def verify_profile(
    profile: str,
    weights_dir: Path,
    options: BuildOptions,
    images: int,
    progress: Progress,
    also: Sequence[str] = (),
) -> Iterator[Comparison]:
    """Build a repository, serve it, and give every comparison of the profile as it is made.

    The same is done again for all large networks in each precision of `also`, whose comparisons begin with its name.

    Raises:
        BuildError: it cannot be built, an upstream library is not installed, or there is nothing to compare with.
        EmbeddedServerError: it cannot be served here.
    """
    chosen = chosen_profile(profile, options)
    variants = {"": options, **{f"{name}: ": replace(options, precision=(name,)) for name in also}}
    for variant in variants.values():
        chosen_profile(profile, variant)  # refuses what there is not, before anything takes time
    comparisons = _comparisons(profile)
    files = weight_files(chosen, weights_dir, progress, options)
    compare_with = comparisons(profile, files, chosen.settings)
    for prefix, variant in variants.items():
        for each in _compare_served(profile, weights_dir, variant, files, samples(images), compare_with, progress):
            yield replace(each, name=prefix + each.name)


def _compare_served(
    profile: str,
    weights_dir: Path,
    options: BuildOptions,
    files: Mapping[str, Path],
    photos: Sequence[Sample],
    compare_with: Compare,
    progress: Progress,
) -> Iterator[Comparison]:
    chosen = chosen_profile(profile, options)
    with tempfile.TemporaryDirectory(prefix="imgeval-verify-") as scratch:
        repository = Path(scratch) / "repository"
        build(profile, repository, weights_dir, progress, options)
        progress("starting a server for it")
        running = server.start(repository, profile + server.VERIFICATION, port=server.free_port())
        try:
            with Client(running.url, timeout_s=TIMEOUT_S) as client:
                transport = GrpcTransport(running.url)
                precision = lowest_precision(chosen)
                served = Served(profile, repository, files, chosen.settings, precision, client, transport)
                yield from compare_with(served, photos)
                transport.close()
        finally:
            server.stop(running)


def _comparisons(profile: str) -> Callable[[str, Mapping[str, Path], Mapping[str, Mapping[str, Any]]], Compare]:
    """What makes the comparisons of a profile; imported here because it needs every upstream library."""
    try:
        if profile == "starter":
            from imgeval_export.verify_starter import compare_starter

            return lambda *_: compare_starter
        from imgeval_export.verify_published import PublishedComparisons
    except ImportError as error:
        raise BuildError(f"verify compares with the upstream libraries: {error}; {install_hint('verify')}") from error
    return PublishedComparisons
