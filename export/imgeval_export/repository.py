"""Profile + weight files -> a complete model repository, with a manifest of what is in it.

    REPOSITORY/
        manifest.json            profile, fingerprint, key, sha256 of every file
        MODEL/config.pbtxt
        MODEL/1/                 model.py or model.onnx, settings.json, data files

It is built aside and renamed when it is whole, so that a half-written repository is never served.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgeval.contract import ENSEMBLE
from imgeval.errors import BuildError
from imgeval.scores import PRESETS_DIR
from imgeval_export import configs, data, profiles, weights
from imgeval_export.profile import Profile, Progress

MANIFEST = "manifest.json"
VERSION_FOLDER = "1"
FORMAT = 1  # of the manifest


def ensure(profile_name: str, output: Path, weights_dir: Path, progress: Progress) -> Path:
    """The repository of a profile at `output`: the one that is there, if these sources made it, else a new one.

    Raises:
        BuildError: as `build`.
    """
    profile = profiles.get(profile_name)
    if read_manifest(output).get("key") != _key(profile):
        build(profile_name, output, weights_dir, progress)
    return output


def build(profile_name: str, output: Path, weights_dir: Path, progress: Progress) -> Path:
    """Build the repository of a profile at `output`, in place of what is there.

    Raises:
        BuildError: an unknown profile, weight files that are missing or wrong, or a folder that is not a repository.
    """
    profile = profiles.get(profile_name)
    if output.exists() and not (output / MANIFEST).is_file() and any(output.iterdir()):
        raise BuildError(f"{output} holds something else than a model repository; give another folder with --output")
    progress(f"building the model repository of profile {profile.name}")
    files = weights.require(profile.name, weights_dir, progress)
    output.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}-"))
    try:
        _write(profile, fresh, files, progress)
        fresh.chmod(0o755)
        _replace(fresh, output)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return output


def read_manifest(repository: Path) -> dict[str, Any]:
    """The manifest of a repository; empty if there is none that can be read."""
    try:
        content: dict[str, Any] = json.loads((repository / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content


def _write(profile: Profile, repository: Path, files: Mapping[str, Path], progress: Progress) -> None:
    for model in profile.models:
        folder = repository / model.name / VERSION_FOLDER
        folder.mkdir(parents=True)
        (repository / model.name / "config.pbtxt").write_text(configs.model_text(model), encoding="utf-8")
        if model.backend == "python":
            shutil.copyfile(_source(model), folder / "model.py")
    for name, settings in profile.settings.items():
        _write_json(repository / name / VERSION_FOLDER / "settings.json", settings)
    profile.write_artefacts(lambda name: repository / name / VERSION_FOLDER, files, progress)

    preset = json.loads((PRESETS_DIR / f"{profile.preset}.json").read_text(encoding="utf-8"))
    content = _checksums(repository)
    fingerprint = _fingerprint({"files": content, "preset": preset, "version": _version()})
    card = {
        "profile": profile.name,
        "preset": preset,
        "fingerprint": fingerprint,
        "weights": "published",
        "models": profile.made_by,
        "missing": profile.missing,
    }
    _write_json(repository / "combine" / VERSION_FOLDER / "card.json", card)
    (repository / ENSEMBLE / VERSION_FOLDER).mkdir(parents=True)  # Triton wants a version, be it empty
    ensemble = configs.ensemble_text(profile.models, {"profile": profile.name, "fingerprint": fingerprint})
    (repository / ENSEMBLE / "config.pbtxt").write_text(ensemble, encoding="utf-8")
    manifest = {
        "format": FORMAT,
        "profile": profile.name,
        "imgeval": _version(),
        "fingerprint": fingerprint,
        "key": _key(profile),
        "weights": {file.name: file.sha256 for file in weights.manifest(profile.name)},
        "files": _checksums(repository),
    }
    _write_json(repository / MANIFEST, manifest)


def _source(model: configs.Model) -> Path:
    return data.folder("model_repository") / (model.source or model.name) / VERSION_FOLDER / "model.py"


def _key(profile: Profile) -> str:
    """Changes with everything that a repository is made from but the weight files, which are pinned by checksum."""
    sources = sorted(path for path in Path(__file__).parent.rglob("*.py"))
    sources += sorted(data.folder("model_repository").rglob("*.py"))
    sources += [PRESETS_DIR / f"{profile.preset}.json", data.folder("weights") / "manifest.json"]
    return _fingerprint(
        {
            "sources": {path.name + str(index): _sha256(path) for index, path in enumerate(sources)},
            "contract": configs.ensemble_text(profile.models, {}),
            "models": [configs.model_text(model) for model in profile.models],
            "version": _version(),
        }
    )


def _version() -> str:
    return importlib.metadata.version("imgeval")


def _checksums(repository: Path) -> dict[str, str]:
    files = sorted(path for path in repository.rglob("*") if path.is_file())
    return {path.relative_to(repository).as_posix(): _sha256(path) for path in files}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _fingerprint(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _replace(fresh: Path, output: Path) -> None:
    """Put `fresh` in the place of `output`. A server that has the old one open keeps its files."""
    old = output.with_name(f".{output.name}-old-{os.getpid()}")
    if output.exists():
        output.rename(old)
    fresh.rename(output)
    shutil.rmtree(old, ignore_errors=True)
