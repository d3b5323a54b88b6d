"""The profiles by name."""

from __future__ import annotations

from imgeval.errors import BuildError
from imgeval_export import starter
from imgeval_export.profile import Profile

PROFILES = {profile.name: profile for profile in (starter.PROFILE,)}
PLANNED = ("cpu", "full")  # in the contract, and not in this version


def get(name: str) -> Profile:
    """The profile of that name.

    Raises:
        BuildError: there is none.
    """
    if name in PLANNED:
        raise BuildError(f"profile {name} is planned and not in this version; there is: {', '.join(PROFILES)}")
    if name not in PROFILES:
        raise BuildError(f"got profile {name!r}; allowed: {', '.join(PROFILES)}")
    return PROFILES[name]
