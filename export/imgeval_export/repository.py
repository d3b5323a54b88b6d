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
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from imgeval.contract import DETAILS_MODEL, ENSEMBLE
from imgeval.errors import BuildError, InvalidInputError, install_hint
from imgeval.scores import PRESETS_DIR, load_preset
from imgeval.served import METRICS_PARAMETER
from imgeval_export import (
    about,
    caches,
    checksums,
    configs,
    data,
    gpu,
    precision,
    profiles,
    published,
    random_weights,
    resources,
    weights,
)
from imgeval_export.combine import combine_model
from imgeval_export.graph import save_model
from imgeval_export.overrides import override
from imgeval_export.profile import Profile, Progress

MANIFEST = "manifest.json"
VERSION_FOLDER = "1"
FORMAT = 1  # of the manifest
TARGETS = ("embedded", "container")


def ensure(profile_name: str, output: Path, weights_dir: Path, progress: Progress) -> Path:
    """The repository of a profile at `output`: the one that is there, if these sources made it, else a new one.

    An old one is built anew with the options that it was built with.

    Raises:
        BuildError: as `build`.
    """
    there = read_manifest(output)
    options = options_of(there)
    if there.get("key") != _key(chosen_profile(profile_name, options)):
        build(profile_name, output, weights_dir, progress, options)
    return output


@dataclass(frozen=True)
class BuildOptions:
    """What a build may be told beside the profile."""

    overrides: tuple[str, ...] = ()  # settings of the profile to change, "sam_clip.points_per_side=4"
    with_parts: tuple[str, ...] = ()  # optional parts to add: "iqa", "qalign"
    without_parts: tuple[str, ...] = ()  # optional parts to leave out
    precision: tuple[str, ...] = ()  # of the networks, as `precision.with_precision` takes it; all float32 by default
    device: str = "cpu"  # "gpu": networks on the GPU, in a container
    target: str = "embedded"  # or "container": everything inside the repository, for another machine
    commercial_ok: bool = False  # refuse a profile whose files are not clearly free for commercial use
    random_weights: bool = False  # stand-ins for what cannot be had, to prove arithmetic; results say so
    instances: int | None = (
        None  # of each model that computes for a while; None: by the cores and memory of this machine
    )
    threads: int | None = None  # of each instance of a network; None: by the cores of this machine
    cache_mib: int = caches.DEFAULT_MIB  # for each model that keeps what it has computed; 0: none does


def options_of(manifest: dict[str, Any]) -> BuildOptions:
    """What a repository was built with; what this version does not know is left out."""
    known = {field.name for field in fields(BuildOptions)}
    stored: dict[str, Any] = {name: value for name, value in manifest.get("options", {}).items() if name in known}
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
    }
    if isinstance(options.get("precision"), str):  # one for all, as manifests once said it
        options["precision"] = (options["precision"],)
    return BuildOptions(**options)


def chosen_profile(name: str, options: BuildOptions) -> Profile:
    """The profile with its optional parts and settings as asked for. Raises InvalidInputError for what there is not."""
    caches.check_size(options.cache_mib)
    profile = profiles.get(name, options.with_parts, options.without_parts)
    if options.target not in TARGETS:
        raise InvalidInputError("target", f"got {options.target!r}; allowed: {', '.join(TARGETS)}")
    if options.device not in configs.KINDS:
        raise InvalidInputError("device", f"got {options.device!r}; allowed: {', '.join(configs.KINDS)}")
    if options.device == "gpu" and options.target == "embedded":
        raise InvalidInputError(
            "device", "the embedded server has no GPU backend; allowed with gpu: --target container"
        )
    if options.target == "container" and options.device == "cpu" and any("bf16" in each for each in options.precision):
        raise InvalidInputError(
            "precision", "the container's engine has no bfloat16 on CPUs; allowed with container and cpu: fp32, int8"
        )
    if options.device == "cpu":
        profile = precision.with_precision(profile, options.precision)
    # Another machine is not this one: one instance of each model there, with as many threads as that one has cores.
    machine_plan = resources.Plan(options.instances or 1, options.threads or 0)
    if options.target == "embedded":
        machine_plan = resources.plan(resources.this_machine(), options.instances, options.threads)
    profile = resources.with_plan(profile, machine_plan)
    if options.device == "gpu":
        profile = gpu.on_gpu(profile, options.precision, options.instances)
    return published.named(override(profile, options.overrides))


