"""The profiles by name, with or without their optional parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from imgeval.errors import InvalidInputError
from imgeval_export import published, starter
from imgeval_export.configs import KINDS
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


def with_device(profile: Profile, device: str) -> Profile:
    """The profile with its networks on this device; what is no network stays on the CPU.

    Raises:
        InvalidInputError: an unknown device, or a profile that has nothing to gain from it.
    """
    if device not in KINDS:
        raise InvalidInputError("device", f"got {device!r}; allowed: {', '.join(KINDS)}")
    if device == "cpu":
        return profile
    if profile.name not in published.DEFAULT_PARTS:
        raise InvalidInputError("device", f"profile {profile.name} is served on the CPU only")
    on_gpu = (
        replace(model, device=device) if model.backend == "onnxruntime" or model.name in published.PARTS else model
        for model in profile.models
    )
    return replace(profile, models=tuple(on_gpu))
