"""imgeval_export.repository: complete or absent, the same for the same sources, and rebuilt when these change."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from _starter import minilm_folder

from imgeval.errors import BuildError, InvalidInputError
from imgeval_export import repository, starter
from imgeval_export.about import About
from imgeval_export.profile import Profile

WEIGHTS = Path("/nowhere")  # so that files come out of the installed packages


def quiet(line: str) -> None:
    """Progress that nobody reads."""


def small_artefacts(folder: Callable[[str], Path], weights: Mapping[str, Path], progress: Any) -> None:
    """Stand-ins for the ONNX files, so that a build takes no time."""
    for model in ("clip_image", "clip_text", "clip"):
        (folder(model) / "model.onnx").write_bytes(model.encode())


def failing_artefacts(folder: Callable[[str], Path], weights: Mapping[str, Path], progress: Any) -> None:
    small_artefacts(folder, weights, progress)
    raise BuildError("the disk is full")


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch) -> Profile:
    """The starter profile with small artefacts; its weight files are still checked."""
    minilm_folder()  # skips where the packages are not installed
    small = dataclasses.replace(starter.PROFILE, write_artefacts=small_artefacts)
    monkeypatch.setattr(starter, "PROFILE", small)
    return small


def use(monkeypatch: pytest.MonkeyPatch, profile: Profile, **changed: Any) -> None:
    monkeypatch.setattr(starter, "PROFILE", dataclasses.replace(profile, **changed))


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- the real profile ------------------------------------------------------------------------------------------------
def test_building_the_real_starter_again_gives_the_same_bytes(repository: Path, tmp_path: Path) -> None:
    """`repository` is the one of the session's server, whose stubs have put compiled files beside it."""
    from imgeval_export.repository import build, read_manifest

    first, again = read_manifest(repository), read_manifest(build("starter", tmp_path / "again", WEIGHTS, quiet))
    assert again["fingerprint"] == first["fingerprint"]
    assert again["files"] == first["files"]
    served = files(repository)
    assert {name: served[name] for name in first["files"]} == first["files"]


# --- what is in it ---------------------------------------------------------------------------------------------------
def test_the_manifest_lists_every_file_and_weight(profile: Profile, tmp_path: Path) -> None:
    built = repository.build("starter", tmp_path / "r", WEIGHTS, quiet)
    manifest = repository.read_manifest(built)
    content = files(built)
    assert content.pop("manifest.json")
    assert manifest["files"] == content
    assert (manifest["profile"], manifest["format"]) == ("starter", 1)
    assert set(manifest["weights"]) >= {"all-MiniLM-L6-v2/model.safetensors", "efficientnet-lite2-9656183e.pth"}
    card = json.loads((built / "details" / "1" / "card.json").read_text(encoding="utf-8"))
    assert card["fingerprint"] == manifest["fingerprint"]
    assert card["weights"] == "published"
    assert {**card["models"], **card["missing"]} == {**profile.made_by, **profile.missing}