def _require_packages(profile: Profile) -> None:
    """Raise BuildError if this environment lacks a package that an optional part is served by."""
    for model in profile.models:
        package = published.PART_PACKAGES.get(model.name) if profile.name in published.DEFAULT_PARTS else None
        if package and importlib.util.find_spec(package) is None:
            raise BuildError(
                f"{model.name} of profile {profile.name} needs the package {package}: "
                f"{install_hint(published.PART_EXTRAS[model.name])}; or build --without {model.name}"
            )


def weight_files(profile: Profile, weights_dir: Path, progress: Progress, options: BuildOptions) -> dict[str, Path]:
    """The weight files of a profile by name: checked, and fetched where they are missing; or random stand-ins.

    Raises:
        BuildError: a file that is wrong, refused, or not to be had.
    """
    needed = [file for file in weights.manifest() if file.name in profile.files]
    if options.target == "embedded":
        _require_packages(profile)
    if options.commercial_ok:
        weights.refuse_noncommercial(needed)
    if options.random_weights:
        return random_weights.prepare(needed, weights_dir, progress)
    return weights.require_files(needed, weights_dir, progress)


def build(
    profile_name: str,
    output: Path,
    weights_dir: Path,
    progress: Progress,
    options: BuildOptions = BuildOptions(),
) -> Path:
    """Build the repository of a profile at `output`, in place of what is there.

    Raises:
        BuildError: an unknown profile or option, weight files that are missing, wrong or refused, or a folder that is
            not a repository.
    """
    profile = chosen_profile(profile_name, options)
    if output.exists() and not (output / MANIFEST).is_file() and (output.is_file() or any(output.iterdir())):
        raise BuildError(f"{output} holds something else than a model repository; give another folder with --output")
    progress(f"building the model repository of profile {profile.name}")
    files = weight_files(profile, weights_dir, progress, options)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}-"))
    except OSError as error:
        raise BuildError(f"{output} cannot be written: {error}; give another folder with --output") from error
    try:
        _write(profile, fresh, files, progress, options)
        fresh.chmod(0o755)
        _replace(fresh, output)
    except OSError as error:
        raise BuildError(f"{output} cannot be written: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return output


def read_manifest(repository: Path) -> dict[str, Any]:
    """The manifest of a repository; empty if there is none that can be read."""
    try:
        content = json.loads((repository / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(
    profile: Profile, repository: Path, files: Mapping[str, Path], progress: Progress, options: BuildOptions
) -> None:
    weights_kind = "random" if options.random_weights else "published"
    for model in profile.models:
        folder = repository / model.name / VERSION_FOLDER
        folder.mkdir(parents=True)
        _write_config(repository, model)
        if model.backend == "python":
            shutil.copyfile(_source(model), folder / "model.py")
    for name, settings in profile.settings.items():
        _write_json(repository / name / VERSION_FOLDER / "settings.json", settings)
    profile.write_artefacts(lambda name: repository / name / VERSION_FOLDER, files, progress)
    for model in profile.models:
        precision.convert(repository / model.name / VERSION_FOLDER / "model.onnx", model)
    if options.target == "container":
        _copy_linked(repository)
    save_model(combine_model(load_preset(profile.preset)), repository / "combine" / VERSION_FOLDER / "model.onnx")

    preset = json.loads((PRESETS_DIR / f"{profile.preset}.json").read_text(encoding="utf-8"))
    content = _checksums(repository)
    fingerprint = _fingerprint({"files": content, "preset": preset, "version": _version(), "weights": weights_kind})
    card = {
        "profile": profile.name,
        "preset": preset,
        "fingerprint": fingerprint,
        "weights": weights_kind,
        "models": profile.made_by,
        "missing": profile.missing,
    }
    _write_json(repository / DETAILS_MODEL / VERSION_FOLDER / "card.json", card)
    # After the fingerprint, which is part of every key and path and is the same without caches, as the values are.
    cached = {model.name: model for model in caches.with_caches(profile.models, options.cache_mib, fingerprint)}
    for model in profile.models:
        _write_config(repository, gpu.with_engine_cache(cached.get(model.name, model), fingerprint))
    (repository / ENSEMBLE / VERSION_FOLDER).mkdir(parents=True)  # Triton wants a version, be it empty
    told = about.metrics_text(profile, str(load_preset(profile.preset)), fingerprint, weights_kind)
    parameters = {"profile": profile.name, "fingerprint": fingerprint, METRICS_PARAMETER: told}
    ensemble = configs.ensemble_text(profile.models, parameters)
    (repository / ENSEMBLE / "config.pbtxt").write_text(ensemble, encoding="utf-8")
    manifest = {
        "format": FORMAT,
        "profile": profile.name,
        "imgeval": _version(),
        "fingerprint": fingerprint,
        "key": _key(profile),
        "weights_kind": weights_kind,
        "weights": _weight_checksums(files, options),
        "options": asdict(options),
        "files": _checksums(repository),
    }
    _write_json(repository / MANIFEST, manifest)


def _write_config(repository: Path, model: configs.Model) -> None:
    (repository / model.name / "config.pbtxt").write_text(configs.model_text(model), encoding="utf-8")


def _copy_linked(repository: Path) -> None:
    """Replace links to weight folders, which are large and stay where they are, by copies that travel along."""
    for link in [path for path in repository.rglob("*") if path.is_symlink()]:
        folder = link.resolve()
        link.unlink()
        shutil.copytree(folder, link)


def _weight_checksums(files: Mapping[str, Path], options: BuildOptions) -> dict[str, str]:
    """sha256 by name; those that the manifest pins were checked before, and 16 GB are not read twice."""
    if options.random_weights:
        return dict.fromkeys(files, "random")
    pinned = {file.name: file.sha256 for file in weights.manifest()}
    return {name: pinned.get(name) or checksums.sha256(path) for name, path in files.items()}


def _source(model: configs.Model) -> Path:
    return data.folder("model_repository") / (model.source or model.name) / VERSION_FOLDER / "model.py"


def _key(profile: Profile) -> str:
    """Changes with everything that a repository is made from but the weight files, which are pinned by checksum."""
    package = Path(__file__).parent
    sources = sorted([*package.rglob("*.py"), *package.glob("*.txt")])
    sources += sorted(data.folder("model_repository").rglob("*.py"))
    told = about.metrics_text(profile, "", "", "")
    sources += [PRESETS_DIR / f"{profile.preset}.json", data.folder("weights") / "manifest.json"]
    return _fingerprint(
        {
            "sources": {path.name + str(index): checksums.sha256(path) for index, path in enumerate(sources)},
            "contract": configs.ensemble_text(profile.models, {}),
            "models": [configs.model_text(model) for model in profile.models],
            "profile": [
                profile.settings,
                profile.made_by,
                profile.missing,
                told,
            ],  # may come from outside these sources
            "version": _version(),
        }
    )


def _version() -> str:
    return importlib.metadata.version("imgeval")


def _checksums(repository: Path) -> dict[str, str]:
    files = sorted(path for path in repository.rglob("*") if path.is_file())
    return {path.relative_to(repository).as_posix(): checksums.sha256(path) for path in files}


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
