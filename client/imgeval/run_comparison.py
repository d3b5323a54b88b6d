"""Two runs, prompt by prompt: is the second one better than the first, and how sure is that.

rows of A, rows of B --Tally--> one mean per prompt and value --compare--> differences, intervals, wins and losses

Pairs are made by prompt. Where a run has several images for a prompt, their mean stands for it. A prompt that only one
run has, or has a value for, is in no pair and is counted.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imgeval.bootstrap import CONFIDENCE, RESAMPLES, Interval, mean_intervals
from imgeval.contract import METRIC_NAMES
from imgeval.errors import InvalidInputError
from imgeval.result import SCORE

if TYPE_CHECKING:
    from imgeval.runs import Row

VALUES = (SCORE, *METRIC_NAMES)  # what can be compared
DEFAULT_TOP = 5  # wins and losses that are listed
MIN_PAIRS = 10  # of fewer, a percentile bootstrap's 95 % interval holds the mean in 57 to 89 % of cases only


@dataclass(frozen=True)
class PromptDifference:
    """One pair. `difference` is b - a."""

    prompt: str
    a: float
    b: float
    difference: float


@dataclass(frozen=True)
class ValueComparison:
    """The score or one metric over all pairs.

    `difference` is the mean of b - a and `interval` its 95 % bootstrap interval, None for one pair. `win_rate`, 0..1,
    is the share of the pairs in which B is the better one; a tie counts as half a win. `wins` and `losses` are B's
    largest ones, largest first.
    """

    name: str
    lower_is_better: bool
    pairs: int
    unpaired: int  # prompts with a value in one run only
    mean_a: float  # over the pairs
    mean_b: float
    difference: float
    interval: Interval | None
    win_rate: float
    ties: int
    wins: tuple[PromptDifference, ...]
    losses: tuple[PromptDifference, ...]

    @property
    def sign(self) -> int:
        """What turns a difference into one that is positive where B is better."""
        return -1 if self.lower_is_better else 1

    @property
    def better(self) -> str:
        """The run that is better for sure, "A" or "B": the interval is on one side of 0; else empty."""
        if self.pairs < MIN_PAIRS or self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return ""
        return "B" if self.difference * self.sign > 0 else "A"


@dataclass(frozen=True)
class RunSummary:
    """What one run holds. `means` are over all of its prompts, paired or not."""

    rows: int
    errors: int
    prompts: int  # with a row that is no error
    several_images: int  # prompts with more than one such row
    unpaired: int  # prompts that the other run does not have
    fingerprints: tuple[str, ...]
    presets: tuple[str, ...]
    weights: tuple[str, ...]
    lower_is_better: tuple[str, ...]  # metrics whose smaller values are the better ones
    means: dict[str, float]


@dataclass(frozen=True)
class RunComparison:
    """Run B against run A. `comparable` is False where models or presets differ; `caveats` are sentences for people."""

    a: RunSummary
    b: RunSummary
    pairs: int  # prompts that both runs have
    comparable: bool
    values: dict[str, ValueComparison]
    caveats: tuple[str, ...]
    weights_warning: str  # what to say beside these numbers where they are no scores; empty where they are

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `imgeval-client compare --json`, without the gates."""
        return {**asdict(self), "confidence": CONFIDENCE, "resamples": RESAMPLES}


