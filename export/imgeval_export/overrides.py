"""`--set MODEL.OPTION=VALUE`: a profile with some of its settings changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from imgeval.errors import BuildError
from imgeval_export.profile import Profile


def override(profile: Profile, assignments: Sequence[str]) -> Profile:
    """Apply assignments such as "sam_clip.points_per_side=4".

    An option is looked for in the model's settings and one level below, so sam_clip's segment options need no prefix.

    Raises:
        BuildError: an assignment of another form, an unknown model or option, or a value of another type.
    """
    settings: dict[str, Any] = json.loads(json.dumps(profile.settings))
    allowed = {f"{model}.{name}": (holder, name) for model in settings for holder, name in _options(settings[model])}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or key not in allowed:
            raise BuildError(f"--set: got {assignment!r}; allowed: OPTION=VALUE with OPTION of {', '.join(allowed)}")
        holder, name = allowed[key]
        holder[name] = _value(key, text, holder[name])
    return replace(profile, settings=settings)


def _options(settings: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """(holder, name) of every plain value, at most one level down."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from ((value, inner) for inner, each in value.items() if isinstance(each, (int, float, str)))  # type: ignore[misc]
        elif isinstance(value, (int, float, str)):
            yield settings, name


def _value(key: str, text: str, present: object) -> object:
    """`text` as the type of the present value; a whole number will do for a float."""
    if isinstance(present, str):
        return text
    try:
        number = float(text)
    except ValueError:
        raise BuildError(f"--set: got {key}={text!r}; allowed: a number, such as {present}") from None
    if isinstance(present, int):
        if number != int(number):
            raise BuildError(f"--set: got {key}={text!r}; allowed: a whole number, such as {present}")
        return int(number)
    return number
