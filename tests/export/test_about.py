"""What is told of the metrics agrees with the manifest, with the models' names and with pyiqa."""

from __future__ import annotations

import dataclasses

import pytest

from imgeval_export import profiles, published
from imgeval_export.manifest import manifest
from imgeval_export.overrides import override


@pytest.mark.parametrize("name", profiles.NAMES)
def test_it_agrees_with_the_profile_and_the_manifest(name: str) -> None:
    profile = profiles.get(name)
    known = {file.name for file in manifest(name)}
    assert set(profile.about) == set(profile.made_by)
    for metric, about in profile.about.items():
        assert about.lower_is_better == ("lower is better" in profile.made_by[metric])
        assert set(about.files) <= set(profile.files) & known
    assert {file for about in profile.about.values() for file in about.files} == set(profile.files), "each has a use"


def test_a_profile_tells_about_what_it_serves_and_nothing_else() -> None:
    profile = profiles.get("starter")
    with pytest.raises(ValueError, match="must tell about each metric"):
        dataclasses.replace(profile, about={**profile.about, "aesthetic": profile.about["clip"]})
    with pytest.raises(ValueError, match="must tell about each metric"):
        dataclasses.replace(profile, about={})


def test_iqa_is_what_pyiqa_says() -> None:
    pytest.importorskip("pyiqa")
    from imgeval.metrics.pyiqa_metric import info

    told, said = profiles.get("cpu").about["iqa"], info(published.DEFAULT_IQA)
    assert (told.range, told.lower_is_better) == (said.score_range, said.lower_is_better)
    for metric in ("niqe", "clipiqa"):
        said = info(metric)
        other = published.named(override(profiles.get("cpu"), [f"iqa.metric={metric}"]))
        told = other.about["iqa"]
        assert (told.range, told.lower_is_better) == (said.score_range, said.lower_is_better)
        assert told.lower_is_better == ("lower is better" in other.made_by["iqa"])
        assert told.files == ()
        assert "licences of their own" in told.terms