class Tally:
    """What is kept of a run while its rows go by: sums per prompt and value, so that no row is held."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = self.errors = 0
        self.images: dict[str, int] = defaultdict(int)  # by prompt, that could be scored
        self.fingerprints: set[str] = set()
        self.presets: set[str] = set()
        self.weights: set[str] = set()
        self.lower_is_better: set[str] = set()
        self.combined: dict[str, set[tuple[str, ...]]] = defaultdict(set)  # by prompt, the metrics that scores are of
        self._sums: dict[str, dict[str, tuple[float, int]]] = {name: {} for name in VALUES}
        for row in rows:
            self._add(row)

    def _add(self, row: Row) -> None:
        self.rows += 1
        if row.error is not None:
            self.errors += 1
            return
        self.images[row.prompt] += 1
        self.fingerprints.add(row.fingerprint or "none")
        self.presets.add(row.preset or "none")
        self.weights.add(row.weights or "of unknown origin")
        if row.score is not None:
            self.combined[row.prompt].add(tuple(name for name in METRIC_NAMES if name in row.normalized))
        for name in VALUES:
            value = row.value(name)
            if value is None or not math.isfinite(value):
                continue
            total, count = self._sums[name].get(row.prompt, (0.0, 0))
            self._sums[name][row.prompt] = (total + value, count + 1)
            if row.lower_is_better(name):
                self.lower_is_better.add(name)

    def means(self, name: str) -> dict[str, float]:
        """The value of each prompt that has one: the mean over its images."""
        return {prompt: total / count for prompt, (total, count) in self._sums[name].items()}

    def summary(self, other: Tally) -> RunSummary:
        means = {name: self.means(name) for name in VALUES}
        return RunSummary(
            rows=self.rows,
            errors=self.errors,
            prompts=len(self.images),
            several_images=sum(count > 1 for count in self.images.values()),
            unpaired=len(self.images.keys() - other.images.keys()),
            fingerprints=tuple(sorted(self.fingerprints)),
            presets=tuple(sorted(self.presets)),
            weights=tuple(sorted(self.weights)),
            lower_is_better=tuple(sorted(self.lower_is_better)),
            means={name: math.fsum(each.values()) / len(each) for name, each in means.items() if each},
        )


def compare_runs(
    rows_a: Iterable[Row], rows_b: Iterable[Row], *, allow_different_models: bool = False, top: int = DEFAULT_TOP
) -> RunComparison:
    """Compare run B with run A, both read once.

    Args:
        rows_a: the run to compare with, such as the previous checkpoint's.
        rows_b: the run in question.
        allow_different_models: compare values although other models or presets made them; the result says so.
        top: how many of the largest wins and losses to list for each value.

    Raises:
        InvalidInputError: no prompt is in both runs, or none with a value in both; or their fingerprints or presets
            differ, and that is not allowed.
    """
    a, b = Tally(rows_a), Tally(rows_b)
    pairs = len(a.images.keys() & b.images.keys())
    if not pairs:
        raise InvalidInputError(
            "runs",
            f"got no prompt that both have a score for: A has {len(a.images)} prompts and {a.errors} errors, "
            f"B {len(b.images)} and {b.errors}",
        )
    difference = _models_differ(a, b)
    if difference and not allow_different_models:
        raise InvalidInputError(
            "runs", f"{difference}, so their values cannot be compared; to do it anyway: --allow-different-models"
        )
    found = _compare_values(a, b, top)
    if not found:
        raise InvalidInputError("runs", f"got {pairs} prompts in both, and no score or metric that both have for one")
    weights = sorted((a.weights | b.weights) - {"published"})
    warning = f"WEIGHTS ARE {', '.join(weights).upper()}: these numbers are no scores" if weights else ""
    caveats = tuple(_caveats(a, b, difference, found))
    return RunComparison(a.summary(b), b.summary(a), pairs, not difference, found, caveats, warning)


def _models_differ(a: Tally, b: Tally) -> str:
    """In what the makers of the values differ, between the runs or within one; empty where they do not."""
    kinds = (("models (fingerprints", a.fingerprints, b.fingerprints), ("presets (those", a.presets, b.presets))
    for kind, of_a, of_b in kinds:
        if len(of_a | of_b) > 1:
            made = f"of A: {', '.join(sorted(of_a)) or 'none'}; of B: {', '.join(sorted(of_b)) or 'none'})"
            return f"the rows were made by different {kind} {made}"
    return ""


def _compare_values(a: Tally, b: Tally, top: int) -> dict[str, ValueComparison]:
    means_a, means_b = ({name: tally.means(name) for name in VALUES} for tally in (a, b))
    opposed = a.lower_is_better ^ b.lower_is_better  # in one run only, so that the other's points the other way
    pairs = {}
    for name in VALUES:
        prompts = tuple(prompt for prompt in means_a[name] if prompt in means_b[name])
        if name == SCORE:  # made of other metrics it is another value
            prompts = tuple(prompt for prompt in prompts if a.combined[prompt] == b.combined[prompt])
        if prompts and name not in opposed:
            pairs[name] = prompts
    found = {}
    for prompts in dict.fromkeys(pairs.values()):
        names = [name for name in pairs if pairs[name] == prompts]
        of_a, of_b = (
            np.array([[means[name][prompt] for name in names] for prompt in prompts]) for means in (means_a, means_b)
        )  # (N, M)
        intervals = mean_intervals(of_b - of_a)
        for column, (name, interval) in enumerate(zip(names, intervals, strict=True)):
            unpaired = len(means_a[name].keys() ^ means_b[name].keys())
            lower = name in a.lower_is_better
            both = (of_a[:, column], of_b[:, column])
            found[name] = _compare_value(name, lower, prompts, *both, interval, unpaired, top)
    return {name: found[name] for name in pairs}


def _compare_value(
    name: str,
    lower_is_better: bool,
    prompts: Sequence[str],
    of_a: NDArray[np.float64],
    of_b: NDArray[np.float64],
    interval: Interval | None,
    unpaired: int,
    top: int,
) -> ValueComparison:
    differences = of_b - of_a  # (N,)
    gains = -differences if lower_is_better else differences  # positive where B is better
    order = np.argsort(-gains, kind="stable")

    def listed(positions: NDArray[np.intp]) -> tuple[PromptDifference, ...]:
        return tuple(
            PromptDifference(prompts[i], float(of_a[i]), float(of_b[i]), float(differences[i])) for i in positions
        )

    won, lost = order[gains[order] > 0], order[::-1][gains[order[::-1]] < 0]
    ties = int((gains == 0).sum())
    return ValueComparison(
        name=name,
        lower_is_better=lower_is_better,
        pairs=len(prompts),
        unpaired=unpaired,
        mean_a=float(of_a.mean()),
        mean_b=float(of_b.mean()),
        difference=float(differences.mean()),
        interval=interval,
        win_rate=(len(won) + ties / 2) / len(prompts),
        ties=ties,
        wins=listed(won[:top]),
        losses=listed(lost[:top]),
    )


def _caveats(a: Tally, b: Tally, difference: str, found: dict[str, ValueComparison]) -> Iterator[str]:
    if difference:
        yield f"not comparable: {difference}"
    for run, tally, other in (("A", a, b), ("B", b, a)):
        if tally.errors:
            yield f"{run}: {tally.errors} of {tally.rows} rows could not be scored and are left out"
        if unpaired := len(tally.images.keys() - other.images.keys()):
            yield f"{run}: {unpaired} of {len(tally.images)} prompts are not in the other run and are left out"
        if several := sum(count > 1 for count in tally.images.values()):
            yield f"{run}: {several} prompts have several images; their mean stands for them"
    both = a.images.keys() & b.images.keys()
    for name in VALUES:
        in_a, in_b = a.means(name).keys() & both, b.means(name).keys() & both
        if (in_a or in_b) and name not in found:
            reason = "for no prompt in both runs"
            if in_a & in_b:
                reason = "of different metrics" if name == SCORE else "in opposite directions"
            yield f"{name} is not compared: it has values {reason}"
        elif in_a ^ in_b:
            yield f"{name}: {len(in_a ^ in_b)} prompts of both runs have a value in one only and are left out"
    combined = {metrics for tally in (a, b) for each in tally.combined.values() for metrics in each}
    if len(combined) > 1:
        yield f"the scores are of different metrics: {_either(sorted(combined))}; only like ones are compared"
    if any(value.pairs < MIN_PAIRS for value in found.values()):
        yield f"of fewer than {MIN_PAIRS} pairs a bootstrap interval is too narrow: nothing is sure"


def _either(combinations: Sequence[tuple[str, ...]]) -> str:
    return "; ".join(", ".join(names) or "none" for names in combinations)
