"""imgeval_export.profiles, overrides and published: what a build may be told, and what comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from imgeval.contract import METRIC_NAMES
from imgeval.errors import BuildError, InvalidInputError
from imgeval_export import configs, profiles, published
from imgeval_export.overrides import override
from imgeval_export.precision import LARGE_MODELS
from imgeval_export.repository import BuildOptions, build, chosen_profile
from imgeval_export.verify import compare


def models(name: str, options: BuildOptions) -> dict[str, pb.ModelConfig]:
    """The parsed config.pbtxt of every composing model."""
    profile = chosen_profile(name, options)
    return {each.name: text_format.Parse(configs.model_text(each), pb.ModelConfig()) for each in profile.models}


@pytest.mark.parametrize(
    ("name", "without"), [*((name, ()) for name in profiles.NAMES), ("cpu", ("iqa",)), ("full", ("iqa", "qalign"))]
)
def test_every_step_of_every_profile_is_fed(name: str, without: tuple[str, ...]) -> None:
    profile = chosen_profile(name, BuildOptions(without_parts=without))
    ensemble = text_format.Parse(configs.ensemble_text(profile.models, {}), pb.ModelConfig())
    steps = ensemble.ensemble_scheduling.step
    made = {"IMAGE", "PROMPT"}.union(*(step.output_map.values() for step in steps))
    for step in steps:
        assert set(step.input_map.values()) <= made, step.model_name
    assert {tensor.name for tensor in ensemble.output} <= made
    assert sorted([*profile.made_by, *profile.missing]) == sorted(METRIC_NAMES)


def test_one_image_pass_serves_clip_and_aesthetic() -> None:
    profile = chosen_profile("cpu", BuildOptions())
    fed = [m.name for m in profile.models if any(m.ensemble_name(t) == "image_embedding" for t in m.inputs)]
    assert fed == ["clip", "aesthetic"]


def test_parts_are_added_and_left_out() -> None:
    assert set(chosen_profile("cpu", BuildOptions()).missing) == {"qalign_quality", "qalign_aesthetic"}
    assert set(chosen_profile("full", BuildOptions()).missing) == set()
    assert "iqa" in chosen_profile("cpu", BuildOptions(without_parts=("iqa",))).missing
    with_qalign = chosen_profile("cpu", BuildOptions(with_parts=("qalign",)))
    assert not with_qalign.missing
    assert "one-align/config.json" in with_qalign.files
    assert published.MUSIQ_FILE not in chosen_profile("cpu", BuildOptions(without_parts=("iqa",))).files


def test_settings_are_changed_by_name() -> None:
    changed = override(profiles.get("cpu"), ["sam_clip.points_per_side=4", "sam_clip.pred_iou_thresh=0.5"])
    assert changed.settings["sam_clip"]["segments"]["points_per_side"] == 4
    assert changed.settings["sam_clip"]["segments"]["pred_iou_thresh"] == 0.5
    assert profiles.get("cpu").settings["sam_clip"]["segments"]["points_per_side"] == 32


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("sam_clip.points=4", "sam_clip.points_per_side"),
        ("points_per_side=4", "sam_clip.points_per_side"),
        ("sam_clip.points_per_side", "OPTION=VALUE"),
        ("sam_clip.points_per_side=many", "a number"),
        ("sam_clip.points_per_side=4.5", "a whole number"),
        ("sam_clip.points_per_side=inf", "a finite number"),
        ("sam_clip.points_per_side=0", "out of range"),
        ("sam_clip.arrays=cupy", "arrays.*'cupy'; allowed: numpy, torch"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_allowed(assignment: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        override(profiles.get("cpu"), [assignment])


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ((), {}),
        (("fp32",), {}),
        (("bf16",), dict.fromkeys(LARGE_MODELS, "bf16")),
        (("int8", "sam_decoder=fp32"), {"clip_image": "int8", "sam_encoder": "int8"}),
        (("clip_text=bf16",), {"clip_text": "bf16"}),
        (("sam_decoder=fp32", "bf16"), dict.fromkeys(LARGE_MODELS, "bf16")),
    ],
)
def test_precision_is_chosen_for_all_large_networks_or_for_one(
    choices: tuple[str, ...], expected: dict[str, str]
) -> None:
    chosen = chosen_profile("cpu", BuildOptions(precision=choices))
    assert {model.name: model.precision for model in chosen.models if model.precision != "fp32"} == expected
    told = {model.name for model in chosen.models if "activation_group" in model.parameters}
    assert told == {name for name, precision in expected.items() if precision == "int8"} - {"sam_decoder"}
    rounded = {model.name for model in chosen.models if "inference_precision" in model.parameters}
    assert rounded == expected.keys() & {"sam_decoder"}


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("tiny", BuildOptions(), "allowed: starter, cpu, full"),
        ("starter", BuildOptions(with_parts=("qalign",)), "allowed: none"),
        ("cpu", BuildOptions(without_parts=("clip",)), "allowed: iqa, qalign"),
        ("cpu", BuildOptions(precision=("int3",)), "got 'int3'; allowed: fp32, bf16, int8, or MODEL=PRECISION"),
        ("cpu", BuildOptions(precision=("details=bf16",)), "a model of clip_image"),
        (
            "starter",
            BuildOptions(precision=("int8",)),
            "fp32, bf16, or MODEL=PRECISION with a model of clip_image",
        ),
        ("cpu", BuildOptions(precision=("bf16",), target="container"), "allowed with container and cpu: fp32, int8"),
        ("cpu", BuildOptions(device="tpu", target="container"), "allowed: cpu, gpu"),
        ("cpu", BuildOptions(device="gpu"), "--target container"),
        ("starter", BuildOptions(device="gpu", target="container"), "on the CPU only"),
        ("cpu", BuildOptions(precision=("fp16",)), "got 'fp16'; allowed: fp32, bf16, int8"),
        ("cpu", BuildOptions(target="cloud"), "allowed: embedded, container"),
    ],
)
def test_what_there_is_not_is_refused(name: str, options: BuildOptions, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        chosen_profile(name, options)


def test_noncommercial_weights_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"commercial.*musiq_koniq"):
        build("cpu", tmp_path / "repository", tmp_path, print, BuildOptions(commercial_ok=True))


@pytest.mark.parametrize(
    ("ours", "upstream", "tolerance", "verdict"),
    [
        ([0.0, 1.0], [0.0, 1.0], 0.01, "pass"),
        ([0.0, 1.1], [0.0, 1.0], 0.01, "FAIL"),
        ([0.5, 0.501], [0.5, 0.501], 0.01, "says nothing"),
        ([0.0, float("nan")], [0.0, 1.0], 0.01, "FAIL"),
        ([0.0, float("nan"), 1.0], [0.0, float("nan"), 1.0], 0.01, "pass"),
        ([0.0], [0.0, 1.0], 0.01, "FAIL"),
        ([0.0, 2.0], [0.0, 1.0], float("inf"), "drift"),
    ],
)
def test_verdicts(ours: list[float], upstream: list[float], tolerance: float, verdict: str) -> None:
    assert compare("values", ours, upstream, tolerance).verdict == verdict


def test_another_iqa_metric_is_named_with_its_range_and_direction() -> None:
    pytest.importorskip("pyiqa")
    chosen = chosen_profile("cpu", BuildOptions(overrides=("iqa.metric=niqe",)))
    assert chosen.made_by["iqa"].startswith("niqe (IQA-PyTorch; range ")
    assert chosen.made_by["iqa"].endswith("lower is better)")
    with pytest.raises(InvalidInputError, match="no-reference"):
        chosen_profile("cpu", BuildOptions(overrides=("iqa.metric=psnr",)))


def test_a_part_whose_package_is_missing_is_said_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "PART_PACKAGES", {"iqa": "no_such_package"})
    with pytest.raises(BuildError, match=r"needs the package no_such_package: .* pip install .*'\.\[iqa\]'"):
        build("cpu", tmp_path / "repository", tmp_path, print)
