"""Measuring several things in turns, and what to say of the times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Times:
    """Seconds, one per measurement, in the order in which they were taken."""

    seconds: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        """By linear interpolation between the two nearest, as numpy does it."""
        ordered = sorted(self.seconds)
        position = percent / 100 * (len(ordered) - 1)
        below = int(position)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (position - below) * (ordered[above] - ordered[below])

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def in_ms(self) -> str:
        """Median and quartiles, "12.3 (11.9-13.1)"."""
        return spread([second * 1e3 for second in self.seconds])


def in_turns(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Time each side once per round, in one order and then in the other, after one call of each that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run()
    names = list(sides)
    for round_index in range(rounds):
        for name in names if round_index % 2 == 0 else reversed(names):
            start = time.perf_counter()
            sides[name]()
            taken[name].append(time.perf_counter() - start)
    return {name: Times(tuple(seconds)) for name, seconds in taken.items()}


def spread(values: Sequence[float]) -> str:
    """Median and quartiles of anything, "12.3 (11.9-13.1)"."""
    each = Times(tuple(values))
    return f"{each.median:.3g} ({each.percentile(25):.3g}-{each.percentile(75):.3g})"


def ratio(above: Sequence[float], below: Sequence[float]) -> str:
    """Ratio of the medians, with the quartiles of the ratios round by round: "12.3 (11.9-13.1)"."""
    rounds = Times(tuple(a / b for a, b in zip(above, below, strict=True)))
    middle = statistics.median(above) / statistics.median(below)
    return f"{middle:.3g} ({rounds.percentile(25):.3g}-{rounds.percentile(75):.3g})"
