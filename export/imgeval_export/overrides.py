"""`--set MODEL.OPTION=VALUE`: a profile with some of its settings changed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from imgeval.errors import InvalidInputError
from imgeval.metrics.segmenters import segment_options
from imgeval_export.profile import Profile


def override(profile: Profile, assignments: Sequence[str]) -> Profile:
    """Apply assignments such as "sam_clip.points_per_side=4".

    An option is one of the model's own settings, or of the way in which sam_clip makes segments.

    Raises:
        InvalidInputError: an assignment of another form, an unknown option, or a value of another type or range.
    """
    settings: dict[str, Any] = json.loads(json.dumps(profile.settings))
    allowed = {f"{model}.{name}": (holder, name) for model in settings for holder, name in _options(settings[model])}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or key not in allowed:
            raise InvalidInputError(
                "--set", f"got {assignment!r}; allowed: OPTION=VALUE with OPTION of {', '.join(allowed)}"
            )
        holder, name = allowed[key]
        holder[name] = _value(key, text, holder[name])
    if "sam_clip" in settings:
        segment_options(
            settings["sam_clip"]["segmenter"], settings["sam_clip"]["segments"]
        )  # refuses what is out of range
    return replace(profile, settings=settings)


def _options(settings: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """(holder, name) of every plain value of a model, and of sam_clip's segments."""
    for holder in (settings, settings.get("segments", {})):
        yield from ((holder, name) for name, value in holder.items() if isinstance(value, (int, float, str)))


def _value(key: str, text: str, present: object) -> object:
    """`text` as the type of the present value; a whole number will do for a float."""
    if isinstance(present, str):
        return text
    try:
        number = float(text)
    except ValueError:
        raise InvalidInputError("--set", f"got {key}={text!r}; allowed: a number, such as {present}") from None
    if not math.isfinite(number):
        raise InvalidInputError("--set", f"got {key}={text!r}; allowed: a finite number, such as {present}")
    if isinstance(present, int):
        if number != int(number):
            raise InvalidInputError("--set", f"got {key}={text!r}; allowed: a whole number, such as {present}")
        return int(number)
    return number
