"""Checks that a state dict is the one a graph is written for, before anything is written from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgeval.errors import BuildError

State = Mapping[str, NDArray[Any]]

_SHOWN = 4  # names listed in a message before "and N more"


def check_state(what: str, state: State, expected: Mapping[str, tuple[int, ...]], unused: Collection[str] = ()) -> None:
    """Compare names and shapes of `state` with `expected`; names in `unused` may be there or not.

    Raises:
        BuildError: names that are missing or unexpected, wrong shapes, or values that are not finite floats.
    """
    wrong_shape = [
        f"{name} is {state[name].shape}, not {shape}"
        for name, shape in expected.items()
        if name in state and state[name].shape != shape
    ]
    not_finite = [
        name
        for name in expected
        if name in state and not (state[name].dtype.kind == "f" and np.isfinite(state[name]).all())
    ]
    problems = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected and name not in unused],
        "wrong shape": wrong_shape,
        "not finite floats": not_finite,
    }
    found = [f"{problem}: {_shorten(names)}" for problem, names in problems.items() if names]
    if found:
        raise BuildError(f"these are not the weights of {what}; " + "; ".join(found))


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
