"""Gates: the conditions under which a comparison of two runs fails a build."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from imgeval.errors import InvalidInputError
from imgeval.run_comparison import MIN_PAIRS, VALUES, RunComparison

FAIL_BELOW, MAX_REGRESSION, MAX_ERRORS = "--fail-below", "--max-regression", "--max-errors"
ROUNDING = 1e-9  # of a mean: no gate fails by it


@dataclass(frozen=True)
class Limit:
    """A limit for the score or one metric."""

    name: str
    value: float


@dataclass(frozen=True)
class Gate:
    """One gate and what became of it; `seen` is a sentence."""

    option: str
    name: str
    limit: float
    passed: bool
    seen: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def parse_limits(option: str, texts: Sequence[str]) -> tuple[Limit, ...]:
    """Limits from texts such as "clip=0.25".

    Raises:
        InvalidInputError: another form, an unknown name, or a number that the option does not allow.
    """
    return tuple(_parse(option, text) for text in texts)


def _parse(option: str, text: str) -> Limit:
    name, equals, number = text.partition("=")
    if not equals or name not in VALUES:
        raise InvalidInputError(option, f"got {text!r}; allowed: NAME=VALUE with NAME of {', '.join(VALUES)}")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    least = 0.0 if option == MAX_REGRESSION else -math.inf
    if not math.isfinite(value) or value < least:
        kind = "a number from 0" if option == MAX_REGRESSION else "a number"
        raise InvalidInputError(option, f"got {text!r}; allowed as VALUE: {kind}")
    return Limit(name, value)


def check(
    comparison: RunComparison,
    fail_below: Sequence[Limit] = (),
    max_regression: Sequence[Limit] = (),
    *,
    confident: bool = False,
    max_errors: int | None = None,
) -> tuple[Gate, ...]:
    """What becomes of each gate.

    Args:
        comparison: of the two runs.
        fail_below: fails where the mean over all prompts of B is below the limit; above it, where lower is better.
        max_regression: fails where B is worse than A by more than the limit in the mean of the pairs.
        confident: `max_regression` fails only where the whole 95 % interval is beyond the limit, not the mean alone.
        max_errors: fails where more rows of B than this could not be scored; the other gates leave such rows out.

    A value that cannot be compared, or that B does not have, fails its gate: what was not seen has not passed.
    """
    below = [_below(comparison, limit) for limit in fail_below]
    regressions = [_regression(comparison, limit, confident) for limit in max_regression]
    errors = [] if max_errors is None else [_errors(comparison, max_errors)]
    return (*below, *regressions, *errors)


def _errors(comparison: RunComparison, most: int) -> Gate:
    got = comparison.b.errors
    seen = f"{got} of {comparison.b.rows} rows of run B could not be scored"
    return Gate(MAX_ERRORS, "rows", most, got <= most, seen)


def _below(comparison: RunComparison, limit: Limit) -> Gate:
    mean = comparison.b.means.get(limit.name)
    if mean is None:
        return Gate(FAIL_BELOW, limit.name, limit.value, False, f"run B has no value of {limit.name}")
    lower = limit.name in comparison.b.lower_is_better
    passed = mean <= limit.value + ROUNDING if lower else mean >= limit.value - ROUNDING
    side = "above" if lower else "below"
    seen = f"the mean of run B, {mean:.4f}, is {'not ' if passed else ''}{side} {limit.value:g}"
    return Gate(FAIL_BELOW, limit.name, limit.value, passed, seen + (" (lower is better)" if lower else ""))


def _regression(comparison: RunComparison, limit: Limit, confident: bool) -> Gate:
    value = comparison.values.get(limit.name)
    if value is None:
        seen = f"{limit.name} cannot be compared: no prompt has a value of the same kind in both runs"
        return Gate(MAX_REGRESSION, limit.name, limit.value, False, seen)
    loss = -value.difference * value.sign  # positive where B is worse
    decides, what = loss, "the mean"
    if confident:
        if value.interval is None or value.pairs < MIN_PAIRS:
            seen = f"--confident needs {MIN_PAIRS} pairs for its interval, and there are {value.pairs}"
            return Gate(MAX_REGRESSION, limit.name, limit.value, False, seen)
        decides = min(-bound * value.sign for bound in value.interval)
        what = "the interval's bound in favour of B"
    passed = decides <= limit.value + ROUNDING
    direction = "worse" if loss > 0 else "not worse"
    seen = (
        f"run B is {direction}: mean difference {value.difference:+.4f}; decided by {what}, "
        f"a regression of {max(0.0, decides):.4f} where {limit.value:g} is allowed"
    )
    return Gate(MAX_REGRESSION, limit.name, limit.value, passed, seen)
