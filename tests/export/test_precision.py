"""Lower precisions: what is converted, what stays, and how far the result moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from _clip import photos, tiny_state
from _starter import import_quietly, run
from onnx import TensorProto, numpy_helper

from imgeval.errors import BuildError
from imgeval_export.clip import clip_image_model
from imgeval_export.graph import save_model
from imgeval_export.half import bfloat16_products, float16_products
from imgeval_export.int8 import ACTIVATION_GROUP, MIN_WEIGHTS, int8_weights
from imgeval_export.models import image_tower
from imgeval_export.precision import CONVERTERS, convert, with_precision
from imgeval_export.pth import read_pth
from imgeval_export.random_weights_sam import random_sam_checkpoint
from imgeval_export.sam_decoder import sam_decoder_model, sam_points_model
from imgeval_export.sam_encoder import sam_encoder_model
from imgeval_export.starter import PROFILE
from tests.reference.sam import TINY


@pytest.fixture(scope="module")
def exact() -> onnx.ModelProto:
    return clip_image_model(tiny_state())


def embeddings(model: onnx.ModelProto, activation_group: int = 0) -> np.ndarray:
    """As the embedded server's engine computes them."""
    openvino = import_quietly("openvino")
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "dynamic", "DYNAMIC_QUANTIZATION_GROUP_SIZE": activation_group}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", options)
    return np.array(compiled({"PIXELS": photos()})["EMBEDDING"])


def drift(what: str, ours: np.ndarray, exact: np.ndarray) -> float:
    difference = np.abs(ours - exact)
    spread = exact.std(axis=0).mean()
    print(f"{what}: max {difference.max():.2e}, mean {difference.mean():.2e}, spread {spread:.2e}")
    return float(difference.mean() / spread)


def test_products_are_bfloat16_and_sums_are_not(exact: onnx.ModelProto) -> None:
    model = bfloat16_products(exact)
    onnx.checker.check_model(model, full_check=True)
    types = {value.name: value.type.tensor_type.elem_type for value in _inferred(model)}
    for node in model.graph.node:
        expected = {"MatMul": TensorProto.BFLOAT16, "LayerNormalization": TensorProto.FLOAT}.get(node.op_type)
        if expected:
            assert types[node.output[0]] == expected, node.name
    residual = [node for node in model.graph.node if node.op_type == "Add" and not _constant_input(model, node)]
    assert len(residual) == 2 * (2 + 1)  # two blocks; class token and patches apart, but behind the last attention
    assert all(types[node.output[0]] == TensorProto.FLOAT for node in residual)
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT


def test_bfloat16_moves_the_embedding_a_little(exact: onnx.ModelProto) -> None:
    share = drift("bf16", embeddings(bfloat16_products(exact)), embeddings(exact))
    assert 1e-5 < share < 2e-2


def test_float16_moves_the_embedding_less_than_bfloat16(exact: onnx.ModelProto) -> None:
    model = float16_products(exact)
    onnx.checker.check_model(model, full_check=True)
    types = {value.name: value.type.tensor_type.elem_type for value in _inferred(model)}
    assert {types[node.output[0]] for node in model.graph.node if node.op_type == "MatMul"} == {TensorProto.FLOAT16}
    expected = embeddings(exact)
    share = drift("fp16", run(model, PIXELS=photos())["EMBEDDING"], expected)
    assert 1e-6 < share < drift("bf16", embeddings(bfloat16_products(exact)), expected) / 2


def test_a_weight_that_float16_cannot_hold_is_refused_by_name(exact: onnx.ModelProto) -> None:
    large = onnx.ModelProto()
    large.CopyFrom(exact)
    weight = next(tensor for tensor in large.graph.initializer if tensor.name == "visual.proj")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1e9), weight.name))
    with pytest.raises(BuildError, match=r"visual.proj has a value of .*float16 cannot hold; use bf16"):
        float16_products(large)