def test_the_fingerprint_is_of_the_content(profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprint() -> str:
        return str(repository.read_manifest(repository.build("starter", tmp_path / "r", WEIGHTS, quiet))["fingerprint"])

    first = fingerprint()
    assert fingerprint() == first
    settings = {**profile.settings, "preprocess": {**profile.settings["preprocess"], "max_tokens": 7}}
    use(monkeypatch, profile, settings=settings)
    assert fingerprint() != first
    use(monkeypatch, profile, made_by={**profile.made_by, "iqa": "another name for the same model"})
    assert fingerprint() == first
    use(monkeypatch, profile, about=told_otherwise(profile))
    assert fingerprint() == first, "it says which numbers may be compared, and names are no numbers"


# --- whole or not at all ---------------------------------------------------------------------------------------------
def test_a_build_that_fails_leaves_nothing_where_there_was_nothing(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, profile, write_artefacts=failing_artefacts)
    with pytest.raises(BuildError, match="the disk is full"):
        repository.build("starter", tmp_path / "r", WEIGHTS, quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_fails_leaves_the_old_one_as_it_was(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = repository.build("starter", tmp_path / "r", WEIGHTS, quiet)
    before = files(built)
    use(monkeypatch, profile, write_artefacts=failing_artefacts)
    with pytest.raises(BuildError):
        repository.build("starter", tmp_path / "r", WEIGHTS, quiet)
    assert files(built) == before
    assert list(tmp_path.iterdir()) == [built]


def test_while_it_is_written_the_old_one_is_there(
    profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = repository.build("starter", tmp_path / "r", WEIGHTS, quiet)
    before = files(built)
    seen = []

    def watching(folder: Callable[[str], Path], weights: Mapping[str, Path], progress: Any) -> None:
        seen.append(files(built))
        small_artefacts(folder, weights, progress)
        (folder("clip") / "extra").write_text("new")

    use(monkeypatch, profile, write_artefacts=watching)
    repository.build("starter", tmp_path / "r", WEIGHTS, quiet)
    assert seen == [before]
    assert "clip/1/extra" in files(built)
    assert list(tmp_path.iterdir()) == [built]


# --- again or not ----------------------------------------------------------------------------------------------------
@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The profiles that were built from now on."""
    real, built = repository.build, []

    def counting(name: str, *arguments: Any) -> Path:
        built.append(name)
        return real(name, *arguments)

    monkeypatch.setattr(repository, "build", counting)
    return built


def test_ensure_builds_once(profile: Profile, tmp_path: Path, builds: list[str]) -> None:
    for _ in range(3):
        assert repository.ensure("starter", tmp_path / "r", WEIGHTS, quiet) == tmp_path / "r"
    assert builds == ["starter"]


@pytest.mark.parametrize("manifest", [b"", b"{", b"\xff", b"{}", b'{"key": "another"}'])
def test_ensure_rebuilds_what_is_not_of_these_sources(
    profile: Profile, tmp_path: Path, builds: list[str], manifest: bytes
) -> None:
    repository.ensure("starter", tmp_path / "r", WEIGHTS, quiet)
    good = (tmp_path / "r" / "manifest.json").read_bytes()
    (tmp_path / "r" / "manifest.json").write_bytes(manifest)
    repository.ensure("starter", tmp_path / "r", WEIGHTS, quiet)
    assert len(builds) == 2
    assert (tmp_path / "r" / "manifest.json").read_bytes() == good


@pytest.mark.parametrize("what", ["settings", "made_by", "missing", "about", "preset", "version"])
def test_ensure_rebuilds_when_what_it_is_made_of_changes(
    profile: Profile, tmp_path: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    repository.ensure("starter", tmp_path / "r", WEIGHTS, quiet)
    if what == "settings":
        use(monkeypatch, profile, settings={**profile.settings, "preprocess": {"max_tokens": 7}})
    elif what == "made_by":
        use(monkeypatch, profile, made_by={**profile.made_by, "iqa": "another name"})
    elif what == "missing":
        use(monkeypatch, profile, missing={**profile.missing, "aesthetic": "another reason"})
    elif what == "about":
        use(monkeypatch, profile, about=told_otherwise(profile))
    elif what == "preset":
        monkeypatch.setattr(repository, "PRESETS_DIR", presets(tmp_path, profile.preset))
    else:
        monkeypatch.setattr(repository, "_version", lambda: "99")
    repository.ensure("starter", tmp_path / "r", WEIGHTS, quiet)
    assert len(builds) == 2


def told_otherwise(profile: Profile) -> dict[str, About]:
    return {**profile.about, "iqa": dataclasses.replace(profile.about["iqa"], range="another range")}


def presets(folder: Path, name: str) -> Path:
    """A folder with the preset of this name, one weight changed."""
    preset = json.loads((repository.PRESETS_DIR / f"{name}.json").read_text(encoding="utf-8"))
    preset["metrics"]["clip"]["weight"] = 2.0
    (folder / "presets").mkdir()
    (folder / "presets" / f"{name}.json").write_text(json.dumps(preset), encoding="utf-8")
    return folder / "presets"


# --- what it refuses -------------------------------------------------------------------------------------------------
def test_a_folder_of_something_else_is_left_alone(profile: Profile, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for build in (repository.build, repository.ensure):
        with pytest.raises(BuildError, match="holds something else than a model repository"):
            build("starter", tmp_path, WEIGHTS, quiet)
    assert files(tmp_path) == {"thesis.txt": hashlib.sha256(b"years of work").hexdigest()}


def test_a_file_in_the_place_of_the_folder_is_left_alone(profile: Profile, tmp_path: Path) -> None:
    (tmp_path / "r").write_text("years of work")
    with pytest.raises(BuildError):
        repository.build("starter", tmp_path / "r", WEIGHTS, quiet)
    assert (tmp_path / "r").read_text() == "years of work"


def test_an_empty_folder_is_filled(profile: Profile, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    assert repository.read_manifest(repository.build("starter", tmp_path / "r", WEIGHTS, quiet))


@pytest.mark.parametrize("name", ["", "Starter", "nonsense"])
def test_unknown_profiles_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match="starter"):
        repository.build(name, tmp_path / "r", WEIGHTS, quiet)
    assert not (tmp_path / "r").exists()
