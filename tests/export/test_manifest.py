"""weights/manifest.json: the files of the contract, each pinned as far as it can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgeval_export import weights
from imgeval_export.manifest import Hub, Package, manifest


def test_the_profiles_have_the_files_of_the_contract() -> None:
    names = {profile: {file.name for file in manifest(profile)} for profile in ("starter", "cpu", "full")}
    minilm = {"all-MiniLM-L6-v2/model.safetensors", "all-MiniLM-L6-v2/tokenizer.json"}
    clip = {
        "clip-vit-large-patch14/open_clip_model.safetensors",
        "clip-vit-large-patch14/bpe_simple_vocab_16e6.txt.gz",
        "sac+logos+ava1-l14-linearMSE.pth",
    }
    musiq = {"musiq_koniq_ckpt-e95806b9.pth"}
    assert names["starter"] >= minilm
    assert names["cpu"] == minilm | clip | musiq | {"sam_vit_b_01ec64.pth"}
    assert {name for name in names["full"] if not name.startswith("one-align/")} == (
        minilm | clip | musiq | {"sam_vit_h_4b8939.pth"}
    )
    assert {"one-align/config.json", "one-align/tokenizer.model"} < names["full"]


def test_the_manifest_pins_what_can_change() -> None:
    for file in manifest():
        assert file.sha256 is None or len(bytes.fromhex(file.sha256)) == 32
        if isinstance(file.source, Package):
            assert "==" in file.source.package and file.sha256 and file.bytes
        elif isinstance(file.source, Hub):
            assert len(bytes.fromhex(file.source.revision)) == 20, "a commit, not a branch"
        else:
            assert file.source.url.startswith("https://") and file.sha256 and file.bytes


def test_the_real_head_is_the_one_of_the_manifest(shared: Path) -> None:
    (head,) = (file for file in manifest("cpu") if file.name.startswith("sac+logos"))
    path = weights.find(head, shared / "weights")
    if path is None:
        pytest.skip(f"{head.name} is not in {shared}")
    assert weights.check(head, path) == head.sha256


def test_names_that_carry_a_checksum_agree_with_it() -> None:
    (musiq,) = (file for file in manifest("cpu") if file.name.startswith("musiq"))
    assert musiq.sha256 and musiq.sha256.startswith("e95806b9")
