"""One check and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """What was seen, and what to do about it. "warn" is what a result can be had with, "fail" what keeps it away."""

    name: str
    state: State
    seen: str
    advice: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run(checks: Iterable[Callable[[], Iterable[Check]]]) -> Iterator[Check]:
    """What comes of each check, as soon as it is known. One that breaks is a failed check and stops no other."""
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # noqa: BLE001 - a machine on which something is wrong is what this is for
            function: Any = getattr(check, "func", check)  # of a partial
            name = function.__name__.strip("_").replace("_", " ")
            yield Check(name, "fail", f"the check broke: {type(error).__name__}: {' '.join(str(error).split())}")
