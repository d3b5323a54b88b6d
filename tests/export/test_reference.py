"""The upstream pipeline takes a profile's settings as they are."""

from __future__ import annotations

import inspect

import pytest
from _starter import third_party_warnings_ignored

from imgeval.metrics.sam import MaskOptions
from imgeval_export import profiles


@pytest.mark.parametrize("name", ["cpu", "full"])
def test_settings_of_segments_reach_upstream_with_their_values(name: str) -> None:
    with third_party_warnings_ignored():
        from imgeval_export.reference.sam_clip import GENERATOR_OPTIONS, SamAutomaticMaskGenerator
    parameters = inspect.signature(SamAutomaticMaskGenerator.__init__).parameters
    segments = profiles.get(name).settings["sam_clip"]["segments"]
    for option in GENERATOR_OPTIONS:
        assert segments[option] == getattr(MaskOptions(), option) == parameters[option].default
    # Whatever else both know must be handed on as well, but for what changes no mask.
    assert set(segments) & set(parameters) - set(GENERATOR_OPTIONS) == {"points_per_batch"}
