"""imgeval_export.caches: which models keep what they computed, and that results cannot tell."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from imgeval.errors import InvalidInputError
from imgeval_export import caches, profiles
from imgeval_export.caches import CACHED_MODELS, DEFAULT_MIB, with_caches
from imgeval_export.repository import BuildOptions, build, ensure, read_manifest

WEIGHTS = Path("/nowhere")  # so that files come out of the installed packages


def quiet(line: str) -> None:
    """Progress that nobody reads."""


def given(repository: Path) -> dict[str, dict[str, str]]:
    """What each configuration says of a cache."""
    found = {}
    for path in repository.glob("*/config.pbtxt"):
        config = text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
        parameters = {name: value.string_value for name, value in config.parameters.items() if "cache" in name}
        if parameters:
            found[path.parent.name] = parameters
    return found


def test_every_cached_model_is_one_of_a_profile() -> None:
    full = {model.name for model in profiles.get("full").models}
    assert set(CACHED_MODELS) <= full
    assert full - set(CACHED_MODELS) >= {"preprocess", "clip", "sam_encoder", "sam_decoder", "combine", "details"}


def test_a_cache_has_its_size_and_what_computes() -> None:
    cached = with_caches(profiles.get("cpu").models, 3, "abc")
    assert {model.name for model in cached} == {"clip_image", "clip_text", "keywords", "sam_clip", "iqa"}
    for model in cached:
        assert (model.parameters["cache_max_bytes"], model.parameters["cache_fingerprint"]) == ("3145728", "abc")
    assert [model.parameters.get("intra_op_thread_count") for model in cached if model.name == "clip_image"] == ["0"]
    assert with_caches(profiles.get("cpu").models, 0, "abc") == []


def test_the_fingerprint_of_results_is_the_same_with_every_cache(repository: Path, tmp_path: Path) -> None:
    """It says which values may be compared: those with and without a cache may."""
    off = build("starter", tmp_path / "off", WEIGHTS, quiet, BuildOptions(cache_mib=0))
    on, without = read_manifest(repository), read_manifest(off)
    assert without["fingerprint"] == on["fingerprint"]
    assert given(off) == {}
    expected = {"cache_max_bytes": str(DEFAULT_MIB * 2**20), "cache_fingerprint": on["fingerprint"]}
    assert given(repository) == dict.fromkeys(("clip_image", "clip_text", "sam_clip", "iqa"), expected)
    cards = [(folder / "details/1/card.json").read_bytes() for folder in (off, repository)]
    assert cards[0] == cards[1]
    assert read_manifest(ensure("starter", off, WEIGHTS, quiet)) == without, "it stays as it was asked for"


def test_a_size_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cache-mib: got -1; allowed: 0"):
        build("starter", tmp_path / "r", WEIGHTS, quiet, BuildOptions(cache_mib=-1))
    assert not (tmp_path / "r").exists()
    assert dataclasses.asdict(BuildOptions())["cache_mib"] == caches.DEFAULT_MIB
