"""The profiles by name, with or without their optional parts."""

from __future__ import annotations

from collections.abc import Sequence

from imgeval.errors import InvalidInputError
from imgeval_export import published, starter
from imgeval_export.profile import Profile

NAMES = (starter.PROFILE.name, *published.DEFAULT_PARTS)


def get(name: str, with_parts: Sequence[str] = (), without_parts: Sequence[str] = ()) -> Profile:
    """The profile of that name.

    Raises:
        InvalidInputError: there is no such profile, or it has no such part.
    """
    if name not in NAMES:
        raise InvalidInputError("profile", f"got {name!r}; allowed: {', '.join(NAMES)}")
    allowed = published.PARTS if name in published.DEFAULT_PARTS else ()
    if unknown := [part for part in (*with_parts, *without_parts) if part not in allowed]:
        raise InvalidInputError(
            "part", f"of profile {name}, got {unknown[0]!r}; allowed: {', '.join(allowed) or 'none'}"
        )
    if not allowed:
        return starter.PROFILE
    parts = ({*published.DEFAULT_PARTS[name], *with_parts}) - {*without_parts}
    return published.profile(name, frozenset(parts))
