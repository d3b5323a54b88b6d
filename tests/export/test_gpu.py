"""imgeval_export.gpu: what the container is told on a GPU. Texts alone; no GPU has read them here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from imgeval.errors import InvalidInputError
from imgeval_export import configs, gpu, published, repository
from imgeval_export.graph import Graph, save_model
from imgeval_export.profile import Profile
from imgeval_export.repository import BuildOptions, chosen_profile

GPU, CPU = pb.ModelInstanceGroup.KIND_GPU, pb.ModelInstanceGroup.KIND_CPU


def profile(*precision: str, **options: Any) -> Profile:
    return chosen_profile("full", BuildOptions(precision=precision, device="gpu", target="container", **options))


def parsed(chosen: Profile) -> dict[str, pb.ModelConfig]:
    return {each.name: text_format.Parse(configs.model_text(each), pb.ModelConfig()) for each in chosen.models}


def engines(config: pb.ModelConfig) -> dict[str, dict[str, str]]:
    """Options by execution provider, in the order that they are asked in."""
    accelerators = config.optimization.execution_accelerators
    assert not accelerators.cpu_execution_accelerator
    return {each.name: dict(each.parameters) for each in accelerators.gpu_execution_accelerator}


def test_networks_go_to_the_gpu_and_steps_stay() -> None:
    kinds = {name: config.instance_group[0].kind for name, config in parsed(profile()).items()}
    networks = {"clip_image", "clip_text", "keywords", "clip", "aesthetic", "combine", "qalign", "iqa", "sam_clip"}
    networks |= {"sam_encoder", "sam_points", "sam_decoder"}
    assert {name for name, kind in kinds.items() if kind == GPU} == networks
    assert {name for name, kind in kinds.items() if kind == CPU} == {"preprocess", "details"}


def test_float32_is_no_tf32_and_needs_no_tensorrt() -> None:
    configured = parsed(profile())
    native = {name: config for name, config in configured.items() if config.backend == "onnxruntime"}
    assert len(native) == 9
    for name, config in native.items():
        assert engines(config) == {"cuda": {"use_tf32": "0"}}, name
    assert not any(engines(config) for name, config in configured.items() if name not in native)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_tensorrt_has_the_two_networks_of_one_free_size(precision: str) -> None:
    configured = parsed(profile(precision))
    chosen = {name: engines(config) for name, config in configured.items()}
    assert {name for name, each in chosen.items() if "tensorrt" in each} == {"clip_image", "sam_encoder"}
    for name in ("clip_image", "sam_encoder"):
        assert list(chosen[name]) == ["tensorrt", "cuda"]
        options = chosen[name]["tensorrt"]
        assert options["precision_mode"] == precision.upper()
        assert options["trt_engine_cache_enable"] == "1"
    clip, sam = (chosen[name]["tensorrt"] for name in ("clip_image", "sam_encoder"))
    sizes = [clip[f"trt_profile_{which}_shapes"] for which in ("min", "opt", "max")]
    assert sizes == ["PIXELS:1x3x224x224", "PIXELS:32x3x224x224", "PIXELS:64x3x224x224"]
    assert {sam[f"trt_profile_{which}_shapes"] for which in ("min", "opt", "max")} == {"PIXELS:1x3x1024x1024"}
    assert configured["clip_image"].max_batch_size == 64
    assert configured["sam_encoder"].max_batch_size == 1


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ((), {}),
        (("fp16",), {"clip_image": "fp16", "sam_encoder": "fp16", "sam_decoder": "fp16"}),
        (("bf16",), {"clip_image": "bf16", "sam_encoder": "bf16", "sam_decoder": "bf16"}),
        (("clip_text=fp16",), {"clip_text": "fp16"}),
        (("bf16", "sam_decoder=fp16"), {"clip_image": "bf16", "sam_encoder": "bf16", "sam_decoder": "fp16"}),
        (("fp16", "sam_encoder=fp32"), {"clip_image": "fp16", "sam_decoder": "fp16"}),
    ],
)
def test_a_precision_is_for_the_networks_that_have_it(choices: tuple[str, ...], expected: dict[str, str]) -> None:
    assert {model.name: model.precision for model in profile(*choices).models if model.precision != "fp32"} == expected


@pytest.mark.parametrize("choice", ["int8", "fp8", "sam_decoder=int8", "details=fp16"])
def test_a_precision_that_there_is_not_is_refused(choice: str) -> None:
    with pytest.raises(InvalidInputError, match=r"allowed: fp32, fp16, bf16, or MODEL=PRECISION"):
        profile(choice)


def test_batches_wait_a_little_for_company() -> None:
    configured = parsed(profile())
    tower, qalign = configured["clip_image"].dynamic_batching, configured["qalign"].dynamic_batching
    assert list(tower.preferred_batch_size) == [32, 64]
    assert list(qalign.preferred_batch_size) == [8]
    assert 0 < tower.max_queue_delay_microseconds < qalign.max_queue_delay_microseconds <= 10_000
    for name, config in configured.items():
        assert list(config.dynamic_batching.preferred_batch_size) == [] or name in ("clip_image", "qalign")


def test_engines_are_built_before_the_first_request() -> None:
    warmed = {name: config.model_warmup for name, config in parsed(profile("fp16")).items() if config.model_warmup}
    assert {name: [each.batch_size for each in warmups] for name, warmups in warmed.items()} == {
        "clip_image": [1, 64],
        "sam_encoder": [1],
    }
    for name, side in (("clip_image", 224), ("sam_encoder", 1024)):
        for each in warmed[name]:
            assert list(each.inputs) == ["PIXELS"]
            given = each.inputs["PIXELS"]
            assert (given.data_type, list(given.dims), given.zero_data) == (pb.TYPE_FP32, [3, side, side], True)


def test_instances_are_of_steps_and_not_of_networks() -> None:
    def counts(**options: Any) -> dict[str, int]:
        return {name: config.instance_group[0].count for name, config in parsed(profile(**options)).items()}

    assert {name: count for name, count in counts().items() if count > 1} == {"preprocess": 4, "sam_clip": 4}
    assert {name: count for name, count in counts(instances=6).items() if count > 1} == {"preprocess": 6, "sam_clip": 6}


def test_sams_points_are_as_many_as_fit_and_may_be_set() -> None:
    assert gpu.bytes_per_point() == 4 * 4096 * (4 * 256 + 2 * 56 + 3 * 4 * 64 + 3 * 16 * 32 + 16 * 3) == 57_147_392
    assert [gpu.points_per_batch(count * gpu.bytes_per_point()) for count in (0, 1, 2, 3, 64, 127)] == [
        1,
        1,
        2,
        2,
        64,
        64,
    ]
    segments = profile().settings["sam_clip"]["segments"]
    assert (segments["arrays"], segments["points_per_batch"]) == ("torch", 256)
    segments = profile(overrides=("sam_clip.points_per_batch=128",)).settings["sam_clip"]["segments"]
    assert segments["points_per_batch"] == 128
    assert chosen_profile("full", BuildOptions()).settings["sam_clip"]["segments"]["arrays"] == "numpy"


def test_engines_are_kept_by_fingerprint() -> None:
    by_name = {model.name: model for model in profile("fp16").models}
    for name, model in by_name.items():
        kept = engines(text_format.Parse(configs.model_text(gpu.with_engine_cache(model, "abc")), pb.ModelConfig()))
        if "tensorrt" in kept:
            assert kept["tensorrt"]["trt_engine_cache_path"] == "/var/cache/imgeval/abc", name
            assert kept["tensorrt"]["trt_timing_cache_path"] == "/var/cache/imgeval/abc", name
        assert kept.get("cuda", {}) == engines(parsed(profile())[name]).get("cuda", {})


def test_a_cpu_is_told_nothing_of_this() -> None:
    for name, config in parsed(chosen_profile("full", BuildOptions())).items():
        assert not engines(config), name
        assert config.instance_group[0].kind == CPU
        assert not config.dynamic_batching.preferred_batch_size
        assert not config.model_warmup


def test_a_repository_for_a_gpu_holds_what_its_configs_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With one small product in the place of every network."""
    graph = Graph("product")
    graph.node(
        "Relu", graph.node("MatMul", graph.input("X", ("B", 4)), graph.constant("weight", np.eye(4))), output="Y"
    )
    graph.output("Y", ("B", 4))
    product = graph.model()
    native = [model.name for model in profile().models if model.backend == "onnxruntime"]

    def artefacts(folder: Any, weights: Any, progress: Any) -> None:
        for name in native:
            save_model(product, folder(name) / "model.onnx")

    monkeypatch.setattr(published, "write_artefacts", artefacts)
    monkeypatch.setattr(repository, "weight_files", lambda *arguments: {})
    options = BuildOptions(precision=("fp16",), device="gpu", target="container")
    built = repository.build("full", tmp_path / "r", tmp_path, lambda line: None, options)
    fingerprint = repository.read_manifest(built)["fingerprint"]
    for name in ("clip_image", "sam_encoder"):
        config = text_format.Parse((built / name / "config.pbtxt").read_text(encoding="utf-8"), pb.ModelConfig())
        assert engines(config)["tensorrt"]["trt_engine_cache_path"] == f"/var/cache/imgeval/{fingerprint}"
    types = {
        name: {tensor.data_type for tensor in onnx.load(built / name / "1" / "model.onnx").graph.initializer}
        for name in native
        if name != "combine"
    }
    half = {name for name, found in types.items() if found == {onnx.TensorProto.FLOAT16}}
    assert half == {"clip_image", "sam_encoder", "sam_decoder"}
    assert all(found == {onnx.TensorProto.FLOAT} for name, found in types.items() if name not in half)
    segments = json.loads((built / "sam_clip" / "1" / "settings.json").read_text(encoding="utf-8"))["segments"]
    assert segments["arrays"] == "torch"