def test_float16_hardly_moves_sams_masks(tmp_path: Path) -> None:
    """A small SAM with random weights, in the float16 of a CPU: products rounded, sums in float32."""
    random_sam_checkpoint(tmp_path / "sam.pth", TINY)
    state = read_pth(tmp_path / "sam.pth")
    encoder, points, decoder = sam_encoder_model(state), sam_points_model(state), sam_decoder_model(state)
    side = TINY.image_size_px
    pixels = np.random.default_rng(0).normal(size=(1, 3, side, side)).astype(np.float32)
    tokens = run(points, POINTS=np.random.default_rng(1).uniform(0, side, (12, 2)).astype(np.float32))
    least = np.array([-np.inf], np.float32)
    embedding = run(encoder, PIXELS=pixels)["EMBEDDING"]
    rounded = run(float16_products(encoder), PIXELS=pixels)["EMBEDDING"]
    assert 1e-6 < drift("encoder", rounded.reshape(256, -1).T, embedding.reshape(256, -1).T) < 1e-2
    theirs = run(decoder, EMBEDDING=embedding, MIN_IOU=least, **tokens)
    ours = run(float16_products(decoder), EMBEDDING=rounded, MIN_IOU=least, **tokens)
    assert 1e-6 < drift("predicted IoU", ours["IOU"], theirs["IOU"]) < 2e-2
    changed = np.mean((ours["MASKS"] > 0) != (theirs["MASKS"] > 0))
    print(f"pixels that change sides: {changed:.1e}")
    assert ours["MASKS"].shape == theirs["MASKS"].shape == (36, side // 4, side // 4)
    assert changed < 5e-3


def test_the_file_of_a_gpus_decoder_is_converted(exact: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save_model(exact, path)
    size = path.stat().st_size
    convert(path, replace(image_tower(224, 768), rounded_by_engine=True, precision="fp16", device="gpu"))
    assert path.stat().st_size < 0.8 * size


def test_8_bit_weights_move_the_embedding_a_little(exact: onnx.ModelProto) -> None:
    model = int8_weights(exact)
    share = drift("int8, weights alone", run(model, PIXELS=photos())["EMBEDDING"], embeddings(exact))
    assert 1e-5 < share < 5e-2
    served = CONVERTERS["int8"](exact)
    onnx.checker.check_model(served, full_check=True)
    share = drift("int8", embeddings(served, ACTIVATION_GROUP), embeddings(exact))
    assert 1e-5 < share < 5e-2


def test_the_starters_tower_is_rounded_by_the_engine() -> None:
    """It is convolutions, which the converters leave alone; how far results move is in docs/verify.md."""
    tower = next(model for model in with_precision(PROFILE, ["bf16"]).models if model.name == "clip_image")
    assert (tower.precision, tower.parameters["inference_precision"]) == ("bf16", "bf16")
    changed = [model.name for model in with_precision(PROFILE, ["bf16"]).models if model.precision != "fp32"]
    assert changed == ["clip_image"]


def test_8_bit_weights_are_within_half_a_step_of_each_channel(exact: onnx.ModelProto) -> None:
    model = int8_weights(exact)
    onnx.checker.check_model(model, full_check=True)
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in exact.graph.initializer}
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    large = [name.removesuffix("_int8") for name in after if name.endswith("_int8")]
    assert large and all(before[name].size >= MIN_WEIGHTS for name in large)
    for name in large:
        assert name not in after
        restored = after[f"{name}_int8"] * after[f"{name}_scale"]
        assert (np.abs(restored - before[name]) <= after[f"{name}_scale"] * 0.5001).all()


def test_a_file_is_rewritten_in_place(exact: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save_model(exact, path)
    size = path.stat().st_size
    tower = image_tower(224, 768)
    convert(path, tower)
    convert(path, replace(tower, rounded_by_engine=True, precision="bf16"))  # the engine's work
    assert path.stat().st_size == size
    convert(path, replace(tower, precision="bf16"))
    assert path.stat().st_size < 0.8 * size  # its tables and its convolution stay float32
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


def _inferred(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    return list(onnx.shape_inference.infer_shapes(model).graph.value_info) + list(model.graph.output)


def _constant_input(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    constants = {tensor.name for tensor in model.graph.initializer}
    return any(name in constants for name in node.input)
