"""Which image is the best for a prompt, which prompt fits an image, and all of them against all.

images x prompts --many.outcomes--> outcomes --rank_outcomes--> places, probabilities, and what to beware of
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from imgeval.contract import METRIC_NAMES
from imgeval.errors import ImgevalError, InvalidInputError
from imgeval.inputs import check_metrics, check_prompt, encode_image, image_label, prompt_label
from imgeval.many import Outcome, Task, outcomes, refused
from imgeval.metrics.relevance import softmax_of_cosines
from imgeval.result import SCORE, Result

if TYPE_CHECKING:
    from imgeval.core import Core
    from imgeval.inputs import ImageLike

COSINE = "clip"  # the metric that probabilities are made of


@dataclass(frozen=True)
class Ranked:
    """One row of a ranking.

    `place` counts from 1, and equal values share one; it is None where there is no value, or none that can be compared.
    `value` is what the ranking goes by. `probability`, 0..1, is the softmax of 100 x cosine over the rows that have a
    cosine of image and prompt: how CLIP, asked to choose one of them, divides its belief. The temperature of 100 is
    CLIP's own; cosines of the starter profile's ConSE get the same one, which is not fitted to them.
    """

    place: int | None
    value: float | None
    probability: float | None
    outcome: Outcome


@dataclass(frozen=True)
class Ranking:
    """Images for one prompt, or prompts for one image: best first, then what has no value, in the order given.

    `comparable` is False where the results were made by different models (their fingerprints differ); no place and no
    probability is given then. `caveats` are sentences for people: ties, and what makes values doubtful.
    """

    by: str
    rows: tuple[Ranked, ...]
    comparable: bool
    caveats: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `imgeval-client rank --json` and `match --json`."""
        return {
            "by": self.by,
            "comparable": self.comparable,
            "caveats": list(self.caveats),
            "rows": [
                {
                    "place": row.place,
                    "value": row.value,
                    "probability": row.probability,
                    "index": row.outcome.index,
                    "image": row.outcome.image,
                    "prompt": row.outcome.prompt,
                    "result": row.outcome.result.to_dict() if row.outcome.result else None,
                    "error": str(row.outcome.error) if row.outcome.error else None,
                }
                for row in self.rows
            ],
        }


@dataclass(frozen=True)
class Matrix:
    """Every image (row) against every prompt (column): `cells[i][j]` is a Result, or the error that stands for it."""

    images: tuple[str, ...]
    prompts: tuple[str, ...]
    cells: tuple[tuple[Result | ImgevalError, ...], ...]

    @property
    def comparable(self) -> bool:
        """Whether all results were made by the same models."""
        return len({cell.fingerprint for row in self.cells for cell in row if isinstance(cell, Result)}) <= 1

    def values(self, by: str = SCORE) -> list[list[float | None]]:
        """The score, or one metric's raw values, by row and column; None where there is none."""
        check_by(by, None)
        return [[cell.value(by) if isinstance(cell, Result) else None for cell in row] for row in self.cells]


async def rank(core: Core, prompt: str, images: Sequence[ImageLike], by: str, metrics: Sequence[str] | None) -> Ranking:
    """`Client.rank`, which says what it does."""
    names = check_by(by, metrics)
    check_prompt(prompt)
    return rank_outcomes(await _scored(core, _several(images, "images"), [prompt], names), by)


async def match(
    core: Core, image: ImageLike, prompts: Sequence[str], by: str, metrics: Sequence[str] | None, label: str | None
) -> Ranking:
    """`Client.match`, which says what it does."""
    names = check_by(by, metrics)
    columns = _several(prompts, "prompts")
    encoded = await core.waiting.work(encode_image, image)  # where it is none, there is nothing to match
    return rank_outcomes(await _scored(core, [encoded], columns, names, label or image_label(image)), by)


async def matrix(
    core: Core, images: Sequence[ImageLike], prompts: Sequence[str], metrics: Sequence[str] | None
) -> Matrix:
    """`Client.matrix`, which says what it does."""
    names = check_metrics(metrics)
    rows, columns = _several(images, "images"), _several(prompts, "prompts")
    found = [outcome.result or outcome.error for outcome in await _scored(core, rows, columns, names)]
    cells = [cell for cell in found if cell is not None]  # an outcome always has one of the two
    starts = range(0, len(cells), len(columns))
    return Matrix(
        tuple(map(image_label, rows)),
        tuple(columns),
        tuple(tuple(cells[start : start + len(columns)]) for start in starts),
    )


def check_by(by: str, metrics: Sequence[str] | None) -> tuple[str, ...]:
    """The metrics to compute for a ranking: those given, else all for the score, and only `by` for a metric.

    Raises:
        InvalidInputError: `by` is neither the score nor a metric that is computed, or a metric is unknown.
    """
    if by != SCORE and by not in METRIC_NAMES:
        raise InvalidInputError("by", f"got {by}; allowed: {', '.join((SCORE, *METRIC_NAMES))}")
    if metrics is None:
        return METRIC_NAMES if by == SCORE else (by,)
    names = check_metrics(metrics)
    if by not in (SCORE, *names):
        raise InvalidInputError("by", f"got {by}, which is not among the metrics asked for: {', '.join(names)}")
    return names


def rank_outcomes(found: Sequence[Outcome], by: str) -> Ranking:
    """A ranking of outcomes that are one prompt's or one image's, `by` the score or a metric."""
    results = {outcome.index: outcome.result for outcome in found if outcome.result}
    values = {index: value for index, result in results.items() if (value := result.value(by)) is not None}
    comparable = len({result.fingerprint for result in results.values()}) <= 1
    lower = any(by in results[index].metrics and results[index].metrics[by].lower_is_better for index in values)
    sign = 1 if lower else -1
    probabilities = _probabilities(results) if comparable else {}
    rows: list[Ranked] = []
    for position, outcome in enumerate(
        sorted(found, key=lambda each: (each.index not in values, sign * values.get(each.index, 0.0)))  # stable
    ):
        value = values.get(outcome.index)
        tied = position > 0 and value == rows[-1].value
        place = None if value is None or not comparable else rows[-1].place if tied else position + 1
        rows.append(Ranked(place, value, probabilities.get(outcome.index), outcome))
    return Ranking(by, tuple(rows), comparable, tuple(_caveats(rows, by, comparable)))


def _probabilities(results: dict[int, Result]) -> dict[int, float]:
    cosines = {index: cosine for index, result in results.items() if (cosine := result.value(COSINE)) is not None}
    if not cosines:
        return {}
    chosen = softmax_of_cosines(np.array(list(cosines.values()), dtype=np.float64))  # (N,)
    return dict(zip(cosines, chosen.tolist(), strict=True))


def _caveats(rows: Sequence[Ranked], by: str, comparable: bool) -> Iterator[str]:
    results = [row.outcome.result for row in rows if row.outcome.result]
    if not comparable:
        prints = ", ".join(sorted({result.fingerprint for result in results}))
        yield f"not comparable: the results were made by different models (fingerprints {prints})"
    yield from sorted({result.weights_warning for result in results} - {""})
    for place in sorted({row.place for row in rows if row.place is not None}):
        if (count := sum(row.place == place for row in rows)) > 1:
            yield f"tie: {count} share place {place}"
    if by == SCORE:
        weighed = {tuple(name for name, value in result.metrics.items() if value.weight > 0) for result in results}
        if len(weighed) > 1:
            parts = "; ".join(", ".join(names) or "none" for names in sorted(weighed))
            yield f"the scores are of different metrics: {parts}"
    else:
        without = [result for result in results if by not in result.metrics]
        for reason in sorted({result.missing.get(by, "no reason given") for result in without}):
            yield f"{by} is missing: {reason}"


async def _scored(
    core: Core, images: Sequence[ImageLike], prompts: Sequence[str], metrics: tuple[str, ...], label: str | None = None
) -> list[Outcome]:
    """Every image against every prompt, image by image."""
    return [outcome async for outcome in outcomes(core.waiting, _tasks(core, images, prompts, metrics, label))]


async def _tasks(
    core: Core, images: Sequence[ImageLike], prompts: Sequence[str], metrics: tuple[str, ...], label: str | None
) -> AsyncGenerator[Task, None]:
    """An image is read and encoded once, when its first prompt is asked for."""
    for image in images:
        name = label or image_label(image)
        try:
            encoded = await core.waiting.work(encode_image, image)
        except InvalidInputError as error:
            for prompt in prompts:
                yield refused(error, name, prompt_label(prompt))
            continue
        for prompt in prompts:
            yield Task(name, prompt_label(prompt), partial(core.score, encoded, prompt, metrics, name))


def _several(values: Sequence[Any], field: str) -> list[Any]:
    """The values as a list. Raises InvalidInputError for none, and for one that is no list but could pass for one."""
    if isinstance(values, (str, bytes, bytearray, os.PathLike, np.ndarray)):
        raise InvalidInputError(field, f"got one {type(values).__name__}; allowed: a list of them")
    listed = list(values)
    if not listed:
        raise InvalidInputError(field, "got none; allowed: one or more")
    return listed
